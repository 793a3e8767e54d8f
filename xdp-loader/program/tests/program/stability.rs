//! Stability: no change of how a service is spread breaks a flow, and nodes that share nothing agree.

use std::{collections::BTreeMap, net::SocketAddr};

use lvx_dataplane::{Node, Sizes};
use lvx_model::{DEFAULT_MH_SLOTS, Forward, HashBy, Overload, Period, Scheduler, ServiceChange};
use lvx_test_kit::{
    frame::{ACK, Frame, SYN, Transport, socket},
    random::Random,
};

use crate::balancer::{Balancer, sizes};

const SERVICE: &str = "tcp://10.9.9.9:80";
const SERVICE_V6: &str = "tcp://[2001:db8:9::9]:80";
const DATAGRAMS: &str = "udp://10.9.9.9:80";
const DATAGRAMS_V6: &str = "udp://[2001:db8:9::9]:80";

fn names(service: &str, count: u16) -> Vec<String> {
    (1..=count)
        .map(|host| match service.contains('[') {
            true => format!("2001:db8:1::{host:x}"),
            false => format!("10.0.1.{host}"),
        })
        .collect()
}

fn add(balancer: &mut Balancer, service: &str, scheduler: Scheduler, backends: &[String]) {
    let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
    balancer.add(service, Forward::Dr, scheduler, &backends);
}

/// A packet of the client with this number.
fn packet(service: &str, client: usize, flags: u8) -> Frame {
    let (transport, vip) = service.split_once("://").unwrap();
    let [.., high, low] = (client / 16).to_be_bytes();
    let address = match service.contains('[') {
        true => [0x2001, 0xdb8, 7, 0, 0, 0, u16::from(high), u16::from(low)].into(),
        false => [10, 7, high, low].into(),
    };
    let transport = match transport {
        "tcp" => Transport::Tcp { flags },
        _ => Transport::Udp { checksum: true },
    };
    Frame::new(
        SocketAddr::new(address, 1024 + (client % 16) as u16 * 977),
        socket(vip),
        transport,
    )
}

fn hosts(balancer: &mut Balancer, service: &str, clients: usize, flags: u8) -> Vec<u8> {
    (0..clients)
        .map(|client| balancer.host(&packet(service, client, flags)))
        .collect()
}

/// Whatever scheduler it began with, all others and other weights leave every flow where it is.
fn flows_stay(service: &str) {
    let mut random = Random::new(5);
    let backends = names(service, 5);
    for &scheduler in Scheduler::ALL {
        let mut balancer = Balancer::new();
        add(&mut balancer, service, scheduler, &backends);
        for backend in &backends {
            balancer.weigh(service, backend, 100);
        }
        balancer.apply();
        let first = hosts(&mut balancer, service, 40, ACK);
        for &other in Scheduler::ALL {
            balancer.schedule(service, other);
            for backend in &backends {
                let weight = random.one(&[0, 1, 2, 7, 65_535]);
                balancer.weigh(service, backend, weight);
            }
            balancer.apply();
            assert_eq!(
                hosts(&mut balancer, service, 40, ACK),
                first,
                "from {scheduler} to {other}"
            );
        }
        assert_eq!(balancer.flows().len(), 40);
    }
}

#[test]
fn no_change_of_scheduler_or_weights_moves_an_ipv4_tcp_flow() {
    flows_stay(SERVICE);
}

#[test]
fn no_change_of_scheduler_or_weights_moves_an_ipv6_tcp_flow() {
    flows_stay(SERVICE_V6);
}

#[test]
fn no_change_of_scheduler_or_weights_moves_an_ipv4_udp_flow() {
    flows_stay(DATAGRAMS);
}

#[test]
fn no_change_of_scheduler_or_weights_moves_an_ipv6_udp_flow() {
    flows_stay(DATAGRAMS_V6);
}

#[test]
fn no_other_change_of_a_service_moves_a_flow() {
    for service in [SERVICE, SERVICE_V6] {
        let mut balancer = Balancer::new();
        add(&mut balancer, service, Scheduler::Mh, &names(service, 5));
        balancer.apply();
        let first = hosts(&mut balancer, service, 60, ACK);
        let changes = [
            ServiceChange {
                hash: Some(Some(HashBy::Source)),
                ..ServiceChange::default()
            },
            ServiceChange {
                mh_slots: Some(4099),
                ..ServiceChange::default()
            },
            ServiceChange {
                persistence: Some(Period::from_millis(300_000)),
                netmask: Some(Some(8)),
                mark: Some(3),
                ..ServiceChange::default()
            },
            ServiceChange {
                overload: Some(Overload::Drop),
                ..ServiceChange::default()
            },
            ServiceChange {
                persistence: Some(Period::from_millis(0)),
                ..ServiceChange::default()
            },
        ];
        for change in changes {
            balancer.set(service, &change);
            balancer.apply();
            assert_eq!(hosts(&mut balancer, service, 60, ACK), first, "{change:?}");
        }
    }
}

/// Flows that a node is asked about.
const CLIENTS: usize = 4000;

fn node(service: &str, scheduler: Scheduler, backends: &[String]) -> Balancer {
    let mut balancer = Balancer::on(Sizes::new(4, 64, 16_384, 16_384), Node::default());
    add(&mut balancer, service, scheduler, backends);
    let change = ServiceChange {
        mh_slots: Some(DEFAULT_MH_SLOTS),
        hash: Some(Some(HashBy::SourcePort)),
        ..ServiceChange::default()
    };
    balancer.set(service, &change);
    balancer.apply();
    balancer
}

#[test]
fn a_backend_that_is_removed_moves_hardly_any_other_s_flows_on_a_strange_node_and_none_on_their_own() {
    for (service, scheduler, count, removed) in [
        (SERVICE, Scheduler::Mh, 3, 1),
        (SERVICE, Scheduler::Mh, 10, 9),
        (SERVICE, Scheduler::Sh, 10, 4),
        (SERVICE, Scheduler::Mh, 50, 17),
        (SERVICE_V6, Scheduler::Mh, 10, 0),
        (SERVICE_V6, Scheduler::Mh, 50, 33),
    ] {
        let backends = names(service, count);
        let mut own = node(service, scheduler, &backends);
        let before = hosts(&mut own, service, CLIENTS, SYN);
        let gone = removed as u8 + 1;
        assert!(before.contains(&gone));

        own.del_backend(service, &backends[removed]);
        own.apply();
        let after = hosts(&mut own, service, CLIENTS, ACK);

        let mut left = backends.clone();
        left.remove(removed);
        let mut strange = node(service, scheduler, &left);
        let elsewhere = hosts(&mut strange, service, CLIENTS, ACK);

        let others = before.iter().filter(|host| **host != gone).count();
        let moved = |now: &[u8]| {
            let pairs = before.iter().zip(now);
            pairs.filter(|(before, now)| **before != gone && before != now).count()
        };
        assert_eq!(moved(&after), 0, "{count} backends, on the node that has the flows");
        let share = moved(&elsewhere) as f64 / others as f64;
        let bound = 1.0 / f64::from(count) + 0.01;
        assert!(share <= bound, "{scheduler} of {count}: {share} moved, at most {bound}");
        // And what the removed backend had, both nodes give to the same ones.
        for ((before, after), elsewhere) in before.iter().zip(&after).zip(&elsewhere) {
            if *before == gone {
                assert_eq!(after, elsewhere);
            }
        }
    }
}

#[test]
fn two_nodes_of_one_configuration_choose_the_same_with_every_scheduler_that_hashes() {
    for service in [SERVICE, SERVICE_V6, DATAGRAMS, DATAGRAMS_V6] {
        let mut one = Balancer::on(sizes(), Node::default());
        let mut other = Balancer::with(None, sizes(), one.links.clone());
        // The other node has had another history: other numbers, another seed of its flow table.
        add(&mut other, "tcp://10.9.9.1:1", Scheduler::Rr, &names(SERVICE, 20));
        other.apply();
        assert_ne!(one.control().keys, other.control().keys);
        let mut backends = names(service, 12);
        add(&mut one, service, Scheduler::Mh, &backends);
        backends.reverse();
        add(&mut other, service, Scheduler::Mh, &backends[..4]);
        other.apply();
        for backend in &backends[4..] {
            other.add_backend(service, backend);
        }
        for (scheduler, hash) in [
            (Scheduler::Mh, Some(HashBy::SourcePort)),
            (Scheduler::Mh, Some(HashBy::Source)),
            (Scheduler::Sh, Some(HashBy::Source)),
            (Scheduler::Sh, Some(HashBy::SourcePort)),
            (Scheduler::Dh, None),
        ] {
            let change = ServiceChange {
                scheduler: Some(scheduler),
                hash: hash.map(Some),
                ..ServiceChange::default()
            };
            let mut shares = BTreeMap::new();
            for node in [&mut one, &mut other] {
                node.set(service, &change);
                node.weigh(service, &backends[3], 5);
                node.weigh(service, &backends[5], 0);
                node.apply();
                let there = hosts(node, service, 500, SYN);
                *shares.entry(there).or_insert(0) += 1;
                let rules = node.tables.rules();
                lvx_dataplane::flows::flush(node.tables.maps(), &rules, |_| true).unwrap();
            }
            assert_eq!(shares.len(), 1, "{scheduler} by {hash:?} of {service}");
        }
    }
}
