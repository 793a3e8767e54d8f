//! Transmit: out of the interface that the packet came in by, or through the devmap out of another.

use super::{Env, Outcome, ingress, outcome::action, platform::Platform, rewrite};
use crate::{
    layout::{Backend, Hop, MAX_INTERFACES},
    verdict::Verdict,
};

/// To a backend, whose next hop is known.
#[inline(always)]
pub fn to_backend<P: Platform>(env: &Env<P>, backend: &Backend) -> Outcome {
    // SAFETY: parsing has checked the Ethernet header.
    unsafe { rewrite::macs(env.frame, &backend.macs) };
    out(env, backend.ifindex, u32::from(backend.interface))
}

/// To a client, by the way that its own packets came.
#[inline(always)]
pub fn to_client<P: Platform>(env: &Env<P>, hop: Hop) -> Outcome {
    let slot = hop.interface() & (MAX_INTERFACES - 1);
    let Some(interface) = env.platform.interfaces(slot << 1 | env.bank) else {
        return Outcome::Drop(Verdict::DroppedNoInterface);
    };
    // SAFETY: a bank is not written while packets may read it.
    let interface = unsafe { &*interface };
    if interface.ifindex == 0 {
        return Outcome::Drop(Verdict::DroppedNoInterface);
    }
    let [a, b, c] = hop.mac();
    let [d, e, f] = interface.mac;
    // SAFETY: parsing has checked the Ethernet header.
    unsafe { rewrite::macs(env.frame, &[a, b, c, d, e, f]) };
    out(env, interface.ifindex, hop.interface())
}

/// Back to who sent the packet that this frame answers, whose MACs it has already.
#[inline(always)]
pub fn back<P: Platform>(env: &Env<P>) -> Outcome {
    let slot = ingress::interface(env);
    match env.platform.interfaces(slot << 1 | env.bank) {
        // SAFETY: a bank is not written while packets may read it.
        Some(interface) => out(env, unsafe { (*interface).ifindex }, slot),
        None => Outcome::Drop(Verdict::DroppedNoInterface),
    }
}

/// Out of an interface.
#[inline(always)]
fn out<P: Platform>(env: &Env<P>, ifindex: u32, interface: u32) -> Outcome {
    if ifindex == ingress::ifindex(env) {
        return Outcome::Action(action::TX);
    }
    match env.platform.redirect(interface) {
        Some(action) => Outcome::Action(action),
        None => Outcome::Drop(Verdict::DroppedNoInterface),
    }
}
