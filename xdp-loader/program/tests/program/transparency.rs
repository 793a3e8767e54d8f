//! What is not for a service leaves as it came, byte for byte, counted under its reason.

use lvx_model::{Forward, Scheduler};
use lvx_test_kit::{
    frame::{ACK, Frame, IP, SYN, seal_ipv4, tcp, udp},
    network::{INSIDE, OUTSIDE, VETH},
};
use xdp_common::verdict::Verdict;

use crate::balancer::Balancer;

/// Services of every kind at 10.9.9.9:80 and [2001:db8:9::9]:80; UDP only at port 53.
fn balancer() -> Balancer {
    let mut balancer = Balancer::new();
    balancer.add("tcp://10.9.9.9:80", Forward::Nat, Scheduler::Rr, &["10.0.1.12:8080"]);
    balancer.add("udp://10.9.9.9:53", Forward::Dr, Scheduler::Mh, &["10.0.1.12"]);
    balancer.add(
        "tcp://[2001:db8:9::9]:80",
        Forward::Nat,
        Scheduler::Rr,
        &["[2001:db8:1::12]:8080"],
    );
    balancer.add(
        "udp://[2001:db8:9::9]:53",
        Forward::Dr,
        Scheduler::Mh,
        &["2001:db8:1::12"],
    );
    balancer.apply();
    balancer
}

#[track_caller]
fn pass(frames: &[Vec<u8>], verdict: Verdict) {
    let mut balancer = balancer();
    for frame in frames {
        for ingress in [OUTSIDE, INSIDE, VETH] {
            balancer.passes(ingress, frame, verdict);
        }
    }
    assert!(balancer.flows().is_empty());
}

/// A frame of another EtherType.
fn ether(to: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &[2, 0, 0, 0, 0, 0xc1], &ether_type.to_be_bytes(), payload].concat()
}

#[test]
fn what_is_not_ip_passes() {
    const BROADCAST: [u8; 6] = [0xff; 6];
    // Who has 10.9.9.9 (a VIP)? Tell 10.7.0.1; and the answer.
    let ask = [
        0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 0xc1, 10, 7, 0, 1, 0, 0, 0, 0, 0, 0, 10, 9, 9, 9,
    ];
    let mut answer = ask;
    answer[7] = 2;
    let padded = [&ask[..], &[0; 18]].concat();
    let spanning_tree = [&[0x42, 0x42, 3][..], &[0; 35]].concat();
    pass(
        &[
            ether(BROADCAST, 0x0806, &ask),
            ether(BROADCAST, 0x0806, &padded),
            ether([2, 0, 0, 0, 0, 1], 0x0806, &answer),
            // A tagged one.
            ether(BROADCAST, 0x8100, &[&[0, 7, 8, 6][..], &ask].concat()),
            ether([1, 0x80, 0xc2, 0, 0, 0x0e], 0x88cc, &[2, 7, 4, 0, 1, 2, 3, 4, 5, 0, 0]),
            // IEEE 802.3: a length in place of an EtherType.
            ether([1, 0x80, 0xc2, 0, 0, 0], 38, &spanning_tree),
            ether(BROADCAST, 0x9100, &[0; 46]),
            ether([2, 0, 0, 0, 0, 1], 0x8847, &[0x45; 60]),
        ],
        Verdict::PassedNotIp,
    );
}

/// A frame to a VIP whose protocol is another one.
fn with_protocol(protocol: u8, start: &[u8], v6: bool) -> Vec<u8> {
    let template = if v6 {
        udp("[2001:db8:7::1]:1", "[2001:db8:9::9]:2")
    } else {
        udp("10.7.0.1:1", "10.9.9.9:2")
    };
    let mut bytes = template.payload(&[0x5a; 56]).bytes();
    if v6 {
        bytes[IP + 6] = protocol;
        bytes[54..54 + start.len()].copy_from_slice(start);
    } else {
        bytes[IP + 9] = protocol;
        seal_ipv4(&mut bytes);
        bytes[34..34 + start.len()].copy_from_slice(start);
    }
    bytes
}

#[test]
fn echo_neighbour_discovery_and_other_protocols_pass_even_to_a_vip() {
    const ICMP: u8 = 1;
    const ICMPV6: u8 = 58;
    let mut frames = Vec::new();
    // Echo request and reply, timestamp.
    for kind in [8, 0, 13] {
        frames.push(with_protocol(ICMP, &[kind, 0, 0x12, 0x34, 0, 1, 0, 1], false));
    }
    // Echo request and reply, router and neighbour solicitation and advertisement, listener reports.
    for kind in [128, 129, 133, 134, 135, 136, 143] {
        frames.push(with_protocol(ICMPV6, &[kind, 0, 0x12, 0x34, 0, 0, 0, 0], true));
    }
    // IGMP, IPIP, GRE, ESP, AH, OSPF, VRRP, SCTP, UDP-Lite. The first bytes look like the ports of a service.
    for protocol in [2, 4, 47, 50, 51, 89, 112, 132, 136] {
        for v6 in [false, true] {
            frames.push(with_protocol(protocol, &[0x9c, 0x41, 0, 80], v6));
        }
    }
    // ICMP in IPv6 and the other way round.
    frames.push(with_protocol(ICMP, &[3, 0, 0, 0], true));
    frames.push(with_protocol(ICMPV6, &[1, 0, 0, 0], false));
    // No next header.
    frames.push(with_protocol(59, &[], true));
    pass(&frames, Verdict::PassedOtherProtocol);
}

fn bytes(frames: impl IntoIterator<Item = Frame>) -> Vec<Vec<u8>> {
    frames.into_iter().map(|frame| frame.bytes()).collect()
}

#[test]
fn other_ports_other_protocols_and_other_addresses_pass() {
    let frames = bytes([
        // Another port of the VIP, and the service's port reached by the other protocol.
        tcp("10.7.0.1:40001", "10.9.9.9:22", SYN),
        tcp("10.7.0.1:40001", "10.9.9.9:8080", SYN),
        udp("10.7.0.1:40001", "10.9.9.9:80"),
        tcp("10.7.0.1:40001", "10.9.9.9:53", SYN),
        tcp("[2001:db8:7::1]:40001", "[2001:db8:9::9]:22", SYN),
        udp("[2001:db8:7::1]:40001", "[2001:db8:9::9]:80"),
        // Port 0 of the VIP.
        udp("10.7.0.1:40001", "10.9.9.9:0"),
        // The balancer's own address; addresses that differ from a VIP in one bit.
        tcp("10.7.0.1:40001", "10.7.0.2:22", SYN),
        tcp("10.7.0.1:40001", "10.9.9.8:80", SYN),
        tcp("10.7.0.1:40001", "138.9.9.9:80", SYN),
        tcp("[2001:db8:7::1]:40001", "[2001:db8:9::8]:80", SYN),
        tcp("[2001:db8:7::1]:40001", "[a001:db8:9::9]:80", SYN),
        // To a backend itself; broadcast; multicast.
        tcp("10.7.0.1:40001", "10.0.1.12:8080", SYN),
        udp("0.0.0.0:68", "255.255.255.255:67"),
        udp("10.7.0.1:5353", "224.0.0.251:5353"),
        udp("[fe80::1]:5353", "[ff02::fb]:5353"),
        // From the VIP.
        tcp("10.9.9.9:80", "10.7.0.1:40001", SYN | ACK),
    ]);
    pass(&frames, Verdict::PassedNoService);
}

#[test]
fn what_a_nat_backend_sends_outside_of_its_flows_passes() {
    let frames = bytes([
        // Answers to a health probe, and to somebody who came around the balancer.
        tcp("10.0.1.12:8080", "10.0.1.1:33333", SYN | ACK),
        tcp("[2001:db8:1::12]:8080", "[2001:db8:1::1]:33333", SYN | ACK),
        // From the port of the service, which is not the backend's; a connection of its own.
        tcp("10.0.1.12:80", "10.7.0.1:40001", SYN | ACK),
        tcp("10.0.1.12:50000", "10.7.0.9:443", SYN),
        udp("10.0.1.12:8080", "10.7.0.1:40001"),
        // A backend by direct routing answers with the VIP, but never by way of the balancer.
        udp("10.0.1.12:53", "10.7.0.1:40001"),
    ]);
    pass(&frames, Verdict::PassedNoService);
}

#[test]
fn only_the_flow_s_own_backend_and_port_are_translated_back() {
    let mut balancer = balancer();
    balancer.run(OUTSIDE, &tcp("10.7.0.1:40001", "10.9.9.9:80", SYN).bytes());
    assert_eq!(balancer.flows().len(), 1);
    for stranger in [
        tcp("10.0.1.12:8080", "10.7.0.1:40002", ACK),
        tcp("10.0.1.12:8080", "10.7.0.2:40001", ACK),
        tcp("10.0.1.12:8081", "10.7.0.1:40001", ACK),
        tcp("10.0.1.13:8080", "10.7.0.1:40001", ACK),
        udp("10.0.1.12:8080", "10.7.0.1:40001"),
    ] {
        balancer.passes(INSIDE, &stranger.bytes(), Verdict::PassedNoService);
    }
}

#[test]
fn a_balancer_without_services_passes_everything() {
    let mut balancer = Balancer::new();
    let before = tcp("10.7.0.1:40001", "10.9.9.9:80", SYN).bytes();
    balancer.passes(OUTSIDE, &before, Verdict::PassedNoService);
    balancer.apply();
    balancer.passes(OUTSIDE, &before, Verdict::PassedNoService);
}

#[test]
fn what_was_for_a_service_passes_once_that_is_deleted() {
    let mut balancer = balancer();
    let frame = tcp("10.7.0.1:40001", "10.9.9.9:80", SYN);
    balancer.host(&frame);
    balancer
        .desired
        .del_service("tcp://10.9.9.9:80".parse().unwrap())
        .unwrap();
    balancer.apply();
    balancer.passes(OUTSIDE, &frame.bytes(), Verdict::PassedNoService);
    let answer = tcp("10.0.1.12:8080", "10.7.0.1:40001", ACK);
    balancer.passes(INSIDE, &answer.bytes(), Verdict::PassedNoService);
}
