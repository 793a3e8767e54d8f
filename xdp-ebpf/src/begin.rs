//! Begin: the first packet of a flow. Whom the client persists with or the scheduler chooses; a record of it.
//!
//! The program before has looked at the packet; what it found out is taken over ([`xdp_common::layout::Handover`]).

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use xdp_common::{
    layout::{Backend, Client, MAX_BACKENDS, Service},
    verdict::Verdict,
};

use crate::{
    Env, count, deliver, deliverable,
    end::{self, End},
    family::{self, V4, V6},
    flow::{Insertion, Place},
    forget, further,
    parse::{self, Packet},
    persistence,
    rewrite::Translate,
    scheduler, service,
};

/// The program of IPv4 packets that begin a flow, and of flows whose client's template is due.
#[xdp]
pub fn lvx_begin_v4(context: XdpContext) -> u32 {
    run::<V4>(&context)
}

/// The same for IPv6: each family has a stack of its own.
#[xdp]
pub fn lvx_begin_v6(context: XdpContext) -> u32 {
    run::<V6>(&context)
}

#[inline(always)]
fn run<F: Translate>(context: &XdpContext) -> u32 {
    match Env::of(context) {
        Some(env) => end::action(&env, go_on::<F>(&env)),
        None => xdp_action::XDP_PASS,
    }
}

/// A client's packet, from where the program before has left it.
#[inline(always)]
fn go_on<F: Translate>(env: &Env) -> Result<End, End> {
    let none = End::Drop(Verdict::DroppedNoBackend);
    let Some(handover) = further::received() else {
        return Err(none);
    };
    let packet = parse::again::<F>(env.frame, handover)?;
    let Some(service) = service::get(env.bank, handover.service) else {
        return Err(none);
    };
    if handover.backend == 0 {
        let Some(place) = Place::at(packet.tuple.source, Client(handover.client)) else {
            return Err(none);
        };
        let (number, backend) = begin(env, &packet, &place, service, handover.service, handover.over as usize)?;
        return Ok(deliver(env, &packet, number, backend, true));
    }
    // A template lasts at least as long as the connections that it made.
    persistence::renew::<F>(env, service, packet.tuple.source);
    let Some(backend) = family::backend(env.bank, handover.backend) else {
        return Err(none);
    };
    deliverable(&packet, backend)?;
    Ok(deliver(env, &packet, handover.backend, backend, false))
}

/// The backend of a new flow. A packet that cannot be delivered begins none.
#[inline(always)]
fn begin<F: Translate>(
    env: &Env,
    packet: &Packet<F>,
    place: &Place<F>,
    service: &Service,
    number: u32,
    over: usize,
) -> Result<(u32, &'static Backend), End> {
    let source = packet.tuple.source;
    let persists = service.flags & Service::PERSISTENT != 0;
    let partner = match persists {
        true => persistence::partner::<F>(env, number, service, source).unwrap_or(0),
        false => 0,
    };
    let chosen = match partner {
        0 => scheduler::choose(env, number, service, &packet.tuple)?,
        partner => partner,
    };
    let chosen = forget::below::<{ MAX_BACKENDS as usize - 1 }>(chosen as usize, packet.bytes as usize) as u32;
    let Some(backend) = family::backend(env.bank, chosen) else {
        return Err(End::Drop(Verdict::DroppedNoBackend));
    };
    deliverable(packet, backend)?;
    if service.flags & Service::ONE_PACKET != 0 {
        return Ok((chosen, backend));
    }
    if persists && partner != 0 {
        persistence::renew::<F>(env, service, source);
    } else if persists {
        persistence::begin::<F>(env, service, source, chosen, backend);
    }
    match place.insert(env, packet, over, chosen, backend) {
        Insertion::Done => {}
        Insertion::Evicted => count::verdict(env, Verdict::FlowEvicted),
        Insertion::Lost => count::verdict(env, Verdict::FlowUntracked),
    }
    Ok((chosen, backend))
}
