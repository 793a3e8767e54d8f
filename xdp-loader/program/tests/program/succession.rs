//! Succession: a new daemon finds what the last one and its packets have kept of connections.

use lvx_model::{BackendChange, Forward, OnLoss, Period, Scheduler, ServiceChange};
use lvx_test_kit::{
    frame::{ACK, SYN, tcp},
    network::OUTSIDE,
};
use xdp_common::verdict::Verdict;

use crate::{
    balancer::{Balancer, sizes},
    network,
    takeover::{Pins, take_over},
};

const HTTP: &str = "tcp://10.9.9.9:80";
const HTTPS: &str = "tcp://10.9.9.9:443";
const HOSTS: [&str; 3] = ["10.0.1.11", "10.0.1.12", "10.0.1.13"];

fn first(pins: &Pins) -> Balancer {
    let mut balancer = Balancer::with(Some(pins.path()), sizes(), network::enter());
    take_over(&mut balancer, pins);
    balancer
}

/// Another daemon, which desires the same and has applied it.
fn next(pins: &Pins, last: Balancer) -> Balancer {
    let mut balancer = Balancer::with(Some(pins.path()), sizes(), last.links.clone());
    assert!(balancer.tables.predecessor().is_some());
    balancer.desired = last.desired.clone();
    balancer.hops = last.hops.clone();
    drop(last);
    balancer.apply();
    take_over(&mut balancer, pins);
    balancer
}

#[test]
fn clients_persist_over_a_new_daemon_by_themselves_and_by_mark() {
    let pins = Pins::new();
    let mut balancer = first(&pins);
    let persistence = |mark| ServiceChange {
        persistence: Some(Period::from_millis(300_000)),
        mark,
        ..ServiceChange::default()
    };
    let alone = "tcp://10.9.9.9:25";
    for (service, mark) in [
        ("tcp://10.9.9.9:1", None),
        (HTTP, Some(7)),
        (alone, None),
        (HTTPS, Some(7)),
    ] {
        balancer.add(service, Forward::Nat, Scheduler::Rr, &HOSTS);
        balancer.set(service, &persistence(mark));
        balancer.apply();
    }
    // The groups' numbers are not those that a daemon would give out that began with these services.
    balancer
        .desired
        .del_service("tcp://10.9.9.9:1".parse().unwrap())
        .unwrap();
    balancer.apply();
    let there: Vec<u8> = (1..=3)
        .flat_map(|client| [HTTP, alone].map(|service| (client, service)))
        .map(|(client, service)| balancer.host(&tcp(&format!("10.7.0.{client}:40000"), &service[6..], SYN)))
        .collect();
    let groups = [HTTP, alone, HTTPS].map(|service| balancer.service_entry(service).group);
    assert_eq!(groups[0], groups[2]);

    let mut balancer = next(&pins, balancer);
    assert_eq!(
        [HTTP, alone, HTTPS].map(|service| balancer.service_entry(service).group),
        groups
    );
    balancer.sweep();
    let again: Vec<u8> = (1..=3)
        .flat_map(|client| [HTTPS, alone].map(|service| (client, service)))
        .map(|(client, service)| balancer.host(&tcp(&format!("10.7.0.{client}:40001"), &service[6..], SYN)))
        .collect();
    assert_eq!(again, there);
}

#[test]
fn a_deleted_backend_s_flows_are_dropped_under_a_new_daemon_too_until_it_is_added_again() {
    let pins = Pins::new();
    let mut balancer = first(&pins);
    balancer.add(HTTP, Forward::Nat, Scheduler::Rr, &HOSTS);
    let change = ServiceChange {
        on_loss: Some(OnLoss::Drop),
        ..ServiceChange::default()
    };
    balancer.set(HTTP, &change);
    balancer.apply();
    let frame = tcp("10.7.0.1:40000", "10.9.9.9:80", ACK);
    assert_eq!(balancer.host(&frame), 11);
    balancer.del_backend(HTTP, HOSTS[0]);
    balancer.apply();
    balancer.drops(OUTSIDE, &frame, Verdict::DroppedBackendLost);

    let mut balancer = next(&pins, balancer);
    balancer.drops(OUTSIDE, &frame, Verdict::DroppedBackendLost);
    balancer.sweep();
    balancer.drops(OUTSIDE, &frame, Verdict::DroppedBackendLost);
    balancer.add_backend(HTTP, HOSTS[0]);
    balancer.apply();
    assert_eq!(balancer.host(&frame), 11);
}

#[test]
fn counts_and_thresholds_hold_from_a_new_daemon_s_first_packet_on() {
    let pins = Pins::new();
    let mut balancer = first(&pins);
    balancer.add(HTTP, Forward::Nat, Scheduler::Lc, &HOSTS);
    let limit = BackendChange {
        upper: Some(2),
        ..BackendChange::default()
    };
    balancer.set_backend(HTTP, HOSTS[0], &limit);
    balancer.apply();
    for port in 40_000..40_005 {
        balancer.host(&tcp(&format!("10.7.0.1:{port}"), "10.9.9.9:80", SYN));
    }
    let reals = HOSTS.map(|host| format!("{host}:80"));
    let loads = reals.each_ref().map(|real| balancer.load(HTTP, real));
    assert_eq!(loads, [(2, 0, true), (2, 0, false), (1, 0, false)]);

    let mut balancer = next(&pins, balancer);
    assert_eq!(reals.each_ref().map(|real| balancer.load(HTTP, real)), loads);
    let there: Vec<u8> = (41_000..41_003)
        .map(|port| balancer.host(&tcp(&format!("10.7.0.1:{port}"), "10.9.9.9:80", SYN)))
        .collect();
    assert_eq!(there, [13, 12, 13]);
    balancer.sweep();
    let loads = reals.each_ref().map(|real| balancer.load(HTTP, real));
    assert_eq!(loads, [(2, 0, true), (3, 0, false), (3, 0, false)]);
}
