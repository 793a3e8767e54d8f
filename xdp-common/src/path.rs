//! The packet path, from the frame to the XDP action: written once, it runs in the kernel and, unchanged, on the host
//! ([`platform`]). A packet passes one module each, in this order and never back:
//!
//! [`parse`] -> ([`fragment`], [`icmp`]) -> [`service`] -> [`flow`] -> ([`new_flow`]: [`persistence`], [`scheduler`],
//! [`compare`]) -> [`deliver`]: [`rewrite`], [`transmit`] -> [`outcome`]
//!
//! or, where no backend is left, [`reject`]: [`answer`] -> [`outcome`].
//!
//! The program that is attached, [`lvx`], takes a packet whose flow is known all the way. What is rarer goes on in a program
//! of its own ([`TailCall`]): so each is small enough for the compiler to keep what it needs in registers, and for the
//! verifier to walk. Within a program everything is inlined; [`family`] lets IPv4 and IPv6 share each step. A packet that is
//! not for a service is passed as it came; nothing is written into a packet before its fate is known.

pub mod addressee;
pub mod adopt;
pub mod answer;
pub mod compare;
pub mod conflict;
pub mod connections;
pub mod count;
pub mod datagram;
pub mod deliver;
pub mod env;
pub mod family;
pub mod flow;
pub mod fragment;
pub mod frame;
pub mod handover;
pub mod icmp;
pub mod ingress;
pub mod new_flow;
pub mod outcome;
pub mod parse;
pub mod persistence;
pub mod platform;
pub mod reject;
pub mod rewrite;
pub mod scheduler;
pub mod service;
pub mod sweep;
pub mod transmit;

use self::{
    deliver::Ip,
    family::{V4, V6},
    flow::{ANY, Lookup, Place},
    outcome::{action, conclude},
    parse::{Header, Network, Packet, Piece},
    platform::Platform,
    service::Role,
};
pub use self::{env::Env, frame::Frame, outcome::Outcome};
use crate::{
    layout::{Backend, Handover, TailCall},
    tcp_state::SYN,
    verdict::Verdict,
    wire::protocol,
};

/// The program that is attached to interfaces.
#[inline(always)]
pub fn lvx<P: Platform>(platform: P, context: P::Context) -> u32 {
    let Some(env) = Env::of(platform, context) else {
        return action::PASS;
    };
    let outcome = match env.is_waiting() {
        true => Err(handover::tail_call(&env, TailCall::Predecessor)),
        false => follow(&env, common::<P, V4>, common::<P, V6>),
    };
    conclude(&env, outcome)
}

/// The program of packets that begin a flow, and of flows whose client's template is due.
#[inline(always)]
pub fn lvx_new_flow<P: Platform, F: Ip>(platform: P, context: P::Context) -> u32 {
    handed_over(platform, context, |env, handover| {
        match new_flow::go_on::<P, F>(env, handover) {
            Ok(Outcome::Drop(verdict)) | Err(Outcome::Drop(verdict)) => handover::reject::<P, F>(env, verdict),
            outcome => conclude(env, outcome),
        }
    })
}

/// The program of packets for whose flow the predecessor was asked.
#[inline(always)]
pub fn lvx_adopt<P: Platform, F: Ip>(platform: P, context: P::Context) -> u32 {
    handed_over(platform, context, |env, handover| {
        conclude(env, adopt::go_on::<P, F>(env, handover))
    })
}

/// The program of fragments.
#[inline(always)]
pub fn lvx_fragment<P: Platform>(platform: P, context: P::Context) -> u32 {
    match Env::of(platform, context) {
        Some(env) => conclude(&env, follow(&env, any_fragment::<P, V4>, any_fragment::<P, V6>)),
        None => action::PASS,
    }
}

/// The program of ICMP.
#[inline(always)]
pub fn lvx_icmp<P: Platform>(platform: P, context: P::Context) -> u32 {
    match Env::of(platform, context) {
        Some(env) => conclude(&env, follow(&env, icmp::error::<P, V4>, icmp::error::<P, V6>)),
        None => action::PASS,
    }
}

/// The program of packets that ask NAT backends directly.
#[inline(always)]
pub fn lvx_direct<P: Platform>(platform: P, context: P::Context) -> u32 {
    match Env::of(platform, context) {
        Some(env) => conclude(&env, follow(&env, conflict::direct::<P, V4>, conflict::direct::<P, V6>)),
        None => action::PASS,
    }
}

/// The program of packets that are to begin no flow.
#[inline(always)]
pub fn lvx_reject<P: Platform, F: Ip>(platform: P, context: P::Context) -> u32 {
    handed_over(platform, context, |env, handover| {
        conclude(env, reject::go_on::<P, F>(env, handover))
    })
}

/// A packet goes on from where the program before has left it: with what that has found out, and the configuration that it read.
#[inline(always)]
fn handed_over<P: Platform>(platform: P, context: P::Context, go_on: impl FnOnce(&Env<P>, &Handover) -> u32) -> u32 {
    let Some(handover) = handover::received(platform) else {
        return action::PASS;
    };
    match Env::with(platform, context, handover.mode) {
        Some(env) => go_on(&env, handover),
        None => action::PASS,
    }
}

/// Follows a packet to its IP header, and from there as its family goes on.
#[inline(always)]
fn follow<P: Platform>(
    env: &Env<P>,
    v4: impl FnOnce(&Env<P>, &Header<V4>) -> Result<Outcome, Outcome>,
    v6: impl FnOnce(&Env<P>, &Header<V6>) -> Result<Outcome, Outcome>,
) -> Result<Outcome, Outcome> {
    match parse::network(env)? {
        Network::V4(header) => v4(env, &header),
        Network::V6(header) => v6(env, &header),
    }
}

/// A packet as most are: whole, and TCP or UDP.
#[inline(always)]
fn common<P: Platform, F: Ip>(env: &Env<P>, header: &Header<F>) -> Result<Outcome, Outcome> {
    let is_authenticated = header.protocol == protocol::AUTHENTICATION;
    if header.protocol == F::ICMP || is_authenticated || header.piece != Piece::Whole {
        return Err(match header.piece {
            Piece::Whole if !is_authenticated => handover::tail_call(env, TailCall::Icmp),
            _ => handover::tail_call(env, TailCall::Fragment),
        });
    }
    transport(env, header)
}

/// A fragment: the first one goes as a whole packet would; the others follow it. So does what IPv4 authenticates, which is as rare.
#[inline(always)]
fn any_fragment<P: Platform, F: Ip>(env: &Env<P>, header: &Header<F>) -> Result<Outcome, Outcome> {
    let header = &F::authenticated(env, header)?;
    match header.piece {
        Piece::Later(identification) => fragment::later(env, header, identification),
        _ if header.protocol == F::ICMP => Err(Outcome::Pass(Verdict::PassedFragment)),
        _ => transport(env, header),
    }
}

/// A TCP or UDP packet: of a flow that is known, or not for a service.
#[inline(always)]
fn transport<P: Platform, F: Ip>(env: &Env<P>, header: &Header<F>) -> Result<Outcome, Outcome> {
    let packet = parse::transport(env, header)?;
    match service::role(env, &packet.tuple) {
        Role::Inbound(service) => inbound(env, &packet, service),
        Role::Outbound => outbound(env, &packet),
        Role::Direct if conflict::concerns(&packet) => Err(handover::tail_call(env, TailCall::Direct)),
        Role::Direct | Role::Unmatched => Err(Outcome::Pass(Verdict::PassedNoService)),
    }
}

/// A client's packet: its flow, or a new one; the backend; out.
#[inline(always)]
fn inbound<P: Platform, F: Ip>(env: &Env<P>, packet: &Packet<F>, service: u32) -> Result<Outcome, Outcome> {
    addressee::is_this_host(env)?;
    let Some(place) = Place::<F>::of(env, packet.tuple.source, packet.tuple.source_port) else {
        return Err(Outcome::Drop(Verdict::DroppedNoBackend));
    };
    match place.known(env, packet, service) {
        Lookup::Flow {
            number,
            backend,
            is_due,
        } => {
            if is_due && backend.flags & Backend::PERSISTENT != 0 {
                // The template of the client has to be noted too.
                return Err(handover::new_flow(env, packet, &place, service, ANY, number));
            }
            deliver::deliverable(packet, backend)?;
            Ok(deliver::to_backend(env, packet, number, backend, false))
        }
        Lookup::Lost => Err(Outcome::Drop(Verdict::DroppedBackendLost)),
        Lookup::Miss { reuse } => Err(handover::new_flow(env, packet, &place, service, reuse, 0)),
    }
}

/// A NAT backend's packet: its flow; the service's address; back to the client.
#[inline(always)]
fn outbound<P: Platform, F: Ip>(env: &Env<P>, packet: &Packet<F>) -> Result<Outcome, Outcome> {
    addressee::is_this_host(env)?;
    let Some(place) = Place::<F>::of(env, packet.tuple.destination, packet.tuple.destination_port) else {
        return Err(Outcome::Pass(Verdict::PassedNoService));
    };
    let Some((found, backend)) = place.with_backend_at(env, &packet.tuple) else {
        return Err(handover::unknown(env, Verdict::PassedNoService));
    };
    if packet.flags & SYN != 0 && found.flow.state().is_over() {
        // Of a connection that does not come this way.
        place.end(env, &found, backend);
        return Err(Outcome::Pass(Verdict::PassedNoService));
    }
    deliver::to_client(env, packet, &place, &found, backend)
}
