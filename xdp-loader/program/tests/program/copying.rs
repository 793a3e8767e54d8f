//! Tables that a new daemon cannot share: flows, counts and persistence are copied, and looked up until they are.

use std::{collections::BTreeMap, net::SocketAddr, thread::sleep, time::Duration};

use lvx_dataplane::{Sizes, flow::Flow};
use lvx_model::{OnLoss, Period, ServiceChange};
use lvx_test_kit::{
    frame::{ACK, FIN, PSH, RST, SYN, socket, tcp},
    network::{INSIDE, OUTSIDE},
};
use xdp_common::{layout::Control, tcp_state::State, verdict::Verdict};

use crate::{
    balancer::{Action, Balancer, sizes},
    takeover::{CLIENT, Pins, SERVICE, VIP, first, generations, numbers, populate, second, take_over},
};

/// As if all interfaces had been turned, and the copy were still to come.
fn turn(balancer: &mut Balancer) {
    balancer.control_set(|control| control.mode = control.mode & !Control::WAITING | Control::SUCCEEDING);
}

#[test]
fn packets_go_on_in_the_predecessor_until_its_successor_takes_over() {
    let pins = Pins::new();
    let mut before = first(&pins);
    let mut after = second(&pins, Sizes::new(16, 64, 65_536, 65_536), &before);
    assert!(!after.tables.shared().contains("FLOWS_V4"));
    let known = populate(&mut after);
    assert!(after.flows().is_empty());
    assert_eq!(before.flows().len(), known.len() + 2);
    for (frame, host) in &known {
        assert_eq!(before.host(frame), *host);
    }
    take_over(&mut after, &pins);
    assert_eq!(after.flows().len(), known.len() + 2);
    for (frame, host) in &known {
        assert_eq!(after.host(frame), *host);
    }
}

#[test]
fn flows_counts_and_numbers_go_on_in_tables_of_other_sizes() {
    for sizes in [
        Sizes::new(16, 64, 65_536, 65_536),
        Sizes::new(100, 1000, 100_000, 100_000),
        Sizes::new(8, 16, 4096, 4096),
    ] {
        let pins = Pins::new();
        let mut before = first(&pins);
        let known = populate(&mut before);
        let (names, flows) = (numbers(&before), before.flows());
        let counted = before.counters(SERVICE, "10.0.1.11:8080");
        before.passes(
            OUTSIDE,
            &tcp(CLIENT, "10.9.9.9:81", SYN).bytes(),
            Verdict::PassedNoService,
        );
        let verdicts = before.verdicts(OUTSIDE);
        let mut after = second(&pins, sizes, &before);
        take_over(&mut after, &pins);
        assert_eq!(after.tables.maps().sizes(), sizes);
        assert_eq!(numbers(&after), names);
        let states = |flows: BTreeMap<SocketAddr, Flow>| -> Vec<_> {
            let flows = flows.into_iter();
            flows.map(|(client, flow)| (client, flow.backend, flow.state)).collect()
        };
        assert_eq!(states(after.flows()), states(flows));
        assert_eq!(after.counters(SERVICE, "10.0.1.11:8080"), counted);
        assert_eq!(after.verdicts(OUTSIDE), verdicts);
        for (frame, host) in &known {
            assert_eq!(after.host(frame), *host);
        }
        // And on from there: the next one's counts are the sum.
        let counted = after.counters(SERVICE, "10.0.1.11:8080");
        let mut third = second(&pins, self::sizes(), &after);
        take_over(&mut third, &pins);
        assert_eq!(third.counters(SERVICE, "10.0.1.11:8080"), counted);
        // Answers of NAT backends find their clients too.
        let answer = tcp("10.0.1.11:8080", CLIENT, ACK);
        assert_eq!(third.run(INSIDE, &answer.bytes()).0, Action::Redirect);
    }
}

#[test]
fn flows_that_are_not_copied_yet_are_looked_up_in_the_predecessor() {
    let pins = Pins::new();
    let mut before = first(&pins);
    let mut after = second(&pins, Sizes::new(16, 64, 65_536, 65_536), &before);
    turn(&mut after);
    let client = socket(CLIENT);
    let moved = after.host(&tcp(CLIENT, VIP, ACK));
    assert_eq!(
        moved,
        before.host(&tcp(CLIENT, VIP, ACK)),
        "a flow that is known there only"
    );
    assert_eq!(after.state(client), Some(State::Established));
    let host = after.host(&tcp("10.7.0.9:1", VIP, SYN));
    assert!(
        before.state(socket("10.7.0.9:1")).is_none(),
        "a new flow is the new one's"
    );
    assert_eq!(after.host(&tcp("10.7.0.9:1", VIP, ACK)), host);
    // An answer whose flow is known there only goes on there.
    let other = socket("10.7.0.10:1");
    before.host(&tcp("10.7.0.10:1", VIP, SYN));
    let number = before.flows()[&other].backend;
    let real = match number == before.backend_number(SERVICE, "10.0.1.12:80") {
        true => "10.0.1.12:80",
        false => "10.0.1.11:8080",
    };
    let answer = tcp(real, "10.7.0.10:1", SYN | ACK);
    assert_eq!(after.run(INSIDE, &answer.bytes()).0, Action::Redirect);
    // What stands here is newer than what stands there.
    before.host(&tcp(CLIENT, VIP, FIN | ACK));
    take_over(&mut after, &pins);
    assert_eq!(after.state(client), Some(State::Established));
    assert_eq!(after.state(other), Some(State::SynReceived), "it was copied");
    assert_eq!(after.host(&tcp("10.7.0.9:1", VIP, ACK)), host);
    assert_eq!(after.flows().len(), 4);
}

#[test]
fn a_daemon_that_died_while_it_copied_loses_no_flow() {
    let pins = Pins::new();
    let mut before = first(&pins);
    let known = populate(&mut before);
    let mut after = second(&pins, Sizes::new(16, 64, 65_536, 65_536), &before);
    turn(&mut after);
    let began = ["10.7.0.9:1", "10.7.0.9:2"].map(|client| (tcp(client, VIP, ACK), after.host(&tcp(client, VIP, SYN))));
    let (frame, host) = &known[0];
    assert_eq!(after.host(frame), *host);
    // The second daemon is killed: nothing of it is cleaned up.
    std::mem::forget(after);
    for (sizes, shares) in [
        (Sizes::new(16, 64, 65_536, 65_536), true),
        (Sizes::new(16, 64, 200_000, 4096), false),
    ] {
        let mut third = second(&pins, sizes, &before);
        assert_eq!(third.tables.shared().contains("FLOWS_V4"), shares);
        // Until then packets go on in the second, which goes on to ask the first.
        let (frame, host) = &known[1];
        assert_eq!(third.host(frame), *host);
        take_over(&mut third, &pins);
        for (frame, host) in known.iter().chain(&began) {
            assert_eq!(third.host(frame), *host);
        }
        assert_eq!(third.flows().len(), known.len() + 4);
    }
    assert_eq!(generations(&pins).len(), 1);
}

#[test]
fn clients_persist_though_their_templates_are_not_copied_yet() {
    let pins = Pins::new();
    let mut before = first(&pins);
    let persistence = ServiceChange {
        persistence: Some(Period::from_millis(300_000)),
        ..ServiceChange::default()
    };
    before.set(SERVICE, &persistence);
    before.apply();
    let clients: Vec<(u8, u8)> = (1..20)
        .map(|client| (client, before.host(&tcp(&format!("10.8.0.{client}:1000"), VIP, SYN))))
        .collect();
    let mut after = second(&pins, Sizes::new(16, 64, 65_536, 65_536), &before);
    turn(&mut after);
    for (client, host) in &clients {
        assert_eq!(after.host(&tcp(&format!("10.8.0.{client}:2000"), VIP, SYN)), *host);
    }
    take_over(&mut after, &pins);
    for (client, host) in &clients {
        assert_eq!(after.host(&tcp(&format!("10.8.0.{client}:3000"), VIP, SYN)), *host);
    }
}

#[test]
fn flows_of_a_lost_backend_are_dropped_though_they_are_not_copied_yet() {
    let pins = Pins::new();
    let mut before = first(&pins);
    let change = ServiceChange {
        on_loss: Some(OnLoss::Drop),
        ..ServiceChange::default()
    };
    before.set(SERVICE, &change);
    before.apply();
    let frame = tcp("10.7.0.3:1", VIP, ACK);
    let host = before.host(&frame);
    let real = if host == 11 { "10.0.1.11:8080" } else { "10.0.1.12:80" };
    before.is_up(SERVICE, real, false);
    let mut after = Balancer::with(
        Some(pins.path()),
        Sizes::new(16, 64, 65_536, 65_536),
        before.links.clone(),
    );
    (after.desired, after.hops, after.health) = (before.desired.clone(), before.hops.clone(), before.health.clone());
    after.apply();
    turn(&mut after);
    after.drops(OUTSIDE, &frame, Verdict::DroppedBackendLost);
}

#[test]
fn sizes_may_become_as_small_as_what_is_there_whatever_its_numbers_are() {
    let pins = Pins::new();
    let mut before = first(&pins);
    let hosts: Vec<String> = (20..70).map(|host| format!("10.0.1.{host}")).collect();
    for host in &hosts {
        before.add_backend(SERVICE, host);
    }
    before.apply();
    let (gone, left) = hosts.split_at(45);
    for host in gone {
        before.del_backend(SERVICE, &format!("{host}:80"));
    }
    before.apply();
    assert!(before.backend_number(SERVICE, &format!("{}:80", left[0])) > 20);
    let known = populate(&mut before);
    let mut after = second(&pins, Sizes::new(4, 16, 4096, 4096), &before);
    take_over(&mut after, &pins);
    for (frame, host) in &known {
        assert_eq!(after.host(frame), *host);
    }
}

#[test]
fn a_closed_flow_that_is_not_copied_yet_goes_on_by_the_rules_of_flows_that_are_known() {
    /// A connection with one backend, of which the predecessor has seen these segments, and its successor, whose turn it is to
    /// choose the other one.
    fn closed(pins: &Pins, closing: &[u8]) -> (Balancer, Balancer, u8) {
        let mut before = first(pins);
        before.lengthen_idle_timeouts();
        let host = before.host(&tcp(CLIENT, VIP, ACK).payload(b""));
        for flags in closing {
            before.host(&tcp(CLIENT, VIP, *flags).payload(b""));
        }
        let mut after = second(pins, Sizes::new(16, 64, 65_536, 65_536), &before);
        turn(&mut after);
        let mut other = (1..).map(|port| after.host(&tcp(&format!("10.7.0.9:{port}"), VIP, SYN)));
        other.find(|other| *other == host).unwrap();
        drop(other);
        (before, after, host)
    }

    for closing in [FIN | ACK, RST] {
        let pins = Pins::new();
        let (_before, mut after, host) = closed(&pins, &[closing]);
        assert_eq!(after.host(&tcp(CLIENT, VIP, SYN)), host, "the backend knows what it is");
        assert_eq!(after.state(socket(CLIENT)), Some(State::SynReceived));
    }
    let pins = Pins::new();
    let (_before, mut after, host) = closed(&pins, &[FIN | ACK]);
    assert_eq!(after.host(&tcp(CLIENT, VIP, PSH | ACK).payload(b"x")), host);
    assert_eq!(after.state(socket(CLIENT)), Some(State::Established), "revived");

    let pins = Pins::new();
    let (mut before, mut after, host) = closed(&pins, &[FIN | ACK]);
    before.set_idle_timeout(State::Closed, 1);
    // More than two of the units of a quarter of a second in which time is noted.
    sleep(Duration::from_secs(1));
    assert_ne!(after.host(&tcp(CLIENT, VIP, SYN)), host, "all was quiet for long");
}
