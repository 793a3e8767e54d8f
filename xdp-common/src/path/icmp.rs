//! ICMP: an error belongs to the flow of those packets that answer the one it quotes.
//!
//! An error on the way to a client quotes what the service sent; it goes to the flow's backend, under NAT with the quoted
//! source made the backend's again. An error on the way to a NAT backend quotes what the client sent; it goes to the
//! client, from the service, with the quoted destination made the service's again (RFC 5508, section 4.2).

use super::{
    Env, Frame, Outcome, addressee, count,
    deliver::Ip,
    flow::Place,
    handover,
    parse::{self, Header, Piece, Tuple},
    platform::Platform,
    scheduler,
    service::{self, Role},
    transmit,
};
use crate::{
    checksum,
    layout::{Backend, Method, Service},
    verdict::Verdict,
    wire::{Icmp, Ports, Tcp, Udp, protocol},
};

/// An error and what it quotes.
struct Error<'a, F: Ip> {
    frame: Frame,
    outer: &'a Header<F>,
    icmp: *mut Icmp,
    quoted: Header<F>,
    /// Where the message ends in the frame.
    end: usize,
}

/// Sends an ICMP error after the flow that it is about.
#[inline(always)]
pub fn error<P: Platform, F: Ip>(env: &Env<P>, outer: &Header<F>) -> Result<Outcome, Outcome> {
    if outer.protocol != F::ICMP || outer.piece != Piece::Whole {
        return Err(Outcome::Pass(Verdict::PassedOtherProtocol));
    }
    let frame = env.frame;
    let icmp: *mut Icmp = frame.view(outer.at).ok_or(Outcome::Pass(Verdict::PassedMalformed))?;
    // SAFETY: the view was checked.
    if !F::is_icmp_error(unsafe { (*icmp).kind }) {
        return Err(Outcome::Pass(Verdict::PassedOtherProtocol));
    }
    let quoted = F::header(env, outer.at + size_of::<Icmp>())?;
    if matches!(quoted.piece, Piece::Later(_)) {
        return Err(Outcome::Pass(Verdict::PassedFragment));
    }
    // The compiler must not conclude from the packet's end where the frame's is: the verifier asks for that itself.
    let end = env
        .platform
        .bounded::<0x1_ffff>(outer.end, usize::from(quoted.protocol));
    if quoted.at + size_of::<Ports>() > end {
        return Err(Outcome::Pass(Verdict::PassedMalformed));
    }
    let tuple = parse::reverse(env, &quoted)?;
    // SAFETY: the header's view was checked when it was followed.
    let (_, destination, _) = unsafe { F::addresses(outer.ip) };
    if destination != tuple.destination {
        return Err(Outcome::Pass(Verdict::PassedNoService));
    }
    let error = Error {
        frame,
        outer,
        icmp,
        quoted,
        end,
    };
    let role = service::role(env, &tuple);
    if let Role::Direct | Role::Unmatched = role {
        return Err(Outcome::Pass(Verdict::PassedNoService));
    }
    addressee::is_this_host(env)?;
    match role {
        Role::Inbound(service) => to_backend(env, &error, &tuple, service),
        _ => to_client(env, &error, &tuple),
    }
}

/// An error about what the service sent to a client.
#[inline(always)]
fn to_backend<P: Platform, F: Ip>(
    env: &Env<P>,
    error: &Error<'_, F>,
    tuple: &Tuple<F>,
    service: u32,
) -> Result<Outcome, Outcome> {
    let none = Outcome::Pass(Verdict::PassedNoService);
    let Some(place) = Place::<F>::of(env, tuple.source, tuple.source_port) else {
        return Err(none);
    };
    let (number, backend) = match place.inbound(env, service) {
        Some((found, backend)) => (place.backend(env, found.flow), backend),
        None if env.is_succeeding() => return Err(handover::unknown(env, Verdict::PassedNoService)),
        None => hashed(env, tuple, service).ok_or(none)?,
    };
    if backend.ifindex == 0 {
        return Err(Outcome::Drop(Verdict::DroppedNoNextHop));
    }
    // SAFETY: the headers' views were checked when they were followed.
    let (.., bytes) = unsafe { F::addresses(error.outer.ip) };
    // SAFETY: the views were checked.
    unsafe {
        if F::hops_left(error.outer.ip) <= 1 {
            return Err(Outcome::Drop(Verdict::DroppedTtlExceeded));
        }
        if backend.method.has(Method::REWRITES_DESTINATION) {
            let address = F::of_backend(&backend.address);
            F::set_destination(error.outer.ip, address, backend.address_delta);
            F::quote_source(error.quoted.ip, address, backend.address_delta);
            if let Some(ports) = error.frame.view::<Ports>(error.quoted.at) {
                (*ports).source = backend.port;
            }
            update_checksums(
                error,
                backend.address_delta,
                backend.endpoint_delta,
                backend.address_delta,
            );
        } else {
            F::take_hop(error.outer.ip);
        }
    }
    count::inbound(env, number, bytes, false);
    Ok(transmit::to_backend(env, backend))
}

/// The backend that the data of an unknown flow gets, where a hash of the client says it: another node may have begun the flow, and
/// this one not yet seen it.
#[inline(always)]
fn hashed<'a, P: Platform, F: Ip>(env: &'a Env<P>, tuple: &Tuple<F>, number: u32) -> Option<(u32, &'a Backend)> {
    let service = env.service(number)?;
    if service.flags & Service::PERSISTENT != 0 {
        return None;
    }
    let chosen = scheduler::by_hash(env.platform, service, tuple)?.number();
    Some((chosen, env.backend(chosen)?))
}

/// An error about what a client sent, on its way back through NAT.
#[inline(always)]
fn to_client<P: Platform, F: Ip>(env: &Env<P>, error: &Error<'_, F>, tuple: &Tuple<F>) -> Result<Outcome, Outcome> {
    let none = Outcome::Pass(Verdict::PassedNoService);
    let Some(place) = Place::<F>::of(env, tuple.destination, tuple.destination_port) else {
        return Err(none);
    };
    let Some((found, backend)) = place.with_backend_at(env, tuple) else {
        return Err(handover::unknown(env, Verdict::PassedNoService));
    };
    let hop = place.hop(env, &found);
    // SAFETY: the headers' views were checked when they were followed.
    let (source, _, bytes) = unsafe { F::addresses(error.outer.ip) };
    let vip = F::of_backend(&backend.vip);
    // The source need not be the backend: it may be a router before it.
    let outer = F::delta(source, vip);
    let (address, endpoint) = (
        checksum::inverse(backend.address_delta),
        checksum::inverse(backend.endpoint_delta),
    );
    // SAFETY: the views were checked.
    unsafe {
        if F::hops_left(error.outer.ip) <= 1 {
            return Err(Outcome::Drop(Verdict::DroppedTtlExceeded));
        }
        F::set_source(error.outer.ip, vip, outer);
        F::quote_destination(error.quoted.ip, vip, address);
        if let Some(ports) = error.frame.view::<Ports>(error.quoted.at) {
            (*ports).destination = backend.vport;
        }
        update_checksums(error, address, endpoint, outer);
    }
    count::outbound(env, place.backend(env, found.flow), bytes);
    Ok(transmit::to_client(env, hop))
}

/// Updates the checksum of the quoted transport header, if that much is quoted, and of the message: the quoted addresses
/// changed by `address`, with the ports by `endpoint`, and the addresses of the packet itself by `outer`.
///
/// # Safety
///
/// The error's views must have been checked.
#[inline(always)]
unsafe fn update_checksums<F: Ip>(error: &Error<'_, F>, address: u16, endpoint: u16, outer: u16) {
    let ports = u32::from(endpoint) + u32::from(checksum::inverse(address));
    let mut message = ports;
    // SAFETY: each view is checked here, the message's by the caller.
    unsafe {
        let (field, is_udp) = match error.quoted.protocol {
            protocol::UDP => (
                error
                    .frame
                    .view::<Udp>(error.quoted.at)
                    .map(|udp| &raw mut (*udp).checksum),
                true,
            ),
            _ => (
                error
                    .frame
                    .view::<Tcp>(error.quoted.at)
                    .map(|tcp| &raw mut (*tcp).checksum),
                false,
            ),
        };
        let length = if is_udp { size_of::<Udp>() } else { size_of::<Tcp>() };
        let is_quoted = error.quoted.at + length <= error.end;
        if let Some(field) = field
            && is_quoted
            && !(is_udp && *field == 0)
        {
            *field = match is_udp {
                true => checksum::update_udp(*field, endpoint),
                false => checksum::update(*field, endpoint),
            };
            message += u32::from(checksum::inverse(endpoint));
        }
        if F::PSEUDO_HEADER {
            // IPv6's header has no checksum that would offset the quoted address, and the message covers its own.
            message += u32::from(address) + u32::from(outer);
        }
        (*error.icmp).checksum = checksum::update((*error.icmp).checksum, checksum::fold(message));
    }
}
