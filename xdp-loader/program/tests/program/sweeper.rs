//! The kernel's own sweeps: idle flows are forgotten though no daemon runs.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use lvx_model::{Forward, Scheduler};
use lvx_test_kit::frame::{ACK, SYN, tcp, udp};
use xdp_common::tcp_state::State;

use crate::{
    balancer::{Balancer, sizes},
    network,
    takeover::{Pins, second, take_over},
};

const V4: &str = "tcp://10.9.9.9:80";
const V6: &str = "tcp://[2001:db8:9::9]:80";
const DATAGRAMS: &str = "udp://10.9.9.9:53";
/// As long as nothing but a hung kernel takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Flows that are established, or no connections.
const STAY: usize = 200;

/// A dataplane in force with flows of both families, of which [`STAY`] outlive the others.
fn populated(pins: &Pins) -> Balancer {
    let mut balancer = Balancer::with(Some(pins.path()), sizes(), network::enter());
    balancer.add(V4, Forward::Nat, Scheduler::Wlc, &["10.0.1.11", "10.0.1.12"]);
    balancer.add(V6, Forward::Dr, Scheduler::Wlc, &["2001:db8:1::11"]);
    balancer.add(DATAGRAMS, Forward::Dr, Scheduler::Rr, &["10.0.1.11"]);
    balancer.apply();
    take_over(&mut balancer, pins);
    for port in 20_000..20_100 {
        balancer.host(&tcp(&format!("10.7.0.1:{port}"), "10.9.9.9:80", SYN));
        balancer.host(&tcp(&format!("[2001:db8:7::1]:{port}"), "[2001:db8:9::9]:80", SYN));
        balancer.host(&udp(&format!("10.7.0.2:{port}"), "10.9.9.9:53"));
        balancer.host(&tcp(&format!("10.7.0.3:{port}"), "10.9.9.9:80", ACK));
    }
    assert_eq!(balancer.flows().len(), 400);
    balancer
}

/// Waits until nothing is left but what shall, without a daemon's sweep.
#[track_caller]
fn wait_for_the_rest(balancer: &Balancer) {
    let begin = Instant::now();
    while balancer.flows().len() != STAY {
        assert!(begin.elapsed() < PATIENCE, "{} flows", balancer.flows().len());
        sleep(Duration::from_millis(50));
    }
    let is_left = |state| balancer.flows().values().any(|flow| flow.state == state);
    assert!(!is_left(State::SynReceived));
}

#[test]
fn flows_that_were_idle_for_too_long_are_forgotten_though_nobody_sweeps() {
    let pins = Pins::new();
    let mut balancer = populated(&pins);
    balancer.set_idle_timeout(State::SynReceived, 1);
    wait_for_the_rest(&balancer);
    // What packets have counted follows.
    let active = |service, backend| balancer.load(service, backend).0;
    let v4 = active(V4, "10.0.1.11:80") + active(V4, "10.0.1.12:80");
    assert_eq!((v4, active(V6, "[2001:db8:1::11]:80")), (100, 0));
}

#[test]
fn idle_flows_are_forgotten_when_the_process_is_gone_that_loaded_the_program() {
    let pins = Pins::new();
    let mut balancer = populated(&pins);
    // It shares the first one's flows, and has not taken over: the pins alone keep the first one alive.
    let watcher = second(&pins, sizes(), &balancer);
    assert!(watcher.tables.shared().contains("FLOWS_V4"));
    balancer.set_idle_timeout(State::SynReceived, 1);
    drop(balancer);
    wait_for_the_rest(&watcher);
}

#[test]
fn a_dataplane_that_has_taken_over_forgets_idle_flows_by_itself() {
    let pins = Pins::new();
    let balancer = populated(&pins);
    let mut after = second(&pins, sizes(), &balancer);
    take_over(&mut after, &pins);
    drop(balancer);
    after.set_idle_timeout(State::SynReceived, 1);
    wait_for_the_rest(&after);
}
