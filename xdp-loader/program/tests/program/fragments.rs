//! Fragments go where the first one of their datagram went, and come back as from the service.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU16, Ordering},
};

use lvx_model::{Forward, Scheduler};
use lvx_test_kit::{
    fragments::fragments,
    frame::{ACK, Frame, Transport, assert_same, socket, udp},
    network::{INSIDE, OUTSIDE, backend_mac, mac},
};
use xdp_common::verdict::Verdict;

use crate::balancer::{Action, Balancer};

/// An identification that no other test's datagrams have, nor the two after it: fragments are remembered for a while.
fn fresh() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    NEXT.fetch_add(3, Ordering::Relaxed)
}

struct Case {
    protocol: &'static str,
    client: &'static str,
    vip: &'static str,
    real: &'static str,
    transport: Transport,
}

const CASES: [Case; 4] = [
    Case {
        protocol: "udp",
        client: "10.7.0.1:40001",
        vip: "10.9.9.9:80",
        real: "10.0.1.12:8080",
        transport: Transport::Udp { checksum: true },
    },
    Case {
        protocol: "tcp",
        client: "10.7.0.1:40001",
        vip: "10.9.9.9:80",
        real: "10.0.1.12:8080",
        transport: Transport::Tcp { flags: ACK },
    },
    Case {
        protocol: "udp",
        client: "[2001:db8:7::1]:40001",
        vip: "[2001:db8:9::9]:80",
        real: "[2001:db8:1::12]:8080",
        transport: Transport::Udp { checksum: true },
    },
    Case {
        protocol: "tcp",
        client: "[2001:db8:7::1]:40001",
        vip: "[2001:db8:9::9]:80",
        real: "[2001:db8:1::12]:8080",
        transport: Transport::Tcp { flags: ACK },
    },
];

impl Case {
    fn service(&self) -> String {
        format!("{}://{}", self.protocol, self.vip)
    }

    fn backend(&self) -> [u8; 6] {
        backend_mac(socket(self.real).ip())
    }

    fn request(&self) -> Frame {
        Frame::new(socket(self.client), socket(self.vip), self.transport).payload(&vec![0xa7; 201])
    }

    fn nat(&self) -> Balancer {
        Balancer::serving(&self.service(), Forward::Nat, Scheduler::Rr, &[self.real])
    }
}

#[track_caller]
fn forwards(balancer: &mut Balancer, ingress: u32, frame: &[u8], expected: &[u8]) {
    let (action, after, counted) = balancer.judge(ingress, frame);
    assert_eq!((action, counted), (Action::Redirect, vec![]));
    assert_same(&after, expected);
}

#[test]
fn fragments_by_direct_routing_go_where_the_first_one_went() {
    for case in CASES {
        let number = fresh();
        let backend = socket(case.real).ip().to_string();
        let mut balancer = Balancer::serving(&case.service(), Forward::Dr, Scheduler::Rr, &[&backend]);
        let request = case.request();
        let expected = request.clone().routed().macs(case.backend(), mac(INSIDE));
        for (frame, expected) in fragments(&request, 64, number)
            .iter()
            .zip(fragments(&expected, 64, number))
        {
            forwards(&mut balancer, OUTSIDE, frame, &expected);
        }
        let real = SocketAddr::new(socket(case.real).ip(), 80).to_string();
        let counted = balancer.counters(&case.service(), &real);
        assert_eq!(
            (counted.connections, counted.packets_in),
            (1, fragments(&request, 64, number).len() as u64)
        );
    }
}

#[test]
fn the_fragments_of_a_translated_datagram_are_those_of_the_datagram_translated() {
    for case in CASES {
        let number = fresh();
        let mut balancer = case.nat();
        let real = socket(case.real);
        let request = case.request();
        let expected = request.clone().translated_to(real).macs(case.backend(), mac(INSIDE));
        for (frame, expected) in fragments(&request, 64, number)
            .iter()
            .zip(fragments(&expected, 64, number))
        {
            forwards(&mut balancer, OUTSIDE, frame, &expected);
        }
        let answer = Frame::new(real, socket(case.client), case.transport)
            .payload(&[0x91; 333])
            .macs(mac(INSIDE), case.backend());
        let back = answer
            .clone()
            .translated_from(socket(case.vip))
            .macs(request.from, mac(OUTSIDE));
        for (frame, back) in fragments(&answer, 128, number + 2)
            .iter()
            .zip(fragments(&back, 128, number + 2))
        {
            forwards(&mut balancer, INSIDE, frame, &back);
        }
    }
}

#[test]
fn a_fragment_whose_first_one_was_not_seen_passes() {
    for case in CASES {
        let number = fresh();
        let mut balancer = case.nat();
        let request = case.request();
        let pieces = fragments(&request, 64, number);
        for piece in &pieces[1..] {
            balancer.passes(OUTSIDE, piece, Verdict::PassedFragment);
        }
        forwards_some(&mut balancer, &pieces[0]);
        // Of another datagram, and of another client.
        let mut stranger = request.clone();
        stranger.source.set_ip(if request.source.is_ipv4() {
            "10.7.0.2".parse().unwrap()
        } else {
            "2001:db8:7::2".parse().unwrap()
        });
        for piece in [
            &fragments(&request, 64, number + 1)[1],
            &fragments(&stranger, 64, number)[1],
        ] {
            balancer.passes(OUTSIDE, piece, Verdict::PassedFragment);
        }
        forwards_some(&mut balancer, &pieces[2]);
        forwards_some(&mut balancer, &pieces[1]);
    }
}

#[track_caller]
fn forwards_some(balancer: &mut Balancer, frame: &[u8]) {
    assert_eq!(balancer.run(OUTSIDE, frame).0, Action::Redirect);
}

#[test]
fn fragments_that_are_not_for_a_service_pass() {
    let (mut balancer, number) = (CASES[0].nat(), fresh());
    for (client, other) in [
        ("10.7.0.1:40001", "10.7.0.2:80"),
        ("[2001:db8:7::1]:40001", "[2001:db8:7::2]:80"),
    ] {
        let frame = udp(client, other).payload(&[1; 300]);
        let pieces = fragments(&frame, 64, number);
        balancer.passes(OUTSIDE, &pieces[0], Verdict::PassedNoService);
        for piece in &pieces[1..] {
            balancer.passes(OUTSIDE, piece, Verdict::PassedFragment);
        }
    }
}

#[test]
fn the_fragments_of_a_flow_that_was_dropped_are_not_forwarded() {
    let (case, number) = (&CASES[0], fresh());
    let mut balancer = Balancer::serving(&case.service(), Forward::Nat, Scheduler::Rr, &[]);
    let pieces = fragments(&case.request(), 64, number);
    let (action, _, counted) = balancer.judge(OUTSIDE, &pieces[0]);
    assert_eq!((action, counted), (Action::Drop, vec![Verdict::DroppedNoBackend]));
    balancer.passes(OUTSIDE, &pieces[1], Verdict::PassedFragment);
}

#[test]
fn a_translated_fragment_without_a_hop_left_is_dropped() {
    for case in CASES {
        let number = fresh();
        let mut balancer = case.nat();
        let mut request = case.request();
        forwards_some(&mut balancer, &fragments(&request, 64, number)[0]);
        request.hops = 1;
        let (action, _, counted) = balancer.judge(OUTSIDE, &fragments(&request, 64, number)[1]);
        assert_eq!((action, counted), (Action::Drop, vec![Verdict::DroppedTtlExceeded]));
    }
}

#[test]
fn fragments_of_a_backend_that_is_gone_are_forwarded_neither_way() {
    for case in CASES {
        let number = fresh();
        let mut balancer = case.nat();
        let request = fragments(&case.request(), 64, number);
        let answer = Frame::new(socket(case.real), socket(case.client), case.transport).payload(&[0x91; 333]);
        let answer = fragments(&answer, 64, number + 2);
        assert_eq!(balancer.run(OUTSIDE, &request[0]).0, Action::Redirect);
        assert_eq!(balancer.run(INSIDE, &answer[0]).0, Action::Redirect);
        balancer.del_backend(&case.service(), case.real);
        balancer.apply();
        for (ingress, piece) in [(OUTSIDE, &request[1]), (INSIDE, &answer[1])] {
            let (action, _, counted) = balancer.judge(ingress, piece);
            assert!(
                [Action::Pass, Action::Drop].contains(&action),
                "{action:?} of {piece:02x?}"
            );
            assert_eq!(counted.len(), 1, "{counted:?}");
        }
    }
}
