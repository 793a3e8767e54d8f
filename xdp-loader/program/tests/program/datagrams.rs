//! UDP beyond the 5-tuple: datagrams that are scheduled by themselves, and clients that change their port.

use std::net::SocketAddr;

use lvx_model::{Forward, HashBy, Scheduler, ServiceChange};
use lvx_test_kit::{
    frame::{Frame, Transport, assert_same, socket, udp},
    network::{INSIDE, OUTSIDE, mac},
};
use xdp_common::verdict::Verdict;

use crate::balancer::{Action, Balancer};

const SERVICE: &str = "udp://10.9.9.9:443";
const SERVICE_V6: &str = "udp://[2001:db8:9::9]:443";
const HOSTS: [&str; 4] = ["10.0.1.11", "10.0.1.12", "10.0.1.13", "10.0.1.14"];
const HOSTS_V6: [&str; 4] = ["2001:db8:1::b", "2001:db8:1::c", "2001:db8:1::d", "2001:db8:1::e"];

fn both() -> [(&'static str, [&'static str; 4]); 2] {
    [(SERVICE, HOSTS), (SERVICE_V6, HOSTS_V6)]
}

/// A datagram of the client with this number.
fn datagram(service: &str, number: u16, port: u16) -> Frame {
    let (_, vip) = service.split_once("://").unwrap();
    let address = match service {
        SERVICE => [10, 7, (number >> 8) as u8, number as u8].into(),
        _ => [0x2001, 0xdb8, 7, number, 0, 0, 0, 1].into(),
    };
    Frame::new(
        SocketAddr::new(address, port),
        socket(vip),
        Transport::Udp { checksum: true },
    )
}

#[test]
fn with_one_packet_scheduling_each_datagram_of_a_client_takes_its_turn_and_leaves_nothing_behind() {
    for (service, hosts) in both() {
        for scheduler in [Scheduler::Rr, Scheduler::Wrr] {
            let mut balancer = Balancer::new();
            balancer.add(service, Forward::Dr, scheduler, &hosts);
            let change = ServiceChange {
                one_packet: Some(true),
                ..ServiceChange::default()
            };
            balancer.set(service, &change);
            balancer.apply();
            let there: Vec<u8> = (0..8).map(|_| balancer.host(&datagram(service, 1, 40_000))).collect();
            assert_eq!(there, [11, 12, 13, 14, 11, 12, 13, 14], "{scheduler}");
            assert!(balancer.flows().is_empty());
            let real = SocketAddr::new(hosts[0].parse().unwrap(), 443).to_string();
            let counted = balancer.counters(service, &real);
            assert_eq!((counted.connections, counted.packets_in), (2, 2));
            assert_eq!(balancer.sweep(), Default::default());
        }
    }
}

#[test]
fn with_one_packet_scheduling_under_nat_each_datagram_takes_its_turn_and_every_answer_is_the_services() {
    for (service, hosts) in both() {
        let mut balancer = Balancer::new();
        balancer.add(service, Forward::Nat, Scheduler::Rr, &hosts);
        let change = ServiceChange {
            one_packet: Some(true),
            ..ServiceChange::default()
        };
        balancer.set(service, &change);
        balancer.apply();
        let request = datagram(service, 1, 40_000);
        // Nothing is known of the client yet.
        let answer = |host: &str| {
            let source = SocketAddr::new(host.parse().unwrap(), request.destination.port());
            Frame::new(source, request.source, request.transport)
        };
        balancer.passes(INSIDE, &answer(hosts[0]).bytes(), Verdict::PassedNoService);
        for round in 1..=3 {
            let there: Vec<u8> = (0..4).map(|_| balancer.host(&request)).collect();
            assert_eq!(there, [11, 12, 13, 14]);
            // In any order, and as often as a backend likes.
            for host in hosts.iter().rev().chain(&hosts) {
                let (action, after, counted) = balancer.judge(INSIDE, &answer(host).bytes());
                assert_eq!((action, counted), (Action::Redirect, vec![]));
                let expected = answer(host)
                    .translated_from(request.destination)
                    .macs(request.from, mac(OUTSIDE));
                assert_same(&after, &expected.bytes());
            }
            assert_eq!(balancer.count_flows(), 4, "round {round}");
        }
        let real = SocketAddr::new(hosts[0].parse().unwrap(), 443).to_string();
        let counted = balancer.counters(service, &real);
        assert_eq!((counted.packets_in, counted.packets_out), (3, 6));
        // Without it a client stays where it has a flow.
        let change = ServiceChange {
            one_packet: Some(false),
            ..ServiceChange::default()
        };
        balancer.set(service, &change);
        balancer.apply();
        let there: Vec<u8> = (0..4).map(|_| balancer.host(&request)).collect();
        assert_eq!(there, [there[0]; 4]);
    }
}

#[test]
fn one_packet_scheduling_is_turned_on_and_off_while_flows_go_on() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Dr, Scheduler::Rr, &HOSTS);
    let wish = |one_packet| ServiceChange {
        one_packet: Some(one_packet),
        ..ServiceChange::default()
    };
    assert_eq!(balancer.host(&datagram(SERVICE, 1, 40_000)), 11);
    balancer.set(SERVICE, &wish(true));
    balancer.apply();
    for _ in 0..3 {
        assert_eq!(
            balancer.host(&datagram(SERVICE, 1, 40_000)),
            11,
            "a flow that there is goes on"
        );
    }
    let there: Vec<u8> = (0..4).map(|_| balancer.host(&datagram(SERVICE, 2, 40_000))).collect();
    assert_eq!(there, [12, 13, 14, 11]);
    balancer.set(SERVICE, &wish(false));
    balancer.apply();
    let there: Vec<u8> = (0..4).map(|_| balancer.host(&datagram(SERVICE, 2, 40_000))).collect();
    assert_eq!(there, [12; 4]);
}

#[test]
fn one_packet_scheduling_is_over_with_a_backend_the_moment_it_is_gone() {
    let mut balancer = Balancer::new();
    balancer.add(SERVICE, Forward::Dr, Scheduler::Mh, &HOSTS);
    let change = ServiceChange {
        one_packet: Some(true),
        ..ServiceChange::default()
    };
    balancer.set(SERVICE, &change);
    balancer.apply();
    let frame = datagram(SERVICE, 1, 40_000);
    let host = balancer.host(&frame);
    assert_eq!(balancer.host(&frame), host, "a hash tells the same again");
    balancer.del_backend(SERVICE, &format!("10.0.1.{host}"));
    balancer.apply();
    assert_ne!(balancer.host(&frame), host);
}

fn hash_by(balancer: &mut Balancer, service: &str, hash: HashBy) {
    let change = ServiceChange {
        hash: Some(Some(hash)),
        ..ServiceChange::default()
    };
    balancer.set(service, &change);
}

#[test]
fn a_client_that_changes_its_port_stays_where_the_hash_is_over_its_address() {
    for (service, hosts) in both() {
        for scheduler in [Scheduler::Mh, Scheduler::Sh] {
            let mut balancer = Balancer::serving(service, Forward::Nat, scheduler, &hosts);
            hash_by(&mut balancer, service, HashBy::Source);
            balancer.apply();
            let mut met = [false; 4];
            for client in 1..50 {
                let host = balancer.host(&datagram(service, client, 40_000));
                met[usize::from(host - 11)] = true;
                for port in [1, 443, 40_001, 65_535] {
                    assert_eq!(balancer.host(&datagram(service, client, port)), host, "{scheduler}");
                }
            }
            assert_eq!(met, [true; 4], "{scheduler}");

            hash_by(&mut balancer, service, HashBy::SourcePort);
            balancer.apply();
            for client in 1..50 {
                let host = balancer.host(&datagram(service, client, 40_000));
                assert_eq!(
                    balancer.host(&datagram(service, client, 40_001)),
                    host,
                    "flows that there are stay"
                );
            }
            let there: std::collections::BTreeSet<u8> = (0..50)
                .map(|port| balancer.host(&datagram(service, 1, 50_000 + port)))
                .collect();
            assert_eq!(there.len(), 4, "{scheduler}: new ports are spread now");
        }
    }
}

#[test]
fn a_destination_hash_sends_all_clients_of_a_service_to_one_backend() {
    let mut balancer = Balancer::new();
    let services: Vec<String> = (1..=40).map(|host| format!("udp://10.9.9.{host}:443")).collect();
    for service in &services[..14] {
        balancer.add(service, Forward::Dr, Scheduler::Dh, &HOSTS);
    }
    balancer.apply();
    let mut met = std::collections::BTreeSet::new();
    for (service, host) in services[..14].iter().zip(1..) {
        let frame = |client: u8| udp(&format!("10.7.0.{client}:40000"), &format!("10.9.9.{host}:443"));
        let chosen = balancer.host(&frame(1));
        assert!(
            (2..20).all(|client| balancer.host(&frame(client)) == chosen),
            "{service}"
        );
        met.insert(chosen);
    }
    assert!(met.len() > 1, "other services, other backends: {met:?}");
}
