//! LVX's XDP program. A packet's way, one module each, in this order and never back:
//!
//! [`parse`] -> [`icmp`] -> [`service`] -> [`flow`] -> [`scheduler`] -> [`rewrite`] -> [`transmit`]
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
mod maps;
mod parse;
mod rewrite;
mod scheduler;
mod service;
mod transmit;

use aya_ebpf::{bindings::xdp_action, helpers::bpf_jiffies64, macros::xdp, programs::XdpContext};
use xdp_common::{
    layout::{Backend, Control, Hop, Method, Record},
    tcp_state::{ACK, From, SYN, State},
    verdict::Verdict,
    wire::protocol,
};

use crate::{
    flow::{Insertion, Place},
    parse::{Frame, Header, Network, Packet},
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
            xdp_action::XDP_DROP
        }
    }
}

/// From the frame to its IP header.
#[inline(always)]
fn frame(context: &XdpContext) -> Result<End, End> {
    let frame = Frame::of(context);
    match parse::ethernet(frame)? {
        Network::V4(at) => packet(context, frame, &parse::ipv4(frame, at)?),
        Network::V6(at) => packet(context, frame, &parse::ipv6(frame, at)?),
    }
}

/// From the IP header to the service.
#[inline(always)]
fn packet<F: Translate>(context: &XdpContext, frame: Frame, header: &Header<F>) -> Result<End, End> {
    let packet = parse::transport(frame, header)?;
    let control = maps::CONTROL.get(0).ok_or(End::Pass(Verdict::PassedNoService))?;
    let bank = control.bank as u32 & 1;
    match service::role(bank, &packet) {
        Role::Inbound(service) => inbound(context, control, bank, &packet, service),
        Role::Outbound => outbound(context, control, bank, &packet),
        Role::Foreign => Err(End::Pass(Verdict::PassedNoService)),
    }
}

/// Jiffies, low word.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_jiffies64() as u32 }
}

/// A client's packet: its flow, or a new one; the backend; out.
#[inline(always)]
fn inbound<F: Translate>(
    context: &XdpContext,
    control: &Control,
    bank: u32,
    packet: &Packet<F>,
    service: u32,
) -> Result<End, End> {
    let place: Place<F> =
        Place::of(packet.source, packet.source_port, control).ok_or(End::Drop(Verdict::DroppedNoBackend))?;
    let key = F::key(packet.source, packet.source_port, place.hash, service);
    let now = now();
    let opens = packet.flags & (SYN | ACK) == SYN;

    let mut over = None;
    let mut known: Option<(u32, &'static Backend)> = None;
    if let Some(found) = place.inbound(key, packet.source) {
        let state = found.record.state();
        let number = found.record.backend();
        match family::backend(bank, number) {
            Some(backend)
                if backend.method != Method::None as u8
                    && u32::from(backend.service) == service
                    && !(opens && state.is_over())
                    && !found.is_expired(now, control) =>
            {
                let next = match packet.protocol {
                    protocol::TCP => state.next(packet.flags, From::Client),
                    _ => State::Udp,
                };
                place.touch(&found, next, now, control, || {
                    match backend.method == Method::Nat as u8 {
                        true => transmit::hop_back(context, packet),
                        false => Hop::NONE,
                    }
                });
                known = Some((number, backend));
            }
            _ => over = Some(found.way()),
        }
    }

    let is_new = known.is_none();
    let (number, backend) = match known {
        Some(known) => known,
        None => {
            let entry = service::get(bank, service).ok_or(End::Drop(Verdict::DroppedNoBackend))?;
            let number = scheduler::choose(service, entry, packet).ok_or(End::Drop(Verdict::DroppedNoBackend))?;
            let backend = family::backend(bank, number).ok_or(End::Drop(Verdict::DroppedNoBackend))?;
            let state = match packet.protocol {
                protocol::TCP => State::first(packet.flags),
                _ => State::Udp,
            };
            let hop = match backend.method == Method::Nat as u8 {
                true => transmit::hop_back(context, packet),
                false => Hop::NONE,
            };
            match place.insert(over, key, packet.source, Record::new(number, state), hop, now, control) {
                Insertion::Done => {}
                Insertion::Evicted => count::verdict(context, Verdict::FlowEvicted),
                Insertion::Lost => count::verdict(context, Verdict::FlowUntracked),
            }
            (number, backend)
        }
    };
    if backend.ifindex == 0 {
        return Err(End::Drop(Verdict::DroppedNoNextHop));
    }
    if backend.method == Method::Nat as u8 {
        rewrite::inbound(packet, backend)?;
    }
    count::inbound(number, packet.bytes, is_new);
    Ok(transmit::to_backend(context, packet, backend))
}

/// A NAT backend's packet: its flow; the service's address; back to the client.
#[inline(always)]
fn outbound<F: Translate>(context: &XdpContext, control: &Control, bank: u32, packet: &Packet<F>) -> Result<End, End> {
    let none = End::Pass(Verdict::PassedNoService);
    let Some(place) = Place::<F>::of(packet.destination, packet.destination_port, control) else {
        return Err(none);
    };
    let Some((found, backend)) = place.outbound(bank, packet) else {
        return Err(none);
    };
    let hop = place.hop(&found);
    rewrite::outbound(packet, backend)?;
    let next = match packet.protocol {
        protocol::TCP => found.record.state().next(packet.flags, From::Backend),
        _ => State::Udp,
    };
    place.touch(&found, next, now(), control, || Hop::NONE);
    count::outbound(found.record.backend(), packet.bytes);
    Ok(transmit::to_client(context, bank, packet, hop))
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
