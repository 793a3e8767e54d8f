//! Parse: Ethernet, VLAN tags, IPv4 with options or IPv6 with extension headers, ports.
//!
//! Each view of the frame is checked against its end first; the verifier insists.

use aya_ebpf::programs::XdpContext;
use xdp_common::{
    verdict::Verdict,
    wire::{
        ETHERNET, EtherType, Ethernet, ExtensionHeader, FRAGMENT_HEADER, Fragment, Ipv4, Ipv6, Ports, Tcp, Udp, VLAN,
        Vlan, protocol,
    },
};

use crate::{
    End,
    family::{Family, V4, V6},
    forget,
};

/// VLAN tags that are followed: 802.1Q, or QinQ.
const TAGS: usize = 2;

/// IPv6 extension headers that are followed. RFC 8200, section 4.1, recommends no more than six before the transport.
const EXTENSIONS: usize = 6;

/// The bytes of a frame.
#[derive(Clone, Copy)]
pub struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    /// The frame that the program was called for.
    #[inline(always)]
    pub fn of(context: &XdpContext) -> Self {
        Self {
            start: context.data(),
            end: context.data_end(),
        }
    }

    /// A view of what stands `at` bytes into the frame, if all of it is there.
    #[inline(always)]
    pub fn view<T>(self, at: usize) -> Option<*mut T> {
        let start = self.start + at;
        if start + size_of::<T>() > self.end {
            return None;
        }
        Some(start as *mut T)
    }

    /// The Ethernet header, whose presence parsing has proven.
    #[inline(always)]
    pub fn ethernet(self) -> *mut Ethernet {
        self.start as *mut Ethernet
    }
}

/// What follows Ethernet and its tags.
pub enum Network {
    /// IPv4, so many bytes into the frame.
    V4(usize),
    /// IPv6, so many bytes into the frame.
    V6(usize),
}

/// Ethernet and up to two VLAN tags, which stay as they are.
#[inline(always)]
pub fn ethernet(frame: Frame) -> Result<Network, End> {
    let header: *mut Ethernet = frame.view(0).ok_or(End::Pass(Verdict::PassedMalformed))?;
    // SAFETY: the view was checked.
    let mut ether_type = unsafe { (*header).ether_type };
    let mut at = ETHERNET;
    for _ in 0..TAGS {
        if !EtherType::is_vlan(ether_type) {
            break;
        }
        let tag: *mut Vlan = frame.view(at).ok_or(End::Pass(Verdict::PassedMalformed))?;
        // SAFETY: the view was checked.
        ether_type = unsafe { (*tag).ether_type };
        at += VLAN;
    }
    let at = forget::below::<31>(at, usize::from(ether_type.0));
    if ether_type == EtherType::IPV4 {
        Ok(Network::V4(at))
    } else if ether_type == EtherType::IPV6 {
        Ok(Network::V6(at))
    } else if EtherType::is_vlan(ether_type) {
        Err(End::Pass(Verdict::PassedTooDeep))
    } else {
        Err(End::Pass(Verdict::PassedNotIp))
    }
}

/// A TCP or UDP packet, or the start of one.
pub struct Packet<F: Family> {
    /// The bytes.
    pub frame: Frame,
    /// Its IP header.
    pub ip: *mut F::Header,
    /// Its ports: the start of its TCP or UDP header, all of whose fixed part is within the frame.
    pub ports: *mut Ports,
    /// The checksum in that header.
    pub checksum: *mut u16,
    /// [`protocol::TCP`] or [`protocol::UDP`].
    pub protocol: u8,
    /// TCP's flags; 0 for UDP.
    pub flags: u8,
    /// Where it comes from.
    pub source: F::Address,
    /// Where it goes to.
    pub destination: F::Address,
    /// The port it comes from, as on the wire.
    pub source_port: u16,
    /// The port it goes to, as on the wire.
    pub destination_port: u16,
    /// Bytes from the IP header on, as that header says.
    pub bytes: u32,
}

/// A network header that was followed to the transport header.
pub struct Header<F: Family> {
    /// The IP header.
    pub ip: *mut F::Header,
    /// What follows it and its options or extension headers.
    pub protocol: u8,
    /// Where that starts in the frame.
    pub at: usize,
}

/// An IPv4 header `at` bytes into the frame and its options.
#[inline(always)]
pub fn ipv4(frame: Frame, at: usize) -> Result<Header<V4>, End> {
    let ip: *mut Ipv4 = frame.view(at).ok_or(End::Pass(Verdict::PassedMalformed))?;
    // SAFETY: the view was checked.
    let header = unsafe { &*ip };
    let length = header.header_length();
    if header.version() != 4 || length < size_of::<Ipv4>() || (header.total_length.get() as usize) < length {
        return Err(End::Pass(Verdict::PassedMalformed));
    }
    if header.is_fragment() {
        return Err(End::Pass(Verdict::PassedFragment));
    }
    Ok(Header {
        ip,
        protocol: header.protocol,
        at: forget::below::<127>(at + length, usize::from(header.protocol)),
    })
}

/// An IPv6 header `at` bytes into the frame and its extension headers.
#[inline(always)]
pub fn ipv6(frame: Frame, at: usize) -> Result<Header<V6>, End> {
    let ip: *mut Ipv6 = frame.view(at).ok_or(End::Pass(Verdict::PassedMalformed))?;
    // SAFETY: the view was checked.
    let header = unsafe { &*ip };
    if header.version() != 6 {
        return Err(End::Pass(Verdict::PassedMalformed));
    }
    let mut next = header.next_header;
    let mut at = at + size_of::<Ipv6>();
    for _ in 0..EXTENSIONS {
        if ExtensionHeader::follows(next) {
            let extension: *mut ExtensionHeader = frame.view(at).ok_or(End::Pass(Verdict::PassedMalformed))?;
            // SAFETY: the view was checked.
            let extension = unsafe { &*extension };
            next = extension.next_header;
            at += extension.length();
        } else if next == protocol::FRAGMENT {
            let fragment: *mut Fragment = frame.view(at).ok_or(End::Pass(Verdict::PassedMalformed))?;
            // SAFETY: the view was checked.
            let fragment = unsafe { &*fragment };
            if !fragment.is_atomic() {
                return Err(End::Pass(Verdict::PassedFragment));
            }
            next = fragment.next_header;
            at += FRAGMENT_HEADER;
        } else {
            break;
        }
    }
    if ExtensionHeader::follows(next) || next == protocol::FRAGMENT {
        return Err(End::Pass(Verdict::PassedTooDeep));
    }
    let at = forget::below::<0x3fff>(at, usize::from(next));
    Ok(Header { ip, protocol: next, at })
}

/// The transport header that an IP header leads to.
#[inline(always)]
pub fn transport<F: Family>(frame: Frame, header: &Header<F>) -> Result<Packet<F>, End> {
    // SAFETY, for both headers: the view was checked.
    let (ports, checksum, flags) = match header.protocol {
        protocol::TCP => {
            let tcp: *mut Tcp = frame.view(header.at).ok_or(End::Pass(Verdict::PassedMalformed))?;
            unsafe { (tcp.cast::<Ports>(), &raw mut (*tcp).checksum, (*tcp).flags) }
        }
        protocol::UDP => {
            let udp: *mut Udp = frame.view(header.at).ok_or(End::Pass(Verdict::PassedMalformed))?;
            unsafe { (udp.cast::<Ports>(), &raw mut (*udp).checksum, 0) }
        }
        _ => return Err(End::Pass(Verdict::PassedOtherProtocol)),
    };
    // SAFETY: the header's view was checked when it was followed.
    let (source, destination, bytes) = unsafe { F::addresses(header.ip) };
    // SAFETY: both headers begin with the ports, and one of them was checked.
    let (source_port, destination_port) = unsafe { ((*ports).source.0, (*ports).destination.0) };
    Ok(Packet {
        frame,
        ip: header.ip,
        ports,
        checksum,
        protocol: header.protocol,
        flags,
        source,
        destination,
        source_port,
        destination_port,
        bytes,
    })
}
