//! Fragment: only the first one of a datagram has the ports; the others go where it went.

use aya_ebpf::{macros::xdp, programs::XdpContext};
use xdp_common::{
    layout::{FragmentWay, Hop, Method, UnknownFragments, any_port},
    verdict::Verdict,
};

use crate::{
    Env, count,
    end::End,
    family::{self, Family, V4, V6},
    parse::{Header, Packet, Piece},
    rewrite::{self, Translate},
    run, scheduler, transmit, transport,
};

/// Remembers where a datagram goes, if this is its first fragment.
#[inline(always)]
pub fn first<F: Family>(packet: &Packet<F>, backend: u32, inbound: bool, hop: Hop) {
    if let Piece::First(identification) = packet.piece {
        let way = FragmentWay {
            backend,
            inbound: u32::from(inbound),
            hop,
        };
        F::remember(packet, identification, way);
    }
}

/// The program of fragments.
#[xdp]
pub fn lvx_fragment(context: XdpContext) -> u32 {
    run(&context, fragment::<V4>, fragment::<V6>)
}

/// The first fragment goes as a whole packet would; the others follow it.
#[inline(always)]
fn fragment<F: Translate>(env: &Env, header: &Header<F>) -> Result<End, End> {
    match header.piece {
        Piece::Later(identification) => later(env, header, identification),
        _ if header.protocol == F::ICMP => Err(End::Pass(Verdict::PassedFragment)),
        _ => transport(env, header),
    }
}

/// Sends another fragment after the first one.
#[inline(always)]
fn later<F: Translate>(env: &Env, header: &Header<F>, identification: u64) -> Result<End, End> {
    let unknown = End::Pass(Verdict::PassedFragment);
    // SAFETY: the header's view was checked when it was followed.
    let (source, destination, bytes) = unsafe { F::addresses(header.ip) };
    let way = match F::fragment(header, identification) {
        Some(way) => way,
        None => orphan::<F>(env, source, destination, header.protocol)?,
    };
    let Some(backend) = family::backend(env.bank, way.backend) else {
        return Err(unknown);
    };
    // The number may be another backend's by now, or nobody's.
    let still = match way.inbound {
        0 => source == F::of_backend(&backend.address) && backend.method == Method::Nat as u8,
        _ => destination == F::of_backend(&backend.vip) && backend.method != Method::None as u8,
    };
    if !still {
        return Err(unknown);
    }
    if way.inbound == 0 {
        rewrite::fragment_outbound(header, backend)?;
        count::outbound(way.backend, bytes);
        return Ok(transmit::to_client(env, way.hop));
    }
    if backend.ifindex == 0 {
        return Err(End::Drop(Verdict::DroppedNoNextHop));
    }
    if backend.method == Method::Nat as u8 {
        rewrite::fragment_inbound(header, backend)?;
    }
    count::inbound(way.backend, bytes, false);
    Ok(transmit::to_backend(env, backend))
}

/// Where a fragment goes whose first fragment was not seen, if the operator wants more than to pass it. The tables then have
/// an endpoint of any port for each address and protocol of a service.
#[inline(always)]
fn orphan<F: Family>(env: &Env, source: F::Address, destination: F::Address, protocol: u8) -> Result<FragmentWay, End> {
    let wish = env.control.unknown_fragments;
    if wish == UnknownFragments::Pass as u64 {
        return Err(End::Pass(Verdict::PassedFragment));
    }
    let Some(number) = F::endpoint(env.bank, destination, any_port(protocol)).service() else {
        return Err(End::Pass(Verdict::PassedFragment));
    };
    if wish != UnknownFragments::Addresses as u64 {
        return Err(End::Drop(Verdict::DroppedFragment));
    }
    let chosen = scheduler::choose_by_address::<F>(env, number, source);
    match chosen {
        Some(backend) => Ok(FragmentWay {
            backend,
            inbound: 1,
            hop: Hop::NONE,
        }),
        None => Err(End::Drop(Verdict::DroppedNoBackend)),
    }
}
