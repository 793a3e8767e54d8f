//! Timeouts: how long an idle flow is kept, by its state: as its service says, else as the node says, else as IPVS does.

use std::{thread::sleep, time::Duration};

use lvx_dataplane::Node;
use lvx_model::{Forward, Period, Scheduler, ServiceChange, TimeoutOf, Timeouts, TimeoutsChange};
use lvx_test_kit::{
    frame::{ACK, FIN, Frame, RST, SYN, socket, tcp, udp},
    network::INSIDE,
};
use xdp_common::tcp_state::{STATES, State};

use crate::balancer::{Balancer, sizes};

const SERVICE: &str = "tcp://10.9.9.9:80";
const OTHER: &str = "tcp://10.9.9.9:81";
const DATAGRAMS: &str = "udp://[2001:db8:9::9]:80";

fn timeouts(of: &[(TimeoutOf, u64)]) -> ServiceChange {
    let timeouts: TimeoutsChange = of
        .iter()
        .map(|(of, seconds)| (*of, Some(Period::from_millis(seconds * 1000))))
        .collect();
    ServiceChange {
        timeouts,
        ..ServiceChange::default()
    }
}

/// The seconds that a service's flows may be idle in each state, as packets and sweeps read it.
fn kept(balancer: &Balancer, service: &str, backend: &str) -> [u32; STATES] {
    let bank = balancer.control().bank() as usize;
    let number = balancer.backend_number(service, backend) as usize;
    let set = balancer
        .tables
        .maps()
        .backends
        .whole()
        .unwrap()
        .read(number << 1 | bank)
        .timeouts();
    let idle = balancer
        .tables
        .maps()
        .timeouts
        .whole()
        .unwrap()
        .read(usize::from(set) << 1 | bank);
    let hertz = balancer.control().hertz;
    idle.map(|idle| idle / hertz)
}

#[test]
fn a_state_s_timeout_is_the_service_s_else_the_node_s_else_that_of_ipvs() {
    let node = Node {
        timeouts: Timeouts {
            udp: Some(Period::from_millis(30_000)),
            closed: Some(Period::from_millis(5_000)),
            ..Timeouts::default()
        },
        ..Node::default()
    };
    let mut balancer = Balancer::on(sizes(), node);
    balancer.add(SERVICE, Forward::Nat, Scheduler::Rr, &["10.0.1.11"]);
    balancer.add(OTHER, Forward::Nat, Scheduler::Rr, &["10.0.1.11"]);
    balancer.set(
        OTHER,
        &timeouts(&[(TimeoutOf::Closed, 7), (TimeoutOf::Established, 3600)]),
    );
    let mut change = timeouts(&[(TimeoutOf::Fin, 11), (TimeoutOf::Syn, 2)]);
    change.persistence = Some(Period::from_millis(77_000));
    balancer.add(DATAGRAMS, Forward::Dr, Scheduler::Rr, &["2001:db8:1::b"]);
    balancer.set(DATAGRAMS, &change);
    balancer.apply();
    // UDP, SYN, established, FIN by client, by backend, TIME_WAIT, closed, template.
    let own = kept(&balancer, SERVICE, "10.0.1.11:80");
    assert_eq!(own[..7], [30, 60, 900, 120, 120, 120, 5]);
    assert_eq!(
        kept(&balancer, OTHER, "10.0.1.11:81")[..7],
        [30, 60, 3600, 120, 120, 120, 7]
    );
    let datagrams = kept(&balancer, DATAGRAMS, "[2001:db8:1::b]:80");
    assert_eq!(datagrams, [30, 2, 900, 11, 11, 11, 5, 77]);

    // Taken off, it is the node's again.
    let change = ServiceChange {
        timeouts: [(TimeoutOf::Closed, None)].into(),
        ..ServiceChange::default()
    };
    balancer.set(OTHER, &change);
    balancer.apply();
    assert_eq!(kept(&balancer, OTHER, "10.0.1.11:81")[6], 5);
}

#[test]
fn without_a_word_of_anybody_timeouts_are_those_of_ipvs() {
    let balancer = Balancer::serving(SERVICE, Forward::Nat, Scheduler::Rr, &["10.0.1.11"]);
    let kept = kept(&balancer, SERVICE, "10.0.1.11:80");
    assert_eq!(kept[..7], [300, 60, 900, 120, 120, 120, 10]);
}

fn client(port: u16, service: &str, flags: u8) -> Frame {
    match service {
        DATAGRAMS => udp(&format!("[2001:db8:7::1]:{port}"), "[2001:db8:9::9]:80"),
        _ => tcp(
            &format!("10.7.0.1:{port}"),
            service.strip_prefix("tcp://").unwrap(),
            flags,
        ),
    }
}

/// The flags of a segment, and whether the client sends it.
type Segment = (u8, bool);

#[test]
fn a_flow_in_each_state_expires_after_its_own_service_s_timeout_and_no_sooner() {
    // The state, and what brings a flow there.
    let cases: [(TimeoutOf, State, &[Segment]); 6] = [
        (TimeoutOf::Syn, State::SynReceived, &[(SYN, true)]),
        (TimeoutOf::Established, State::Established, &[(ACK, true)]),
        (TimeoutOf::Fin, State::FinClient, &[(ACK, true), (FIN | ACK, true)]),
        (TimeoutOf::Fin, State::FinBackend, &[(ACK, true), (FIN | ACK, false)]),
        (
            TimeoutOf::Fin,
            State::TimeWait,
            &[(FIN | ACK, true), (FIN | ACK, false)],
        ),
        (TimeoutOf::Closed, State::Closed, &[(ACK, true), (RST, true)]),
    ];
    let mut balancer = Balancer::new();
    let services: Vec<String> = (0..cases.len())
        .map(|number| format!("tcp://10.9.9.9:{}", 80 + number))
        .collect();
    // A minute, so that what the test itself takes makes no difference; all others far longer.
    let others = cases.map(|(of, ..)| (of, 1_000));
    for (service, (of, ..)) in services.iter().zip(&cases) {
        balancer.add(service, Forward::Nat, Scheduler::Rr, &["10.0.1.11"]);
        balancer.set(service, &timeouts(&others));
        balancer.set(service, &timeouts(&[(*of, 60)]));
    }
    balancer.add(DATAGRAMS, Forward::Dr, Scheduler::Rr, &["2001:db8:1::b"]);
    balancer.set(DATAGRAMS, &timeouts(&[(TimeoutOf::Udp, 60)]));
    balancer.apply();
    // Of each service one flow in each state.
    for (number, service) in services.iter().enumerate() {
        for (port, (_, state, packets)) in (40_000..).zip(&cases) {
            let port = port + 10 * number as u16;
            for (flags, by_client) in *packets {
                if *by_client {
                    balancer.host(&client(port, service, *flags));
                } else {
                    let real = format!("10.0.1.11:{}", 80 + number);
                    balancer.run(INSIDE, &tcp(&real, &format!("10.7.0.1:{port}"), *flags).bytes());
                }
            }
            assert_eq!(balancer.state(socket(&format!("10.7.0.1:{port}"))), Some(*state));
        }
    }
    balancer.host(&client(40_000, DATAGRAMS, 0));
    let all = balancer.sweep();
    assert_eq!((all.v4, all.v6), (36, 1));
    assert_eq!(
        balancer.sweep_after(Duration::from_secs(50)),
        all,
        "not before its time"
    );
    // A minute, and as much as the units make of it in which times are noted.
    let left = balancer.sweep_after(Duration::from_millis(60_500));
    // Each service has lost those in its own state; of the three that a FIN brings about, all three at each of the three.
    assert_eq!((left.v4, left.v6), (36 - 3 - 9, 0));
    for (number, (of, ..)) in cases.iter().enumerate() {
        for (port, (other, ..)) in (40_000..).zip(&cases) {
            let port = port + 10 * number as u16;
            let is_there = balancer.state(socket(&format!("10.7.0.1:{port}"))).is_some();
            assert_eq!(is_there, of != other, "{of:?} {other:?}");
        }
    }
}

#[test]
fn a_packet_finds_a_flow_expired_by_its_own_service_s_timeout_before_any_sweep() {
    let mut balancer = Balancer::new();
    for service in [SERVICE, OTHER] {
        balancer.add(service, Forward::Nat, Scheduler::Rr, &["10.0.1.11", "10.0.1.12"]);
    }
    balancer.set(SERVICE, &timeouts(&[(TimeoutOf::Established, 1)]));
    balancer.apply();
    for service in [SERVICE, OTHER] {
        assert_eq!(balancer.host(&client(40_000, service, ACK)), 11);
    }
    // A second, and as much as the units make of it in which times are noted.
    sleep(Duration::from_millis(1500));
    assert_eq!(balancer.host(&client(40_000, SERVICE, ACK)), 12, "scheduled anew");
    assert_eq!(balancer.host(&client(40_000, OTHER, ACK)), 11);
}
