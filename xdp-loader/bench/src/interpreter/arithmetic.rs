//! What BPF calculates (kernel `Documentation/bpf/standardization/instruction-set.rst`), in 64 bits or the lower 32.

use anyhow::{Result, bail};

use super::space::mask;

/// Where an operand comes from: bit 3 of the code.
pub const FROM_REGISTER: u8 = 0x08;
/// Operations, bits 4 to 7 of the code.
const MOV: u8 = 0xb0;
const END: u8 = 0xd0;

/// A number of so many bits with its sign.
pub const fn signed(value: u64, bits: u32) -> i64 {
    ((value << (64 - bits)) as i64) >> (64 - bits)
}

/// The result of an instruction of class ALU (32 bits) or ALU64.
pub fn calculate(code: u8, off: i16, imm: i32, bits: u32, dst: u64, src: u64) -> Result<u64> {
    if code & 0xf0 == END {
        return swap(code, imm, bits, dst);
    }
    let all = mask(bits as usize / 8);
    let (a, b) = (dst & all, src & all);
    let (sa, sb) = (signed(dst, bits), signed(src, bits));
    let by = b as u32 & (bits - 1);
    let result = match (code & 0xf0, off) {
        (0x00, 0) => a.wrapping_add(b),
        (0x10, 0) => a.wrapping_sub(b),
        (0x20, 0) => a.wrapping_mul(b),
        (0x30, 0) => a.checked_div(b).unwrap_or(0),
        (0x30, 1) if b != 0 => sa.wrapping_div(sb) as u64,
        (0x30, 1) => 0,
        (0x40, 0) => a | b,
        (0x50, 0) => a & b,
        (0x60, 0) => a << by,
        (0x70, 0) => a >> by,
        (0x80, 0) => a.wrapping_neg(),
        (0x90, 0) => a.checked_rem(b).unwrap_or(a),
        (0x90, 1) if b != 0 => sa.wrapping_rem(sb) as u64,
        (0x90, 1) => a,
        (0xa0, 0) => a ^ b,
        (MOV, 0) => b,
        (MOV, 8 | 16 | 32) => signed(src, off as u32) as u64,
        (0xc0, 0) => (sa >> by) as u64,
        _ => bail!("no operation has code {code:#x} with offset {off}"),
    };
    Ok(result & all)
}

/// Bytes in the order of the network or the other, or swapped whatever this machine's order.
fn swap(code: u8, width: i32, bits: u32, value: u64) -> Result<u64> {
    let swaps = bits == 64 || (code & FROM_REGISTER != 0) == cfg!(target_endian = "little");
    Ok(match (width, swaps) {
        (16, true) => u64::from((value as u16).swap_bytes()),
        (32, true) => u64::from((value as u32).swap_bytes()),
        (64, true) => value.swap_bytes(),
        (16 | 32 | 64, false) => value & mask(width as usize / 8),
        _ => bail!("no bytes are swapped in {width} bits"),
    })
}

/// Whether a conditional jump of class JMP or JMP32 is taken.
pub fn jumps(code: u8, bits: u32, dst: u64, src: u64) -> Result<bool> {
    let all = mask(bits as usize / 8);
    let (a, b) = (dst & all, src & all);
    let (sa, sb) = (signed(dst, bits), signed(src, bits));
    Ok(match code & 0xf0 {
        0x10 => a == b,
        0x20 => a > b,
        0x30 => a >= b,
        0x40 => a & b != 0,
        0x50 => a != b,
        0x60 => sa > sb,
        0x70 => sa >= sb,
        0xa0 => a < b,
        0xb0 => a <= b,
        0xc0 => sa < sb,
        0xd0 => sa <= sb,
        _ => bail!("no jump has code {code:#x}"),
    })
}

/// What an atomic operation writes in place of `old`, and what it leaves in which register: the operand's or register 0.
pub fn atomic(operation: i32, old: u64, operand: u64, compared: u64) -> Result<(u64, Option<Left>)> {
    const FETCH: i32 = 1;
    let left = (operation & FETCH != 0).then_some(Left::InOperand);
    Ok(match operation {
        0xe1 => (operand, left),
        0xf1 => (if old == compared { operand } else { old }, Some(Left::InZero)),
        _ => match operation & !FETCH {
            0x00 => (old.wrapping_add(operand), left),
            0x40 => (old | operand, left),
            0x50 => (old & operand, left),
            0xa0 => (old ^ operand, left),
            _ => bail!("no atomic operation has number {operation:#x}"),
        },
    })
}

/// Where an atomic operation leaves what there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// In the register that the operand came from.
    InOperand,
    /// In register 0.
    InZero,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn narrow_results_have_no_upper_half() {
        let minus_one = u64::MAX;
        let narrow = |code, off, a, b| calculate(code, off, 0, 32, a, b).unwrap();
        assert_eq!(narrow(0x0c, 0, minus_one, 2), 1);
        assert_eq!(narrow(0x1c, 0, 0, 1), 0xffff_ffff);
        assert_eq!(narrow(0xcc, 0, 0x8000_0000, 33), 0xc000_0000);
        assert_eq!(narrow(0xbc, 8, 0, 0x80), 0xffff_ff80);
        assert_eq!(narrow(0x3c, 1, 0xffff_fff8, 2), 0xffff_fffc);
    }

    #[test]
    fn division_by_zero_is_defined() {
        for bits in [32, 64] {
            for off in [0, 1] {
                assert_eq!(calculate(0x3f, off, 0, bits, 7, 0).unwrap(), 0);
                assert_eq!(calculate(0x9f, off, 0, bits, 7, 0).unwrap(), 7);
            }
        }
    }

    #[test]
    fn bytes_are_swapped_in_their_width() {
        assert_eq!(calculate(0xdc, 0, 16, 32, 0x1234_5678, 0).unwrap(), 0x7856);
        assert_eq!(calculate(0xd4, 0, 32, 32, 0x1_1234_5678, 0).unwrap(), 0x1234_5678);
        assert_eq!(calculate(0xd7, 0, 64, 64, 1, 0).unwrap(), 1 << 56);
    }

    #[test]
    fn jumps_compare_with_and_without_sign() {
        assert!(jumps(0x2d, 64, u64::MAX, 1).unwrap());
        assert!(!jumps(0x6d, 64, u64::MAX, 1).unwrap());
        assert!(jumps(0xce, 32, 0xffff_ffff, 0).unwrap());
    }

    #[test]
    fn an_exchange_tells_what_there_was() {
        assert_eq!(atomic(0xf1, 5, 9, 5).unwrap(), (9, Some(Left::InZero)));
        assert_eq!(atomic(0xf1, 5, 9, 6).unwrap(), (5, Some(Left::InZero)));
        assert_eq!(atomic(0x01, 5, 9, 0).unwrap(), (14, Some(Left::InOperand)));
        assert_eq!(atomic(0x00, 5, 9, 0).unwrap(), (14, None));
    }
}
