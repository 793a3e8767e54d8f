//! Announcing addresses: gratuitous ARP and unsolicited neighbour advertisements, so that the neighbours send to this
//! machine at once what they sent to another one before.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use etherparse::{ArpEthIpv4Packet, ArpOperation, Icmpv6Type, PacketBuilder, icmpv6::NeighborAdvertisementHeader};
use tokio::time::Instant;
use tracing::warn;

use super::{Link, LinkTable, frame_socket::FrameSocket};

const BROADCAST: [u8; 6] = [0xff; 6];
/// The Ethernet address of `ff02::1` (RFC 2464, section 7).
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Neighbour discovery is only valid with the hop limit that no router lets pass (RFC 4861, section 7.1.2).
const NOT_FORWARDED: u8 = 255;
/// The option "target link-layer address", 1 times 8 bytes long (RFC 4861, section 4.6.1).
const TARGET_LINK_LAYER_ADDRESS: [u8; 2] = [2, 1];
/// Every announcement is sent twice, in case one is lost; this is between the two.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A gratuitous ARP: a broadcast request in which `address` asks for itself (an "ARP announcement", RFC 5227, section 3).
#[must_use]
pub fn gratuitous_arp(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let packet = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: mac,
        sender_ipv4: address.octets(),
        target_mac: [0; 6],
        target_ipv4: address.octets(),
    };
    let builder = PacketBuilder::ethernet2(mac, BROADCAST).arp(packet.into());
    let mut frame = Vec::with_capacity(builder.size());
    written(builder.write(&mut frame));
    frame
}

/// An unsolicited neighbour advertisement to all nodes, which overrides what they knew (RFC 4861, section 7.2.6).
/// `router` says whether this machine forwards IPv6, as its answers to solicitations do.
#[must_use]
pub fn unsolicited_advertisement(mac: [u8; 6], address: Ipv6Addr, router: bool) -> Vec<u8> {
    let flags = NeighborAdvertisementHeader {
        router,
        solicited: false,
        r#override: true,
    };
    let body = [&address.octets()[..], &TARGET_LINK_LAYER_ADDRESS, &mac].concat();
    let builder = PacketBuilder::ethernet2(mac, ALL_NODES_MAC)
        .ipv6(address.octets(), ALL_NODES.octets(), NOT_FORWARDED)
        .icmpv6(Icmpv6Type::NeighborAdvertisement(flags));
    let mut frame = Vec::with_capacity(builder.size(body.len()));
    written(builder.write(&mut frame, &body));
    frame
}

/// What tells the neighbours that `address` is at `mac` now; `router` as in [`unsolicited_advertisement`].
#[must_use]
pub fn announcement(mac: [u8; 6], address: IpAddr, router: bool) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => gratuitous_arp(mac, address),
        IpAddr::V6(address) => unsolicited_advertisement(mac, address, router),
    }
}

/// A vector takes all that is written to it, and the packets here have fixed lengths.
fn written<E: std::fmt::Display>(result: Result<(), E>) {
    if let Err(error) = result {
        unreachable!("a frame of fixed length was not built: {error}");
    }
}

/// Announces addresses, each twice.
pub struct Announcer {
    socket: FrameSocket,
    /// What is to be sent again, when, and on which interface.
    again: BTreeMap<(Instant, u32), BTreeSet<IpAddr>>,
}

impl Announcer {
    /// Opens the socket, in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// If the kernel gives no raw socket, usually for want of the capability `CAP_NET_RAW`.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            socket: FrameSocket::sending()?,
            again: BTreeMap::new(),
        })
    }

    /// Announces the addresses on the link now, and once more after a second (see [`Self::next`]). A link that is down
    /// or not Ethernet carries no announcement.
    pub fn announce(&mut self, addresses: BTreeSet<IpAddr>, link: &Link) {
        if addresses.is_empty() || !link.up {
            return;
        }
        self.send(&addresses, link);
        self.again.insert((Instant::now() + AGAIN_AFTER, link.index), addresses);
    }

    /// When [`Self::repeat`] has something to send.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.again.keys().next().map(|(at, _)| *at)
    }

    /// Sends the second announcements that are due, of those addresses that `still_ours` names.
    pub fn repeat(&mut self, still_ours: &BTreeSet<IpAddr>, links: &LinkTable) {
        let now = Instant::now();
        while let Some(entry) = self.again.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let ((_, ifindex), addresses) = entry.remove_entry();
            if let Ok(link) = links.get(ifindex)
                && link.up
            {
                self.send(&(&addresses & still_ours), link);
            }
        }
    }

    fn send(&self, addresses: &BTreeSet<IpAddr>, link: &Link) {
        let Some(mac) = link.mac else {
            return;
        };
        for address in addresses {
            let router = address.is_ipv6() && is_router(&link.name);
            let frame = announcement(mac, *address, router);
            if let Err(error) = self.socket.send(link.index, &frame) {
                warn!(%address, interface = link.name, %error, "the address could not be announced");
            }
        }
    }
}

/// Whether this machine forwards IPv6 that arrives on the interface.
fn is_router(interface: &str) -> bool {
    fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{interface}/forwarding")).is_ok_and(|value| value.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

    #[test]
    fn a_gratuitous_arp_is_a_broadcast_request_of_the_address_for_itself() {
        #[rustfmt::skip]
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 0x01, 0x08, 0x06,
            0, 1, 0x08, 0, 6, 4, 0, 1,
            0x02, 0, 0, 0, 0, 0x01, 10, 0, 0, 100,
            0, 0, 0, 0, 0, 0, 10, 0, 0, 100,
        ];
        assert_eq!(gratuitous_arp(MAC, Ipv4Addr::new(10, 0, 0, 100)), expected);
    }

    #[test]
    fn an_unsolicited_advertisement_goes_to_all_nodes_and_overrides() {
        let address: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);
        // The checksum by hand (RFC 4443, section 2.3), from the 16-bit words of the pseudo header and the message:
        // 2001+0db8+0100 + ff02+0001 + 0020 + 003a + 8800+2000 + 2001+0db8+0100 + 0201+0200+0000+0001 = 208d1
        // without the checksum; folded 08d3, its complement f72c.
        #[rustfmt::skip]
        let expected = [
            0x33, 0x33, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 0x01, 0x86, 0xdd,
            0x60, 0, 0, 0, 0, 32, 58, 255,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x00,
            0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            136, 0, 0xf7, 0x2c, 0x20, 0, 0, 0,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x00,
            2, 1, 0x02, 0, 0, 0, 0, 0x01,
        ];
        assert_eq!(unsolicited_advertisement(MAC, address, false), expected);
        let router = unsolicited_advertisement(MAC, address, true);
        assert_eq!(router[14 + 40 + 4], 0xa0);
    }
}
