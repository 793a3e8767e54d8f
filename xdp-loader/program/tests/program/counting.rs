//! Drops and their reasons; packets, bytes and connections of each backend, to the last one.

use std::process::Command;

use lvx_model::{Forward, Scheduler};
use lvx_test_kit::{
    frame::{ACK, FIN, Frame, SYN, Transport, socket, tcp, udp},
    network::{INSIDE, OUTSIDE, VETH},
};
use xdp_common::{layout::BackendCounters, verdict::Verdict};

use crate::{
    balancer::{Action, Balancer, sizes},
    network,
};

const SERVICE: &str = "tcp://10.9.9.9:80";
const CLIENT: &str = "10.7.0.1:40001";
const VIP: &str = "10.9.9.9:80";

#[test]
fn a_service_without_a_backend_that_takes_connections_drops_and_counts() {
    for scheduler in [Scheduler::Rr, Scheduler::Wrr, Scheduler::Mh] {
        let mut balancer = Balancer::serving(SERVICE, Forward::Nat, scheduler, &[]);
        let frame = tcp(CLIENT, VIP, SYN);
        balancer.drops(OUTSIDE, &frame, Verdict::DroppedNoBackend);
        balancer.add_backend(SERVICE, "10.0.1.11");
        balancer.drain(SERVICE, "10.0.1.11");
        balancer.apply();
        balancer.drops(OUTSIDE, &frame, Verdict::DroppedNoBackend);
        balancer.add_backend(SERVICE, "10.0.1.12");
        balancer.lose("10.0.1.12");
        balancer.apply();
        balancer.drops(OUTSIDE, &frame, Verdict::DroppedNoBackend);
        assert!(balancer.flows().is_empty());
    }
}

#[test]
fn the_flows_of_a_backend_whose_next_hop_is_lost_wait_for_it() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Nat, Scheduler::Rr, &["10.0.1.11", "10.0.1.12"]);
    let frame = tcp(CLIENT, VIP, ACK);
    assert_eq!(balancer.host(&frame), 11);
    balancer.lose("10.0.1.11");
    balancer.apply();
    balancer.drops(OUTSIDE, &frame, Verdict::DroppedNoNextHop);
    assert_eq!(balancer.host(&tcp("10.7.0.1:40002", VIP, SYN)), 12);
    let known = network::next_hop("10.0.1.11".parse().unwrap());
    balancer.hops.0.insert("10.0.1.11".parse().unwrap(), Ok(known));
    balancer.apply();
    assert_eq!(balancer.host(&frame), 11);
}

#[test]
fn a_packet_that_has_no_hop_left_is_dropped_by_every_method() {
    for (client, vip, real, service) in [
        (CLIENT, VIP, "10.0.1.11", SERVICE),
        (
            "[2001:db8:7::1]:40001",
            "[2001:db8:9::9]:80",
            "2001:db8:1::11",
            "tcp://[2001:db8:9::9]:80",
        ),
    ] {
        let mut balancer = Balancer::serving(service, Forward::Nat, Scheduler::Rr, &[real]);
        for hops in [0, 1] {
            let mut frame = tcp(client, vip, SYN);
            frame.hops = hops;
            balancer.drops(OUTSIDE, &frame, Verdict::DroppedTtlExceeded);
        }
        balancer.host(&tcp(client, vip, ACK));
        for hops in [0, 1] {
            let real = std::net::SocketAddr::new(real.parse().unwrap(), 80);
            let mut answer = Frame::new(real, socket(client), Transport::Tcp { flags: ACK });
            answer.hops = hops;
            balancer.drops(INSIDE, &answer, Verdict::DroppedTtlExceeded);
        }
    }
    let mut balancer = Balancer::serving(SERVICE, Forward::Dr, Scheduler::Rr, &["10.0.1.11"]);
    let mut frame = tcp(CLIENT, VIP, SYN);
    frame.hops = 1;
    balancer.drops(OUTSIDE, &frame, Verdict::DroppedTtlExceeded);
}

#[test]
fn a_connection_whose_first_packet_has_no_hop_left_is_counted_when_it_begins_after_all() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Nat, Scheduler::Rr, &["10.0.1.11"]);
    let mut frame = tcp(CLIENT, VIP, SYN);
    frame.hops = 1;
    balancer.drops(OUTSIDE, &frame, Verdict::DroppedTtlExceeded);
    assert!(balancer.flows().is_empty(), "a packet that goes nowhere begins no flow");
    frame.hops = 64;
    balancer.host(&frame);
    let counted = balancer.counters(SERVICE, "10.0.1.11:80");
    assert_eq!((counted.packets_in, counted.connections), (1, 1));
}

#[test]
fn an_interface_that_is_gone_is_a_reason_of_its_own() {
    let mut balancer = Balancer::with(None, sizes(), network::enter());
    balancer.add(SERVICE, Forward::Nat, Scheduler::Rr, &["10.0.2.11"]);
    balancer.apply();
    balancer.host(&tcp(CLIENT, VIP, SYN));
    assert!(
        Command::new("ip")
            .args(["link", "del", "veth"])
            .status()
            .unwrap()
            .success()
    );
    balancer.drops(OUTSIDE, &tcp(CLIENT, VIP, ACK), Verdict::DroppedNoInterface);
}

#[test]
fn a_packet_that_comes_in_by_an_interface_that_is_not_lvx_s_passes() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Nat, Scheduler::Rr, &["10.0.1.11"]);
    let lo = 1;
    assert_eq!(balancer.run(lo, &tcp(CLIENT, VIP, SYN).bytes()).0, Action::Pass);
    assert!(balancer.flows().is_empty());
}

#[test]
fn every_packet_byte_and_connection_of_a_backend_is_counted_and_no_other_s() {
    let mut balancer = Balancer::new();
    balancer.add(SERVICE, Forward::Nat, Scheduler::Rr, &["10.0.1.11", "10.0.1.12"]);
    balancer.add("udp://10.9.9.9:53", Forward::Dr, Scheduler::Rr, &["10.0.1.11"]);
    balancer.add(
        "tcp://[2001:db8:9::9]:80",
        Forward::Nat,
        Scheduler::Rr,
        &["2001:db8:1::11"],
    );
    balancer.apply();
    let mut expected = BackendCounters::default();
    for port in 0..3_u16 {
        let client = format!("10.7.0.1:{}", 40_000 + 2 * port);
        for (flags, length) in [(SYN, 0), (ACK, 0), (ACK, 701), (FIN | ACK, 0)] {
            let request = tcp(&client, VIP, flags).payload(&vec![7; length]);
            assert_eq!(balancer.host(&request), 11);
            let answer = tcp("10.0.1.11:80", &client, ACK).payload(&vec![8; length * 2]);
            assert_eq!(balancer.run(INSIDE, &answer.bytes()).0, Action::Redirect);
            expected.packets_in += 1;
            expected.bytes_in += request.ip_length();
            expected.packets_out += 1;
            expected.bytes_out += answer.ip_length();
        }
        expected.connections += 1;
        // The other backend's turn.
        assert_eq!(
            balancer.host(&tcp(&format!("10.7.0.1:{}", 40_001 + 2 * port), VIP, SYN)),
            12
        );
    }
    assert_eq!(balancer.counters(SERVICE, "10.0.1.11:80"), expected);
    let other = balancer.counters(SERVICE, "10.0.1.12:80");
    assert_eq!((other.packets_in, other.packets_out, other.connections), (3, 0, 3));

    let query = udp(CLIENT, "10.9.9.9:53");
    for _ in 0..5 {
        balancer.host(&query);
    }
    let counted = balancer.counters("udp://10.9.9.9:53", "10.0.1.11:53");
    assert_eq!(
        (
            counted.packets_in,
            counted.bytes_in,
            counted.connections,
            counted.packets_out
        ),
        (5, 5 * query.ip_length(), 1, 0)
    );

    let request = tcp("[2001:db8:7::1]:40001", "[2001:db8:9::9]:80", SYN);
    balancer.host(&request);
    let counted = balancer.counters("tcp://[2001:db8:9::9]:80", "[2001:db8:1::11]:80");
    assert_eq!((counted.packets_in, counted.bytes_in), (1, request.ip_length()));
}

#[test]
fn what_is_passed_or_dropped_is_counted_for_the_interface_that_it_came_in_by() {
    let mut balancer = Balancer::with(None, sizes(), network::enter());
    balancer.add(SERVICE, Forward::Nat, Scheduler::Rr, &[]);
    balancer.apply();
    for (ingress, times) in [(OUTSIDE, 3), (INSIDE, 1), (VETH, 2)] {
        for _ in 0..times {
            balancer.passes(
                ingress,
                &tcp(CLIENT, "10.9.9.9:81", SYN).bytes(),
                Verdict::PassedNoService,
            );
            balancer.drops(ingress, &tcp(CLIENT, VIP, SYN), Verdict::DroppedNoBackend);
        }
    }
    for (ingress, times) in [(OUTSIDE, 3), (INSIDE, 1), (VETH, 2)] {
        let counted: Vec<(Verdict, u64)> = balancer
            .verdicts(ingress)
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(
            counted,
            [(Verdict::PassedNoService, times), (Verdict::DroppedNoBackend, times)]
        );
    }
}

#[test]
fn a_deleted_backend_s_counts_stay_with_its_service() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Nat, Scheduler::Rr, &["10.0.1.11", "10.0.1.12"]);
    let frame = tcp(CLIENT, VIP, SYN);
    for _ in 0..4 {
        balancer.host(&frame);
    }
    balancer.del_backend(SERVICE, "10.0.1.11");
    balancer.apply();
    let departed = balancer.tables.snapshot().departed[&SERVICE.parse().unwrap()];
    assert_eq!(
        (departed.packets_in, departed.bytes_in, departed.connections),
        (4, 4 * frame.ip_length(), 1)
    );
}
