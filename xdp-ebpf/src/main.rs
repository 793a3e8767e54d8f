//! LVX's XDP programs. A packet's way, one module each, in this order and never back:
//!
//! [`parse`] -> ([`fragment`], [`icmp`]) -> [`service`] -> [`flow`] -> ([`begin`]: [`persistence`], [`scheduler`],
//! [`compare`]) -> [`rewrite`] -> [`transmit`]
//!
//! The program that is attached, [`lvx`], takes a packet whose flow is known all the way. What is rarer goes on in a program of
//! its own ([`Further`]): so each is small enough for the compiler to keep what it needs in registers, and for the verifier to
//! walk. Within a program everything is inlined; [`family`] lets IPv4 and IPv6 share each step. A packet that is not for a
//! service is passed as it came; nothing is written into a packet before its fate is known.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(missing_docs, reason = "the entry point's macro makes a public function without")]
#![expect(internal_features, reason = "compare-and-exchange: see the module atomic")]

mod atomic;
mod begin;
mod clock;
mod compare;
mod count;
mod end;
mod family;
mod flow;
mod forget;
mod fragment;
mod further;
mod icmp;
mod load;
mod log;
mod maps;
mod parse;
mod persistence;
mod rewrite;
mod scheduler;
mod service;
mod transmit;

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    macros::xdp,
    programs::XdpContext,
};
use xdp_common::{
    layout::{Backend, Control, Further, Hop, Method},
    verdict::Verdict,
};

use crate::{
    end::End,
    family::{V4, V6},
    flow::{ANY, Known, Place},
    parse::{Frame, Header, Network, Packet, Piece},
    rewrite::Translate,
    service::Role,
};

/// The entry point.
#[xdp]
#[inline(always)]
pub fn lvx(context: XdpContext) -> u32 {
    run(&context, common::<V4>, common::<V6>)
}

/// What every step may look at.
pub struct Env {
    /// The kernel's word on the frame.
    pub context: *mut xdp_md,
    /// Its bytes.
    pub frame: Frame,
    /// Seeds and settings.
    pub control: &'static Control,
    /// The bank of the configuration that this packet uses.
    pub bank: u32,
    /// Whether NAT backends may have sent it.
    pub answers: bool,
}

impl Env {
    /// That of a packet.
    #[inline(always)]
    fn of(context: &XdpContext) -> Option<Self> {
        let control = maps::CONTROL.get(0)?;
        // SAFETY: the word is a map's, and is read once.
        let bank = unsafe { atomic::load(&raw const control.bank) };
        Some(Self {
            context: context.ctx,
            frame: Frame::of(context),
            control,
            bank: bank as u32 & 1,
            answers: bank & Control::ANSWERS != 0,
        })
    }
}

/// Runs a packet's way, from the frame to the XDP action.
#[inline(always)]
pub fn run(
    context: &XdpContext,
    v4: impl FnOnce(&Env, &Header<V4>) -> Result<End, End>,
    v6: impl FnOnce(&Env, &Header<V6>) -> Result<End, End>,
) -> u32 {
    let Some(env) = Env::of(context) else {
        return xdp_action::XDP_PASS;
    };
    let end = match parse::network(env.frame) {
        Ok(Network::V4(header)) => v4(&env, &header),
        Ok(Network::V6(header)) => v6(&env, &header),
        Err(end) => Err(end),
    };
    end::action(&env, end)
}

/// A packet as most are: whole, and TCP or UDP.
#[inline(always)]
fn common<F: Translate>(env: &Env, header: &Header<F>) -> Result<End, End> {
    if header.protocol == F::ICMP || header.piece != Piece::Whole {
        return Err(match header.piece {
            Piece::Whole => further::go(env, Further::Icmp),
            _ => further::go(env, Further::Fragment),
        });
    }
    transport(env, header)
}

/// A TCP or UDP packet: of a flow that is known, or not for a service.
#[inline(always)]
pub fn transport<F: Translate>(env: &Env, header: &Header<F>) -> Result<End, End> {
    let packet = parse::transport(env.frame, header)?;
    match service::role(env, &packet.tuple) {
        Role::Inbound(service) => inbound(env, &packet, service),
        Role::Outbound => outbound(env, &packet),
        Role::Foreign => Err(End::Pass(Verdict::PassedNoService)),
    }
}

/// A client's packet: its flow, or a new one; the backend; out.
#[inline(always)]
fn inbound<F: Translate>(env: &Env, packet: &Packet<F>, service: u32) -> Result<End, End> {
    let Some(place) = Place::<F>::of(packet.tuple.source, packet.tuple.source_port, env.control) else {
        return Err(End::Drop(Verdict::DroppedNoBackend));
    };
    match place.known(env, packet, service) {
        Known::Flow {
            number,
            backend,
            is_due,
        } => {
            if is_due && backend.flags & Backend::PERSISTENT != 0 {
                // The template of the client has to be noted too.
                return Err(further::begin(env, packet, &place, service, ANY, number));
            }
            deliverable(packet, backend)?;
            Ok(deliver(env, packet, number, backend, false))
        }
        Known::Lost => Err(End::Drop(Verdict::DroppedBackendLost)),
        Known::Not { over } => Err(further::begin(env, packet, &place, service, over, 0)),
    }
}

/// A client's packet whose backend is known and [`deliverable`]: rewritten, counted, out.
#[inline(always)]
fn deliver<F: Translate>(env: &Env, packet: &Packet<F>, number: u32, backend: &Backend, begins: bool) -> End {
    if backend.method == Method::Nat as u8 {
        rewrite::inbound(packet, backend);
    }
    count::inbound(number, packet.bytes, begins);
    fragment::first(packet, number, true, Hop::NONE);
    transmit::to_backend(env, backend)
}

/// Whether a packet can go to a backend: its next hop is known, and NAT finds a hop left to take.
#[inline(always)]
fn deliverable<F: Translate>(packet: &Packet<F>, backend: &Backend) -> Result<(), End> {
    if backend.ifindex == 0 {
        return Err(End::Drop(Verdict::DroppedNoNextHop));
    }
    // SAFETY: parsing has checked the view of the IP header.
    if backend.method == Method::Nat as u8 && unsafe { F::hops_left(packet.ip) } <= 1 {
        return Err(End::Drop(Verdict::DroppedTtlExceeded));
    }
    Ok(())
}

/// A NAT backend's packet: its flow; the service's address; back to the client.
#[inline(always)]
fn outbound<F: Translate>(env: &Env, packet: &Packet<F>) -> Result<End, End> {
    let none = End::Pass(Verdict::PassedNoService);
    let Some(place) = Place::<F>::of(packet.tuple.destination, packet.tuple.destination_port, env.control) else {
        return Err(none);
    };
    let Some((found, backend)) = place.outbound(env.bank, &packet.tuple) else {
        return Err(none);
    };
    let hop = place.hop(&found);
    rewrite::outbound(packet, backend)?;
    place.answered(env, packet, &found, backend);
    let number = place.backend(found.flow);
    count::outbound(number, packet.bytes);
    fragment::first(packet, number, false, hop);
    Ok(transmit::to_client(env, hop))
}

/// The kernel lets GPL-compatible programs call all helpers.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that this is never reached.
    loop {}
}
