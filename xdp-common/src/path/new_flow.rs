//! New flow: the first packet of one. Its backend is the one that the client persists with, or that the scheduler chooses;
//! then it is recorded.
//!
//! The program before has looked at the packet; what it found out is taken over ([`crate::layout::Handover`]).

use super::{
    Env, Outcome, conflict, count,
    deliver::{self, Ip},
    flow::{Insertion, Place},
    handover,
    parse::Packet,
    persistence,
    platform::Platform,
    scheduler,
};
use crate::{
    layout::{Backend, ClientId, Handover, MAX_BACKENDS, Service},
    tcp_state::State,
    verdict::Verdict,
    wire::protocol,
};

/// A client's packet, from where the program before has left it.
#[inline(always)]
pub fn go_on<P: Platform, F: Ip>(env: &Env<P>, handover: &Handover) -> Result<Outcome, Outcome> {
    let none = Outcome::Drop(Verdict::DroppedNoBackend);
    let packet = handover::packet::<P, F>(env, handover)?;
    let Some(service) = env.service(handover.service) else {
        return Err(none);
    };
    if handover.backend == 0 {
        let Some(place) = Place::at(env, packet.tuple.source, ClientId(handover.client)) else {
            return Err(none);
        };
        let reuse = handover.reuse as usize;
        let (number, backend) = begin(env, &packet, &place, service, handover, reuse)?;
        return Ok(deliver::to_backend(env, &packet, number, backend, true));
    }
    // A template lasts at least as long as the connections that it made.
    persistence::renew::<P, F>(env, service, packet.tuple.source);
    let Some(backend) = env.backend(handover.backend) else {
        return Err(none);
    };
    deliver::deliverable(&packet, backend)?;
    Ok(deliver::to_backend(env, &packet, handover.backend, backend, false))
}

/// The backend of a new flow. A packet that cannot be delivered begins none.
#[inline(always)]
fn begin<'a, P: Platform, F: Ip>(
    env: &'a Env<P>,
    packet: &Packet<F>,
    place: &Place<F>,
    service: &Service,
    handover: &Handover,
    reuse: usize,
) -> Result<(u32, &'a Backend), Outcome> {
    let (source, number) = (packet.tuple.source, handover.service);
    let persists = service.flags & Service::PERSISTENT != 0;
    let persistent = match persists {
        true => persistence::backend::<P, F>(env, number, service, source).unwrap_or(handover.persistent),
        false => 0,
    };
    let chosen = match persistent {
        0 => scheduler::choose(env, number, service, &packet.tuple)?,
        persistent => persistent,
    };
    let chosen = match service.flags & Service::SHARED {
        0 => chosen,
        _ => conflict::resolve(env, handover, place, chosen)?,
    };
    let chosen = env
        .platform
        .bounded::<{ MAX_BACKENDS as usize - 1 }>(chosen as usize, packet.bytes as usize) as u32;
    let Some(backend) = env.backend(chosen) else {
        return Err(Outcome::Drop(Verdict::DroppedNoBackend));
    };
    deliver::deliverable(packet, backend)?;
    if service.flags & Service::ONE_PACKET != 0 && !place.has_to_begin(env, chosen, backend) {
        return Ok((chosen, backend));
    }
    if persists && persistent != 0 {
        persistence::renew::<P, F>(env, service, source);
    } else if persists {
        persistence::begin::<P, F>(env, service, source, chosen, backend);
    }
    let state = match packet.tuple.protocol {
        protocol::TCP => State::first(packet.flags),
        _ => State::Udp,
    };
    match place.insert(env, state, reuse, chosen, backend) {
        Insertion::Done => {}
        Insertion::Evicted => count::verdict(env, Verdict::FlowEvicted),
        Insertion::Lost => count::verdict(env, Verdict::FlowUntracked),
    }
    Ok((chosen, backend))
}
