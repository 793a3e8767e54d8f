//! Flows: a connection stays with its backend for as long as it goes on and the backend exists.

use std::{collections::BTreeMap, net::SocketAddr, thread::sleep, time::Duration};

use lvx_dataplane::{Sizes, words};
use lvx_model::{Forward, Scheduler};
use lvx_test_kit::{
    frame::{ACK, Frame, RST, SYN, Transport, socket, tcp},
    network::{INSIDE, OUTSIDE, backend_mac, mac},
};
use xdp_common::{
    layout::{ClientId, FLOWS_PER_BUCKET},
    tcp_state::State,
    verdict::Verdict,
};

use crate::{
    balancer::{Action, Balancer},
    network,
};

/// Longer than a few jiffies on any kernel (10 ms at 100 Hz).
const TICKS: Duration = Duration::from_millis(40);

const SERVICE: &str = "tcp://10.9.9.9:80";

/// A service of one family and protocol with the same backends, by their host numbers.
struct Kind {
    service: &'static str,
    vip: &'static str,
    client: &'static str,
    backends: [&'static str; 5],
    transport: Transport,
}

const TCP: Transport = Transport::Tcp { flags: ACK };
const UDP: Transport = Transport::Udp { checksum: true };
const V4: [&str; 5] = ["10.0.1.11", "10.0.1.12", "10.0.1.13", "10.0.1.14", "10.0.1.15"];
const V6: [&str; 5] = [
    "2001:db8:1::b",
    "2001:db8:1::c",
    "2001:db8:1::d",
    "2001:db8:1::e",
    "2001:db8:1::f",
];

const fn v4(service: &'static str, transport: Transport) -> Kind {
    Kind {
        service,
        vip: "10.9.9.9:80",
        client: "10.7.0.1",
        backends: V4,
        transport,
    }
}

const fn v6(service: &'static str, transport: Transport) -> Kind {
    Kind {
        service,
        vip: "[2001:db8:9::9]:80",
        client: "2001:db8:7::1",
        backends: V6,
        transport,
    }
}

impl Kind {
    fn frame(&self, port: u16) -> Frame {
        let client = SocketAddr::new(self.client.parse().unwrap(), port);
        Frame::new(client, socket(self.vip), self.transport)
    }

    /// The backends that so many clients are with, by the clients' ports.
    fn hosts(&self, balancer: &mut Balancer) -> BTreeMap<u16, u8> {
        (20_000..20_060)
            .map(|port| (port, balancer.host(&self.frame(port))))
            .collect()
    }

    /// Whatever is done to its service, a flow stays where it is unless its backend is deleted.
    fn flows_stay(&self, forward: Forward, scheduler: Scheduler) {
        let mut balancer = Balancer::serving(self.service, forward, scheduler, &self.backends[..3]);
        let first = self.hosts(&mut balancer);
        assert!(
            (11..=13).all(|host| first.values().any(|there| *there == host)),
            "every backend has flows: {first:?}"
        );
        balancer.add_backend(self.service, self.backends[3]);
        balancer.apply();
        assert_eq!(self.hosts(&mut balancer), first, "a backend was added");
        balancer.drain(self.service, self.backends[0]);
        balancer.apply();
        assert_eq!(self.hosts(&mut balancer), first, "a backend drains");
        balancer.weigh(self.service, self.backends[1], 0);
        balancer.weigh(self.service, self.backends[2], 9);
        balancer.apply();
        assert_eq!(self.hosts(&mut balancer), first, "weights changed");
        for other in [Scheduler::Mh, Scheduler::Rr, Scheduler::Wrr] {
            balancer.schedule(self.service, other);
            balancer.apply();
            assert_eq!(self.hosts(&mut balancer), first, "the scheduler is {other}");
        }

        balancer.del_backend(self.service, self.backends[1]);
        balancer.apply();
        let second = self.hosts(&mut balancer);
        for (port, host) in &first {
            match host {
                12 => assert!([13, 14].contains(&second[port]), "port {port} is with {}", second[port]),
                _ => assert_eq!(second[port], *host, "port {port}"),
            }
        }
        balancer.add_backend(self.service, self.backends[1]);
        balancer.add_backend(self.service, self.backends[4]);
        balancer.apply();
        assert_eq!(self.hosts(&mut balancer), second, "a backend came back");
        balancer.sweep();
        assert_eq!(self.hosts(&mut balancer), second, "what was deleted is forgotten");
        assert_eq!(balancer.flows().len(), first.len());
    }
}

#[test]
fn an_ipv4_tcp_flow_stays_with_its_backend_whatever_changes_around_it() {
    for scheduler in [Scheduler::Rr, Scheduler::Wrr, Scheduler::Mh] {
        v4("tcp://10.9.9.9:80", TCP).flows_stay(Forward::Dr, scheduler);
    }
}

#[test]
fn an_ipv4_udp_flow_stays_with_its_backend_whatever_changes_around_it() {
    for scheduler in [Scheduler::Rr, Scheduler::Mh] {
        v4("udp://10.9.9.9:80", UDP).flows_stay(Forward::Nat, scheduler);
    }
}

#[test]
fn an_ipv6_tcp_flow_stays_with_its_backend_whatever_changes_around_it() {
    for scheduler in [Scheduler::Rr, Scheduler::Mh] {
        v6("tcp://[2001:db8:9::9]:80", TCP).flows_stay(Forward::Nat, scheduler);
    }
}

#[test]
fn an_ipv6_udp_flow_stays_with_its_backend_whatever_changes_around_it() {
    for scheduler in [Scheduler::Wrr, Scheduler::Mh] {
        v6("udp://[2001:db8:9::9]:80", UDP).flows_stay(Forward::Dr, scheduler);
    }
}

#[test]
fn one_client_port_may_have_flows_to_several_services_at_once() {
    let mut balancer = Balancer::new();
    let services = [
        "tcp://10.9.9.9:80",
        "udp://10.9.9.9:80",
        "tcp://10.9.9.9:81",
        "tcp://10.9.9.10:80",
    ];
    for (service, backend) in services.iter().zip(V4) {
        balancer.add(service, Forward::Nat, Scheduler::Rr, &[backend]);
    }
    balancer.apply();
    for _ in 0..2 {
        for (number, service) in services.iter().enumerate() {
            let (transport, vip) = service.split_once("://").unwrap();
            let transport = if transport == "tcp" { TCP } else { UDP };
            let frame = Frame::new(socket("10.7.0.1:40001"), socket(vip), transport);
            assert_eq!(usize::from(balancer.host(&frame)), 11 + number);
            // The answer finds the flow of this backend among the client's.
            let real = SocketAddr::new(V4[number].parse().unwrap(), socket(vip).port());
            let answer = Frame::new(real, frame.source, transport).macs(mac(INSIDE), backend_mac(real.ip()));
            let back = answer
                .clone()
                .translated_from(socket(vip))
                .macs(frame.from, mac(OUTSIDE));
            balancer.forwards(INSIDE, &answer, &back, Action::Redirect);
        }
    }
}

#[test]
fn two_services_that_share_a_nat_backend_get_their_own_answers() {
    let mut balancer = Balancer::new();
    balancer.add("tcp://10.9.9.9:80", Forward::Nat, Scheduler::Rr, &["10.0.1.11:8080"]);
    balancer.add("tcp://10.9.9.10:80", Forward::Nat, Scheduler::Rr, &["10.0.1.11:8080"]);
    balancer.apply();
    for (client, vip) in [("10.7.0.1:40001", "10.9.9.9:80"), ("10.7.0.1:40002", "10.9.9.10:80")] {
        let request = tcp(client, vip, SYN);
        balancer.host(&request);
        let answer = tcp("10.0.1.11:8080", client, SYN | ACK);
        let back = answer
            .clone()
            .translated_from(socket(vip))
            .macs(request.from, mac(OUTSIDE));
        balancer.forwards(INSIDE, &answer, &back, Action::Redirect);
    }
}

#[test]
fn a_flow_that_was_idle_for_too_long_is_scheduled_anew() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Dr, Scheduler::Rr, &V4[..3]);
    balancer.pace();
    let frame = tcp("10.7.0.1:40001", "10.9.9.9:80", ACK);
    assert_eq!(balancer.host(&frame), 11);
    sleep(TICKS * 2);
    assert_eq!(balancer.host(&frame), 11, "not for long enough");
    balancer.set_idle_timeout(State::Established, 1);
    sleep(TICKS * 2);
    assert_eq!(balancer.host(&frame), 12);
    assert_eq!(balancer.flows().len(), 1, "in the old one's place");
    assert_eq!(balancer.counters(SERVICE, "10.0.1.12:80").connections, 1);
}

#[test]
fn each_packet_of_a_flow_keeps_it_from_being_idle() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Nat, Scheduler::Rr, &V4[..3]);
    let hertz = balancer.control().hertz;
    balancer.pace();
    balancer.set_idle_timeout(State::Established, 2 * hertz);
    let frame = tcp("10.7.0.1:40001", "10.9.9.9:80", ACK);
    let answer = tcp("10.0.1.11:80", "10.7.0.1:40001", ACK);
    assert_eq!(balancer.host(&frame), 11);
    // Longer than the timeout by the client's packets alone, then by the backend's alone.
    for _ in 0..11 {
        sleep(Duration::from_millis(200));
        assert_eq!(balancer.host(&frame), 11);
    }
    for _ in 0..11 {
        sleep(Duration::from_millis(200));
        assert_eq!(balancer.run(INSIDE, &answer.bytes()).0, Action::Redirect);
    }
    assert_eq!(balancer.host(&frame), 11);
}

#[test]
fn a_sweep_forgets_what_was_idle_for_too_long_and_counts_the_rest() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Dr, Scheduler::Rr, &V4[..2]);
    balancer.add("udp://[2001:db8:9::9]:80", Forward::Dr, Scheduler::Rr, &V6[..1]);
    balancer.apply();
    for port in 0..4 {
        balancer.host(&tcp(&format!("10.7.0.1:{}", 40_001 + port), "10.9.9.9:80", ACK));
    }
    balancer.host(&tcp("10.7.0.2:40001", "10.9.9.9:80", SYN));
    balancer.host(&v6("", UDP).frame(40_001));
    let census = balancer.sweep();
    assert_eq!((census.v4, census.v6), (5, 1));
    let one = census.backends[&balancer.backend_number(SERVICE, "10.0.1.11:80")];
    assert_eq!((one.active, one.inactive), (2, 1));

    balancer.set_idle_timeout(State::SynReceived, 1);
    let census = balancer.sweep_after(Duration::from_secs(3));
    assert_eq!((census.v4, census.v6), (4, 1));
    assert_eq!(balancer.state(socket("10.7.0.2:40001")), None);
    assert_eq!(balancer.state(socket("10.7.0.1:40001")), Some(State::Established));
}

/// Clients of one bucket in the smallest table, which has room for one less than there are.
fn crowd(balancer: &Balancer, address: &str) -> Vec<SocketAddr> {
    let keys = balancer.control().keys;
    let sizes = balancer.tables.maps().sizes();
    let place = |client: &SocketAddr| {
        let port = client.port().to_be();
        match words::of(client.ip()) {
            words::Words::V4(address) => ClientId::v4(address, port, &keys).bucket(sizes.buckets_v4() - 1),
            words::Words::V6(address) => ClientId::v6(address, port, &keys).bucket(sizes.buckets_v6() - 1),
        }
    };
    (1024..=u16::MAX)
        .map(|port| SocketAddr::new(address.parse().unwrap(), port))
        .filter(|client| place(client) == 3)
        .take(FLOWS_PER_BUCKET + 1)
        .collect()
}

/// Both families with the smallest flow tables.
fn small() -> Balancer {
    let mut balancer = Balancer::with(None, Sizes::new(4, 8, 1, 1), network::enter());
    balancer.add("tcp://10.9.9.9:80", Forward::Nat, Scheduler::Rr, &V4[..1]);
    balancer.add("tcp://[2001:db8:9::9]:80", Forward::Nat, Scheduler::Rr, &V6[..1]);
    balancer.apply();
    balancer.pace();
    balancer
}

fn from(client: SocketAddr, flags: u8) -> Frame {
    let vip = if client.is_ipv4() {
        "10.9.9.9:80"
    } else {
        "[2001:db8:9::9]:80"
    };
    Frame::new(client, socket(vip), Transport::Tcp { flags })
}

#[test]
fn a_full_bucket_forgets_the_flow_that_was_idle_longest_and_counts_that() {
    for address in ["10.7.0.1", "2001:db8:7::1"] {
        let mut balancer = small();
        let clients = crowd(&balancer, address);
        for client in &clients[..FLOWS_PER_BUCKET] {
            let (_, _, counted) = balancer.judge(OUTSIDE, &from(*client, SYN).bytes());
            assert_eq!(counted, []);
            sleep(TICKS);
        }
        // The first is heard of again, so the second was idle longest.
        balancer.host(&from(clients[0], ACK));
        let (action, _, counted) = balancer.judge(OUTSIDE, &from(clients[FLOWS_PER_BUCKET], SYN).bytes());
        assert_eq!((action, counted), (Action::Redirect, vec![Verdict::FlowEvicted]));
        let there: Vec<SocketAddr> = balancer.flows().into_keys().collect();
        let mut expected = clients.clone();
        expected.remove(1);
        assert_eq!(there, expected);
    }
}

#[test]
fn a_full_bucket_forgets_a_flow_that_is_over_before_any_other_and_does_not_count_that() {
    let mut balancer = small();
    balancer.set_idle_timeout(State::Closed, 1);
    let clients = crowd(&balancer, "10.7.0.1");
    for client in &clients[..FLOWS_PER_BUCKET] {
        balancer.host(&from(*client, SYN));
    }
    balancer.host(&from(clients[5], ACK));
    balancer.host(&from(clients[5], RST));
    sleep(TICKS * 2);
    let (action, _, counted) = balancer.judge(OUTSIDE, &from(clients[FLOWS_PER_BUCKET], SYN).bytes());
    assert_eq!((action, counted), (Action::Redirect, vec![]));
    let there: Vec<SocketAddr> = balancer.flows().into_keys().collect();
    let mut expected = clients;
    expected.remove(5);
    assert_eq!(there, expected);
}

#[test]
fn the_flows_of_a_deleted_backend_vanish_before_its_number_is_given_out_again() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Dr, Scheduler::Rr, &V4[..2]);
    let clients: Vec<SocketAddr> = (0..10)
        .map(|port| SocketAddr::new([10, 7, 0, 1].into(), 40_000 + port))
        .collect();
    for client in &clients {
        balancer.host(&from(*client, ACK));
    }
    let number = balancer.backend_number(SERVICE, "10.0.1.12:80");
    let of = |balancer: &Balancer| {
        let flows = balancer.flows();
        flows.values().filter(|flow| flow.backend == number).count()
    };
    balancer.del_backend(SERVICE, "10.0.1.12");
    balancer.apply();
    assert_eq!(of(&balancer), 5, "not forgotten yet");
    balancer.add_backend(SERVICE, "10.0.1.13");
    balancer.apply();
    assert_ne!(balancer.backend_number(SERVICE, "10.0.1.13:80"), number);

    balancer.sweep();
    assert_eq!(of(&balancer), 0);
    assert_eq!(balancer.flows().len(), 5, "the others' flows stay");
    balancer.add_backend(SERVICE, "10.0.1.14");
    balancer.apply();
    assert_eq!(balancer.backend_number(SERVICE, "10.0.1.14:80"), number);
    assert_eq!(
        balancer.counters(SERVICE, "10.0.1.14:80").packets_in,
        0,
        "counted from 0"
    );
}

#[test]
fn the_flows_of_a_deleted_service_vanish_and_its_number_starts_afresh() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Nat, Scheduler::Rr, &V4[..1]);
    balancer.add("tcp://10.9.9.9:81", Forward::Nat, Scheduler::Rr, &V4[..1]);
    balancer.apply();
    let client = socket("10.7.0.1:40001");
    let mut other = from(client, ACK);
    other.destination.set_port(81);
    balancer.host(&from(client, ACK));
    balancer.host(&other);
    let number = balancer.service_number(SERVICE);
    balancer.desired.del_service(SERVICE.parse().unwrap()).unwrap();
    balancer.apply();
    balancer.sweep();
    let flows: Vec<u32> = balancer.flows().into_values().map(|flow| flow.backend).collect();
    assert_eq!(flows, [balancer.backend_number("tcp://10.9.9.9:81", "10.0.1.11:81")]);
    balancer.add("tcp://10.9.9.10:80", Forward::Nat, Scheduler::Rr, &V4[1..2]);
    balancer.apply();
    assert_eq!(balancer.service_number("tcp://10.9.9.10:80"), number);
    assert_eq!(balancer.host(&tcp("10.7.0.1:40001", "10.9.9.10:80", ACK)), 12);
}
