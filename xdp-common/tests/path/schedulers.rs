//! Schedulers: which backend a new connection gets.

use std::net::SocketAddr;

use lvx_test_kit::{
    frame::{ACK, FIN, Frame, SYN, Transport, seal_ipv4},
    network::OUTSIDE,
};
use xdp_common::{
    hash,
    layout::{Scheduler, UnknownFragments},
    load::Measure,
};

use crate::{balancer::Balancer, configuration::Service, image::wide};

const HOSTS: [&str; 3] = ["10.0.1.11:80", "10.0.1.12:80", "10.0.1.13:80"];

fn service() -> Service {
    Service::dr("tcp://10.9.9.9:80", &HOSTS)
}

fn service_v6() -> Service {
    let hosts = ["[2001:db8:1::b]:80", "[2001:db8:1::c]:80", "[2001:db8:1::d]:80"];
    Service::dr("tcp://[2001:db8:9::9]:80", &hosts)
}

/// Many clients of a service.
fn clients(of: &Service) -> Vec<SocketAddr> {
    let ports = (0..20).flat_map(|host| (0..20).map(move |port| (host, 40_000 + port)));
    let client = |(host, port)| match of.vip.is_ipv4() {
        true => SocketAddr::new([10, 7, 0, host].into(), port),
        false => SocketAddr::new([0x2001, 0xdb8, 7, 0, 0, 0, 0, u16::from(host)].into(), port),
    };
    ports.map(client).collect()
}

fn segment(client: SocketAddr, of: &Service, flags: u8) -> Frame {
    Frame::new(client, of.vip, Transport::Tcp { flags })
}

fn chosen(balancer: &Balancer, service: &Service, client: SocketAddr) -> u8 {
    balancer.host(&segment(client, service, SYN)) - 11
}

/// The backend that a hash gives.
fn hashed(service: &Service, hash: u64) -> u8 {
    let ring = service.ring();
    ring[hash::spread(hash, ring.len() as u32) as usize] as u8
}

#[test]
fn a_hash_of_the_client_with_its_port_or_without_gives_the_slot_of_the_ring() {
    for service in [service(), service_v6()] {
        for scheduler in [Scheduler::SourcePort, Scheduler::Source] {
            let service = service.clone().scheduled(scheduler);
            let balancer = Balancer::new(std::slice::from_ref(&service));
            let mut seen = [0; 3];
            for client in clients(&service) {
                let port = if scheduler == Scheduler::Source {
                    0
                } else {
                    client.port().to_be()
                };
                let address = wide(client.ip());
                let hash = match client.is_ipv4() {
                    true => hash::client_v4(address[0] as u32, port, service.seed()),
                    false => hash::client_v6(address, port, service.seed()),
                };
                let expected = hashed(&service, hash);
                assert_eq!(chosen(&balancer, &service, client), expected, "{client}");
                seen[usize::from(expected)] += 1;
            }
            assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
        }
    }
}

#[test]
fn a_hash_of_the_service_sends_all_clients_to_one_backend() {
    for service in [service(), service_v6()] {
        let service = service.scheduled(Scheduler::Destination);
        let balancer = Balancer::new(std::slice::from_ref(&service));
        let expected = hashed(&service, hash::mix(service.seed()));
        for client in clients(&service) {
            assert_eq!(chosen(&balancer, &service, client), expected);
        }
    }
}

#[test]
fn turns_go_round_on_all_cpus_together_and_leave_out_who_has_no_weight() {
    let service = service().weights(&[1, 0, 1]);
    let mut balancer = Balancer::new(std::slice::from_ref(&service));
    for (number, client) in clients(&service).into_iter().enumerate() {
        balancer.cpu = number as u32 % 3;
        assert_eq!(chosen(&balancer, &service, client), [0, 2][number % 2]);
    }
    assert_eq!(balancer.tables.turns.read(1), 400);
}

#[test]
fn of_two_random_backends_the_one_with_less_to_do_is_chosen() {
    let mut service = service().scheduled(Scheduler::Two);
    service.measure = Measure::WEIGHTED_LEAST_CONNECTIONS;
    let balancer = Balancer::new(std::slice::from_ref(&service));
    let all = clients(&service);
    for client in &all {
        chosen(&balancer, &service, *client);
    }
    let loads = [1, 2, 3].map(|backend| balancer.load(backend).0);
    assert_eq!(loads.iter().sum::<u32>() as usize, all.len());
    let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
    assert!(most - least <= 4, "{loads:?}");
}

/// Whose new connections are, one after the other, by a measure.
fn compared(measure: Measure, weights: &[u16], count: usize) -> Vec<u8> {
    let service = service().compared(measure).weights(weights);
    let balancer = Balancer::new(std::slice::from_ref(&service));
    let all = clients(&service);
    all[..count]
        .iter()
        .map(|client| chosen(&balancer, &service, *client))
        .collect()
}

#[test]
fn comparisons_choose_as_ipvs_does() {
    // Of equals the first.
    assert_eq!(compared(Measure::LEAST_CONNECTIONS, &[1, 5, 1], 6), [0, 1, 2, 0, 1, 2]);
    assert_eq!(compared(Measure::LEAST_CONNECTIONS, &[1, 0, 1], 4), [0, 2, 0, 2]);
    // By weight: 1 of 1 is as much as 2 of 2.
    assert_eq!(
        compared(Measure::WEIGHTED_LEAST_CONNECTIONS, &[1, 2, 0], 6),
        [0, 1, 1, 0, 1, 1]
    );
    // With the new one: 1/1, 1/2, 1/3.
    assert_eq!(compared(Measure::SHORTEST_DELAY, &[1, 2, 3], 6), [2, 1, 2, 0, 1, 2]);
    // An idle one before a fast one.
    assert_eq!(compared(Measure::NEVER_QUEUE, &[1, 2, 9], 5), [0, 1, 2, 2, 2]);
    // The heaviest; up to its weight and one more.
    assert_eq!(compared(Measure::FAILOVER, &[1, 3, 2], 5), [1; 5]);
    assert_eq!(compared(Measure::OVERFLOW, &[1, 3, 2], 9), [1, 1, 1, 1, 2, 2, 2, 0, 0]);
}

#[test]
fn a_connection_that_ends_weighs_less_than_one_that_goes_on() {
    let service = service().compared(Measure::LEAST_CONNECTIONS).weights(&[1, 1, 0]);
    let balancer = Balancer::new(std::slice::from_ref(&service));
    let all = clients(&service);
    assert_eq!(
        (chosen(&balancer, &service, all[0]), chosen(&balancer, &service, all[1])),
        (0, 1)
    );
    balancer.host(&segment(all[1], &service, FIN | ACK));
    assert_eq!((balancer.load(1), balancer.load(2)), ((1, 0, false), (0, 1, false)));
    assert_eq!(chosen(&balancer, &service, all[2]), 1);
    assert_eq!(chosen(&balancer, &service, all[3]), 0);
}

#[test]
fn of_more_members_than_are_looked_at_at_once_all_get_their_turn() {
    const MEMBERS: usize = 600;
    let hosts: Vec<String> = (0..MEMBERS)
        .map(|host| format!("10.0.1.{}:{}", host % 250, 80 + host / 250))
        .collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let service = Service::nat("udp://10.9.9.9:80", &hosts).compared(Measure::LEAST_CONNECTIONS);
    let sizes = xdp_common::layout::Sizes::new(16, MEMBERS as u32, 4096, 4096);
    let balancer = Balancer::sized(sizes, std::slice::from_ref(&service));
    for port in 1..=2 * MEMBERS as u16 {
        let client = SocketAddr::new([10, 7, 0, 1].into(), port);
        balancer.host(&Frame::new(client, service.vip, Transport::Udp { checksum: true }));
    }
    let loads: Vec<u32> = (1..=MEMBERS as u32).map(|backend| balancer.load(backend).0).collect();
    assert_eq!(loads.iter().sum::<u32>(), 2 * MEMBERS as u32);
    assert!(loads.iter().all(|load| *load >= 1), "{loads:?}");
}

#[test]
fn fragments_without_ports_go_by_a_hash_of_the_address() {
    let service = Service::dr("udp://10.9.9.9:80", &HOSTS).scheduled(Scheduler::Source);
    let mut balancer = Balancer::new(std::slice::from_ref(&service));
    balancer.control(|control| control.unknown_fragments = UnknownFragments::Addresses as u64);
    balancer.apply();
    for host in 1..50 {
        let client = SocketAddr::new([10, 7, 0, host].into(), 40_000);
        let frame = Frame::new(client, service.vip, Transport::Udp { checksum: true });
        let mut later = frame.bytes();
        later[20..22].copy_from_slice(&[0, 9]);
        seal_ipv4(&mut later);
        let (_, after) = balancer.run(OUTSIDE, &later);
        assert_eq!(after[5], balancer.host(&frame), "as the whole datagram");
    }
}
