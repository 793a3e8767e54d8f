//! Who answers ARP (neighbour discovery for IPv6) for a VIP: another host that has it, or a backend of a `dr` service that
//! does not keep it to itself.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, EtherType, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep, timeout_at},
};

use super::frame_socket::FrameSocket;

/// Who answers for what: the address that was asked for, and the Ethernet address that said that it has it.
pub type Answers = BTreeSet<(IpAddr, [u8; 6])>;

/// How often a question is asked, in case one is lost.
const TIMES: u32 = 2;
/// Between two questions, so that many VIPs make no burst of broadcasts.
const PAUSE: Duration = Duration::from_millis(2);

const BROADCAST: [u8; 6] = [0xff; 6];
/// Neighbour discovery is only valid with the hop limit that no router lets pass (RFC 4861, section 7.1.1).
const NOT_FORWARDED: u8 = 255;
/// The option "source link-layer address", 1 times 8 bytes long (RFC 4861, section 4.6.1).
const SOURCE_LINK_LAYER_ADDRESS: [u8; 2] = [1, 1];

/// One question: who has this address?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// The interface that it leaves through.
    pub index: u32,
    /// The Ethernet address of that.
    pub mac: [u8; 6],
    /// The address that asks, or the unspecified one: then the question is a probe that changes no neighbour's table (RFC 5227,
    /// section 2.1.1; RFC 4862, section 5.4.2). For IPv6 the link-local one of the interface asks.
    pub asker: IpAddr,
    /// The address that is asked for.
    pub wanted: IpAddr,
}

/// Asks, in the network namespace of the calling thread, and waits for the answers to each asking for as long as `patience`.
///
/// # Errors
/// When the kernel gives no raw socket or does not send.
pub async fn ask(questions: &BTreeSet<Question>, patience: Duration) -> io::Result<Answers> {
    let (mut answers, others) = tokio::try_join!(
        ask_over(EtherType::ARP, questions, patience),
        ask_over(EtherType::IPV6, questions, patience)
    )?;
    answers.extend(others);
    Ok(answers)
}

/// Asks what is asked over this protocol.
async fn ask_over(ethertype: EtherType, questions: &BTreeSet<Question>, patience: Duration) -> io::Result<Answers> {
    let mut answers = Answers::new();
    let frames: BTreeSet<(u32, Vec<u8>)> = questions
        .iter()
        .filter(|question| question.wanted.is_ipv4() == (ethertype == EtherType::ARP))
        .filter_map(|question| Some((question.index, frame(question)?)))
        .collect();
    if frames.is_empty() {
        return Ok(answers);
    }
    let socket = FrameSocket::receiving(ethertype.0)?;
    // SAFETY: the socket owns its descriptor, which stays what it is until both are dropped.
    let readable = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
    for _ in 0..TIMES {
        for (index, frame) in &frames {
            readable.get_ref().send(*index, frame)?;
            sleep(PAUSE).await;
        }
        let until = Instant::now() + patience;
        while let Ok(received) = timeout_at(until, next(&readable)).await {
            answers.extend(received?);
        }
    }
    Ok(answers)
}

/// The next frame, if it is an answer.
async fn next(socket: &AsyncFd<FrameSocket>) -> io::Result<Option<(IpAddr, [u8; 6])>> {
    let mut buffer = [0; 256];
    loop {
        let mut ready = socket.readable().await?;
        if let Ok(length) = ready.try_io(|socket| socket.get_ref().receive(&mut buffer)) {
            return Ok(answer(&buffer[..length?]));
        }
    }
}

/// A question as a frame; none if its addresses are of two families.
fn frame(question: &Question) -> Option<Vec<u8>> {
    let mut frame = Vec::new();
    match (question.asker, question.wanted) {
        (IpAddr::V4(asker), IpAddr::V4(wanted)) => {
            let packet = ArpEthIpv4Packet {
                operation: ArpOperation::REQUEST,
                sender_mac: question.mac,
                sender_ipv4: asker.octets(),
                target_mac: [0; 6],
                target_ipv4: wanted.octets(),
            };
            let builder = PacketBuilder::ethernet2(question.mac, BROADCAST).arp(packet.into());
            builder.write(&mut frame).ok()?;
        }
        (IpAddr::V6(asker), IpAddr::V6(wanted)) => {
            let [.., a, b, c] = wanted.octets();
            // RFC 4291, section 2.7.1, and RFC 2464, section 7.
            let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
            let (source, body) = if asker.is_unspecified() {
                (asker, wanted.octets().to_vec())
            } else {
                let own = [&SOURCE_LINK_LAYER_ADDRESS[..], &question.mac].concat();
                (link_local(question.mac), [&wanted.octets()[..], &own].concat())
            };
            let builder = PacketBuilder::ethernet2(question.mac, [0x33, 0x33, 0xff, a, b, c])
                .ipv6(source.octets(), group.octets(), NOT_FORWARDED)
                .icmpv6(Icmpv6Type::NeighborSolicitation);
            builder.write(&mut frame, &body).ok()?;
        }
        _ => return None,
    }
    Some(frame)
}

/// The link-local address that the kernel gives an interface (RFC 4291, appendix A).
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    let word = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        word(a ^ 2, b),
        word(c, 0xff),
        word(0xfe, d),
        word(e, f),
    )
}

/// Who has what, if the frame says that.
fn answer(frame: &[u8]) -> Option<(IpAddr, [u8; 6])> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    match (packet.net?, packet.transport) {
        (NetSlice::Arp(arp), _) => {
            if arp.operation() != ArpOperation::REPLY {
                return None;
            }
            let mac = arp.sender_hw_addr().try_into().ok()?;
            let address: [u8; 4] = arp.sender_protocol_addr().try_into().ok()?;
            Some((Ipv4Addr::from(address).into(), mac))
        }
        (NetSlice::Ipv6(ip), Some(TransportSlice::Icmpv6(icmp))) => {
            let Icmpv6Type::NeighborAdvertisement(_) = icmp.icmp_type() else {
                return None;
            };
            let address: [u8; 16] = icmp.payload().first_chunk().copied()?;
            let valid = ip.header().hop_limit() == NOT_FORWARDED;
            let mac = frame.get(6..12)?.try_into().ok()?;
            valid.then(|| (Ipv6Addr::from(address).into(), mac))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;

    const MINE: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
    const THEIRS: [u8; 6] = [0x02, 0, 0, 0, 0, 0x11];

    fn question(asker: &str, wanted: &str) -> Question {
        Question {
            index: 1,
            mac: MINE,
            asker: asker.parse().unwrap(),
            wanted: wanted.parse().unwrap(),
        }
    }

    #[test]
    fn an_arp_request_is_a_broadcast_and_no_answer() {
        #[rustfmt::skip]
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 0x01, 0x08, 0x06,
            0, 1, 0x08, 0, 6, 4, 0, 1,
            0x02, 0, 0, 0, 0, 0x01, 10, 0, 0, 250,
            0, 0, 0, 0, 0, 0, 10, 0, 0, 100,
        ];
        let mut frame = frame(&question("10.0.0.250", "10.0.0.100")).unwrap();
        assert_eq!(frame, expected);
        assert_eq!(answer(&frame), None);
        // The reply: operation 2, of the backend.
        frame[21] = 2;
        frame[22..28].copy_from_slice(&THEIRS);
        frame[28..32].copy_from_slice(&[10, 0, 0, 100]);
        assert_eq!(answer(&frame), Some(("10.0.0.100".parse().unwrap(), THEIRS)));
        assert_eq!(answer(&frame[..30]), None);
    }

    #[test]
    fn a_solicitation_goes_to_the_group_of_those_who_may_have_the_address() {
        let frame = frame(&question("fe80::9", "2001:db8::1:2345")).unwrap();
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x01, 0x23, 0x45]);
        let ip = "fe80::ff:fe00:1".parse::<Ipv6Addr>().unwrap().octets();
        let group = "ff02::1:ff01:2345".parse::<Ipv6Addr>().unwrap().octets();
        assert_eq!((&frame[22..38], &frame[38..54]), (&ip[..], &group[..]));
        assert_eq!(answer(&frame), None);
    }

    #[test]
    fn a_probe_names_nobody_as_the_asker() {
        let arp = frame(&question("0.0.0.0", "10.0.0.100")).unwrap();
        assert_eq!(arp[28..32], [0; 4]);
        let solicitation = frame(&question("::", "2001:db8::1:2345")).unwrap();
        assert_eq!(solicitation[22..38], [0; 16]);
        // The Ethernet and the IPv6 header, and a solicitation without the option that names the asker's MAC.
        assert_eq!(solicitation.len(), 14 + 40 + 24);
    }

    #[test]
    fn an_advertisement_says_who_has_the_address() {
        let address: Ipv6Addr = "2001:db8::100".parse().unwrap();
        let frame = crate::announce::unsolicited_advertisement(THEIRS, address, false);
        assert_eq!(answer(&frame), Some((address.into(), THEIRS)));
    }
}
