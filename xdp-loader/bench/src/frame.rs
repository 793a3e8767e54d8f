//! The frames that are measured with.

use std::{net::IpAddr, str::FromStr};

use etherparse::PacketBuilder;
use xdp_common::bench::{FRAME, Order, SHORT_FRAME, Script};

/// The balancer's MAC.
pub const BALANCER: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The client's MAC, or its router's.
pub const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// An Ethernet address, written `02:00:00:00:00:01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no Ethernet address like 02:00:00:00:00:01"))
    }
}

/// Where a frame comes from or goes to.
pub type Endpoint = (IpAddr, u16);

/// What of TCP's flags a frame has, or that it is of UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UDP.
    Udp,
    /// TCP's first packet.
    Syn,
    /// TCP, data flowing.
    Ack,
}

/// Whether a frame comes from the client or goes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    In,
    /// To the client.
    Back,
}

/// A script without flows: see [`Script`]. The client has the addresses from `client` on, the other end those from
/// `other` on.
pub fn script(kind: Kind, direction: Direction, client: IpAddr, other: Endpoint) -> Script {
    script_to(Mac(BALANCER), kind, direction, client, other)
}

/// The same, in frames to this MAC.
pub fn script_to(mac: Mac, kind: Kind, direction: Direction, client: IpAddr, other: Endpoint) -> Script {
    let client_end = (client, u16::from_be(Script::port(0)));
    let bytes = match direction {
        Direction::In => bytes(mac, kind, client_end, other),
        Direction::Back => bytes(mac, kind, other, client_end),
    };
    // Ethernet, then the addresses, whose low words vary, then the ports.
    let (source, destination, ports) = match client {
        IpAddr::V4(_) => (14 + 12, 14 + 16, 14 + 20),
        IpAddr::V6(_) => (14 + 8 + 12, 14 + 24 + 12, 14 + 40),
    };
    let (address_at, service_at, port_at) = match direction {
        Direction::In => (source, destination, ports),
        Direction::Back => (destination, source, ports + 2),
    };
    let mut frame = [0_u8; FRAME];
    frame[..bytes.len()].copy_from_slice(&bytes);
    Script {
        frame: words(frame),
        length: bytes.len() as u32,
        address_at,
        port_at,
        service_at,
        address: low_word(client),
        service: low_word(other.0),
        order: Order::InTurn as u32,
        first: 0,
        flows: 1,
        services: 1,
        sequence: 0,
    }
}

/// The frame of a flow of the script, as the measuring programs make it.
pub fn of_flow(script: &Script, flow: u32) -> Vec<u8> {
    let mut frame: Vec<u8> = script.frame.iter().flat_map(|word| word.to_ne_bytes()).collect();
    frame.truncate(script.length as usize);
    let mut put = |at: u32, bytes: &[u8]| frame[at as usize & 63..][..bytes.len()].copy_from_slice(bytes);
    put(script.address_at, &script.client(flow).to_ne_bytes());
    put(script.port_at, &Script::port(flow).to_ne_bytes());
    put(script.service_at, &script.destination(flow).to_ne_bytes());
    frame
}

/// A frame that is not IP.
pub fn arp() -> Script {
    let mut frame = [0_u8; FRAME];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&CLIENT);
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    Script {
        frame: words(frame),
        length: SHORT_FRAME as u32,
        address_at: 28,
        port_at: 36,
        service_at: 38,
        address: 0x0a00_0001,
        service: 0x0a00_0002,
        order: Order::InTurn as u32,
        first: 0,
        flows: 1,
        services: 1,
        sequence: 0,
    }
}

/// A frame of the least length that holds it, with right checksums.
fn bytes(mac: Mac, kind: Kind, from: Endpoint, to: Endpoint) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(CLIENT, mac.0);
    let (ip, length) = match (from.0, to.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (ethernet.ipv4(from.octets(), to.octets(), 64), SHORT_FRAME),
        (from, to) => (ethernet.ipv6(wide(from), wide(to), 64), FRAME),
    };
    let headers = 14 + if length == FRAME { 40 } else { 20 };
    let mut frame = Vec::with_capacity(FRAME);
    // Writing into memory does not fail.
    let _ = match kind {
        Kind::Udp => ip
            .udp(from.1, to.1)
            .write(&mut frame, &[0x55; FRAME][..length - headers - 8]),
        Kind::Syn => ip
            .tcp(from.1, to.1, 1, 1024)
            .syn()
            .write(&mut frame, &[0x55; FRAME][..length - headers - 20]),
        Kind::Ack => ip
            .tcp(from.1, to.1, 1, 1024)
            .ack(1)
            .write(&mut frame, &[0x55; FRAME][..length - headers - 20]),
    };
    frame
}

/// An address as 16 bytes.
fn wide(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The last four bytes of an address, in host order.
fn low_word(address: IpAddr) -> u32 {
    let [.., a, b, c, d] = wide(address);
    u32::from_be_bytes([a, b, c, d])
}

/// Bytes as the words that they are in memory.
fn words(bytes: [u8; FRAME]) -> [u64; FRAME / 8] {
    let mut words = [0; FRAME / 8];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut eight = [0; 8];
        eight.copy_from_slice(bytes);
        *word = u64::from_ne_bytes(eight);
    }
    words
}
