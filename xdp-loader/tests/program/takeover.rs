//! Maps that are pinned outlive the daemon: the next one takes over the numbers, the flows and the services.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use xdp_common::verdict::Verdict;
use xdp_loader::{
    dataplane::{Error, Node, Sizes, Tables},
    model::{Forward, Scheduler},
};

use crate::{
    balancer::{Action, Balancer, sizes},
    frame::{ACK, SYN, tcp},
    network::{self, INSIDE, OUTSIDE},
};

const SERVICE: &str = "tcp://10.9.9.9:80";
const OTHER: &str = "tcp://[2001:db8:9::9]:80";
const CLIENT: &str = "10.7.0.1:40001";
const VIP: &str = "10.9.9.9:80";

/// A directory of the BPF file system, removed when dropped.
pub struct Pins(PathBuf);

impl Pins {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("/sys/fs/bpf/lvx-program-test-{}-{number}/pins", std::process::id());
        Self(PathBuf::from(name))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // Nothing more can be done about a failure; panicking in a drop would hide the test's own.
        if let Some(parent) = self.0.parent() {
            let _ = fs::remove_dir_all(parent);
        }
    }
}

/// The first daemon, with services and a flow in each.
fn first(pins: &Pins) -> Balancer {
    let mut balancer = Balancer::with(Some(pins.path()), sizes(), network::enter());
    assert!(!balancer.tables.taken_over());
    balancer.add("udp://10.9.9.8:53", Forward::Dr, Scheduler::Rr, &["10.0.1.11"]);
    balancer.apply();
    balancer.add(SERVICE, Forward::Nat, Scheduler::Rr, &["10.0.1.12", "10.0.1.11:8080"]);
    balancer.add(OTHER, Forward::Dr, Scheduler::Mh, &["2001:db8:1::11", "2001:db8:1::12"]);
    balancer.apply();
    balancer
        .desired
        .del_service("udp://10.9.9.8:53".parse().unwrap())
        .unwrap();
    balancer.apply();
    balancer.host(&tcp(CLIENT, VIP, SYN));
    balancer.host(&tcp(CLIENT, VIP, ACK));
    balancer.host(&tcp("[2001:db8:7::1]:40001", "[2001:db8:9::9]:80", ACK));
    balancer
}

/// The daemon after that one, which knows what was desired and where backends are.
fn second(pins: &Pins, sizes: Sizes, before: &Balancer) -> Balancer {
    let mut balancer = Balancer::with(Some(pins.path()), sizes, before.links.clone());
    balancer.desired = before.desired.clone();
    balancer.hops = before.hops.clone();
    balancer
}

/// All numbers of services and backends.
fn numbers(balancer: &Balancer) -> Vec<(String, u32)> {
    let names = balancer.tables.names();
    let services = names
        .services
        .iter()
        .map(|(service, number)| (service.to_string(), number));
    let backends = names.backends.iter().map(|(key, number)| (format!("{key:?}"), number));
    services.chain(backends).collect()
}

#[test]
fn numbers_flows_services_and_counters_survive_a_new_daemon() {
    let pins = Pins::new();
    let before = first(&pins);
    let (names, flows) = (numbers(&before), before.flows());
    let control = before.control();
    let host = flows[&crate::frame::socket(CLIENT)].backend;
    let counted = before.counters(SERVICE, "10.0.1.11:8080");
    let ring = before.service_entry(SERVICE);
    let saved = (before.links.clone(), before.desired.clone(), before.hops.clone());
    drop(before.tables);

    let mut after = Balancer::with(Some(pins.path()), sizes(), saved.0);
    (after.desired, after.hops) = (saved.1, saved.2);
    assert!(after.tables.taken_over());
    assert_eq!((numbers(&after), after.flows()), (names.clone(), flows));
    assert_eq!(
        (after.control().keys, after.control().tick),
        (control.keys, control.tick)
    );
    assert_eq!(after.counters(SERVICE, "10.0.1.11:8080"), counted);
    // The services are served before anything is applied.
    let (action, frame) = after.run(OUTSIDE, &tcp(CLIENT, VIP, ACK).bytes());
    assert_eq!(action, Action::Redirect);
    after.apply();
    assert_eq!(numbers(&after), names);
    assert_eq!(after.flows()[&crate::frame::socket(CLIENT)].backend, host);
    assert_eq!(after.run(OUTSIDE, &tcp(CLIENT, VIP, ACK).bytes()), (action, frame));
    let same = after.service_entry(SERVICE);
    assert_eq!(
        (same.ring, same.members, same.fingerprint),
        (ring.ring, ring.members, ring.fingerprint)
    );
    let answer = tcp("10.0.1.11:8080", CLIENT, ACK);
    assert_eq!(after.run(INSIDE, &answer.bytes()).0, Action::Redirect);
}

#[test]
fn a_program_that_is_still_attached_follows_the_new_daemon_s_changes() {
    let pins = Pins::new();
    let mut before = first(&pins);
    let mut after = second(&pins, sizes(), &before);
    after.apply();
    after.del_backend(SERVICE, "10.0.1.11:8080");
    after.add_backend(SERVICE, "10.0.1.13");
    after.apply();
    let reached: Vec<u8> = (0..4)
        .map(|port| before.host(&tcp(&format!("10.7.0.2:{}", 40_000 + port), VIP, SYN)))
        .collect();
    assert!(
        reached == [12, 13, 12, 13] || reached == [13, 12, 13, 12],
        "{reached:?}"
    );
    assert_eq!(before.flows(), after.flows());
}

#[test]
fn a_takeover_gives_no_number_out_that_flows_may_still_know() {
    let pins = Pins::new();
    let mut before = first(&pins);
    let number = before.backend_number(SERVICE, "10.0.1.11:8080");
    assert!(before.flows().values().any(|flow| flow.backend == number));
    before.add_backend(SERVICE, "10.0.1.14");
    before.apply();
    before.del_backend(SERVICE, "10.0.1.11:8080");
    before.apply();
    // It dies before it has forgotten the flows.
    let mut after = second(&pins, sizes(), &before);
    drop(before);
    after.add_backend(SERVICE, "10.0.1.13");
    after.apply();
    assert_ne!(after.backend_number(SERVICE, "10.0.1.13:80"), number);
    after.sweep();
    assert!(after.flows().values().all(|flow| flow.backend != number));
    after.add_backend(SERVICE, "10.0.1.15");
    after.add_backend(SERVICE, "10.0.1.16");
    after.apply();
    let given = ["10.0.1.15:80", "10.0.1.16:80"].map(|backend| after.backend_number(SERVICE, backend));
    assert!(given.contains(&number), "{given:?}");
}

#[test]
fn maps_of_other_sizes_are_taken_over_as_they_are() {
    let pins = Pins::new();
    let before = first(&pins);
    let flows = before.flows();
    let mut after = second(&pins, Sizes::new(100, 1000, 100_000, 100_000), &before);
    assert!(after.tables.taken_over());
    assert_eq!(after.tables.maps().sizes(), sizes());
    assert_eq!(after.flows(), flows);
    after.apply();
    assert_eq!(after.run(OUTSIDE, &tcp(CLIENT, VIP, ACK).bytes()).0, Action::Redirect);
}

#[test]
fn maps_of_another_version_are_replaced() {
    let pins = Pins::new();
    let mut before = first(&pins);
    before.control_set(|control| control.version += 1);
    let mut after = second(&pins, sizes(), &before);
    assert!(!after.tables.taken_over());
    assert!(after.flows().is_empty() && numbers(&after).is_empty());
    after.passes(OUTSIDE, &tcp(CLIENT, VIP, ACK).bytes(), Verdict::PassedNoService);
    after.apply();
    assert_eq!(after.run(OUTSIDE, &tcp(CLIENT, VIP, ACK).bytes()).0, Action::Redirect);
    // What is pinned now is the new daemon's.
    let third = second(&pins, sizes(), &after);
    assert!(third.tables.taken_over());
    assert_eq!(third.flows(), after.flows());
}

#[test]
fn maps_of_which_one_is_missing_are_replaced() {
    for missing in ["CONTROL", "FLOWS_V6", "EGRESS"] {
        let pins = Pins::new();
        let before = first(&pins);
        fs::remove_file(pins.path().join(missing)).unwrap();
        let after = second(&pins, sizes(), &before);
        assert!(!after.tables.taken_over(), "without {missing}");
        assert!(after.flows().is_empty());
    }
}

#[test]
fn a_directory_that_is_not_on_a_bpf_file_system_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let refused = Tables::open(Some(&directory.path().join("pins")), sizes(), Node::default());
    assert!(matches!(refused, Err(Error::NoBpffs(_))));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
