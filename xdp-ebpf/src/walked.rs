//! Functions that the verifier walks by themselves (they are global to it), once and not once for each path that leads to
//! them. They take and return plain numbers.

use xdp_common::path::{compare, conflict, scheduler, sweep};

use crate::kernel::Kernel;

/// [`scheduler::choose_member`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lvx_choose(service: u64, client: u64, high: u64, low: u64) -> u64 {
    scheduler::choose_member(Kernel, service, client, high, low)
}

/// [`scheduler::compare_members`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lvx_compare(service: u64, answer: u64) -> u64 {
    scheduler::compare_members(Kernel, service, answer)
}

/// [`conflict::member_without_rival`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lvx_without_rival(service: u64, client: u64, is_v6: u64) -> u64 {
    conflict::member_without_rival(Kernel, service, client, is_v6)
}

/// [`compare::member_at`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lvx_member_at(first: u64, chunks: u64, bank: u64, high: u64, low: u64) -> u64 {
    compare::member_at(Kernel, first, chunks, bank, high, low)
}

/// [`sweep::bucket`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lvx_sweep_bucket(place: u64) -> u64 {
    sweep::bucket(Kernel, place)
}
