//! End: where a packet's way ends.

use aya_ebpf::bindings::xdp_action;
use xdp_common::verdict::Verdict;

use crate::{Env, count, log};

/// What a step that ends a packet's way has decided.
pub enum End {
    /// This is the XDP action, and all is counted.
    Action(u32),
    /// Pass it to the kernel, counted under this reason.
    Pass(Verdict),
    /// Drop it, counted under this reason.
    Drop(Verdict),
}

/// The XDP action that a packet's way ends in.
#[inline(always)]
pub fn action(env: &Env, end: Result<End, End>) -> u32 {
    let (Ok(end) | Err(end)) = end;
    match end {
        End::Action(action) => action,
        End::Pass(verdict) => {
            count::verdict(env, verdict);
            xdp_action::XDP_PASS
        }
        End::Drop(verdict) => {
            count::verdict(env, verdict);
            log::dropped(env, verdict);
            xdp_action::XDP_DROP
        }
    }
}
