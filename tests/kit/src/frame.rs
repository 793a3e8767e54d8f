//! Ethernet frames built from nothing, every checksum summed in full. Knows nothing of the program's own code.

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use crate::network::HOST;

/// TCP's flag FIN.
pub const FIN: u8 = 0x01;
/// TCP's flag SYN.
pub const SYN: u8 = 0x02;
/// TCP's flag RST.
pub const RST: u8 = 0x04;
/// TCP's flag PSH.
pub const PSH: u8 = 0x08;
/// TCP's flag ACK.
pub const ACK: u8 = 0x10;

/// The IPv6 extension header with options for every hop.
pub const HOP_BY_HOP: u8 = 0;
/// The IPv6 routing header.
pub const ROUTING: u8 = 43;
/// The IPv6 fragment header.
pub const FRAGMENT: u8 = 44;
/// The authentication header.
pub const AUTHENTICATION: u8 = 51;
/// The IPv6 extension header with options for the destination.
pub const DESTINATION: u8 = 60;

/// Where the IP header starts in a frame without tags.
pub const IP: usize = 14;
/// Where the transport header starts in a plain IPv6 frame.
pub const L4_V6: usize = IP + 40;

/// The transport header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// The flags, such as [`SYN`].
        flags: u8,
    },
    /// UDP.
    Udp {
        /// Whether it has a checksum; over IPv4 it may have none.
        checksum: bool,
    },
}

/// A frame that carries TCP or UDP.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The destination's MAC address.
    pub to: [u8; 6],
    /// The source's MAC address.
    pub from: [u8; 6],
    /// EtherType and control word of each VLAN tag, outermost first.
    pub tags: Vec<[u8; 4]>,
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port.
    pub destination: SocketAddr,
    /// TTL or hop limit.
    pub hops: u8,
    /// IPv4 options.
    pub options: Vec<u8>,
    /// IPv6 extension headers, or IPv4's authentication header: the kind of each, and its bytes, the first of which is filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// The transport protocol.
    pub transport: Transport,
    /// TCP options.
    pub tcp_options: Vec<u8>,
    /// What follows the transport header.
    pub payload: Vec<u8>,
    /// What follows the IP packet in the frame.
    pub padding: Vec<u8>,
}

/// The address and port that are written so.
pub fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A TCP segment without options.
pub fn tcp(source: &str, destination: &str, flags: u8) -> Frame {
    Frame::new(socket(source), socket(destination), Transport::Tcp { flags })
}

/// A UDP datagram with a checksum.
pub fn udp(source: &str, destination: &str) -> Frame {
    Frame::new(socket(source), socket(destination), Transport::Udp { checksum: true })
}

impl Frame {
    /// A frame without tags, options or extension headers.
    pub fn new(source: SocketAddr, destination: SocketAddr, transport: Transport) -> Self {
        Self {
            to: HOST,
            from: [2, 0, 0, 0, 0, 0xc1],
            tags: Vec::new(),
            source,
            destination,
            hops: 64,
            options: Vec::new(),
            extensions: Vec::new(),
            transport,
            tcp_options: Vec::new(),
            payload: b"a payload of an odd length.".to_vec(),
            padding: Vec::new(),
        }
    }

    /// The same frame with another payload.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// The same frame with other MAC addresses.
    pub fn macs(mut self, to: [u8; 6], from: [u8; 6]) -> Self {
        self.to = to;
        self.from = from;
        self
    }

    /// The same frame as a TCP segment with these flags.
    pub fn with_flags(mut self, flags: u8) -> Self {
        self.transport = Transport::Tcp { flags };
        self
    }

    /// The same frame, one hop further: what direct routing makes of it, but for the MACs.
    pub fn routed(mut self) -> Self {
        self.hops -= 1;
        self
    }

    /// The same frame to another endpoint, one hop further: what NAT makes of it on its path to a backend.
    pub fn translated_to(mut self, destination: SocketAddr) -> Self {
        self.destination = destination;
        self.hops -= 1;
        self
    }

    /// The same frame from another endpoint, one hop further: what NAT makes of it on its path back.
    pub fn translated_from(mut self, source: SocketAddr) -> Self {
        self.source = source;
        self.hops -= 1;
        self
    }

    /// Bytes from the IP header on, as that header says.
    pub fn ip_length(&self) -> u64 {
        (self.bytes().len() - IP - 4 * self.tags.len() - self.padding.len()) as u64
    }

    /// The frame as it is on the wire, without preamble and check sequence.
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = [self.to, self.from].concat();
        frame.extend(self.tags.concat());
        let (ether_type, packet) = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                (0x0800_u16, self.ipv4(source.octets(), destination.octets()))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => (0x86dd, self.ipv6(source.octets(), destination.octets())),
            _ => panic!("one family per frame"),
        };
        frame.extend(ether_type.to_be_bytes());
        frame.extend(packet);
        frame.extend(&self.padding);
        frame
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => 6,
            Transport::Udp { .. } => 17,
        }
    }

    fn ipv4(&self, source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        assert!(self.options.len() <= 40 && self.options.len().is_multiple_of(4));
        let transport = self.transport(&[&source[..], &destination].concat());
        let header_length = 20 + self.options.len();
        let (first, extensions) = self.extensions(&[AUTHENTICATION]);
        let transport = [extensions, transport].concat();
        let mut header = vec![0x40 | (header_length / 4) as u8, 0x28];
        header.extend(((header_length + transport.len()) as u16).to_be_bytes());
        header.extend([0xbe, 0xef, 0x40, 0x00, self.hops, first, 0, 0]);
        header.extend(source);
        header.extend(destination);
        header.extend(&self.options);
        let checksum = checksum(&header);
        header[10..12].copy_from_slice(&checksum);
        header.extend(transport);
        header
    }

    fn ipv6(&self, source: [u8; 16], destination: [u8; 16]) -> Vec<u8> {
        let transport = self.transport(&[&source[..], &destination].concat());
        let (first, extensions) = self.extensions(&[HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, AUTHENTICATION]);
        let mut header = vec![0x6a, 0xb1, 0x23, 0x45];
        header.extend(((extensions.len() + transport.len()) as u16).to_be_bytes());
        header.extend([first, self.hops]);
        header.extend(source);
        header.extend(destination);
        header.extend(extensions);
        header.extend(transport);
        header
    }

    /// What follows the IP header, and the extension headers of these kinds.
    fn extensions(&self, allowed: &[u8]) -> (u8, Vec<u8>) {
        let there = || self.extensions.iter().filter(|(kind, _)| allowed.contains(kind));
        let kinds: Vec<u8> = there().map(|(kind, _)| *kind).chain([self.protocol()]).collect();
        let extensions = there()
            .zip(&kinds[1..])
            .flat_map(|((_, bytes), next)| [&[*next], &bytes[1..]].concat())
            .collect();
        (kinds[0], extensions)
    }

    /// The transport header and what it carries, under a pseudo header with these addresses.
    fn transport(&self, addresses: &[u8]) -> Vec<u8> {
        let mut segment = [self.source.port().to_be_bytes(), self.destination.port().to_be_bytes()].concat();
        let at = match self.transport {
            Transport::Tcp { flags } => {
                assert!(self.tcp_options.len() <= 40 && self.tcp_options.len().is_multiple_of(4));
                let words = 5 + self.tcp_options.len() / 4;
                segment.extend([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0]);
                segment.extend([(words << 4) as u8, flags, 0xfa, 0xf0, 0, 0, 0, 7]);
                segment.extend(&self.tcp_options);
                16
            }
            Transport::Udp { .. } => {
                segment.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                segment.extend([0, 0]);
                6
            }
        };
        segment.extend(&self.payload);
        let mut summed = addresses.to_vec();
        summed.extend((segment.len() as u32).to_be_bytes());
        summed.extend([0, 0, 0, self.protocol()]);
        summed.extend(&segment);
        let checksum = match (self.transport, checksum(&summed)) {
            (Transport::Udp { checksum: false }, _) => [0, 0],
            // RFC 768: zero would say that there is no checksum.
            (Transport::Udp { .. }, [0, 0]) => [0xff, 0xff],
            (_, checksum) => checksum,
        };
        segment[at..at + 2].copy_from_slice(&checksum);
        segment
    }
}

/// The Internet checksum (RFC 1071) of some bytes.
pub fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!(folded as u16)).to_be_bytes()
}

/// Writes a frame's IPv4 header checksum anew, after the header was changed on purpose.
pub fn seal_ipv4(frame: &mut [u8]) {
    let length = usize::from(frame[IP] & 0x0f) * 4;
    frame[IP + 10..IP + 12].fill(0);
    let checksum = checksum(&frame[IP..IP + length]);
    frame[IP + 10..IP + 12].copy_from_slice(&checksum);
}

/// Whether all of a frame's checksums are right, by another implementation (etherparse), in full.
#[track_caller]
pub fn assert_checksums(frame: &[u8]) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    if let Some(NetSlice::Ipv4(ip)) = &packet.net {
        let header = ip.header();
        assert_eq!(
            header.header_checksum(),
            header.to_header().calc_header_checksum(),
            "the IPv4 header's checksum"
        );
    }
    let (there, right) = match (&packet.net, &packet.transport) {
        (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            (tcp.checksum(), tcp.calc_checksum_ipv4(source, destination))
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Tcp(tcp))) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            (tcp.checksum(), tcp.calc_checksum_ipv6(source, destination))
        }
        (_, Some(TransportSlice::Udp(udp))) if udp.checksum() == 0 => return,
        (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            let right = udp
                .to_header()
                .calc_checksum_ipv4_raw(source, destination, udp.payload());
            (udp.checksum(), right)
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(udp))) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            let right = udp
                .to_header()
                .calc_checksum_ipv6_raw(source, destination, udp.payload());
            (udp.checksum(), right)
        }
        _ => panic!("neither TCP nor UDP"),
    };
    assert_eq!(there, right.unwrap(), "the transport header's checksum");
}

/// Fails, with the first byte that differs, unless two frames are the same.
#[track_caller]
pub fn assert_same(there: &[u8], expected: &[u8]) {
    if there == expected {
        return;
    }
    let at = there.iter().zip(expected).position(|(a, b)| a != b);
    panic!(
        "the frame differs {}\n   there: {there:02x?}\nexpected: {expected:02x?}",
        at.map_or_else(
            || format!("in length: {} bytes, not {}", there.len(), expected.len()),
            |at| format!("from byte {at} on")
        )
    );
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    #[test]
    fn the_frames_of_these_tests_are_those_that_etherparse_builds() {
        let frame = udp("10.7.0.1:40000", "10.9.9.9:53");
        let mut ip =
            etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::UDP, [10, 7, 0, 1], [10, 9, 9, 9]).unwrap();
        ip.dscp = etherparse::IpDscp::try_new(10).unwrap();
        ip.identification = 0xbeef;
        ip.dont_fragment = true;
        let mut built = Vec::new();
        PacketBuilder::ethernet2(frame.from, frame.to)
            .ip(etherparse::IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default()))
            .udp(40_000, 53)
            .write(&mut built, &frame.payload)
            .unwrap();
        assert_same(&frame.bytes(), &built);
        assert_checksums(&tcp("[2001:db8:7::1]:40000", "[2001:db8::53]:53", SYN).bytes());
        assert_checksums(&tcp("10.7.0.1:40000", "10.9.9.9:53", SYN).bytes());
        assert_checksums(&udp("[2001:db8:7::1]:40000", "[2001:db8::53]:53").bytes());
    }
}
