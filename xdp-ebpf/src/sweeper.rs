//! Sweeper: what the timer that sweeps keeps from one step to the next.

use aya_ebpf::bindings::bpf_timer;

/// The only entry of map `SWEEPER`.
#[repr(C)]
pub struct Sweeper {
    /// The kernel's.
    pub timer: bpf_timer,
    /// The place of the bucket to go on with.
    pub next: u64,
}
