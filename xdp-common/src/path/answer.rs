//! Answer: a packet is turned into the answer to it, which goes back by the way that the packet came.
//!
//! The answer comes from the address that was asked. Its frame has the packet's MACs, exchanged, and its VLAN tags; its IP header is
//! new, without options or extension headers.

use super::{
    Env,
    family::{Family, V4, V6},
    parse::Packet,
    platform::Platform,
};
use crate::{
    checksum::{self, word},
    layout::QUOTED,
    tcp_state::{ACK, FIN, RST, SYN},
    wire::{Be16, Be32, ETHERNET, Ethernet, Icmp, Ipv4, Ipv6, Tcp, VLAN, protocol},
};

/// Hops that an answer may take (RFC 1700).
const HOPS: u8 = 64;
/// The type of service of ICMP errors: internetwork control (RFC 1812, section 4.3.2.5).
const CONTROL: u8 = 0xc0;

/// Ethernet with two VLAN tags: what may stand before an IP header.
type Link = [Be16; (ETHERNET + 2 * VLAN) / 2];

/// A family in which packets are answered.
pub trait Answer: Family {
    /// Type and code of the ICMP message that nobody listens on a port (RFC 792; RFC 4443, section 3.1).
    const PORT_UNREACHABLE: (u8, u8);

    /// Whether an address may be that of one host: whoever else a packet names as its source gets no answer.
    fn is_one_host(address: Self::Address) -> bool;

    /// A header without options, with this type of service where the family has one.
    fn answering(ends: Ends<Self>, tos: u8) -> Self::Header;

    /// The sum of the pseudo header, where checksums cover it: TCP's in both families, ICMP's in IPv6.
    fn pseudo_header(ends: Ends<Self>) -> u32;
}

/// The headers of an answer: one view, so that both are known to be there.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Headers<Network, Transport> {
    ip: Network,
    transport: Transport,
}

/// What an IP header says.
#[derive(Clone, Copy)]
pub struct Ends<F: Family> {
    /// Where the packet comes from.
    source: F::Address,
    /// Where it goes to.
    destination: F::Address,
    /// What follows the header.
    protocol: u8,
    /// Bytes that follow it.
    bytes: u16,
}

impl<F: Family> Ends<F> {
    /// Those of the answer to a packet.
    #[inline(always)]
    const fn back(packet: &Packet<F>, protocol: u8, bytes: usize) -> Self {
        Self {
            source: packet.tuple.destination,
            destination: packet.tuple.source,
            protocol,
            bytes: bytes as u16,
        }
    }
}

/// A RST that ends the connection which a segment is of (RFC 9293, section 3.10.7.1). The IP header of the segment stands `ip` bytes
/// into the frame, that of TCP `transport`. False if there is no answer; the frame may be spoilt then.
#[inline(always)]
pub fn reset<P: Platform, F: Answer>(env: &Env<P>, packet: &Packet<F>, ip: usize, transport: usize) -> bool {
    // Viewed once more, as in `Packet::has_data`.
    let (platform, unknown) = (env.platform, packet.bytes as usize);
    let ip = platform.bounded::<31>(ip, unknown);
    let transport = platform.bounded::<0x7fff>(transport, unknown);
    let Some(old) = env.frame.view::<Tcp>(transport) else {
        return false;
    };
    // SAFETY: the view was checked.
    let old = unsafe { *old };
    let headers = (transport as u64).wrapping_sub(ip as u64) + u64::from(old.data_offset >> 4) * 4;
    let data = packet.bytes.wrapping_sub(headers) as u32;
    let length = data + u32::from(old.flags & SYN != 0) + u32::from(old.flags & FIN != 0);
    let (sequence, acknowledgment, flags) = match old.flags & ACK {
        0 => (
            Be32::new(0),
            Be32::new(old.sequence.get().wrapping_add(length)),
            RST | ACK,
        ),
        _ => (old.acknowledgment, Be32::new(0), RST),
    };
    let mut tcp = Tcp {
        source: old.destination,
        destination: old.source,
        sequence,
        acknowledgment,
        data_offset: ((size_of::<Tcp>() / 4) as u8) << 4,
        flags,
        window: Be16::new(0),
        checksum: 0,
        urgent: Be16::new(0),
    };
    let ends = Ends::back(packet, protocol::TCP, size_of::<Tcp>());
    let ports = u64::from(packet.tuple.source_port) | u64::from(packet.tuple.destination_port) << 16;
    let numbers = u64::from(sequence.0) | u64::from(acknowledgment.0) << 32;
    let rest = u64::from(u16::from_ne_bytes([tcp.data_offset, flags]));
    tcp.checksum = !checksum::fold(F::pseudo_header(ends) + word(ports) + word(numbers) + word(rest));
    let (Some(link), Some(answer)) = (
        env.frame.view::<Ethernet>(0),
        env.frame.view::<Headers<F::Header, Tcp>>(ip),
    ) else {
        return false;
    };
    // SAFETY: the views were checked.
    unsafe {
        exchange_macs(link);
        *answer = Headers {
            ip: F::answering(ends, 0),
            transport: tcp,
        };
    }
    platform.cut(env.context, ip + size_of::<Headers<F::Header, Tcp>>())
}

/// An ICMP error: nobody listens on the port that a packet is for. It quotes as much of the packet as it may ([`QUOTED`]). The
/// packet's IP header stands `ip` bytes into the frame. False if there is no answer; the frame may be spoilt then.
#[inline(always)]
pub fn port_unreachable<P: Platform, F: Answer>(env: &Env<P>, packet: &Packet<F>, ip: usize) -> bool {
    let ip = env.platform.bounded::<31>(ip, packet.bytes as usize);
    let quoted = core::cmp::min(packet.bytes, QUOTED as u64) as usize;
    let added = size_of::<Headers<F::Header, Icmp>>();
    let quote = ip + added;
    let ends = Ends::back(packet, F::ICMP, size_of::<Icmp>() + quoted);
    let (platform, context) = (env.platform, env.context);
    if !platform.grow(context, added) || !platform.cut(context, quote + quoted) {
        return false;
    }
    let Some(sum) = platform.sum(context, quote, quoted) else {
        return false;
    };
    let (kind, code) = F::PORT_UNREACHABLE;
    let pseudo_header = if F::IS_V6 { F::pseudo_header(ends) } else { 0 };
    let sum = u32::from(checksum::fold(sum)) + pseudo_header + u32::from(u16::from_ne_bytes([kind, code]));
    let frame = platform.frame(context);
    let (Some(start), Some(old), Some(answer)) = (
        frame.view::<Link>(0),
        frame.view::<Link>(added),
        frame.view::<Headers<F::Header, Icmp>>(ip),
    ) else {
        return false;
    };
    // SAFETY: the views were checked. What the first write has beyond the tags that are there, the second one overwrites.
    unsafe {
        let link = *old;
        *start = link;
        exchange_macs(start.cast());
        *answer = Headers {
            ip: F::answering(ends, CONTROL),
            transport: Icmp {
                kind,
                code,
                checksum: !checksum::fold(sum),
                rest: Be32::new(0),
            },
        };
    }
    true
}

/// Exchanges source and destination of an Ethernet header.
///
/// # Safety
///
/// The view must be checked.
#[inline(always)]
unsafe fn exchange_macs(ethernet: *mut Ethernet) {
    // SAFETY: the caller's.
    unsafe {
        let [a, b, c, d, e, f] = (*ethernet).addresses;
        (*ethernet).addresses = [d, e, f, a, b, c];
    }
}

impl Answer for V4 {
    const PORT_UNREACHABLE: (u8, u8) = (3, 3);

    #[inline(always)]
    fn is_one_host(address: u32) -> bool {
        // RFC 1122, section 3.2.1.3: this network, loopback, multicast, what is reserved and broadcast.
        !matches!(address.to_ne_bytes()[0], 0 | 127 | 224..)
    }

    #[inline(always)]
    fn answering(ends: Ends<Self>, tos: u8) -> Ipv4 {
        let (source, destination) = (Be32(ends.source), Be32(ends.destination));
        Ipv4::of(tos, HOPS, ends.protocol, ends.bytes, source, destination)
    }

    #[inline(always)]
    fn pseudo_header(ends: Ends<Self>) -> u32 {
        word(u64::from(ends.source) | u64::from(ends.destination) << 32) + lengths(ends)
    }
}

impl Answer for V6 {
    const PORT_UNREACHABLE: (u8, u8) = (1, 4);

    #[inline(always)]
    fn is_one_host([high, low]: [u64; 2]) -> bool {
        // RFC 4291, section 2.4: multicast, unspecified, loopback.
        high.to_ne_bytes()[0] != 0xff && (high != 0 || u64::from_be(low) > 1)
    }

    #[inline(always)]
    fn answering(ends: Ends<Self>, _tos: u8) -> Ipv6 {
        Ipv6::of(HOPS, ends.protocol, ends.bytes, ends.source, ends.destination)
    }

    #[inline(always)]
    fn pseudo_header(ends: Ends<Self>) -> u32 {
        let ([a, b], [c, d]) = (ends.source, ends.destination);
        word(a) + word(b) + word(c) + word(d) + lengths(ends)
    }
}

/// The sum of the words of a pseudo header that are no addresses.
#[inline(always)]
fn lengths<F: Family>(ends: Ends<F>) -> u32 {
    u32::from(u16::from(ends.protocol).to_be()) + u32::from(ends.bytes.to_be())
}
