//! Datagrams in fragments: only the first fragment has the ports, so where it goes is remembered for the others.

use super::{
    Env,
    family::{Family, V4, V6},
    parse::{Header, Packet, Parse, Piece},
    platform::Platform,
};
use crate::layout::{FragmentRoute, FragmentV4, FragmentV6, Hop};

/// A family whose first fragments are remembered.
pub trait Datagrams: Parse {
    /// Where the first fragment of a datagram went.
    fn route<P: Platform>(platform: P, header: &Header<Self>, identification: u64) -> Option<FragmentRoute>;

    /// Remembers where the first fragment of a datagram goes. Without room, the fragments that follow are treated as those
    /// whose first fragment was not seen.
    fn remember<P: Platform>(platform: P, packet: &Packet<Self>, identification: u64, route: &FragmentRoute);
}

impl Datagrams for V4 {
    #[inline(always)]
    fn route<P: Platform>(platform: P, header: &Header<Self>, identification: u64) -> Option<FragmentRoute> {
        // SAFETY: the header's view was checked when it was followed.
        let (source, destination, _) = unsafe { Self::addresses(header.ip) };
        platform.fragment_v4(&FragmentV4 {
            source,
            destination,
            identification: identification as u32,
            protocol: u32::from(header.protocol),
        })
    }

    #[inline(always)]
    fn remember<P: Platform>(platform: P, packet: &Packet<Self>, identification: u64, route: &FragmentRoute) {
        let datagram = FragmentV4 {
            source: packet.tuple.source,
            destination: packet.tuple.destination,
            identification: identification as u32,
            protocol: u32::from(packet.tuple.protocol),
        };
        platform.remember_fragment_v4(&datagram, route);
    }
}

impl Datagrams for V6 {
    #[inline(always)]
    fn route<P: Platform>(platform: P, header: &Header<Self>, identification: u64) -> Option<FragmentRoute> {
        // SAFETY: the header's view was checked when it was followed.
        let (source, destination, _) = unsafe { Self::addresses(header.ip) };
        platform.fragment_v6(&FragmentV6 {
            source,
            destination,
            identification: identification as u32,
            reserved: 0,
        })
    }

    #[inline(always)]
    fn remember<P: Platform>(platform: P, packet: &Packet<Self>, identification: u64, route: &FragmentRoute) {
        let datagram = FragmentV6 {
            source: packet.tuple.source,
            destination: packet.tuple.destination,
            identification: identification as u32,
            reserved: 0,
        };
        platform.remember_fragment_v6(&datagram, route);
    }
}

/// Remembers where a datagram goes, if this is its first fragment.
#[inline(always)]
pub fn first<P: Platform, F: Datagrams>(env: &Env<P>, packet: &Packet<F>, backend: u32, inbound: bool, hop: Hop) {
    if let Piece::First(identification) = packet.piece {
        let route = FragmentRoute {
            backend,
            inbound: u32::from(inbound),
            hop,
        };
        F::remember(env.platform, packet, identification, &route);
    }
}
