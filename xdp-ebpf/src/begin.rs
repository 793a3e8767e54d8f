//! Begin: the first packet of a flow. Whom the client persists with or the scheduler chooses; a record of it.

use aya_ebpf::{macros::xdp, programs::XdpContext};
use xdp_common::{
    layout::{Backend, MAX_BACKENDS, Service},
    verdict::Verdict,
};

use crate::{
    Env, count, deliverable,
    end::End,
    family::{self, V4, V6},
    flow::{Insertion, Known, Place},
    forget, forward,
    parse::{self, Header, Packet, Piece},
    persistence,
    rewrite::Translate,
    run, scheduler,
    service::{self, Role},
};

/// The program of IPv4 packets that begin a flow, and of flows whose client's template is due.
#[xdp]
pub fn lvx_begin_v4(context: XdpContext) -> u32 {
    run(&context, transport::<V4>, foreign::<V6>)
}

/// The same for IPv6: each family has a stack of its own.
#[xdp]
pub fn lvx_begin_v6(context: XdpContext) -> u32 {
    run(&context, foreign::<V4>, transport::<V6>)
}

/// A packet of the other family, which does not come here.
#[inline(always)]
fn foreign<F: Translate>(_env: &Env, _header: &Header<F>) -> Result<End, End> {
    Err(End::Pass(Verdict::PassedNoService))
}

#[inline(always)]
fn transport<F: Translate>(env: &Env, header: &Header<F>) -> Result<End, End> {
    if matches!(header.piece, Piece::Later(_)) {
        return Err(End::Pass(Verdict::PassedFragment));
    }
    let packet = parse::transport(env.frame, header)?;
    match service::role(env.bank, &packet.tuple) {
        Role::Inbound(service) => inbound(env, &packet, service),
        Role::Outbound | Role::Foreign => Err(End::Pass(Verdict::PassedNoService)),
    }
}

/// A client's packet, whose flow may have been begun by another CPU meanwhile.
#[inline(always)]
fn inbound<F: Translate>(env: &Env, packet: &Packet<F>, service: u32) -> Result<End, End> {
    let Some(place) = Place::<F>::of(packet.tuple.source, packet.tuple.source_port, env.control) else {
        return Err(End::Drop(Verdict::DroppedNoBackend));
    };
    let (number, backend) = match place.known(env, packet, service) {
        Known::Flow { number, backend, .. } => {
            // A template lasts at least as long as the connections that it made.
            if backend.flags & Backend::PERSISTENT != 0
                && let Some(service) = service::get(env.bank, service)
            {
                persistence::renew::<F>(env, service, packet.tuple.source);
            }
            (number, backend)
        }
        Known::Lost => return Err(End::Drop(Verdict::DroppedBackendLost)),
        Known::Not { over } => {
            // The rest is walked once, not once for each way to get here.
            let over = forget::below::<15>(over, packet.bytes as usize);
            begin(env, packet, &place, service, over)?
        }
    };
    forward(env, packet, number, backend)
}

/// The backend of a new flow. A packet that cannot be delivered begins none.
#[inline(always)]
fn begin<F: Translate>(
    env: &Env,
    packet: &Packet<F>,
    place: &Place<F>,
    number: u32,
    over: usize,
) -> Result<(u32, &'static Backend), End> {
    let none = End::Drop(Verdict::DroppedNoBackend);
    let Some(service) = service::get(env.bank, number) else {
        return Err(none);
    };
    let source = packet.tuple.source;
    let persists = service.flags & Service::PERSISTENT != 0;
    let partner = match persists {
        true => persistence::partner::<F>(env, number, service, source).unwrap_or(0),
        false => 0,
    };
    let chosen = match partner {
        0 => scheduler::choose(env, number, &packet.tuple)?,
        partner => partner,
    };
    let chosen = forget::below::<{ MAX_BACKENDS as usize - 1 }>(chosen as usize, packet.bytes as usize) as u32;
    let Some(backend) = family::backend(env.bank, chosen) else {
        return Err(none);
    };
    deliverable(packet, backend)?;
    count::connection(chosen);
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
