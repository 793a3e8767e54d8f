//! Conflict: a client that reaches one NAT backend through two services, or through a service and directly, from one port. To the
//! backend these connections have the same ends, so their answers cannot be told apart: one flow at most may be alive.

use super::{
    Env, Outcome, compare, connections,
    deliver::Ip,
    family::{Family, V4, V6},
    flow::{self, Place},
    parse::{self, Header, Packet, Piece},
    platform::Platform,
    service::{self, Role},
};
use crate::{
    layout::{Backend, ClientId, FLOWS_PER_BUCKET, FlowEntry, Handover, MEMBERS_PER_CHUNK, Member, Service},
    tcp_state::{State, opens},
    verdict::Verdict,
    wire::protocol,
};

/// The backend that a new flow gets where other services have some of the backends too ([`Service::SHARED`]); `chosen` was the
/// scheduler's or the persistent one. The client's flow with the same backend through another service is ended if it is over; else
/// the new one gets another backend. If there is none, a datagram, whose service has no connections, ends the other flow.
///
/// # Errors
///
/// The outcome for a TCP packet for which no backend is left.
#[inline(always)]
pub fn resolve<P: Platform, F: Ip>(
    env: &Env<P>,
    handover: &Handover,
    place: &Place<F>,
    chosen: u32,
) -> Result<u32, Outcome> {
    let is_shared = env.backend(chosen).is_some_and(|it| it.flags & Backend::SHARED != 0);
    if !is_shared || yields(env.platform, env.context, env.mode, place, (chosen, false)) {
        return Ok(chosen);
    }
    let service = u64::from(handover.service << 1 | env.bank);
    let another = env
        .platform
        .member_without_rival(service, handover.client, u64::from(F::IS_V6));
    match Member(another).number() {
        0 if handover.protocol == u32::from(protocol::UDP) => {
            yields(env.platform, env.context, env.mode, place, (chosen, true));
            Ok(chosen)
        }
        0 => Err(Outcome::Drop(Verdict::NatConflict)),
        number => Ok(number),
    }
}

/// Whether a client's flow through another service makes room for one with this backend: there is none, it is over, or it has to.
/// A function as [`Place::put`].
#[inline(never)]
fn yields<P: Platform, F: Ip>(
    platform: P,
    context: P::Context,
    mode: u64,
    place: &Place<F>,
    (backend, has_to): (u32, bool),
) -> bool {
    if let Some(env) = &Env::with(platform, context, mode)
        && let Some(backend) = env.backend(backend)
        && let Some((rival, other)) = place.rival(env, backend)
    {
        if !has_to && !place.is_over(env, &rival, other) {
            return false;
        }
        place.end(env, &rival, other);
    }
    true
}

/// A packet that a client sends to a NAT backend directly. It passes as it came; but what begins here, a connection or a datagram,
/// ends the client's flow with that backend from the same port, or its answers would be taken for the service's. A connection
/// that goes on is left alone.
#[inline(always)]
pub fn direct<P: Platform, F: Ip>(env: &Env<P>, header: &Header<F>) -> Result<Outcome, Outcome> {
    let pass = Outcome::Pass(Verdict::PassedNoService);
    if matches!(header.piece, Piece::Later(_)) {
        return Err(pass);
    }
    let packet = parse::transport(env, header)?;
    if let Role::Direct = service::role(env, &packet.tuple)
        && let Some(place) = Place::<F>::of(env, packet.tuple.source, packet.tuple.source_port)
        && let Some((found, backend)) = place.with_backend_at(env, &packet.tuple.reversed())
        && (packet.tuple.protocol == protocol::UDP || place.is_over(env, &found, backend))
    {
        place.end(env, &found, backend);
    }
    Err(pass)
}

/// Whether [`direct`] has to look at a packet.
#[inline(always)]
pub fn concerns<F: Family>(packet: &Packet<F>) -> bool {
    packet.tuple.protocol == protocol::UDP || opens(packet.flags)
}

/// A search under way for a member of a service: as little as can be, as it is deep in the stack.
#[repr(C)]
struct Search<P> {
    /// The place of the service in the table of services.
    service: u64,
    /// The member to begin with.
    begin: u64,
    client: u64,
    found: u64,
    platform: P,
}

/// The members of a service, counted by whole chunks.
#[inline(always)]
const fn members(service: &Service) -> u32 {
    service.members_length.div_ceil(MEMBERS_PER_CHUNK) * MEMBERS_PER_CHUNK
}

/// A member of the service in a place of the table of services that takes new connections and with which the client has no flow
/// through another service, as [`Member`]; 0 if there is none. Each client begins at its own, so that those who need another
/// backend spread over all.
#[inline(always)]
pub fn member_without_rival<P: Platform>(platform: P, service: u64, client: u64, is_v6: u64) -> u64 {
    let Some(entry) = platform.services(service as u32) else {
        return 0;
    };
    // SAFETY: a bank is not written while packets may read it.
    let members = members(unsafe { &*entry });
    if members == 0 {
        return 0;
    }
    let mut search = Search {
        service,
        begin: (client >> 16) % u64::from(members),
        client,
        found: 0,
        platform,
    };
    match is_v6 {
        0 => platform.repeat(members, look::<P, V4>, &mut search),
        _ => platform.repeat(members, look::<P, V6>, &mut search),
    }
    search.found
}

/// Looks at one member, and goes on while this returns 0.
extern "C" fn look<P: Platform, F: Family>(index: u64, search: *mut Search<P>) -> u64 {
    // SAFETY: the pointer is the one that `member_without_rival` gave, and nobody else has it.
    let search = unsafe { &mut *search };
    let platform = search.platform;
    let bank = search.service as u32 & 1;
    let Some(service) = platform.services(search.service as u32) else {
        return 1;
    };
    // SAFETY: a bank is not written while packets may read it.
    let service: &Service = unsafe { &*service };
    let (mut at, members) = ((search.begin + index) as u32, members(service));
    if at >= members {
        at -= members;
    }
    let Some(members) = compare::members(platform, u64::from(service.members.0), at / MEMBERS_PER_CHUNK) else {
        return 1;
    };
    // SAFETY: the place is masked to the chunk, which has so many members.
    let member = unsafe { *members.add(at as usize & (MEMBERS_PER_CHUNK as usize - 1)) };
    if member.weight() == 0 || member.is_limited() && connections::is_overloaded(platform, member.number()) {
        return 0;
    }
    let Some(backend) = platform.backends(member.number() << 1 | bank) else {
        return 0;
    };
    // SAFETY: a bank is not written while packets may read it.
    if has_rival::<P, F>(platform, bank, ClientId(search.client), unsafe { &*backend }) {
        return 0;
    }
    search.found = member.0;
    1
}

/// Whether a client has a flow whose answers could not be told from those of one with this backend.
#[inline(always)]
fn has_rival<P: Platform, F: Family>(platform: P, bank: u32, client: ClientId, backend: &Backend) -> bool {
    let mask = F::mask(platform);
    let Some(bucket) = F::bucket(platform, client.bucket(mask)) else {
        return false;
    };
    for slot in 0..FLOWS_PER_BUCKET {
        // SAFETY: the word is the flow table's.
        let flow = FlowEntry(unsafe { platform.load(bucket.cast::<u64>().add(slot)) });
        if flow.is_of(client, mask)
            && flow.state() != State::Template
            && let Some(other) = platform.backends(flow.backend(mask) << 1 | bank)
            // SAFETY: a bank is not written while packets may read it.
            && flow::are_rivals(backend, unsafe { &*other })
        {
            return true;
        }
    }
    false
}
