//! A program of its own, never attached: tells the loader what time it is for packets.

use aya_ebpf::{
    bindings::xdp_action,
    helpers::{bpf_jiffies64, bpf_ktime_get_ns},
    macros::xdp,
    programs::XdpContext,
};

use xdp_common::path::platform::Platform as _;

use crate::kernel::Kernel;

/// Writes jiffies and the monotonic clock (ns) of one moment into the first 16 bytes of the packet.
#[xdp]
pub fn lvx_clock(context: XdpContext) -> u32 {
    if let Some(times) = Kernel.frame(context.ctx).view::<[u64; 2]>(0) {
        // SAFETY: the view was checked; the helpers have no preconditions.
        unsafe { times.write_unaligned([bpf_jiffies64(), bpf_ktime_get_ns()]) };
    }
    xdp_action::XDP_PASS
}
