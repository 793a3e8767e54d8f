//! Words of maps that several CPUs read and write at once.
//!
//! `core::sync::atomic` leaves compare-and-exchange out for this target, although BPF has had it since v3; the compiler's
//! intrinsics do not. On x86, which keeps loads in order and stores in order, [`load_last`] and [`publish`] cost a plain
//! move; elsewhere they use an atomic that returns a value, BPF's full barrier (kernel
//! `Documentation/bpf/standardization/instruction-set.rst`).

use core::{
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_or, atomic_xadd, atomic_xchg},
    ptr::{read_volatile, write_volatile},
};

const RELAXED: AtomicOrdering = AtomicOrdering::Relaxed;

/// For operations whose result counts: LLVM gives a relaxed one the form that returns nothing (`lock xadd`), and the
/// result is then whatever was added.
const ORDERED: AtomicOrdering = AtomicOrdering::AcqRel;

/// Whether the processor keeps loads in order, and stores.
const IN_ORDER: bool = cfg!(bpf_target_arch = "x86_64");

/// Reads a word, once and whole (the kernel's `READ_ONCE`).
///
/// # Safety
///
/// As for all functions here: `word` must point to an aligned word of a map's value.
#[inline(always)]
pub unsafe fn load<T: Copy>(word: *const T) -> T {
    // SAFETY: the caller's.
    unsafe { read_volatile(word) }
}

/// Writes a word, once and whole (the kernel's `WRITE_ONCE`).
///
/// # Safety
///
/// As [`load`].
#[inline(always)]
pub unsafe fn store<T: Copy>(word: *mut T, value: T) {
    // SAFETY: the caller's.
    unsafe { write_volatile(word, value) }
}

/// Reads a word after all that was read before.
///
/// # Safety
///
/// As [`load`].
#[inline(always)]
pub unsafe fn load_last(word: *mut u64) -> u64 {
    // SAFETY: the caller's.
    unsafe {
        if IN_ORDER {
            load(word)
        } else {
            atomic_or::<u64, u64, ORDERED>(word, 0)
        }
    }
}

/// Writes a word after all that was written before.
///
/// # Safety
///
/// As [`load`].
#[inline(always)]
pub unsafe fn publish(word: *mut u64, value: u64) {
    // SAFETY: the caller's.
    unsafe {
        if IN_ORDER {
            store(word, value);
        } else {
            atomic_xchg::<u64, ORDERED>(word, value);
        }
    }
}

/// Writes a word if it still is `old`; says whether it was.
///
/// # Safety
///
/// As [`load`].
#[inline(always)]
pub unsafe fn replace<T: Copy>(word: *mut T, old: T, new: T) -> bool {
    // SAFETY: the caller's.
    unsafe { atomic_cxchg::<T, RELAXED, RELAXED>(word, old, new).1 }
}

/// Adds to a word whose value is of no interest now: the form of BPF that returns nothing, and orders nothing.
///
/// # Safety
///
/// As [`load`].
#[inline(always)]
pub unsafe fn count(word: *mut u64, value: u64) {
    // SAFETY: the caller's.
    unsafe {
        atomic_xadd::<u64, u64, RELAXED>(word, value);
    }
}

/// Adds to a word; returns what it was.
///
/// # Safety
///
/// As [`load`].
#[inline(always)]
pub unsafe fn add(word: *mut u64, value: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe { atomic_xadd::<u64, u64, ORDERED>(word, value) }
}
