//! Internet checksums (RFC 1071) and their incremental update (RFC 1624).
//!
//! Words are taken from the packet in the machine's order: ones' complement sums do not depend on the order of bytes
//! (RFC 1071, section 2 (B)), so nothing is swapped. A `delta` is the folded ones' complement difference `~m + m'` of
//! RFC 1624, equation 3: userspace works it out once per backend, the packet path adds it to a checksum.

/// The delta of a TTL that is one less: the TTL is the high byte of its 16-bit word, so `m' - m` is `-0x0100`, which in
/// ones' complement is `0xfeff`.
pub const TTL_DECREMENT: u16 = 0xfeff_u16.to_be();

/// Folds the carries of a sum of 16-bit words back into 16 bits.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// `check` after the words it covers changed by `delta` (RFC 1624, equation 3).
#[inline(always)]
#[must_use]
pub const fn update(check: u16, delta: u16) -> u16 {
    !fold(!check as u32 + delta as u32)
}

/// `check` after the words it covers changed by two deltas.
#[inline(always)]
#[must_use]
pub const fn update_both(check: u16, one: u16, other: u16) -> u16 {
    !fold(!check as u32 + one as u32 + other as u32)
}

/// `check` of a header whose TTL is one less (kernel `include/net/ip.h`, `ip_decrease_ttl`): what [`update`] with
/// [`TTL_DECREMENT`] comes to, in fewer steps.
#[inline(always)]
#[must_use]
pub const fn one_hop_less(check: u16) -> u16 {
    let sum = check as u32 + 0x0100_u16.to_be() as u32;
    (sum + (sum >= 0xffff) as u32) as u16
}

/// [`update`] for UDP, where zero means "no checksum" (RFC 768) and stays zero, and a sum that comes out as zero is sent
/// as all ones. IPv6 allows zero for tunnels only (RFC 6935); the receiver judges that, so zero stays zero there too.
#[inline(always)]
#[must_use]
pub const fn update_udp(check: u16, delta: u16) -> u16 {
    if check == 0 {
        return 0;
    }
    match update(check, delta) {
        0 => 0xffff,
        check => check,
    }
}

/// The delta of `old` words becoming `new` words: `fold(sum(~m) + sum(m'))`. At most 32,767 words.
#[must_use]
pub fn delta(old: &[u16], new: &[u16]) -> u16 {
    let gone = old.iter().map(|word| u32::from(!word));
    let come = new.iter().map(|word| u32::from(*word));
    fold(gone.chain(come).sum())
}

/// The delta of the way back: what undoes `delta`.
#[inline(always)]
#[must_use]
pub const fn inverse(delta: u16) -> u16 {
    !delta
}

/// The sum of the four 16-bit words of `word`.
#[inline(always)]
#[must_use]
pub const fn word(word: u64) -> u32 {
    let halves = (word & 0xffff_ffff) + (word >> 32);
    ((halves & 0xffff) + ((halves >> 16) & 0xffff) + (halves >> 32)) as u32
}

/// The whole ones' complement sum over `bytes`, an odd last byte padded with zero, added to `sum`.
#[must_use]
pub fn sum(bytes: &[u8], sum: u32) -> u32 {
    let mut words = bytes.chunks_exact(2);
    let whole: u32 = words.by_ref().fold(u32::from(fold(sum)), |sum, word| {
        u32::from(fold(sum + u32::from(u16::from_ne_bytes([word[0], word[1]]))))
    });
    match words.remainder() {
        [last] => whole + u32::from(u16::from_ne_bytes([*last, 0])),
        _ => whole,
    }
}

/// The words of an address or a port in network order, as [`delta`] wants them.
#[must_use]
pub fn words<const BYTES: usize, const WORDS: usize>(bytes: [u8; BYTES]) -> [u16; WORDS] {
    const { assert!(BYTES == WORDS * 2) }
    core::array::from_fn(|word| u16::from_ne_bytes([bytes[word * 2], bytes[word * 2 + 1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pseudo-random byte stream (xorshift64*), the same in every run.
    fn stream(mut seed: u64) -> impl FnMut() -> u8 {
        move || {
            seed ^= seed >> 12;
            seed ^= seed << 25;
            seed ^= seed >> 27;
            (seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
        }
    }

    #[test]
    fn one_hop_less_is_the_delta_of_a_ttl() {
        for check in 0..=u16::MAX {
            let (one, other) = (one_hop_less(check), update(check, TTL_DECREMENT));
            // Of the two zeros of ones' complement either may come out.
            assert!(
                one == other || one == !other && (one == 0 || other == 0),
                "{check:#06x}"
            );
        }
    }

    #[test]
    fn two_deltas_at_once_change_a_checksum_as_one_after_the_other() {
        let mut next = stream(7);
        let mut word = || u16::from_ne_bytes([next(), next()]);
        for _ in 0..100_000 {
            let (check, one, other) = (word(), word(), word());
            let (both, each) = (update_both(check, one, other), update(update(check, one), other));
            // Of the two zeros of ones' complement either may come out; a header whose words are not all zero has one.
            assert!(both == each || both == !each && (both == 0 || each == 0));
        }
    }

    #[test]
    fn an_ipv4_header_from_the_wire_has_the_checksum_it_carries() {
        // Stevens, TCP/IP Illustrated 1, as quoted in many places: 45 00 00 73 ... c0 a8 00 c7, checksum b861.
        let mut header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x00, 0x00, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
            0x00, 0xc7,
        ];
        let check = !fold(sum(&header, 0));
        assert_eq!(check.to_ne_bytes(), [0xb8, 0x61]);
        header[10..12].copy_from_slice(&check.to_ne_bytes());
        assert_eq!(fold(sum(&header, 0)), 0xffff);
    }

    #[test]
    fn an_updated_checksum_equals_the_one_computed_anew() {
        let mut next = stream(7);
        for _ in 0..20_000 {
            let mut data: [u8; 40] = core::array::from_fn(|_| next());
            let before = !fold(sum(&data, 0));
            let old: [u8; 6] = data[8..14].try_into().expect("six bytes");
            let new: [u8; 6] = core::array::from_fn(|_| next());
            data[8..14].copy_from_slice(&new);
            let delta = delta(&words::<6, 3>(old), &words::<6, 3>(new));
            assert_eq!(update(before, delta), !fold(sum(&data, 0)));
            assert_eq!(update(update(before, delta), inverse(delta)), before);
        }
    }

    #[test]
    fn a_ttl_that_is_one_less_is_the_constant_delta() {
        for ttl in 1..=255_u8 {
            let old = u16::from_ne_bytes([ttl, 6]);
            let new = u16::from_ne_bytes([ttl - 1, 6]);
            for check in [1_u16, 0x1234, 0x8000, 0xfeff, 0xff00, 0xfffe] {
                assert_eq!(
                    update(check, TTL_DECREMENT),
                    update(check, delta(&[old], &[new])),
                    "ttl {ttl}, checksum {check:#x}"
                );
            }
        }
    }

    #[test]
    fn a_udp_checksum_of_zero_stays_zero_and_none_becomes_zero() {
        assert_eq!(update_udp(0, 0x1234), 0);
        for delta in 1..=0xffff_u16 {
            assert_ne!(update_udp(0x4321, delta), 0);
        }
    }
}
