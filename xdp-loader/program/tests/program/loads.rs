//! The connections that packets count for schedulers and thresholds: what the flow table says, at every step.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use lvx_dataplane::{Node, Sizes};
use lvx_model::{BackendChange, Forward, Scheduler};
use lvx_test_kit::{
    frame::{ACK, FIN, Frame, RST, SYN, Transport, socket, tcp, udp},
    network::INSIDE,
    random::Random,
};
use xdp_common::{layout::Connections, tcp_state::State};

use crate::balancer::{Action, Balancer};

const SERVICE: &str = "tcp://10.9.9.9:80";
const SERVICE_V6: &str = "tcp://[2001:db8:9::9]:80";
const V4: [&str; 3] = ["10.0.1.11", "10.0.1.12", "10.0.1.13"];
const V6: [&str; 3] = ["2001:db8:1::11", "2001:db8:1::12", "2001:db8:1::13"];

/// Active and inactive connections by backend, as the entries of the flow table say.
fn truth(balancer: &Balancer) -> BTreeMap<u32, (u32, u32)> {
    let mut there = BTreeMap::new();
    for flow in balancer.flows().values().filter(|flow| !flow.is_template()) {
        let (active, inactive) = there.entry(flow.backend).or_insert((0, 0));
        match flow.state {
            State::SynReceived | State::Established | State::Udp => *active += 1,
            _ => *inactive += 1,
        }
    }
    there
}

#[track_caller]
fn assert_counted(balancer: &Balancer, when: &str) {
    let truth = truth(balancer);
    let all = balancer.tables.maps().connections.whole().unwrap();
    for (_, number) in balancer.tables.ids().backends.iter() {
        let count = all.read(number as usize).word;
        let counted = (Connections::active(count), Connections::inactive(count));
        assert_eq!(counted, truth.get(&number).copied().unwrap_or_default(), "{when}");
    }
}

/// Two services in the smallest flow table that there can be.
fn crowded() -> Balancer {
    let mut balancer = Balancer::on(Sizes::new(4, 8, 1, 1), Node::default());
    balancer.add(SERVICE, Forward::Nat, Scheduler::Wlc, &V4);
    balancer.add(SERVICE_V6, Forward::Nat, Scheduler::Wlc, &V6);
    balancer.apply();
    balancer
}

#[test]
fn packets_count_what_the_table_holds_even_where_flows_are_forgotten_for_others() {
    let mut balancer = crowded();
    let mut random = Random::new(3);
    for step in 0..12_000 {
        // Far more clients than places, some of them again and again.
        let port = 1024 + random.below(3600) as u16;
        let (client, vip, reals) = match random.happens(50) {
            true => ([10, 7, 0, 1].into(), "10.9.9.9:80", V4),
            false => ([0x2001, 0xdb8, 7, 0, 0, 0, 0, 1].into(), "[2001:db8:9::9]:80", V6),
        };
        let client = SocketAddr::new(client, port);
        let flags = random.one(&[SYN, SYN, ACK, FIN | ACK, RST]);
        let transport = Transport::Tcp { flags };
        balancer.host(&Frame::new(client, socket(vip), transport));
        if random.happens(30) {
            let real = SocketAddr::new(random.one(&reals).parse().unwrap(), 80);
            balancer.run(INSIDE, &Frame::new(real, client, transport).bytes());
        }
        if step % 12 == 0 {
            assert_counted(&balancer, &format!("step {step}"));
        }
        if step % 2000 == 0 {
            balancer.sweep();
            assert_counted(&balancer, "after a sweep");
        }
    }
    let sizes = balancer.tables.maps().sizes();
    let all = (sizes.flows_v4 + sizes.flows_v6) as usize;
    assert_eq!(balancer.flows().len(), all, "the tables are full");
}

#[test]
fn each_step_of_a_connection_is_counted_at_once() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Nat, Scheduler::Lc, &V4[..1]);
    let (client, real) = ("10.7.0.1:40001", "10.0.1.11:80");
    for (number, (by_client, flags, expected)) in [
        (true, SYN, (1, 0)),
        (false, SYN | ACK, (1, 0)),
        (true, ACK, (1, 0)),
        (true, FIN | ACK, (0, 1)),
        (false, ACK, (0, 1)),
        (false, FIN | ACK, (0, 1)),
        (true, SYN, (1, 0)),
        (false, RST | ACK, (0, 1)),
        (true, SYN, (1, 0)),
        (true, ACK, (1, 0)),
        (true, RST, (0, 1)),
    ]
    .into_iter()
    .enumerate()
    {
        if by_client {
            balancer.host(&tcp(client, "10.9.9.9:80", flags));
        } else {
            balancer.run(INSIDE, &tcp(real, client, flags).bytes());
        }
        let (active, inactive, _) = balancer.load(SERVICE, real);
        assert_eq!((active, inactive), expected, "after packet {number}");
    }
}

#[test]
fn a_port_that_is_used_again_counts_for_its_new_backend_only() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Nat, Scheduler::Sed, &V4[..2]);
    let client = |flags| tcp("10.7.0.1:40001", "10.9.9.9:80", flags);
    assert_eq!(balancer.host(&client(SYN)), 11);
    balancer.host(&client(ACK));
    balancer.host(&client(FIN | ACK).payload(b""));
    let answer = tcp("10.0.1.11:80", "10.7.0.1:40001", FIN | ACK).payload(b"");
    assert_eq!(balancer.run(INSIDE, &answer.bytes()).0, Action::Redirect);
    assert_eq!(balancer.load(SERVICE, "10.0.1.11:80"), (0, 1, false));
    // Another active connection, so that the port's next one goes to the other.
    assert_eq!(balancer.host(&tcp("10.7.0.2:40001", "10.9.9.9:80", SYN)), 11);
    assert_eq!(balancer.host(&client(SYN)), 12);
    assert_eq!(balancer.load(SERVICE, "10.0.1.11:80"), (1, 0, false));
    assert_eq!(balancer.load(SERVICE, "10.0.1.12:80"), (1, 0, false));
}

#[test]
fn a_sweep_takes_what_was_idle_for_too_long_from_the_counts() {
    let mut balancer = Balancer::serving("udp://10.9.9.9:80", Forward::Dr, Scheduler::Wlc, &V4[..2]);
    for port in 0..10 {
        balancer.host(&udp(&format!("10.7.0.1:{}", 40_000 + port), "10.9.9.9:80"));
    }
    for real in ["10.0.1.11:80", "10.0.1.12:80"] {
        assert_eq!(balancer.load("udp://10.9.9.9:80", real), (5, 0, false));
    }
    balancer.set_idle_timeout(State::Udp, 1);
    balancer.sweep_after(Duration::from_secs(3));
    for real in ["10.0.1.11:80", "10.0.1.12:80"] {
        assert_eq!(balancer.load("udp://10.9.9.9:80", real), (0, 0, false));
    }
}

#[test]
fn a_sweep_sets_wrong_counts_right_and_with_them_who_is_overloaded() {
    for (service, backends, client) in [(SERVICE, V4, "10.7.0.1"), (SERVICE_V6, V6, "[2001:db8:7::1]")] {
        let mut balancer = Balancer::serving(service, Forward::Nat, Scheduler::Lc, &backends);
        let (_, vip) = service.split_once("://").unwrap();
        let limit = BackendChange {
            upper: Some(2),
            ..BackendChange::default()
        };
        for backend in backends {
            balancer.set_backend(service, backend, &limit);
        }
        balancer.apply();
        for port in 0..4 {
            balancer.host(&tcp(&format!("{client}:{}", 40_000 + port), vip, SYN));
        }
        balancer.host(&tcp(&format!("{client}:40001"), vip, FIN | ACK));
        let reals = backends.map(|backend| SocketAddr::new(backend.parse().unwrap(), 80).to_string());
        let right = reals.each_ref().map(|real| balancer.load(service, real));
        assert_eq!(right, [(2, 0, true), (0, 1, false), (1, 0, false)]);

        let wrong = [
            (0, 0),
            (9 * Connections::ACTIVE + 9, 1),
            // A few less than none, as after a race.
            ((2 * Connections::ACTIVE).wrapping_neg() - 3, 1),
        ];
        let all = balancer.tables.maps().connections.whole().unwrap();
        for (real, (word, overloaded)) in reals.iter().zip(wrong) {
            let number = balancer.backend_number(service, real);
            all.write(number as usize, &Connections { word, overloaded });
        }
        let census = balancer.sweep();
        assert_eq!(reals.each_ref().map(|real| balancer.load(service, real)), right);
        assert_counted(&balancer, "after the sweep");
        let found = reals
            .each_ref()
            .map(|real| census.backends[&balancer.backend_number(service, real)])
            .map(|load| (load.active, load.inactive, load.half_open));
        assert_eq!(found, [(0, 2, 2), (0, 1, 0), (0, 1, 1)], "none has sent its first ACK");
    }
}

#[test]
fn counts_are_right_after_the_next_sweep_when_a_scheduler_begins_to_ask_for_them() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Nat, Scheduler::Rr, &V4);
    for port in 0..9 {
        balancer.host(&tcp(&format!("10.7.0.1:{}", 40_000 + port), "10.9.9.9:80", ACK));
    }
    balancer.schedule(SERVICE, Scheduler::Wlc);
    balancer.apply();
    balancer.sweep();
    assert_counted(&balancer, "nothing was counted before");
    balancer.schedule(SERVICE, Scheduler::Mh);
    balancer.apply();
    for port in 0..9 {
        balancer.host(&tcp(&format!("10.7.0.1:{}", 40_000 + port), "10.9.9.9:80", RST));
    }
    balancer.schedule(SERVICE, Scheduler::Sed);
    balancer.apply();
    balancer.sweep();
    assert_counted(&balancer, "not all was counted before");
    assert_eq!(balancer.load(SERVICE, "10.0.1.12:80"), (0, 3, false));
}
