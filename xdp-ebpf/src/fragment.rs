//! Fragment: only the first one of a datagram has the ports; the others go where it went.

use xdp_common::{
    layout::{FragmentWay, Hop, Method},
    verdict::Verdict,
};

use crate::{
    End, Env, count,
    family::{self, Family},
    parse::{Frame, Header, Packet, Piece},
    rewrite::{self, Translate},
    transmit,
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

/// Sends another fragment after the first one.
#[inline(always)]
pub fn later<F: Translate>(env: &Env<'_>, frame: Frame, header: &Header<F>, identification: u64) -> Result<End, End> {
    let unknown = End::Pass(Verdict::PassedFragment);
    let Some(way) = F::fragment(header, identification) else {
        return Err(unknown);
    };
    let Some(backend) = family::backend(env.bank, way.backend) else {
        return Err(unknown);
    };
    // SAFETY: the header's view was checked when it was followed.
    let (source, destination, bytes) = unsafe { F::addresses(header.ip) };
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
        return Ok(transmit::to_client(env.context, env.bank, frame, way.hop));
    }
    if backend.ifindex == 0 {
        return Err(End::Drop(Verdict::DroppedNoNextHop));
    }
    if backend.method == Method::Nat as u8 {
        rewrite::fragment_inbound(header, backend)?;
    }
    count::inbound(way.backend, bytes);
    Ok(transmit::to_backend(env.context, frame, backend))
}
