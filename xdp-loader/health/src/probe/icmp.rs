//! `icmp`: an echo request (RFC 792, RFC 4443) and its reply.

use std::{io, net::SocketAddr, os::fd::OwnedFd};

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Slice, Icmpv4Type, Icmpv6Header, Icmpv6Slice, Icmpv6Type, Ipv4Slice,
};
use tokio::net::UdpSocket;

use super::{Finding, Route, socket};

/// What an echo carries beyond its header.
const PAYLOAD: &[u8] = b"lvx health probe";

pub(super) async fn run(route: Route) -> Finding {
    match echo(route).await {
        Ok(()) => Finding::up(),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            Finding::unknown("not allowed to send ICMP: the daemon needs CAP_NET_RAW")
        }
        Err(error) => Finding::refused(&error),
    }
}

async fn echo(route: Route) -> io::Result<()> {
    // The address is the socket's; the numbers tell this probe's reply from those to an earlier one.
    let header = IcmpEchoHeader {
        id: rand::random(),
        seq: rand::random(),
    };
    // The calls of a connected UDP socket are those of a connected raw one: send(2) and recv(2).
    let socket = UdpSocket::from_std(std::net::UdpSocket::from(OwnedFd::from(socket::icmp(route)?)))?;
    socket.send(&request(route.to, header)).await?;
    loop {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).await?;
        let packet = &buffer[..length];
        if is_reply(route.to, packet, header) {
            return Ok(());
        }
    }
}

fn request(to: SocketAddr, header: IcmpEchoHeader) -> Vec<u8> {
    let mut packet = match to {
        SocketAddr::V4(_) => Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(header), PAYLOAD)
            .to_bytes()
            .to_vec(),
        // The kernel fills in the checksum of ICMPv6 (RFC 3542, section 3.1).
        SocketAddr::V6(_) => Icmpv6Header::new(Icmpv6Type::EchoRequest(header)).to_bytes().to_vec(),
    };
    packet.extend_from_slice(PAYLOAD);
    packet
}

/// IPv4's raw sockets give the IP header too, IPv6's do not.
fn is_reply(to: SocketAddr, packet: &[u8], header: IcmpEchoHeader) -> bool {
    match to {
        SocketAddr::V4(_) => Ipv4Slice::from_slice(packet)
            .ok()
            .and_then(|ip| Icmpv4Slice::from_slice(ip.payload().payload).ok())
            .is_some_and(|icmp| icmp.icmp_type() == Icmpv4Type::EchoReply(header) && icmp.payload() == PAYLOAD),
        SocketAddr::V6(_) => Icmpv6Slice::from_slice(packet)
            .is_ok_and(|icmp| icmp.icmp_type() == Icmpv6Type::EchoReply(header) && icmp.payload() == PAYLOAD),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reply_to_this_request_is_one() {
        let to = SocketAddr::from(([192, 0, 2, 1], 0));
        let header = IcmpEchoHeader { id: 7, seq: 9 };
        let reply = |header, payload: &[u8]| {
            let icmp = Icmpv4Header::with_checksum(Icmpv4Type::EchoReply(header), payload).to_bytes();
            let length = (icmp.len() + payload.len()) as u16;
            let ip =
                etherparse::Ipv4Header::new(length, 64, etherparse::IpNumber::ICMP, [192, 0, 2, 1], [192, 0, 2, 2]);
            let mut packet = ip.map(|ip| ip.to_bytes().to_vec()).unwrap_or_default();
            packet.extend_from_slice(&icmp);
            packet.extend_from_slice(payload);
            packet
        };
        assert!(is_reply(to, &reply(header, PAYLOAD), header));
        assert!(!is_reply(to, &reply(IcmpEchoHeader { id: 8, seq: 9 }, PAYLOAD), header));
        assert!(!is_reply(to, &reply(header, b"other"), header));
        assert!(!is_reply(to, &[], header));
    }
}
