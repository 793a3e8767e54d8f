//! Persistence: a client's new connections go where its last ones went.

use std::{net::SocketAddr, ops::ControlFlow, thread::sleep, time::Duration};

use lvx_dataplane::{Node, Sizes, flow::Flow, flows};
use lvx_model::{Forward, HashBy, Period, Scheduler, ServiceChange};
use lvx_test_kit::{
    frame::{ACK, Frame, RST, SYN, Transport, socket, tcp, udp},
    network::{INSIDE, OUTSIDE},
};
use xdp_common::tcp_state::State;

use crate::balancer::{Action, Balancer};

const TICKS: Duration = Duration::from_millis(40);
const HTTP: &str = "tcp://10.9.9.9:80";
const HTTPS: &str = "tcp://10.9.9.9:443";
const V6: &str = "tcp://[2001:db8:9::9]:80";
const HOSTS: [&str; 3] = ["10.0.1.11", "10.0.1.12", "10.0.1.13"];
const HOSTS_V6: [&str; 3] = ["2001:db8:1::b", "2001:db8:1::c", "2001:db8:1::d"];

fn persist(balancer: &mut Balancer, service: &str, seconds: u64, netmask: Option<u8>, mark: Option<u32>) {
    let change = ServiceChange {
        persistence: Some(Period::from_millis(seconds * 1000)),
        netmask: netmask.map(Some),
        mark,
        ..ServiceChange::default()
    };
    balancer.set(service, &change);
}

/// A service whose clients persist, with three backends in turn.
fn serving(service: &str, netmask: Option<u8>) -> Balancer {
    let mut balancer = Balancer::new();
    let hosts = if service == V6 { HOSTS_V6 } else { HOSTS };
    balancer.add(service, Forward::Nat, Scheduler::Rr, &hosts);
    persist(&mut balancer, service, 300, netmask, None);
    balancer.apply();
    balancer
}

fn syn(client: &str, service: &str) -> Frame {
    let (transport, vip) = service.split_once("://").unwrap();
    match transport {
        "tcp" => tcp(client, vip, SYN),
        _ => udp(client, vip),
    }
}

fn templates(balancer: &Balancer) -> Vec<Flow> {
    let mut found = Vec::new();
    flows::list(balancer.tables.maps(), |flow| {
        found.extend(flow.is_template().then_some(flow));
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

/// Makes templates of these backends idle for too long, from now to the next change: the node's timeouts say nothing of them.
fn expire(balancer: &Balancer) {
    let timeouts = balancer.tables.maps().timeouts.whole().unwrap();
    for place in 0..timeouts.len() {
        let mut idle = timeouts.read(place);
        idle[State::Template as usize] = 1;
        timeouts.write(place, &idle);
    }
}

#[test]
fn a_client_meets_the_same_backend_from_every_port_and_other_clients_take_turns() {
    for (service, clients) in [
        (HTTP, ["10.7.0.1", "10.7.0.2", "10.7.0.3", "10.7.0.4"]),
        ("udp://10.9.9.9:80", ["10.7.0.1", "10.7.0.2", "10.7.0.3", "10.7.0.4"]),
        (
            V6,
            [
                "[2001:db8:7::1]",
                "[2001:db8:7::2]",
                "[2001:db8:7::3]",
                "[2001:db8:8::1]",
            ],
        ),
    ] {
        let mut balancer = serving(service, None);
        for (client, host) in clients.iter().zip([11, 12, 13, 11]) {
            for port in 40_000..40_005 {
                let chosen = balancer.host(&syn(&format!("{client}:{port}"), service));
                assert_eq!(chosen, host, "{client}");
            }
        }
        for client in clients {
            balancer.host(&syn(&format!("{client}:50000"), service));
        }
        assert_eq!(templates(&balancer).len(), 4);
    }
}

#[test]
fn clients_of_one_network_are_one_client_under_its_netmask() {
    for (service, netmask, same, other) in [
        (HTTP, 24, ["10.7.1.1", "10.7.1.255"], "10.7.2.1"),
        (HTTP, 9, ["10.127.1.1", "10.0.0.1"], "10.128.0.1"),
        (HTTP, 31, ["10.7.0.2", "10.7.0.3"], "10.7.0.4"),
        (
            V6,
            64,
            ["[2001:db8:7::1]", "[2001:db8:7:0:ffff::1]"],
            "[2001:db8:7:1::1]",
        ),
        (V6, 48, ["[2001:db8:7::1]", "[2001:db8:7:ffff::1]"], "[2001:db8:8::1]"),
        (V6, 1, ["[2001:db8:7::1]", "[7fff::1]"], "[fc00::1]"),
        (V6, 127, ["[2001:db8:7::2]", "[2001:db8:7::3]"], "[2001:db8:7::1]"),
        (
            V6,
            65,
            ["[2001:db8:7::1]", "[2001:db8:7:0:7fff::1]"],
            "[2001:db8:7:0:8000::1]",
        ),
    ] {
        let mut balancer = serving(service, Some(netmask));
        let [one, two] = same.map(|client| balancer.host(&syn(&format!("{client}:40000"), service)));
        assert_eq!(one, two, "/{netmask}");
        assert_ne!(
            balancer.host(&syn(&format!("{other}:40000"), service)),
            one,
            "/{netmask}"
        );
        assert_eq!(templates(&balancer).len(), 2);
    }
}

#[test]
fn services_of_one_mark_send_a_client_to_one_backend_address() {
    let mut balancer = Balancer::new();
    balancer.add(HTTP, Forward::Nat, Scheduler::Rr, &HOSTS);
    balancer.add(
        HTTPS,
        Forward::Nat,
        Scheduler::Rr,
        &["10.0.1.10:8443", "10.0.1.12:8443", "10.0.1.13:8443", "10.0.1.11:8443"],
    );
    balancer.add("udp://10.9.9.9:443", Forward::Nat, Scheduler::Rr, &HOSTS[1..]);
    for service in [HTTP, HTTPS, "udp://10.9.9.9:443"] {
        persist(&mut balancer, service, 300, None, Some(7));
    }
    balancer.apply();
    for (client, host) in [("10.7.0.1", 11), ("10.7.0.2", 12), ("10.7.0.3", 13)] {
        assert_eq!(balancer.host(&syn(&format!("{client}:40000"), HTTP)), host);
        for port in 40_001..40_004 {
            assert_eq!(balancer.host(&syn(&format!("{client}:{port}"), HTTPS)), host);
        }
    }
    // The host does not serve there: the client is scheduled anew, and stays with whom it got.
    let quic = "udp://10.9.9.9:443";
    assert_eq!(balancer.host(&syn("10.7.0.2:40000", quic)), 12);
    let chosen = balancer.host(&syn("10.7.0.1:40000", quic));
    assert_ne!(chosen, 11);
    assert_eq!(
        balancer.host(&syn("10.7.0.1:40010", HTTP)),
        chosen,
        "its last connection went there"
    );
    assert_eq!(balancer.host(&syn("10.7.0.1:40011", HTTPS)), chosen);
}

#[test]
fn a_backend_that_takes_no_new_connections_releases_its_clients_and_keeps_their_connections() {
    type Quiesce = fn(&mut Balancer);
    let quiesced: [Quiesce; 4] = [
        |balancer| balancer.drain(HTTP, HOSTS[0]),
        |balancer| balancer.weigh(HTTP, HOSTS[0], 0),
        |balancer| balancer.lose(HOSTS[0]),
        |balancer| balancer.is_up(HTTP, "10.0.1.11:80", false),
    ];
    for (number, quiesce) in quiesced.into_iter().enumerate() {
        let mut balancer = serving(HTTP, None);
        balancer.pace();
        assert_eq!(balancer.host(&syn("10.7.0.1:40000", HTTP)), 11);
        quiesce(&mut balancer);
        balancer.apply();
        balancer.pace();
        let released = balancer.host(&syn("10.7.0.1:40001", HTTP));
        assert_ne!(released, 11, "quiesced by number {number}");
        assert_eq!(
            balancer.host(&syn("10.7.0.1:40002", HTTP)),
            released,
            "it persists there now"
        );
        if number < 2 {
            assert_eq!(balancer.host(&tcp("10.7.0.1:40000", "10.9.9.9:80", ACK)), 11);
            // The old connection's packets do not bring the template back.
            sleep(TICKS);
            assert_eq!(balancer.host(&tcp("10.7.0.1:40000", "10.9.9.9:80", ACK)), 11);
            assert_eq!(balancer.host(&syn("10.7.0.1:40003", HTTP)), released);
        }
    }
}

#[test]
fn a_deleted_backend_s_templates_are_forgotten_with_its_flows() {
    let mut balancer = serving(HTTP, None);
    assert_eq!(balancer.host(&syn("10.7.0.1:40000", HTTP)), 11);
    assert_eq!(balancer.host(&syn("10.7.0.2:40000", HTTP)), 12);
    balancer.del_backend(HTTP, HOSTS[0]);
    balancer.apply();
    balancer.sweep();
    assert_eq!(templates(&balancer).len(), 1);
    assert_ne!(balancer.host(&syn("10.7.0.1:40001", HTTP)), 11);
}

#[test]
fn a_template_is_over_when_its_client_was_gone_for_the_time_of_persistence() {
    let mut balancer = serving(HTTP, None);
    balancer.pace();
    assert_eq!(balancer.host(&syn("10.7.0.1:40000", HTTP)), 11);
    expire(&balancer);
    sleep(TICKS);
    assert_eq!(balancer.host(&syn("10.7.0.1:40001", HTTP)), 12, "scheduled anew");
    assert_eq!(templates(&balancer).len(), 1, "in the old one's place");
    sleep(TICKS);
    balancer.sweep();
    assert_eq!(templates(&balancer), [], "a sweep forgets it");
    assert_eq!(balancer.flows().len(), 2, "and not the connections");
}

#[test]
fn the_time_of_persistence_is_each_service_s_own() {
    let mut balancer = Balancer::new();
    let services = [HTTP, HTTPS];
    for (service, seconds) in services.into_iter().zip([1, 300]) {
        balancer.add(service, Forward::Nat, Scheduler::Rr, &HOSTS);
        persist(&mut balancer, service, seconds, None, None);
    }
    balancer.apply();
    for service in services {
        assert_eq!(balancer.host(&syn("10.7.0.1:40000", service)), 11);
    }
    sleep(Duration::from_millis(1500));
    assert_eq!(balancer.host(&syn("10.7.0.1:40001", HTTP)), 12);
    assert_eq!(balancer.host(&syn("10.7.0.1:40001", HTTPS)), 11);
}

#[test]
fn a_connection_that_goes_on_keeps_its_client_s_template() {
    let mut balancer = serving(HTTP, None);
    balancer.pace();
    assert_eq!(balancer.host(&syn("10.7.0.1:40000", HTTP)), 11);
    let before = templates(&balancer)[0].seen;
    sleep(TICKS);
    assert_eq!(balancer.host(&tcp("10.7.0.1:40000", "10.9.9.9:80", ACK)), 11);
    let flow = balancer.flows()[&socket("10.7.0.1:40000")];
    let template = templates(&balancer)[0];
    assert_ne!(template.seen, before);
    assert!(flow.seen.0.abs_diff(template.seen.0) <= 1, "{flow:?} {template:?}");
}

#[test]
fn templates_are_no_connections_and_no_flows_of_a_service() {
    for service in [HTTP, V6] {
        let mut balancer = Balancer::new();
        let (hosts, client) = match service {
            HTTP => (HOSTS, "10.7.0.1"),
            _ => (HOSTS_V6, "[2001:db8:7::1]"),
        };
        balancer.add(service, Forward::Nat, Scheduler::Wlc, &hosts);
        persist(&mut balancer, service, 300, None, None);
        balancer.apply();
        let real = SocketAddr::new(hosts[0].parse().unwrap(), 80).to_string();
        for port in [40_000, 40_001] {
            balancer.host(&syn(&format!("{client}:{port}"), service));
        }
        assert_eq!(balancer.load(service, &real), (2, 0, false));
        let census = balancer.sweep();
        assert_eq!(balancer.load(service, &real), (2, 0, false));
        assert_eq!(census.v4 + census.v6, 2);
        let number = balancer.backend_number(service, &real);
        assert_eq!((census.backends[&number].inactive, census.backends.len()), (2, 1));
        assert_eq!(balancer.counters(service, &real).connections, 2);
        let [template] = templates(&balancer)[..] else {
            panic!("one template")
        };
        assert_eq!(template.state, State::Template);
        assert_eq!(template.backend, number);
        // The template's place is taken by its expiry, not by connections.
        expire(&balancer);
        balancer.sweep_after(Duration::from_secs(3));
        assert_eq!(balancer.load(service, &real), (2, 0, false));
    }
}

#[test]
fn a_client_without_a_port_is_told_from_its_template() {
    for service in [HTTP, V6] {
        let mut balancer = serving(service, None);
        let client = if service == V6 {
            "[2001:db8:7::1]:0"
        } else {
            "10.7.0.1:0"
        };
        let (_, vip) = service.split_once("://").unwrap();
        let host = balancer.host(&syn(client, service));
        assert_eq!(balancer.host(&tcp(client, vip, ACK)), host);
        let group = balancer.service_entry(service).group as u16;
        let mut as_the_template = socket(client);
        as_the_template.set_port(group);
        let frame = Frame::new(as_the_template, socket(vip), Transport::Tcp { flags: SYN });
        assert_eq!(balancer.host(&frame), host);
        // A key of the template's port in the order of the wire.
        as_the_template.set_port(group.swap_bytes());
        let frame = Frame::new(as_the_template, socket(vip), Transport::Tcp { flags: RST });
        assert_eq!(balancer.host(&frame), host);
        let [template] = templates(&balancer)[..] else {
            panic!("one template")
        };
        assert_eq!(template.state, State::Template);
        // What a backend sends to that port belongs to the connection, never to the template.
        let real = if service == V6 { HOSTS_V6[0] } else { HOSTS[0] };
        let real = SocketAddr::new(real.parse().unwrap(), 80);
        let answer = Frame::new(real, as_the_template, Transport::Tcp { flags: ACK });
        assert!(matches!(balancer.run(INSIDE, &answer.bytes()).0, Action::Redirect));
    }
}

#[test]
fn persistence_holds_over_hashing_and_through_a_full_table() {
    let mut balancer = Balancer::on(Sizes::new(4, 8, 1, 1), Node::default());
    balancer.add(HTTP, Forward::Dr, Scheduler::Mh, &HOSTS);
    let change = ServiceChange {
        hash: Some(Some(HashBy::SourcePort)),
        ..ServiceChange::default()
    };
    balancer.set(HTTP, &change);
    persist(&mut balancer, HTTP, 300, None, None);
    balancer.apply();
    balancer.pace();
    let host = balancer.host(&syn("10.7.0.1:1024", HTTP));
    let mut evicted = 0;
    for port in 1025..1400 {
        if port % 4 == 0 {
            // A jiffy, so that there is a longest.
            sleep(Duration::from_millis(10));
        }
        let (_, after, counted) = balancer.judge(OUTSIDE, &syn(&format!("10.7.0.1:{port}"), HTTP).bytes());
        assert_eq!(
            after[5], host,
            "the template is renewed with each connection, and so never idle longest"
        );
        evicted += counted.len();
    }
    let there = balancer.flows().len();
    assert_eq!(evicted, 377 - there, "each flow that was forgotten was counted");

    // Each client has a template of its own now: those that others had to go for are counted too.
    let mut balancer = Balancer::on(Sizes::new(4, 8, 1, 1), Node::default());
    balancer.add(HTTP, Forward::Dr, Scheduler::Rr, &HOSTS);
    persist(&mut balancer, HTTP, 300, None, None);
    balancer.apply();
    let mut evicted = 0;
    for host in 0..=255 {
        let (_, _, counted) = balancer.judge(OUTSIDE, &syn(&format!("10.7.0.{host}:1024"), HTTP).bytes());
        evicted += counted.len();
    }
    assert_eq!(evicted, 512 - balancer.flows().len());
}
