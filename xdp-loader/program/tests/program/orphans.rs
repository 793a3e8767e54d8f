//! Fragments whose first fragment was not seen: passed, dropped, or sent where the addresses alone say, as the node wishes.

use std::sync::atomic::{AtomicU16, Ordering};

use lvx_dataplane::Node;
use lvx_model::{Forward, HashBy, Scheduler, ServiceChange, settings::UnknownFragments};
use lvx_test_kit::{
    fragments::fragments,
    frame::{ACK, Frame, Transport, assert_same, socket},
    network::{INSIDE, OUTSIDE, backend_mac, mac},
};
use xdp_common::verdict::Verdict;

use crate::balancer::{Action, Balancer, sizes};

/// An identification that no other datagram of these tests has.
fn fresh() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(30_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

struct Case {
    protocol: &'static str,
    vip: &'static str,
    /// Another port of the same address.
    other: &'static str,
    hosts: [&'static str; 3],
    transport: Transport,
}

const HOSTS: [&str; 3] = ["10.0.1.11", "10.0.1.12", "10.0.1.13"];
const HOSTS_V6: [&str; 3] = ["2001:db8:1::b", "2001:db8:1::c", "2001:db8:1::d"];
const UDP: Transport = Transport::Udp { checksum: true };
const TCP: Transport = Transport::Tcp { flags: ACK };

const CASES: [Case; 4] = [
    Case {
        protocol: "udp",
        vip: "10.9.9.9:80",
        other: "10.9.9.9:9000",
        hosts: HOSTS,
        transport: UDP,
    },
    Case {
        protocol: "tcp",
        vip: "10.9.9.9:80",
        other: "10.9.9.9:9000",
        hosts: HOSTS,
        transport: TCP,
    },
    Case {
        protocol: "udp",
        vip: "[2001:db8:9::9]:80",
        other: "[2001:db8:9::9]:9000",
        hosts: HOSTS_V6,
        transport: UDP,
    },
    Case {
        protocol: "tcp",
        vip: "[2001:db8:9::9]:80",
        other: "[2001:db8:9::9]:9000",
        hosts: HOSTS_V6,
        transport: TCP,
    },
];

impl Case {
    fn service(&self) -> String {
        format!("{}://{}", self.protocol, self.vip)
    }

    fn balancer(&self, wish: UnknownFragments, forward: Forward, scheduler: Scheduler) -> Balancer {
        let node = Node {
            unknown_fragments: wish,
            ..Node::default()
        };
        let mut balancer = Balancer::on(sizes(), node);
        balancer.add(&self.service(), forward, scheduler, &self.hosts);
        balancer.apply();
        balancer
    }

    fn datagram(&self, client: u16) -> Frame {
        let source = match self.vip.starts_with('[') {
            true => format!("[2001:db8:7::{client:x}]:40001"),
            false => format!("10.7.0.{client}:40001"),
        };
        Frame::new(socket(&source), socket(self.vip), self.transport).payload(&[0xa7; 201])
    }

    /// The second fragment of a datagram whose first one nobody has seen.
    fn orphan(&self, frame: &Frame) -> Vec<u8> {
        fragments(frame, 64, fresh()).swap_remove(1)
    }

    /// The same datagram to an address that is no service's.
    fn elsewhere(&self) -> Frame {
        let mut frame = self.datagram(1);
        frame.destination = match self.vip.starts_with('[') {
            true => socket("[2001:db8:9::8]:80"),
            false => socket("10.9.9.8:80"),
        };
        frame
    }

    /// The same datagram of the protocol that is not served.
    fn unserved(&self) -> Frame {
        let mut frame = self.datagram(1);
        frame.transport = if self.protocol == "udp" { TCP } else { UDP };
        frame
    }
}

#[test]
fn orphans_pass_where_nothing_else_is_wished() {
    for case in CASES {
        let mut balancer = case.balancer(UnknownFragments::Pass, Forward::Nat, Scheduler::Mh);
        for frame in [case.datagram(1), case.elsewhere(), case.unserved()] {
            balancer.passes(OUTSIDE, &case.orphan(&frame), Verdict::PassedFragment);
        }
    }
}

#[test]
fn orphans_for_a_service_s_address_are_dropped_where_that_is_wished_and_others_pass() {
    for case in CASES {
        let mut balancer = case.balancer(UnknownFragments::Drop, Forward::Nat, Scheduler::Mh);
        let (action, _, counted) = balancer.judge(OUTSIDE, &case.orphan(&case.datagram(1)));
        assert_eq!((action, counted), (Action::Drop, vec![Verdict::DroppedFragment]));
        for frame in [case.elsewhere(), case.unserved()] {
            balancer.passes(OUTSIDE, &case.orphan(&frame), Verdict::PassedFragment);
        }
        // Whose first fragment was seen takes its path.
        for piece in fragments(&case.datagram(1), 64, fresh()) {
            assert_eq!(balancer.run(OUTSIDE, &piece).0, Action::Redirect);
        }
        // And so do whole packets to ports that are not served.
        let mut whole = case.datagram(1);
        whole.destination = socket(case.other);
        balancer.passes(OUTSIDE, &whole.bytes(), Verdict::PassedNoService);
        // Nothing is kept of an address whose service is gone.
        balancer.desired.del_service(case.service().parse().unwrap()).unwrap();
        balancer.apply();
        balancer.passes(OUTSIDE, &case.orphan(&case.datagram(1)), Verdict::PassedFragment);
    }
}

#[test]
fn orphans_go_where_the_addresses_say_and_there_with_whole_packets_if_the_hash_is_over_the_source() {
    for case in CASES {
        for forward in [Forward::Dr, Forward::Nat] {
            let mut balancer = case.balancer(UnknownFragments::Addresses, forward, Scheduler::Mh);
            let change = ServiceChange {
                hash: Some(Some(HashBy::Source)),
                ..ServiceChange::default()
            };
            balancer.set(&case.service(), &change);
            balancer.apply();
            let mut met = std::collections::BTreeSet::new();
            for client in 1..30 {
                let frame = case.datagram(client);
                let number = fresh();
                let pieces = fragments(&frame, 64, number);
                let (action, after, counted) = balancer.judge(OUTSIDE, &pieces[1]);
                assert_eq!((action, counted), (Action::Redirect, vec![]));
                let host = after[5];
                assert_eq!(balancer.host(&frame), host, "as the whole packet");
                met.insert(host);
                // The piece is the one of the datagram as the backend gets it.
                let real = socket(case.vip);
                let real = std::net::SocketAddr::new(case.hosts[usize::from(host - 11)].parse().unwrap(), real.port());
                let sent = match forward {
                    Forward::Dr => frame.routed(),
                    Forward::Nat => frame.translated_to(real),
                };
                let sent = sent.macs(backend_mac(real.ip()), mac(INSIDE));
                assert_same(&after, &fragments(&sent, 64, number)[1]);
            }
            assert_eq!(met.len(), 3);
            for frame in [case.elsewhere(), case.unserved()] {
                balancer.passes(OUTSIDE, &case.orphan(&frame), Verdict::PassedFragment);
            }
        }
    }
}

#[test]
fn orphans_reach_a_backend_under_every_scheduler_and_none_where_there_is_none() {
    let case = &CASES[0];
    for scheduler in [
        Scheduler::Rr,
        Scheduler::Wrr,
        Scheduler::Lc,
        Scheduler::Fo,
        Scheduler::P2c,
        Scheduler::Dh,
    ] {
        let mut balancer = case.balancer(UnknownFragments::Addresses, Forward::Dr, scheduler);
        let first = balancer.run(OUTSIDE, &case.orphan(&case.datagram(1)));
        assert_eq!(first.0, Action::Redirect, "{scheduler}");
        for _ in 0..3 {
            assert_eq!(
                balancer.run(OUTSIDE, &case.orphan(&case.datagram(1))).1[5],
                first.1[5],
                "{scheduler}"
            );
        }
        for host in case.hosts {
            balancer.drain(&case.service(), host);
        }
        balancer.apply();
        let (action, _, counted) = balancer.judge(OUTSIDE, &case.orphan(&case.datagram(1)));
        assert_eq!((action, counted), (Action::Drop, vec![Verdict::DroppedNoBackend]));
    }
}

#[test]
fn of_several_services_at_an_address_orphans_go_to_the_one_with_the_lowest_port() {
    let case = &CASES[0];
    let mut balancer = case.balancer(UnknownFragments::Addresses, Forward::Dr, Scheduler::Mh);
    balancer.add("udp://10.9.9.9:53", Forward::Dr, Scheduler::Mh, &["10.0.1.53"]);
    balancer.add("tcp://10.9.9.9:22", Forward::Dr, Scheduler::Mh, &["10.0.1.22"]);
    balancer.apply();
    assert_eq!(balancer.run(OUTSIDE, &case.orphan(&case.datagram(1))).1[5], 53);
}
