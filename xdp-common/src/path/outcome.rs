//! Outcome: what a packet's path comes to.

use super::{Env, count, platform::Platform};
use crate::verdict::Verdict;

/// XDP's actions (kernel `include/uapi/linux/bpf.h`, `enum xdp_action`).
pub mod action {
    /// Discard the packet.
    pub const DROP: u32 = 1;
    /// Give it to the kernel.
    pub const PASS: u32 = 2;
    /// Send it out of the interface that it came in by.
    pub const TX: u32 = 3;
    /// Send it out of another.
    pub const REDIRECT: u32 = 4;
}

/// What a step that ends a packet's path has decided.
pub enum Outcome {
    /// This is the XDP action, and all is counted.
    Action(u32),
    /// Pass it to the kernel, counted under this reason.
    Pass(Verdict),
    /// Drop it, counted under this reason.
    Drop(Verdict),
}

/// The XDP action of an outcome.
#[inline(always)]
pub fn conclude<P: Platform>(env: &Env<P>, outcome: Result<Outcome, Outcome>) -> u32 {
    let (Ok(outcome) | Err(outcome)) = outcome;
    let (verdict, action) = match outcome {
        Outcome::Action(action) => return action,
        Outcome::Pass(verdict) => (verdict, action::PASS),
        Outcome::Drop(verdict) => (verdict, action::DROP),
    };
    count::verdict(env, verdict);
    if action == action::DROP {
        env.platform.warn(env.context, verdict);
    }
    action
}
