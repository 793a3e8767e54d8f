//! Log: what an operator should hear of, told at most once a second, never per packet.

use aya_ebpf::{helpers::bpf_jiffies64, programs::XdpContext};
use aya_log_ebpf::warn;
use xdp_common::verdict::Verdict;

use crate::{Env, atomic, maps, transmit};

/// Tells of a packet that was dropped for want of a backend.
#[inline(always)]
pub fn dropped(env: &Env, verdict: Verdict) {
    if !matches!(verdict, Verdict::DroppedNoBackend | Verdict::DroppedNoNextHop) {
        return;
    }
    let Some(last) = maps::LOGGED.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the helper has no preconditions; the word is a map's.
    unsafe {
        let now = bpf_jiffies64();
        let then = atomic::load(last);
        if now.wrapping_sub(then) < u64::from(env.control.hertz) || !atomic::replace(last, then, now) {
            return;
        }
    }
    let ifindex = transmit::ingress(env);
    let context = &XdpContext::new(env.context);
    match verdict {
        Verdict::DroppedNoBackend => {
            warn!(
                context,
                "packets from interface {} are dropped: their service has no backend that takes connections", ifindex
            );
        }
        _ => warn!(
            context,
            "packets from interface {} are dropped: their backend's next hop is not known", ifindex
        ),
    }
}
