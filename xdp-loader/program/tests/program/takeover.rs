//! Maps that are pinned outlive the daemon: the next one takes over the numbers, the flows and the services.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use lvx_dataplane::{Error, Node, Sizes, Tables, generation::Generation};
use lvx_model::{Forward, Scheduler, settings::XdpMode};
use lvx_test_kit::{
    frame::{ACK, Frame, SYN, tcp},
    network::{INSIDE, OUTSIDE},
};
use xdp_common::verdict::Verdict;

use crate::{
    balancer::{Action, Balancer, sizes},
    network,
};

pub const SERVICE: &str = "tcp://10.9.9.9:80";
const OTHER: &str = "tcp://[2001:db8:9::9]:80";
pub const CLIENT: &str = "10.7.0.1:40001";
pub const VIP: &str = "10.9.9.9:80";

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
pub fn first(pins: &Pins) -> Balancer {
    let mut balancer = Balancer::with(Some(pins.path()), sizes(), network::enter());
    assert!(balancer.tables.predecessor().is_none());
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
    take_over(&mut balancer, pins);
    balancer.host(&tcp(CLIENT, VIP, SYN));
    balancer.host(&tcp(CLIENT, VIP, ACK));
    balancer.host(&tcp("[2001:db8:7::1]:40001", "[2001:db8:9::9]:80", ACK));
    balancer
}

/// The daemon after that one, which knows what was desired and where backends are, and has not taken over yet.
pub fn second(pins: &Pins, sizes: Sizes, before: &Balancer) -> Balancer {
    let mut balancer = Balancer::with(Some(pins.path()), sizes, before.links.clone());
    balancer.desired = before.desired.clone();
    balancer.hops = before.hops.clone();
    balancer.apply();
    balancer
}

/// Takes over, without an interface: the tests run the program themselves.
pub fn take_over(balancer: &mut Balancer, pins: &Pins) {
    let attached = balancer.tables.take_over(pins.path(), &[], XdpMode::Auto).unwrap();
    assert!(attached.is_empty());
}

/// All numbers of services and backends.
pub fn numbers(balancer: &Balancer) -> Vec<(String, u32)> {
    let names = balancer.tables.ids();
    let services = names
        .services
        .iter()
        .map(|(service, number)| (service.to_string(), number));
    let backends = names.backends.iter().map(|(key, number)| (format!("{key:?}"), number));
    services.chain(backends).collect()
}

/// The directories of generations.
pub fn generations(pins: &Pins) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(pins.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Flows of many clients to both services: whom each is with.
pub fn populate(balancer: &mut Balancer) -> Vec<(Frame, u8)> {
    (0..100)
        .flat_map(|port| {
            let v4 = format!("10.7.1.1:{}", 20_000 + port);
            let v6 = format!("[2001:db8:7::2]:{}", 20_000 + port);
            [(v4, VIP), (v6, "[2001:db8:9::9]:80")]
        })
        .map(|(client, vip)| {
            let host = balancer.host(&tcp(&client, vip, SYN));
            (tcp(&client, vip, ACK), host)
        })
        .collect()
}

#[test]
fn numbers_flows_services_and_counters_survive_a_new_daemon() {
    let pins = Pins::new();
    let mut before = first(&pins);
    let known = populate(&mut before);
    let (names, flows) = (numbers(&before), before.flows());
    let control = before.control();
    let counted = before.counters(SERVICE, "10.0.1.11:8080");
    let verdicts = before.verdicts(OUTSIDE);
    let saved = (before.links.clone(), before.desired.clone(), before.hops.clone());
    drop(before.tables);

    let mut after = Balancer::with(Some(pins.path()), sizes(), saved.0);
    (after.desired, after.hops) = (saved.1, saved.2);
    after.apply();
    assert!(after.tables.shared().contains("FLOWS_V4"));
    take_over(&mut after, &pins);
    assert_eq!((numbers(&after), after.flows()), (names, flows));
    assert_eq!(
        (after.control().keys, after.control().tick),
        (control.keys, control.tick)
    );
    assert_eq!(after.counters(SERVICE, "10.0.1.11:8080"), counted);
    assert_eq!(after.verdicts(OUTSIDE), verdicts);
    for (frame, host) in &known {
        assert_eq!(after.host(frame), *host);
    }
    let answer = tcp("10.0.1.11:8080", CLIENT, ACK);
    assert_eq!(after.run(INSIDE, &answer.bytes()).0, Action::Redirect);
    assert_eq!(generations(&pins), ["generation_2"]);
}

#[test]
fn a_daemon_that_died_when_its_maps_were_pinned_is_no_predecessor() {
    let pins = Pins::new();
    let mut before = first(&pins);
    let known = populate(&mut before);
    let all = Generation::all(pins.path()).unwrap();
    let generation = Generation::next(pins.path(), &all).unwrap();
    let cpus = before.tables.maps().cpus();
    // Killed: nothing of it is cleaned up.
    std::mem::forget(lvx_dataplane::open::open(lvx_program::LVX, Some(&generation), None, sizes(), cpus).unwrap());
    let mut third = second(&pins, sizes(), &before);
    assert!(third.tables.shared().contains("FLOWS_V4"));
    take_over(&mut third, &pins);
    for (frame, host) in &known {
        assert_eq!(third.host(frame), *host);
    }
    assert_eq!(generations(&pins), ["generation_3"]);
}

#[test]
fn a_number_that_flows_may_know_is_not_given_again_though_it_was_the_highest() {
    let pins = Pins::new();
    let mut before = first(&pins);
    before.add_backend(SERVICE, "10.0.1.14");
    before.apply();
    let number = before.backend_number(SERVICE, "10.0.1.14:80");
    before.del_backend(SERVICE, "10.0.1.14:80");
    before.apply();
    let mut after = second(&pins, sizes(), &before);
    take_over(&mut after, &pins);
    after.add_backend(SERVICE, "10.0.1.15");
    after.apply();
    assert!(after.backend_number(SERVICE, "10.0.1.15:80") > number);
}

#[test]
fn flows_go_on_by_the_next_hops_of_before_until_they_are_known_anew() {
    let pins = Pins::new();
    let mut before = first(&pins);
    let (frame, host) = populate(&mut before).swap_remove(0);
    let mut after = Balancer::with(Some(pins.path()), sizes(), before.links.clone());
    after.desired = before.desired.clone();
    for backend in ["10.0.1.11", "10.0.1.12"] {
        after.lose(backend);
    }
    after.apply();
    take_over(&mut after, &pins);
    assert_eq!(after.host(&frame), host);
    after.drops(OUTSIDE, &tcp("10.7.0.99:1", VIP, SYN), Verdict::DroppedNoBackend);
    after.hops = before.hops.clone();
    after.apply();
    after.lose("10.0.1.11");
    after.lose("10.0.1.12");
    after.apply();
    after.drops(OUTSIDE, &frame, Verdict::DroppedNoNextHop);
}

#[test]
fn a_successor_that_is_given_up_leaves_its_predecessor_as_it_was() {
    let pins = Pins::new();
    let mut before = first(&pins);
    let known = populate(&mut before);
    let after = second(&pins, sizes(), &before);
    assert_eq!(generations(&pins), ["generation_1", "generation_2"]);
    drop(after);
    assert_eq!(generations(&pins), ["generation_1"]);
    for (frame, host) in &known {
        assert_eq!(before.host(frame), *host);
    }
    let mut third = second(&pins, sizes(), &before);
    take_over(&mut third, &pins);
    for (frame, host) in &known {
        assert_eq!(third.host(frame), *host);
    }
}

#[test]
fn a_successor_that_died_before_it_took_over_is_no_predecessor() {
    let pins = Pins::new();
    let mut before = first(&pins);
    let known = populate(&mut before);
    // Killed: nothing of it is cleaned up.
    std::mem::forget(second(&pins, sizes(), &before));
    let mut third = second(&pins, sizes(), &before);
    take_over(&mut third, &pins);
    assert_eq!(generations(&pins), ["generation_3"]);
    for (frame, host) in &known {
        assert_eq!(third.host(frame), *host);
    }
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
    take_over(&mut after, &pins);
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
fn what_versions_before_generations_had_pinned_is_removed() {
    let pins = Pins::new();
    let before = first(&pins);
    let generation = pins.path().join("generation_1");
    fs::rename(generation.join("FLOWS_V4"), pins.path().join("FLOWS_V4")).unwrap();
    fs::rename(generation.join("CONTROL"), pins.path().join("CONTROL")).unwrap();
    fs::remove_dir_all(generation).unwrap();
    let mut after = second(&pins, sizes(), &before);
    assert!(after.tables.predecessor().is_none());
    take_over(&mut after, &pins);
    assert_eq!(generations(&pins), ["generation_1"]);
}

#[test]
fn a_pin_that_somebody_has_removed_is_put_back_and_nothing_is_lost() {
    for missing in [
        "CONTROL",
        "BACKENDS",
        "FLOWS_V6",
        "CLIENTS_V6",
        "TAIL_CALLS",
        "SUCCESSOR",
        "program_lvx",
        "program_lvx_find",
        "program_lvx_tell",
    ] {
        let pins = Pins::new();
        let mut before = first(&pins);
        let host = before.host(&tcp(CLIENT, VIP, ACK));
        fs::remove_file(pins.path().join("generation_1").join(missing)).unwrap();
        let mut after = second(&pins, sizes(), &before);
        assert!(after.tables.predecessor().is_some(), "without {missing}");
        take_over(&mut after, &pins);
        assert_eq!(after.flows(), before.flows(), "without {missing}");
        assert_eq!(after.host(&tcp(CLIENT, VIP, ACK)), host, "without {missing}");
    }
}

#[test]
fn a_directory_that_is_not_on_a_bpf_file_system_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let refused = Tables::open(
        lvx_program::LVX,
        Some(&directory.path().join("pins")),
        sizes(),
        Node::default(),
    );
    assert!(matches!(refused, Err(Error::NoBpffs(_))));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
