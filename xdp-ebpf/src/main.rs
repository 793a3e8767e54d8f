//! LVX's XDP program. A packet's way, one module each, in this order and never back:
//!
//! [`parse`] -> ([`fragment`], [`icmp`]) -> [`service`] -> [`flow`] -> [`scheduler`] -> [`rewrite`] -> [`transmit`]
//!
//! Everything is inlined into one function; [`family`] lets IPv4 and IPv6 share each step. A packet that is not for a
//! service is passed as it came; nothing is written into a packet before its fate is known.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(missing_docs, reason = "the entry point's macro makes a public function without")]
#![expect(internal_features, reason = "compare-and-exchange: see the module atomic")]

mod atomic;
mod clock;
mod count;
mod family;
mod flow;
mod forget;
mod fragment;
mod icmp;
mod log;
mod maps;
mod parse;
mod rewrite;
mod scheduler;
mod service;
mod transmit;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use xdp_common::{
    layout::{Backend, Control, Hop, Method},
    verdict::Verdict,
};

use crate::{
    flow::{Insertion, Known, Place},
    parse::{Frame, Header, Network, Packet, Piece},
    rewrite::Translate,
    service::Role,
};

/// What a step that ends a packet's way has decided.
pub enum End {
    /// Forward: this is the XDP action.
    Forward(u32),
    /// Pass it to the kernel, counted under this reason.
    Pass(Verdict),
    /// Drop it, counted under this reason.
    Drop(Verdict),
}

/// The entry point.
#[xdp]
#[inline(always)]
pub fn lvx(context: XdpContext) -> u32 {
    let (Ok(end) | Err(end)) = frame(&context);
    match end {
        End::Forward(action) => action,
        End::Pass(verdict) => {
            count::verdict(&context, verdict);
            xdp_action::XDP_PASS
        }
        End::Drop(verdict) => {
            count::verdict(&context, verdict);
            log::dropped(&context, verdict);
            xdp_action::XDP_DROP
        }
    }
}

/// What every step may look at.
pub struct Env<'a> {
    /// The kernel's word on the frame.
    pub context: &'a XdpContext,
    /// Seeds and timeouts.
    pub control: &'static Control,
    /// The bank of the configuration that this packet uses.
    pub bank: u32,
}

/// From the frame to its IP header.
#[inline(always)]
fn frame(context: &XdpContext) -> Result<End, End> {
    let frame = Frame::of(context);
    let control = maps::CONTROL.get(0).ok_or(End::Pass(Verdict::PassedNoService))?;
    let env = Env {
        context,
        control,
        bank: control.bank as u32 & 1,
    };
    match parse::ethernet(frame)? {
        Network::V4(at) => network(&env, frame, &parse::ipv4(frame, at)?),
        Network::V6(at) => network(&env, frame, &parse::ipv6(frame, at)?),
    }
}

/// From the IP header to the service.
#[inline(always)]
fn network<F: Translate>(env: &Env<'_>, frame: Frame, header: &Header<F>) -> Result<End, End> {
    if header.end > frame.length() {
        return Err(End::Pass(Verdict::PassedMalformed));
    }
    if let Piece::Later(identification) = header.piece {
        return fragment::later(env, frame, header, identification);
    }
    if header.protocol == F::ICMP {
        return icmp::error(env, frame, header);
    }
    let packet = parse::transport(frame, header)?;
    match service::role(env.bank, &packet.tuple) {
        Role::Inbound(service) => inbound(env, &packet, service),
        Role::Outbound => outbound(env, &packet),
        Role::Foreign => Err(End::Pass(Verdict::PassedNoService)),
    }
}

/// A client's packet: its flow, or a new one; the backend; out.
#[inline(always)]
fn inbound<F: Translate>(env: &Env<'_>, packet: &Packet<F>, service: u32) -> Result<End, End> {
    let no_backend = End::Drop(Verdict::DroppedNoBackend);
    let Some(place) = Place::<F>::of(packet.tuple.source, packet.tuple.source_port, env.control) else {
        return Err(no_backend);
    };
    let key = F::key(packet.tuple.source, packet.tuple.source_port, place.hash, service);
    let (number, backend) = match place.known(env, packet, key, service) {
        Known::Flow(number, backend) => {
            deliverable(packet, backend)?;
            (number, backend)
        }
        Known::Not { over } => begin(env, packet, &place, key, service, over)?,
    };
    if backend.method == Method::Nat as u8 {
        rewrite::inbound(packet, backend);
    }
    count::inbound(number, packet.bytes);
    fragment::first(packet, number, true, Hop::NONE);
    Ok(transmit::to_backend(env.context, packet.frame, backend))
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

/// A new flow: the scheduler's backend, and a record of it. A packet that cannot be delivered begins none.
#[inline(always)]
fn begin<F: Translate>(
    env: &Env<'_>,
    packet: &Packet<F>,
    place: &Place<F>,
    key: u64,
    service: u32,
    over: Option<usize>,
) -> Result<(u32, &'static Backend), End> {
    let chosen = service::get(env.bank, service)
        .and_then(|entry| scheduler::choose(service, entry, &packet.tuple))
        .and_then(|number| Some((number, family::backend(env.bank, number)?)));
    let Some((number, backend)) = chosen else {
        return Err(End::Drop(Verdict::DroppedNoBackend));
    };
    deliverable(packet, backend)?;
    count::connection(number);
    match place.insert(env, packet, over, key, number, backend) {
        Insertion::Done => {}
        Insertion::Evicted => count::verdict(env.context, Verdict::FlowEvicted),
        Insertion::Lost => count::verdict(env.context, Verdict::FlowUntracked),
    }
    Ok((number, backend))
}

/// A NAT backend's packet: its flow; the service's address; back to the client.
#[inline(always)]
fn outbound<F: Translate>(env: &Env<'_>, packet: &Packet<F>) -> Result<End, End> {
    let none = End::Pass(Verdict::PassedNoService);
    let Some(place) = Place::<F>::of(packet.tuple.destination, packet.tuple.destination_port, env.control) else {
        return Err(none);
    };
    let Some((found, backend)) = place.outbound(env.bank, &packet.tuple) else {
        return Err(none);
    };
    let hop = place.hop(&found);
    rewrite::outbound(packet, backend)?;
    place.answered(env, packet, &found);
    count::outbound(found.record.backend(), packet.bytes);
    fragment::first(packet, found.record.backend(), false, hop);
    Ok(transmit::to_client(env.context, env.bank, packet.frame, hop))
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
