//! Sweep: a timer of the kernel's by which flows that were idle for too long are forgotten, without a daemon too.
//!
//! It runs for as long as its map is pinned or somebody has a descriptor of it.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::{bpf_timer_init, bpf_timer_set_callback, bpf_timer_start},
    macros::xdp,
    programs::XdpContext,
};
use xdp_common::path::sweep::ROUND;

use crate::{maps, sweeper::Sweeper, walked};

/// Buckets that are looked at each time: some ten microseconds.
const STEP: u64 = 256;
/// The longest time from one step to the next, nanoseconds.
const PAUSE: u64 = 250_000_000;
/// `CLOCK_MONOTONIC` of `linux/time.h`.
const MONOTONIC: u64 = 1;

/// A program of its own, never attached: starts the timer. Starting it again does no harm.
#[xdp]
pub fn lvx_sweep(_context: XdpContext) -> u32 {
    let Some(sweeper) = maps::SWEEPER.get_ptr_mut(0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: the timer is in an entry of that map, and the callback takes what the kernel gives.
    let failed = unsafe {
        let timer = &raw mut (*sweeper).timer;
        // One that is there already is as good.
        bpf_timer_init(timer, (&raw const maps::SWEEPER).cast_mut().cast(), MONOTONIC);
        bpf_timer_set_callback(timer, step as *mut c_void) != 0 || bpf_timer_start(timer, 0, 0) != 0
    };
    if failed {
        xdp_action::XDP_ABORTED
    } else {
        xdp_action::XDP_PASS
    }
}

/// Looks at some buckets, and asks to be called again.
extern "C" fn step(_map: *mut c_void, _place: *mut c_void, sweeper: *mut Sweeper) -> u64 {
    // SAFETY: the entry is the map's, and no other call is under way.
    let mut next = unsafe { (*sweeper).next };
    for _ in 0..STEP {
        next = walked::lvx_sweep_bucket(next);
    }
    let buckets = u64::from(maps::size::flows_v4_mask()) + u64::from(maps::size::flows_v6_mask()) + 2;
    let pause = ROUND * 1_000_000_000 / (buckets / STEP + 1);
    // SAFETY: as above.
    unsafe {
        (*sweeper).next = next;
        bpf_timer_start(&raw mut (*sweeper).timer, if pause < PAUSE { pause } else { PAUSE }, 0);
    }
    0
}
