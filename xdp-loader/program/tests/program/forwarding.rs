//! IPv4 and IPv6, TCP and UDP, by direct routing, by NAT and back: whole frames.

use std::{thread::sleep, time::Duration};

use lvx_model::{Forward, Scheduler};
use lvx_test_kit::{
    frame::{ACK, Frame, PSH, SYN, Transport, socket},
    network::{INSIDE, OUTSIDE, VETH, backend_mac, mac},
};

use crate::balancer::{Action, Balancer};

/// Longer than a few jiffies on any kernel.
const TICKS: Duration = Duration::from_millis(40);

/// A service of one family and protocol, its client, and a backend on each network.
struct Case {
    service: &'static str,
    client: &'static str,
    vip: &'static str,
    outside: &'static str,
    inside: &'static str,
    veth: &'static str,
    transport: Transport,
}

const TCP: Transport = Transport::Tcp { flags: SYN };
const UDP: Transport = Transport::Udp { checksum: true };

const fn v4(service: &'static str, transport: Transport) -> Case {
    Case {
        service,
        client: "10.7.0.1:40001",
        vip: "10.9.9.9:80",
        outside: "10.0.0.11",
        inside: "10.0.1.12",
        veth: "10.0.2.13",
        transport,
    }
}

const fn v6(service: &'static str, transport: Transport) -> Case {
    Case {
        service,
        client: "[2001:db8:7::1]:40001",
        vip: "[2001:db8:9::9]:80",
        outside: "2001:db8:0::11",
        inside: "2001:db8:1::12",
        veth: "2001:db8:2::13",
        transport,
    }
}

const TCP_V4: Case = v4("tcp://10.9.9.9:80", TCP);
const UDP_V4: Case = v4("udp://10.9.9.9:80", UDP);
const TCP_V6: Case = v6("tcp://[2001:db8:9::9]:80", TCP);
const UDP_V6: Case = v6("udp://[2001:db8:9::9]:80", UDP);

impl Case {
    /// A frame from the client, as it comes in.
    fn request(&self) -> Frame {
        let mut frame = Frame::new(socket(self.client), socket(self.vip), self.transport);
        frame.to = mac(OUTSIDE);
        if let Transport::Tcp { .. } = self.transport {
            // Maximum segment size, window scale, timestamps.
            frame.tcp_options = vec![2, 4, 5, 0xb4, 1, 3, 3, 7, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 1];
        }
        frame
    }

    fn balancer(&self, forward: Forward, backend: &str) -> Balancer {
        Balancer::serving(self.service, forward, Scheduler::Rr, &[backend])
    }

    fn is_forwarded_by_direct_routing(&self) {
        for (backend, ifindex, action) in [
            (self.outside, OUTSIDE, Action::Tx),
            (self.inside, INSIDE, Action::Redirect),
            (self.veth, VETH, Action::Redirect),
        ] {
            let mut balancer = self.balancer(Forward::Dr, backend);
            let to = backend_mac(backend.parse().unwrap());
            for payload in payloads() {
                let frame = self.request().payload(&payload);
                for hops in [2, 64, 255] {
                    let mut frame = frame.clone();
                    frame.hops = hops;
                    let expected = frame.clone().routed().macs(to, mac(ifindex));
                    balancer.forwards(OUTSIDE, &frame, &expected, action);
                }
            }
        }
    }

    fn is_translated_and_back(&self) {
        for (backend, ifindex, action) in [
            (self.outside, OUTSIDE, Action::Tx),
            (self.inside, INSIDE, Action::Redirect),
            (self.veth, VETH, Action::Redirect),
        ] {
            for port in [80, 8080] {
                let real = std::net::SocketAddr::new(backend.parse().unwrap(), port);
                let mut balancer = self.balancer(Forward::Nat, &real.to_string());
                let (to, from) = (backend_mac(real.ip()), mac(ifindex));
                for payload in payloads() {
                    for hops in [2, 64, 255] {
                        let mut frame = self.request().payload(&payload);
                        frame.hops = hops;
                        let expected = frame.clone().translated_to(real).macs(to, from);
                        balancer.forwards(OUTSIDE, &frame, &expected, action);

                        let mut answer = Frame::new(real, frame.source, self.transport).payload(&payload);
                        answer.hops = hops;
                        let answer = answer.macs(from, to);
                        let back = answer
                            .clone()
                            .translated_from(socket(self.vip))
                            .macs(frame.from, mac(OUTSIDE));
                        balancer.forwards(ifindex, &answer, &back, action);
                    }
                }
            }
        }
    }
}

/// Empty, odd, even, long; zeros and ones, which checksums are prone to mistake for each other.
fn payloads() -> Vec<Vec<u8>> {
    let mixed = |length: usize| (0..length).map(|byte| (byte * 7 + 3) as u8).collect::<Vec<u8>>();
    vec![
        Vec::new(),
        vec![0],
        vec![0xff],
        vec![0xff; 2],
        mixed(3),
        mixed(26),
        mixed(27),
        vec![0; 1000],
        vec![0xff; 999],
        mixed(1400),
    ]
}

#[test]
fn ipv4_tcp_is_forwarded_by_direct_routing_with_nothing_changed_but_the_macs_and_a_hop_taken() {
    TCP_V4.is_forwarded_by_direct_routing();
}

#[test]
fn ipv4_udp_is_forwarded_by_direct_routing_with_nothing_changed_but_the_macs_and_a_hop_taken() {
    UDP_V4.is_forwarded_by_direct_routing();
}

#[test]
fn ipv6_tcp_is_forwarded_by_direct_routing_with_nothing_changed_but_the_macs_and_a_hop_taken() {
    TCP_V6.is_forwarded_by_direct_routing();
}

#[test]
fn ipv6_udp_is_forwarded_by_direct_routing_with_nothing_changed_but_the_macs_and_a_hop_taken() {
    UDP_V6.is_forwarded_by_direct_routing();
}

#[test]
fn ipv4_tcp_is_translated_to_the_backend_and_its_answers_back() {
    TCP_V4.is_translated_and_back();
}

#[test]
fn ipv4_udp_is_translated_to_the_backend_and_its_answers_back() {
    UDP_V4.is_translated_and_back();
}

#[test]
fn ipv6_tcp_is_translated_to_the_backend_and_its_answers_back() {
    TCP_V6.is_translated_and_back();
}

#[test]
fn ipv6_udp_is_translated_to_the_backend_and_its_answers_back() {
    UDP_V6.is_translated_and_back();
}

#[test]
fn a_udp_datagram_without_a_checksum_has_none_after_translation() {
    for case in [&UDP_V4, &UDP_V6] {
        let real = std::net::SocketAddr::new(case.inside.parse().unwrap(), 8080);
        let mut balancer = case.balancer(Forward::Nat, &real.to_string());
        let mut frame = case.request();
        frame.transport = Transport::Udp { checksum: false };
        let to = backend_mac(real.ip());
        let expected = frame.clone().translated_to(real).macs(to, mac(INSIDE));
        balancer.forwards(OUTSIDE, &frame, &expected, Action::Redirect);

        let answer = Frame::new(real, frame.source, frame.transport).macs(mac(INSIDE), to);
        let back = answer
            .clone()
            .translated_from(socket(case.vip))
            .macs(frame.from, mac(OUTSIDE));
        balancer.forwards(INSIDE, &answer, &back, Action::Redirect);
    }
}

/// The frame with its first two bytes of payload such that its transport checksum sums to zero.
fn summing_to_zero(frame: &Frame) -> Frame {
    let mut frame = frame.clone().payload(&[0, 0, 1, 2, 3]);
    let bytes = frame.bytes();
    let length = bytes.len();
    let at = match frame.transport {
        Transport::Tcp { .. } => length - frame.payload.len() - frame.tcp_options.len() - 20 + 16,
        Transport::Udp { .. } => length - frame.payload.len() - 2,
    };
    frame.payload[..2].copy_from_slice(&bytes[at..at + 2]);
    let zero = match frame.transport {
        Transport::Tcp { .. } => [0, 0],
        Transport::Udp { .. } => [0xff, 0xff],
    };
    assert_eq!(frame.bytes()[at..at + 2], zero);
    frame
}

#[test]
fn a_checksum_that_is_or_becomes_zero_is_sent_as_its_protocol_says() {
    for case in [&TCP_V4, &UDP_V4, &TCP_V6, &UDP_V6] {
        let real = std::net::SocketAddr::new(case.inside.parse().unwrap(), 8080);
        let mut balancer = case.balancer(Forward::Nat, &real.to_string());
        let (to, from) = (backend_mac(real.ip()), mac(INSIDE));

        let came_as_zero = summing_to_zero(&case.request());
        let expected = came_as_zero.clone().translated_to(real).macs(to, from);
        balancer.forwards(OUTSIDE, &came_as_zero, &expected, Action::Redirect);

        let leaves_as_zero = summing_to_zero(&case.request().translated_to(real).macs(to, from));
        let frame = case.request().payload(&leaves_as_zero.payload);
        balancer.forwards(OUTSIDE, &frame, &leaves_as_zero, Action::Redirect);

        let answer = Frame::new(real, socket(case.client), case.transport).macs(from, to);
        let back = summing_to_zero(
            &answer
                .clone()
                .translated_from(socket(case.vip))
                .macs(frame.from, mac(OUTSIDE)),
        );
        balancer.forwards(INSIDE, &answer.payload(&back.payload), &back, Action::Redirect);
    }
}

#[test]
fn a_wrong_checksum_stays_as_wrong_as_it_was() {
    for (case, at) in [
        (&TCP_V4, 34 + 16),
        (&UDP_V4, 34 + 6),
        (&TCP_V6, 54 + 16),
        (&UDP_V6, 54 + 6),
    ] {
        let real = std::net::SocketAddr::new(case.inside.parse().unwrap(), 8080);
        let mut balancer = case.balancer(Forward::Nat, &real.to_string());
        let right = case.request();
        let mut wrong = right.bytes();
        wrong[at + 1] ^= 0x10;
        let (action, after) = balancer.run(OUTSIDE, &wrong);
        assert_eq!(action, Action::Redirect);
        let expected = right
            .translated_to(real)
            .macs(backend_mac(real.ip()), mac(INSIDE))
            .bytes();
        let differing: Vec<usize> = (0..after.len())
            .filter(|byte| after[*byte] != expected[*byte])
            .collect();
        assert!(!differing.is_empty() && differing.iter().all(|byte| (at..at + 2).contains(byte)));
    }
}

#[test]
fn answers_go_to_the_neighbour_that_the_client_s_latest_packets_came_from() {
    let real = socket("10.0.1.12:80");
    let mut balancer = TCP_V4.balancer(Forward::Nat, "10.0.1.12");
    balancer.pace();
    let to = backend_mac(real.ip());
    for gateway in [[2, 0, 0, 0, 0, 0xc1], [2, 0, 0, 0, 0, 0xc2]] {
        sleep(TICKS);
        let frame = TCP_V4.request().macs(mac(OUTSIDE), gateway).with_flags(ACK | PSH);
        let expected = frame.clone().translated_to(real).macs(to, mac(INSIDE));
        balancer.forwards(OUTSIDE, &frame, &expected, Action::Redirect);
        let answer = Frame::new(real, frame.source, Transport::Tcp { flags: ACK }).macs(mac(INSIDE), to);
        let back = answer
            .clone()
            .translated_from(socket(TCP_V4.vip))
            .macs(gateway, mac(OUTSIDE));
        balancer.forwards(INSIDE, &answer, &back, Action::Redirect);
    }
    // The same client behind another interface.
    sleep(TICKS);
    let frame = TCP_V4.request().macs(mac(VETH), [2, 0, 0, 0, 0, 0xc3]).with_flags(ACK);
    let expected = frame.clone().translated_to(real).macs(to, mac(INSIDE));
    balancer.forwards(VETH, &frame, &expected, Action::Redirect);
    let answer = Frame::new(real, frame.source, Transport::Tcp { flags: ACK }).macs(mac(INSIDE), to);
    let back = answer
        .clone()
        .translated_from(socket(TCP_V4.vip))
        .macs(frame.from, mac(VETH));
    balancer.forwards(INSIDE, &answer, &back, Action::Redirect);
}

#[test]
fn a_veth_is_left_through_the_devmap_even_by_the_way_the_packet_came() {
    let mut balancer = TCP_V4.balancer(Forward::Dr, TCP_V4.veth);
    let frame = TCP_V4.request().macs(mac(VETH), [2, 0, 0, 0, 0, 0xc1]);
    let expected = frame
        .clone()
        .routed()
        .macs(backend_mac(TCP_V4.veth.parse().unwrap()), mac(VETH));
    balancer.forwards(VETH, &frame, &expected, Action::Redirect);
}

#[test]
fn backends_of_one_service_may_be_reached_in_different_ways() {
    let mut balancer = Balancer::new();
    balancer.add("tcp://10.9.9.9:80", Forward::Dr, Scheduler::Rr, &["10.0.1.11"]);
    let mut nat = lvx_model::Backend::new("10.0.1.12:8080".parse().unwrap());
    nat.forward = Some(Forward::Nat);
    balancer
        .desired
        .add_backend("tcp://10.9.9.9:80".parse().unwrap(), nat)
        .unwrap();
    balancer.hops.0.insert(
        "10.0.1.12".parse().unwrap(),
        Ok(crate::network::next_hop("10.0.1.12".parse().unwrap())),
    );
    balancer.apply();
    let mut frame = TCP_V4.request();
    let first = frame
        .clone()
        .routed()
        .macs(backend_mac("10.0.1.11".parse().unwrap()), mac(INSIDE));
    balancer.forwards(OUTSIDE, &frame, &first, Action::Redirect);
    frame.source = socket("10.7.0.1:40002");
    let real = socket("10.0.1.12:8080");
    let second = frame
        .clone()
        .translated_to(real)
        .macs(backend_mac(real.ip()), mac(INSIDE));
    balancer.forwards(OUTSIDE, &frame, &second, Action::Redirect);
}
