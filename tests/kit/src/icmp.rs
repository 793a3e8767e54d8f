//! ICMP errors, built from nothing around the packet that they are about.

use std::net::IpAddr;

use crate::{
    frame::{Frame, IP, checksum},
    network::HOST,
};

/// An ICMP or ICMPv6 error about a packet.
#[derive(Clone, Debug)]
pub struct IcmpError {
    /// The destination's MAC address.
    pub to: [u8; 6],
    /// The source's MAC address.
    pub from: [u8; 6],
    /// EtherType and control word of each VLAN tag, outermost first.
    pub tags: Vec<[u8; 4]>,
    /// The address of whoever reports the error.
    pub source: IpAddr,
    /// The address that it is reported to.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hops: u8,
    /// IPv4 options.
    pub options: Vec<u8>,
    /// Type and code.
    pub kind: [u8; 2],
    /// The MTU, a pointer or nothing, as the kind has it.
    pub rest: [u8; 4],
    /// The packet that it quotes, whole.
    pub about: Frame,
    /// How many bytes of that it quotes, from the IP header on.
    pub quotes: usize,
}

impl IcmpError {
    /// That a packet is too big for an MTU of 1,300 bytes, from a router on the path to its destination.
    pub fn new(source: IpAddr, about: &Frame) -> Self {
        Self {
            to: HOST,
            from: [2, 0, 0, 0, 0, 0xc1],
            tags: Vec::new(),
            source,
            destination: about.source.ip(),
            hops: 64,
            options: Vec::new(),
            kind: if source.is_ipv4() { [3, 4] } else { [2, 0] },
            rest: 1_300_u32.to_be_bytes(),
            about: about.clone(),
            quotes: usize::MAX,
        }
    }

    /// The frame that carries it, as it is on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let about = self.about.bytes();
        let packet = &about[IP + 4 * self.about.tags.len()..];
        self.quoting(&packet[..packet.len().min(self.quotes)])
    }

    /// The same, where these bytes stand for what it quotes.
    pub fn quoting(&self, quote: &[u8]) -> Vec<u8> {
        let mut message = [&self.kind[..], &[0, 0], &self.rest, quote].concat();
        let mut frame = [self.to, self.from].concat();
        frame.extend(self.tags.concat());
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let sum = checksum(&message);
                message[2..4].copy_from_slice(&sum);
                let length = 20 + self.options.len();
                let mut header = vec![0x40 | (length / 4) as u8, 0xc0];
                header.extend(((length + message.len()) as u16).to_be_bytes());
                header.extend([0xca, 0xfe, 0, 0, self.hops, 1, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend(&self.options);
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum);
                frame.extend([0x08, 0x00]);
                frame.extend(header);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let addresses = [source.octets(), destination.octets()].concat();
                let mut summed = addresses.clone();
                summed.extend((message.len() as u32).to_be_bytes());
                summed.extend([0, 0, 0, 58]);
                summed.extend(&message);
                let sum = checksum(&summed);
                message[2..4].copy_from_slice(&sum);
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend((message.len() as u16).to_be_bytes());
                frame.extend([58, self.hops]);
                frame.extend(addresses);
            }
            _ => panic!("one family per frame"),
        }
        frame.extend(message);
        frame
    }
}
