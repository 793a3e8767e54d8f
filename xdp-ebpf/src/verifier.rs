//! What the verifier is told: less than it knows.
//!
//! The verifier walks every path through the program and stops where it comes to a state that it has already found safe.
//! A number that is 14, 18 or 22 depending on the path makes three states of one, and three loops of that kind in turn
//! make the rest of the program be walked once for every combination. A number that is only known to lie below a bound
//! makes one state of them all.

use core::arch::asm;

/// `number`, which `MASK` covers, as the verifier is told in this very place: kernel 6.1 forgets the bound of what was put on the
/// stack as 32 bits.
#[inline(always)]
pub fn masked<const MASK: i32>(number: usize) -> usize {
    let mut number = number;
    // SAFETY: arithmetic on a register. Not said to be pure, so that it is not done earlier.
    unsafe { asm!("{number} &= {mask}", number = inout(reg) number, mask = const MASK, options(nomem, nostack)) };
    number
}

/// `number`, of which the verifier knows only that `MASK` covers it. `unknown` must be something it cannot know, such as
/// a field of the packet. `MASK` must be one less than a power of two and not less than the number.
#[inline(always)]
pub fn bounded<const MASK: usize>(number: usize, unknown: usize) -> usize {
    let mut number = number;
    let mut zero = unknown;
    // SAFETY: arithmetic on two registers: x - x is zero, but not to the verifier, which gives a difference the range
    // that its operands' ranges allow.
    unsafe {
        asm!(
            "{zero} -= {unknown}",
            "{number} += {zero}",
            zero = inout(reg) zero,
            number = inout(reg) number,
            unknown = in(reg) unknown,
            options(pure, nomem, nostack),
        );
    }
    let _: usize = zero;
    number & MASK
}
