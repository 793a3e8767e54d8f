//! Parse: Ethernet, VLAN tags, IPv4 with options or IPv6 with extension headers, ports.
//!
//! What is cut short or contradicts itself is passed to the kernel, which drops it and counts it where operators look.

use super::{
    Env, Outcome,
    family::{Family, V4, V6},
    platform::Platform,
};
use crate::{
    verdict::Verdict,
    wire::{
        Be16, ETHERNET, EtherType, Ethernet, ExtensionHeader, FRAGMENT_HEADER, Fragment, Ipv4, Ipv6, Ports, Tcp, Udp,
        VLAN, Vlan, protocol,
    },
};

/// A family whose headers can be followed.
pub trait Parse: Family {
    /// Follows the IP header `at` bytes into the frame, and what stands between it and the transport header.
    ///
    /// # Errors
    ///
    /// The outcome for a packet whose header is cut short, contradicts itself or leads too far.
    fn header<P: Platform>(env: &Env<P>, at: usize) -> Result<Header<Self>, Outcome>;

    /// Follows an authentication header that [`Self::header`] has left.
    ///
    /// # Errors
    ///
    /// The outcome for a packet whose header is cut short.
    fn authenticated<P: Platform>(env: &Env<P>, header: &Header<Self>) -> Result<Header<Self>, Outcome>;
}

impl Parse for V4 {
    #[inline(always)]
    fn header<P: Platform>(env: &Env<P>, at: usize) -> Result<Header<Self>, Outcome> {
        ipv4(env, at)
    }

    #[inline(always)]
    fn authenticated<P: Platform>(env: &Env<P>, header: &Header<Self>) -> Result<Header<Self>, Outcome> {
        let (mut at, mut next) = (header.at, header.protocol);
        if next == protocol::AUTHENTICATION && !matches!(header.piece, Piece::Later(_)) {
            let extension: *mut ExtensionHeader = env.frame.view(at).ok_or(Outcome::Pass(Verdict::PassedMalformed))?;
            // SAFETY: the view was checked.
            let extension = unsafe { &*extension };
            at += extension.length(next);
            next = extension.next_header;
        }
        Ok(Header {
            protocol: next,
            at: env.platform.bounded::<0x7ff>(at, header.end),
            ..*header
        })
    }
}

impl Parse for V6 {
    #[inline(always)]
    fn header<P: Platform>(env: &Env<P>, at: usize) -> Result<Header<Self>, Outcome> {
        ipv6(env, at)
    }

    #[inline(always)]
    fn authenticated<P: Platform>(_env: &Env<P>, header: &Header<Self>) -> Result<Header<Self>, Outcome> {
        // It is one of the extension headers.
        Ok(*header)
    }
}

/// VLAN tags that are followed: 802.1Q, or QinQ.
const TAGS: usize = 2;

/// IPv6 extension headers that are followed. RFC 8200, section 4.1, recommends no more than six before the transport.
const EXTENSIONS: usize = 6;

/// The IP header that follows Ethernet and its tags.
pub enum Network {
    /// IPv4.
    V4(Header<V4>),
    /// IPv6.
    V6(Header<V6>),
}

/// From the frame to its IP header.
#[inline(always)]
pub fn network<P: Platform>(env: &Env<P>) -> Result<Network, Outcome> {
    let (ether_type, at) = ethernet(env)?;
    if ether_type == EtherType::IPV4 {
        let header = ipv4(env, at)?;
        header.within(env).map(|()| Network::V4(header))
    } else if ether_type == EtherType::IPV6 {
        let header = ipv6(env, at)?;
        header.within(env).map(|()| Network::V6(header))
    } else if EtherType::is_vlan(ether_type) {
        Err(Outcome::Pass(Verdict::PassedTooDeep))
    } else {
        Err(Outcome::Pass(Verdict::PassedNotIp))
    }
}

/// Ethernet and up to two VLAN tags, which stay as they are: what follows them, and where.
#[inline(always)]
fn ethernet<P: Platform>(env: &Env<P>) -> Result<(Be16, usize), Outcome> {
    let header: *mut Ethernet = env.frame.view(0).ok_or(Outcome::Pass(Verdict::PassedMalformed))?;
    // SAFETY: the view was checked.
    let mut ether_type = unsafe { (*header).ether_type };
    let mut at = ETHERNET;
    for _ in 0..TAGS {
        if !EtherType::is_vlan(ether_type) {
            break;
        }
        let tag: *mut Vlan = env.frame.view(at).ok_or(Outcome::Pass(Verdict::PassedMalformed))?;
        // SAFETY: the view was checked.
        ether_type = unsafe { (*tag).ether_type };
        at += VLAN;
    }
    Ok((ether_type, env.platform.bounded::<31>(at, usize::from(ether_type.0))))
}

/// The two ends of a packet.
#[derive(Clone, Copy)]
pub struct Tuple<F: Family> {
    /// [`protocol::TCP`] or [`protocol::UDP`].
    pub protocol: u8,
    /// Where it comes from.
    pub source: F::Address,
    /// Where it goes to.
    pub destination: F::Address,
    /// The port it comes from, as on the wire.
    pub source_port: u16,
    /// The port it goes to, as on the wire.
    pub destination_port: u16,
}

impl<F: Family> Tuple<F> {
    /// The ends of the packets that answer this one.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            protocol: self.protocol,
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

/// A TCP or UDP packet, or its first fragment.
#[derive(Clone, Copy)]
pub struct Packet<F: Family> {
    /// Its IP header.
    pub ip: *mut F::Header,
    /// Its ports: the start of its TCP or UDP header, all of whose fixed part is within the frame.
    pub ports: *mut Ports,
    /// The checksum in that header.
    pub checksum: *mut u16,
    /// TCP's flags; 0 for UDP.
    pub flags: u8,
    /// Its ends.
    pub tuple: Tuple<F>,
    /// Bytes from the IP header on, as that header says.
    pub bytes: u64,
    /// Whether more fragments follow.
    pub piece: Piece,
}

impl<F: Family> Packet<F> {
    /// Whether a TCP segment has data.
    #[inline(always)]
    pub fn has_data<P: Platform>(&self, env: &Env<P>) -> bool {
        // Viewed once more: kernel 6.1's verifier has forgotten here which packets are TCP's.
        let at = env.frame.offset(self.ports);
        let Some(tcp) = env
            .frame
            .view::<Tcp>(env.platform.bounded::<0x7fff>(at, self.bytes as usize))
        else {
            return false;
        };
        // SAFETY: the view was checked.
        let words = unsafe { (*tcp).data_offset } >> 4;
        let headers = at - env.frame.offset(self.ip) + usize::from(words) * 4;
        self.tuple.protocol == protocol::TCP && self.bytes > headers as u64
    }
}

/// How much of a datagram a packet is; fragments with their identification, as on the wire.
#[derive(Clone, Copy, PartialEq)]
pub enum Piece {
    /// All of it.
    Whole,
    /// The first fragment, which has the ports.
    First(u64),
    /// Another fragment.
    Later(u64),
}

/// A network header that was followed to the transport header.
#[derive(Clone, Copy)]
pub struct Header<F: Family> {
    /// The IP header.
    pub ip: *mut F::Header,
    /// What follows it and its options or extension headers.
    pub protocol: u8,
    /// Where that starts in the frame.
    pub at: usize,
    /// Where the packet ends in the frame, as its header says.
    pub end: usize,
    /// Whether it is a fragment.
    pub piece: Piece,
}

impl<F: Family> Header<F> {
    /// Whether the packet is within the frame.
    #[inline(always)]
    fn within<P: Platform>(&self, env: &Env<P>) -> Result<(), Outcome> {
        if self.end > env.frame.length() {
            return Err(Outcome::Pass(Verdict::PassedMalformed));
        }
        Ok(())
    }
}

/// An IPv4 header `at` bytes into the frame and its options.
#[inline(always)]
fn ipv4<P: Platform>(env: &Env<P>, at: usize) -> Result<Header<V4>, Outcome> {
    let ip: *mut Ipv4 = env.frame.view(at).ok_or(Outcome::Pass(Verdict::PassedMalformed))?;
    // SAFETY: the view was checked.
    let header = unsafe { &*ip };
    let length = header.header_length();
    if header.version() != 4 || length < size_of::<Ipv4>() || (header.total_length.get() as usize) < length {
        return Err(Outcome::Pass(Verdict::PassedMalformed));
    }
    let end = at + header.total_length.get() as usize;
    let identification = u64::from(header.identification.0);
    let piece = match (header.is_fragment(), header.is_later_fragment()) {
        (false, _) => Piece::Whole,
        (true, false) => Piece::First(identification),
        (true, true) => Piece::Later(identification),
    };
    Ok(Header {
        ip,
        protocol: header.protocol,
        at: env.platform.bounded::<255>(at + length, usize::from(header.protocol)),
        end,
        piece,
    })
}

/// An IPv6 header `at` bytes into the frame and its extension headers.
#[inline(always)]
fn ipv6<P: Platform>(env: &Env<P>, at: usize) -> Result<Header<V6>, Outcome> {
    let ip: *mut Ipv6 = env.frame.view(at).ok_or(Outcome::Pass(Verdict::PassedMalformed))?;
    // SAFETY: the view was checked.
    let header = unsafe { &*ip };
    if header.version() != 6 {
        return Err(Outcome::Pass(Verdict::PassedMalformed));
    }
    let mut next = header.next_header;
    let mut piece = Piece::Whole;
    let mut at = at + size_of::<Ipv6>();
    let end = at + header.payload_length.get() as usize;
    if next != protocol::TCP && next != protocol::UDP {
        for _ in 0..EXTENSIONS {
            if ExtensionHeader::follows(next) {
                let extension: *mut ExtensionHeader =
                    env.frame.view(at).ok_or(Outcome::Pass(Verdict::PassedMalformed))?;
                // SAFETY: the view was checked.
                let extension = unsafe { &*extension };
                if extension.leads_elsewhere(next) {
                    return Err(Outcome::Pass(Verdict::PassedOtherProtocol));
                }
                at += extension.length(next);
                next = extension.next_header;
            } else if next == protocol::FRAGMENT {
                let fragment: *mut Fragment = env.frame.view(at).ok_or(Outcome::Pass(Verdict::PassedMalformed))?;
                // SAFETY: the view was checked.
                let fragment = unsafe { &*fragment };
                piece = match (fragment.is_atomic(), fragment.is_later_fragment()) {
                    (true, _) => Piece::Whole,
                    (false, false) => Piece::First(u64::from(fragment.identification.0)),
                    (false, true) => Piece::Later(u64::from(fragment.identification.0)),
                };
                next = fragment.next_header;
                at += FRAGMENT_HEADER;
                if matches!(piece, Piece::Later(_)) {
                    // What follows is data, whatever the header says.
                    break;
                }
            } else {
                break;
            }
        }
        let leads_on = ExtensionHeader::follows(next) || next == protocol::FRAGMENT;
        if leads_on && !matches!(piece, Piece::Later(_)) {
            return Err(Outcome::Pass(Verdict::PassedTooDeep));
        }
    }
    let at = env.platform.bounded::<0x7fff>(at, usize::from(next));
    Ok(Header {
        ip,
        protocol: next,
        at,
        end,
        piece,
    })
}

/// The transport header that an IP header leads to.
#[inline(always)]
pub fn transport<P: Platform, F: Family>(env: &Env<P>, header: &Header<F>) -> Result<Packet<F>, Outcome> {
    let fixed = match header.protocol {
        protocol::TCP => size_of::<Tcp>(),
        _ => size_of::<Udp>(),
    };
    let is_transport = header.protocol == protocol::TCP || header.protocol == protocol::UDP;
    if is_transport && header.at + fixed > header.end {
        return Err(Outcome::Pass(Verdict::PassedMalformed));
    }
    // SAFETY: the header's view was checked when it was followed.
    let (_, _, bytes) = unsafe { F::addresses(header.ip) };
    packet(env, header.ip, header.protocol, header.at, bytes, header.piece)
}

/// What [`transport`] found before, in a packet of which this is known.
///
/// # Errors
///
/// If the packet is not the one in which that was found.
#[inline(always)]
pub fn again<P: Platform, F: Family>(
    env: &Env<P>,
    ip: usize,
    transport: usize,
    protocol: u8,
    bytes: u64,
    piece: Piece,
) -> Result<Packet<F>, Outcome> {
    let malformed = Outcome::Pass(Verdict::PassedMalformed);
    let _: *mut Ethernet = env.frame.view(0).ok_or(malformed)?;
    let ip = env.frame.view(ip & 31);
    let ip: *mut F::Header = ip.ok_or(Outcome::Pass(Verdict::PassedMalformed))?;
    packet(env, ip, protocol, transport & 0x3fff, bytes, piece)
}

/// A packet whose IP header was checked and whose transport header is to be.
#[inline(always)]
fn packet<P: Platform, F: Family>(
    env: &Env<P>,
    ip: *mut F::Header,
    protocol: u8,
    at: usize,
    bytes: u64,
    piece: Piece,
) -> Result<Packet<F>, Outcome> {
    let (ports, checksum, flags) = match protocol {
        protocol::TCP => {
            let tcp: *mut Tcp = env.frame.view(at).ok_or(Outcome::Pass(Verdict::PassedMalformed))?;
            // SAFETY: the view was checked.
            unsafe { (tcp.cast::<Ports>(), &raw mut (*tcp).checksum, (*tcp).flags) }
        }
        protocol::UDP => {
            let udp: *mut Udp = env.frame.view(at).ok_or(Outcome::Pass(Verdict::PassedMalformed))?;
            // SAFETY: the view was checked.
            unsafe { (udp.cast::<Ports>(), &raw mut (*udp).checksum, 0) }
        }
        _ => return Err(Outcome::Pass(Verdict::PassedOtherProtocol)),
    };
    // SAFETY: the IP header's view was checked by the caller.
    let (source, destination, _) = unsafe { F::addresses(ip) };
    // SAFETY: both headers begin with the ports, and one of them was checked.
    let (source_port, destination_port) = unsafe { ((*ports).source.0, (*ports).destination.0) };
    Ok(Packet {
        ip,
        ports,
        checksum,
        flags,
        tuple: Tuple {
            protocol,
            source,
            destination,
            source_port,
            destination_port,
        },
        bytes,
        piece,
    })
}

/// The ends of the packets that answer the one that begins with this header, of which no more than the ports need be
/// there.
#[inline(always)]
pub fn reverse<P: Platform, F: Family>(env: &Env<P>, header: &Header<F>) -> Result<Tuple<F>, Outcome> {
    if header.protocol != protocol::TCP && header.protocol != protocol::UDP {
        return Err(Outcome::Pass(Verdict::PassedOtherProtocol));
    }
    let ports: *mut Ports = env
        .frame
        .view(header.at)
        .ok_or(Outcome::Pass(Verdict::PassedMalformed))?;
    // SAFETY: the view was checked.
    let (source_port, destination_port) = unsafe { ((*ports).source.0, (*ports).destination.0) };
    // SAFETY: the header's view was checked when it was followed.
    let (source, destination, _) = unsafe { F::addresses(header.ip) };
    let quoted: Tuple<F> = Tuple {
        protocol: header.protocol,
        source,
        destination,
        source_port,
        destination_port,
    };
    Ok(quoted.reversed())
}
