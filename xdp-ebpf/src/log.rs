//! Log: what an operator should hear of, told at most once a second, never per packet.

use aya_ebpf::{helpers::bpf_jiffies64, programs::XdpContext};
use aya_log_ebpf::warn;
use xdp_common::{path::platform::Arrays as _, verdict::Verdict};

use crate::{atomic, kernel::Kernel, maps};

const NO_BACKEND: &str = "their service has no backend that takes connections";
const NO_NEXT_HOP: &str = "the next hop on the way to their backend is unknown";
// The verifier forgets which length is whose.
const _: () = assert!(NO_BACKEND.len() == NO_NEXT_HOP.len());

/// Tells of a packet that was not forwarded, if that is to be told.
#[inline(always)]
pub fn dropped(context: &XdpContext, ifindex: u32, verdict: Verdict) {
    if !verdict.is_told() {
        return;
    }
    let (Some(last), Some(control)) = (maps::LOGGED.get_ptr_mut(0), Kernel.control(0)) else {
        return;
    };
    // SAFETY: the helper has no preconditions; the words are maps'.
    unsafe {
        let now = bpf_jiffies64();
        let then = atomic::load(last);
        if now.wrapping_sub(then) < u64::from((*control).hertz) || !atomic::replace(last, then, now) {
            return;
        }
    }
    // One message for all: each is some four hundred instructions of the program.
    let why = match verdict {
        Verdict::DroppedNoBackend => NO_BACKEND,
        _ => NO_NEXT_HOP,
    };
    warn!(context, "packets from interface {} are not forwarded: {}", ifindex, why);
}
