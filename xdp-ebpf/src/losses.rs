//! Programs of tracepoints (kernel include/trace/events/xdp.h): they count what the kernel fails to transmit after the program
//! has forwarded it. A tracepoint sees all packets of the machine, so those of others are told from ours first.

use aya_ebpf::{
    bindings::xdp_action, helpers::bpf_probe_read_kernel, macros::raw_tracepoint, programs::RawTracePointContext,
};
use xdp_common::{
    layout::{LossFilter, MAX_INTERFACES},
    path::{count, ingress},
    verdict::Verdict,
};

use crate::{kernel::Kernel, maps};

/// A packet could not be handed to the interface of its slot. `xdp_redirect_err(dev, prog, target, error, map kind, map,
/// place)`, native and generic.
#[raw_tracepoint(tracepoint = "xdp_redirect_err")]
pub fn lvx_redirect_err(context: RawTracePointContext) -> i32 {
    let (error, devmap, slot): (i32, u32, u32) = (context.arg(3), context.arg(5), context.arg(6));
    // Number 0 is a redirect of somebody's without a map.
    if devmap != 0
        && let Some(filter) = maps::LOSS_FILTER.get(0)
        && filter.devmaps.contains(&devmap)
        && slot < MAX_INTERFACES
    {
        count::lost(Kernel, slot, Verdict::lost(error), 1);
    }
    0
}

/// A driver took fewer of the packets that were handed to it than there were. `xdp_devmap_xmit(from, to, sent, drops, error)`,
/// for up to 16 packets at once, and mostly without drops.
#[raw_tracepoint(tracepoint = "xdp_devmap_xmit")]
pub fn lvx_devmap_xmit(context: RawTracePointContext) -> i32 {
    let (drops, error): (i32, i32) = (context.arg(3), context.arg(4));
    if drops > 0
        && let Some(filter) = maps::LOSS_FILTER.get(0)
        && slot_of(filter, context.arg(0)).is_some()
        && let Some(slot) = slot_of(filter, context.arg(1))
    {
        count::lost(Kernel, slot, Verdict::lost(error), u64::from(drops.unsigned_abs()));
    }
    0
}

/// A packet could not leave by the interface that it came in by (`XDP_TX`), or, in generic mode, by the one that it was redirected
/// to. `xdp_exception(dev, prog, action)`.
#[raw_tracepoint(tracepoint = "xdp_exception")]
pub fn lvx_exception(context: RawTracePointContext) -> i32 {
    if context.arg::<u32>(2) == xdp_action::XDP_TX
        && let Some(filter) = maps::LOSS_FILTER.get(0)
        && let Some(slot) = slot_of(filter, context.arg(0))
    {
        count::lost(Kernel, slot, Verdict::LostRingFull, 1);
    }
    0
}

/// The slot of a `struct net_device`, if it is in the daemon's network namespace and known to the maps.
#[inline(always)]
fn slot_of(filter: &LossFilter, device: u64) -> Option<u32> {
    let net: u64 = read(device + u64::from(filter.net_at))?;
    let namespace: u32 = read(net + u64::from(filter.inode_at))?;
    let ifindex: u32 = read(device + u64::from(filter.ifindex_at))?;
    let slot = ingress::slot(Kernel, ifindex);
    (namespace == filter.namespace && slot != 0).then_some(slot)
}

/// Reads memory of the kernel.
#[inline(always)]
fn read<T>(address: u64) -> Option<T> {
    // SAFETY: the helper reads from any address, or fails; what is read are plain numbers.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}
