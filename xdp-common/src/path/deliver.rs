//! Deliver: a packet whose backend is known is rewritten, counted and transmitted.

use super::{
    Env, Outcome,
    answer::Answer,
    count,
    datagram::{self, Datagrams},
    family::{V4, V6},
    flow::{Found, Place},
    parse::Packet,
    platform::Platform,
    rewrite::{self, Translate},
    transmit,
};
use crate::{
    layout::{Backend, Hop},
    verdict::Verdict,
};

/// A family whose packets can go all the way.
pub trait Ip: Answer + Datagrams + Translate {}

impl Ip for V4 {}
impl Ip for V6 {}

/// A client's packet whose backend is known and [`deliverable`]: rewritten, counted, out.
#[inline(always)]
pub fn to_backend<P: Platform, F: Ip>(
    env: &Env<P>,
    packet: &Packet<F>,
    number: u32,
    backend: &Backend,
    begins: bool,
) -> Outcome {
    rewrite::inbound(packet, backend);
    count::inbound(env, number, packet.bytes, begins);
    datagram::first(env, packet, number, true, Hop::NONE);
    transmit::to_backend(env, backend)
}

/// Whether a packet can go to a backend: its next hop is known, and it has a hop left to take.
///
/// # Errors
///
/// The outcome for a packet that cannot.
#[inline(always)]
pub fn deliverable<F: Ip>(packet: &Packet<F>, backend: &Backend) -> Result<(), Outcome> {
    if backend.ifindex == 0 {
        return Err(Outcome::Drop(Verdict::DroppedNoNextHop));
    }
    // SAFETY: parsing has checked the view of the IP header.
    if unsafe { F::hops_left(packet.ip) } <= 1 {
        return Err(Outcome::Drop(Verdict::DroppedTtlExceeded));
    }
    Ok(())
}

/// A backend's packet whose flow is known, on its way back: the service's address, noted and counted, out.
///
/// # Errors
///
/// The outcome for a packet that cannot go back.
#[inline(always)]
pub fn to_client<P: Platform, F: Ip>(
    env: &Env<P>,
    packet: &Packet<F>,
    place: &Place<F>,
    found: &Found,
    backend: &Backend,
) -> Result<Outcome, Outcome> {
    let hop = place.hop(env, found);
    rewrite::outbound(packet, backend)?;
    place.answered(env, packet, found, backend);
    let number = place.backend(env, found.flow);
    count::outbound(env, number, packet.bytes);
    datagram::first(env, packet, number, false, hop);
    Ok(transmit::to_client(env, hop))
}
