//! Flows: recorded once, found by both directions, kept where they are, and forgotten for others when a bucket is full.

use std::net::SocketAddr;

use lvx_test_kit::{
    frame::{ACK, FIN, Frame, RST, SYN, Transport, socket, tcp, udp},
    network::{INSIDE, OUTSIDE, backend_mac},
};
use xdp_common::{
    layout::{Backend, FLOWS_PER_BUCKET, FlowEntry, Hop},
    tcp_state::State,
    verdict::Verdict,
};

use crate::{
    balancer::{Action, Balancer},
    configuration::Service,
    forwarding::Case,
};

const SERVICE: &str = "tcp://10.9.9.9:80";
const HOSTS: [&str; 3] = ["10.0.1.11:80", "10.0.1.12:80", "10.0.1.13:80"];

fn client(port: u16, flags: u8) -> Frame {
    tcp(&format!("10.7.0.1:{port}"), "10.9.9.9:80", flags)
}

fn answer(host: u8, port: u16, flags: u8) -> Vec<u8> {
    tcp(&format!("10.0.1.{host}:80"), &format!("10.7.0.1:{port}"), flags).bytes()
}

/// Clients whose flows share a bucket.
fn crowd(balancer: &Balancer, like: SocketAddr, count: usize) -> Vec<SocketAddr> {
    let bucket = balancer.bucket(like);
    let ports = (1..=u16::MAX).flat_map(|port| (0..64).map(move |host| (host, port)));
    let clients = ports.map(|(host, port)| match like.is_ipv4() {
        true => SocketAddr::new([10, 7, 1, host].into(), port),
        false => SocketAddr::new([0x2001, 0xdb8, 7, 0, 0, 0, 1, u16::from(host)].into(), port),
    });
    clients
        .filter(|client| balancer.bucket(*client) == bucket)
        .take(count)
        .collect()
}

#[test]
fn a_new_flow_is_recorded_once_with_its_backend_and_state() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.nat()]);
        for _ in 0..3 {
            balancer.run(OUTSIDE, &case.request().bytes());
        }
        let state = match case.transport {
            Transport::Tcp { .. } => State::SynReceived,
            Transport::Udp { .. } => State::Udp,
        };
        let flow = balancer.flow(case.client);
        assert_eq!((flow.backend, flow.state), (1, state));
        assert_eq!(
            flow.at.1,
            balancer.client(case.client).slot(),
            "where it is looked for first"
        );
        assert_eq!(balancer.count_flows(), 1);
    }
}

#[test]
fn the_address_of_an_ipv6_client_stands_beside_its_flow() {
    for case in Case::all().into_iter().filter(|case| case.client.is_ipv6()) {
        let balancer = Balancer::new(&[case.dr()]);
        balancer.run(OUTSIDE, &case.request().bytes());
        let (bucket, slot) = balancer.flow(case.client).at;
        let there = balancer.tables.clients_v6.read(bucket).addresses[slot];
        assert_eq!(there, crate::image::wide(case.client.ip()));
    }
}

#[test]
fn a_flow_by_direct_routing_has_no_next_hop_of_its_client() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.dr()]);
        balancer.run(OUTSIDE, &case.request().bytes());
        assert_eq!(balancer.flow(case.client).hop, Hop::NONE);
    }
}

#[test]
fn a_known_flow_stays_with_its_backend_when_others_come_and_its_own_takes_no_new_ones() {
    let mut balancer = Balancer::new(&[Service::dr(SERVICE, &HOSTS[..1])]);
    assert_eq!(balancer.host(&client(40_000, SYN)), 11);
    balancer.services = vec![Service::dr(SERVICE, &HOSTS).weights(&[0, 1, 1])];
    for _ in 0..2 {
        // Both banks.
        balancer.apply();
        assert_eq!(balancer.host(&client(40_000, ACK)), 11);
        assert_eq!(
            balancer.host(&client(40_000, SYN)),
            11,
            "a SYN that is repeated begins none"
        );
    }
    assert_ne!(balancer.host(&client(40_001, SYN)), 11);
}

#[test]
fn clients_with_one_address_or_one_port_have_flows_of_their_own() {
    let balancer = Balancer::new(&[Service::nat(SERVICE, &HOSTS)]);
    let clients = ["10.7.0.1:40000", "10.7.0.1:40001", "10.7.0.2:40000"];
    for (client, host) in clients.iter().zip(11..) {
        assert_eq!(balancer.host(&tcp(client, "10.9.9.9:80", SYN)), host);
    }
    for (client, host) in clients.iter().zip(11..) {
        assert_eq!(balancer.host(&tcp(client, "10.9.9.9:80", ACK)), host);
        assert_eq!(balancer.flow(socket(client)).backend, host as u32 - 10);
    }
}

#[test]
fn a_client_has_a_flow_for_each_service() {
    let other = Service::nat("tcp://10.9.9.9:81", &["10.0.1.12:80"]);
    let balancer = Balancer::new(&[Service::nat(SERVICE, &HOSTS[..1]), other]);
    assert_eq!(balancer.host(&client(40_000, SYN)), 11);
    assert_eq!(balancer.host(&tcp("10.7.0.1:40000", "10.9.9.9:81", SYN)), 12);
    assert_eq!(balancer.flows(socket("10.7.0.1:40000")).len(), 2);
    // Each backend's answer comes from its own service.
    for (host, vport) in [(11, 80_u16), (12, 81)] {
        let (action, after) = balancer.run(INSIDE, &answer(host, 40_000, ACK));
        assert_eq!((action, &after[34..36]), (Action::Redirect, &vport.to_be_bytes()[..]));
    }
}

#[test]
fn marks_of_a_flow_outlast_packets_of_both_sides() {
    for marks in [
        FlowEntry::UNCONFIRMED,
        FlowEntry::LEARNT,
        FlowEntry::UNCONFIRMED | FlowEntry::LEARNT,
    ] {
        for case in Case::all() {
            let mut balancer = Balancer::new(&[case.nat()]);
            balancer.run(OUTSIDE, &case.request().bytes());
            let before = balancer.flow(case.client);
            let (bucket, slot) = before.at;
            let table = match case.client.is_ipv4() {
                true => &balancer.tables.flows_v4,
                false => &balancer.tables.flows_v6,
            };
            let mut flows = table.read(bucket);
            flows[slot].0 |= marks;
            table.write(bucket, flows);
            assert_eq!(balancer.flow(case.client), before);
            for _ in 0..2 {
                balancer.wait(2);
                let (action, after) = balancer.run(OUTSIDE, &case.request().bytes());
                assert_eq!(
                    (action, &after[..6]),
                    (Action::Redirect, &backend_mac(case.real.ip())[..])
                );
                assert_eq!(balancer.run(INSIDE, &case.answer().bytes()).0, Action::Redirect);
            }
            let table = match case.client.is_ipv4() {
                true => &balancer.tables.flows_v4,
                false => &balancer.tables.flows_v6,
            };
            let word = table.read(bucket)[slot].0;
            assert_eq!(word & (FlowEntry::UNCONFIRMED | FlowEntry::LEARNT), marks);
            assert_eq!(balancer.flow(case.client).backend, before.backend);
            assert_eq!(balancer.count_flows(), 1);
        }
    }
}

#[test]
fn a_connections_state_follows_the_segments_of_both_sides() {
    let balancer = Balancer::new(&[Service::nat(SERVICE, &HOSTS[..1])]);
    let from = socket("10.7.0.1:40000");
    for (by_client, flags, state) in [
        (true, SYN, State::SynReceived),
        (false, SYN | ACK, State::SynReceived),
        (true, ACK, State::Established),
        (false, FIN | ACK, State::FinBackend),
        (true, FIN | ACK, State::TimeWait),
        (false, ACK, State::TimeWait),
        (false, RST, State::TimeWait),
    ] {
        match by_client {
            true => balancer.run(OUTSIDE, &client(40_000, flags).bytes()),
            false => balancer.run(INSIDE, &answer(11, 40_000, flags)),
        };
        assert_eq!(balancer.flow(from).state, state);
    }
}

#[test]
fn a_syn_after_the_end_begins_a_new_flow_in_the_place_of_the_old_one() {
    for end in [FIN | ACK, RST] {
        let balancer = Balancer::new(&[Service::nat(SERVICE, &HOSTS)]);
        assert_eq!(balancer.host(&client(40_000, SYN)), 11);
        assert_eq!(balancer.host(&client(40_000, ACK)), 11);
        assert_eq!(balancer.host(&client(40_000, FIN | ACK)), 11);
        balancer.run(INSIDE, &answer(11, 40_000, end));
        let old = balancer.flow(socket("10.7.0.1:40000")).at;
        assert_eq!(balancer.host(&client(40_000, SYN)), 12);
        let new = balancer.flow(socket("10.7.0.1:40000"));
        assert_eq!((new.at, new.backend, new.state), (old, 2, State::SynReceived));
    }
}

#[test]
fn a_reset_by_which_a_client_answers_its_ports_last_connection_does_not_move_the_next_one() {
    let balancer = Balancer::new(&[Service::dr(SERVICE, &HOSTS)]);
    assert_eq!(balancer.host(&client(40_000, SYN)), 11);
    assert_eq!(balancer.host(&client(40_000, RST)), 11);
    assert_eq!(balancer.host(&client(40_000, SYN)), 11, "sent again");
    assert_eq!(balancer.host(&client(40_000, ACK)), 11);
    assert_eq!(balancer.flow(socket("10.7.0.1:40000")).state, State::Established);
}

#[test]
fn a_full_bucket_forgets_the_flow_that_was_idle_longest_and_counts_it() {
    for case in Case::all() {
        let mut balancer = Balancer::new(&[case.nat()]);
        let clients = crowd(&balancer, case.client, FLOWS_PER_BUCKET + 1);
        let request = |client| Frame::new(client, case.vip, case.transport).bytes();
        for client in &clients[..FLOWS_PER_BUCKET] {
            let (_, _, counted) = balancer.judge(OUTSIDE, &request(*client));
            assert_eq!(counted, []);
            balancer.wait(2);
        }
        // The first one is seen again: the second is idle longest now.
        balancer.run(OUTSIDE, &request(clients[0]));
        let (action, _, counted) = balancer.judge(OUTSIDE, &request(clients[FLOWS_PER_BUCKET]));
        assert_eq!((action, counted), (Action::Redirect, vec![Verdict::FlowEvicted]));
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(balancer.flows(*client).len(), usize::from(number != 1), "{number}");
        }
    }
}

#[test]
fn a_full_bucket_forgets_a_closed_flow_before_any_that_goes_on() {
    let mut balancer = Balancer::new(&[Service::dr(SERVICE, &HOSTS)]);
    let clients = crowd(&balancer, socket("10.7.0.1:40000"), FLOWS_PER_BUCKET + 1);
    let frame = |client, flags| Frame::new(client, socket("10.9.9.9:80"), Transport::Tcp { flags }).bytes();
    for client in &clients[..FLOWS_PER_BUCKET] {
        balancer.run(OUTSIDE, &frame(*client, ACK));
        balancer.wait(2);
    }
    balancer.run(OUTSIDE, &frame(clients[5], FIN | ACK));
    balancer.run(OUTSIDE, &frame(clients[FLOWS_PER_BUCKET], SYN));
    for (number, client) in clients.iter().enumerate() {
        assert_eq!(balancer.flows(*client).len(), usize::from(number != 5), "{number}");
    }
}

#[test]
fn a_flow_that_is_expired_makes_room_in_a_full_bucket_without_a_word() {
    let mut balancer = Balancer::new(&[Service::dr(SERVICE, &HOSTS)]);
    let clients = crowd(&balancer, socket("10.7.0.1:40000"), FLOWS_PER_BUCKET + 1);
    let frame = |client, flags| Frame::new(client, socket("10.9.9.9:80"), Transport::Tcp { flags }).bytes();
    for client in &clients[..FLOWS_PER_BUCKET] {
        balancer.run(OUTSIDE, &frame(*client, SYN));
    }
    balancer.wait(70);
    let (_, _, counted) = balancer.judge(OUTSIDE, &frame(clients[FLOWS_PER_BUCKET], SYN));
    assert_eq!(counted, []);
}

#[test]
fn a_slot_that_another_cpu_is_writing_is_left_alone() {
    let balancer = Balancer::new(&[Service::dr(SERVICE, &HOSTS)]);
    let client = socket("10.7.0.1:40000");
    let bucket = balancer.bucket(client);
    balancer
        .tables
        .flows_v4
        .write(bucket, [FlowEntry::BUSY; FLOWS_PER_BUCKET]);
    let frame = Frame::new(client, socket("10.9.9.9:80"), Transport::Tcp { flags: SYN });
    let (action, _, counted) = balancer.judge(OUTSIDE, &frame.bytes());
    assert_eq!((action, counted), (Action::Redirect, vec![Verdict::FlowUntracked]));
    assert_eq!(
        balancer.tables.flows_v4.read(bucket),
        [FlowEntry::BUSY; FLOWS_PER_BUCKET]
    );
}

#[test]
fn one_packet_scheduling_records_nothing_and_chooses_for_each_packet() {
    let mut service = Service::dr("udp://10.9.9.9:53", &["10.0.1.11:53", "10.0.1.12:53"]);
    service.one_packet = true;
    let balancer = Balancer::new(&[service]);
    let query = udp("10.7.0.1:40000", "10.9.9.9:53");
    assert_eq!([(); 4].map(|()| balancer.host(&query)), [11, 12, 11, 12]);
    assert_eq!(balancer.count_flows(), 0);
}

#[test]
fn what_cannot_be_delivered_begins_no_flow() {
    let mut service = Service::dr(SERVICE, &HOSTS[..1]);
    service.backends[0].flags = Backend::ENDED;
    let mut balancer = Balancer::new(&[service]);
    balancer.drops(OUTSIDE, &client(40_000, SYN), Verdict::DroppedNoBackend);
    balancer.services[0].backends.clear();
    balancer.apply();
    balancer.drops(OUTSIDE, &client(40_000, SYN), Verdict::DroppedNoBackend);
    assert_eq!((balancer.count_flows(), balancer.tables.warned()), (0, 2));
}
