//! Idle timeouts: a flow is known until its state's, and scheduled anew after it.

use lvx_test_kit::{
    frame::{ACK, FIN, Frame, RST, SYN, tcp, udp},
    network::OUTSIDE,
};
use xdp_common::{
    layout::{Control, Seen, longest},
    path::sweep::ROUND,
    tcp_state::{State, TIMEOUTS},
};

use crate::{
    balancer::Balancer,
    configuration::{HERTZ, Service},
};

const HOSTS: [&str; 2] = ["10.0.1.11:80", "10.0.1.12:80"];
/// By how much a unit of time may lengthen a timeout, seconds: a sixteenth, or a quarter of a second.
const fn slack(seconds: u64) -> u64 {
    seconds / 16 + 2
}

fn tcp_service() -> Service {
    Service::dr("tcp://10.9.9.9:80", &HOSTS)
}

fn segment(flags: u8) -> Frame {
    tcp("10.7.0.1:40000", "10.9.9.9:80", flags)
}

#[test]
fn a_flow_is_known_until_its_states_timeout_and_scheduled_anew_after_it() {
    for (packets, state) in [
        (&[SYN][..], State::SynReceived),
        (&[SYN, ACK], State::Established),
        (&[SYN, ACK, FIN | ACK], State::FinClient),
        (&[SYN, ACK, RST], State::Closed),
    ] {
        let idle = u64::from(TIMEOUTS[state as usize]);
        for (after, host) in [(idle, 11), (idle + slack(idle), 12)] {
            let mut balancer = Balancer::new(&[tcp_service()]);
            for flags in packets {
                assert_eq!(balancer.host(&segment(*flags)), 11);
            }
            assert_eq!(balancer.flow(segment(0).source).state, state);
            balancer.wait(after);
            assert_eq!(balancer.host(&segment(ACK)), host, "{state:?} after {after} s");
        }
    }
}

#[test]
fn every_packet_begins_the_time_anew() {
    let mut balancer = Balancer::new(&[Service::dr("udp://10.9.9.9:80", &HOSTS)]);
    let query = udp("10.7.0.1:40000", "10.9.9.9:80");
    for _ in 0..10 {
        assert_eq!(balancer.host(&query), 11);
        balancer.wait(290);
    }
    balancer.wait(40);
    assert_eq!(balancer.host(&query), 12);
}

#[test]
fn a_service_has_timeouts_of_its_own() {
    let mut service = tcp_service();
    service.timeouts[State::SynReceived as usize] = 5;
    let other = Service::dr("tcp://10.9.9.9:81", &HOSTS);
    let mut balancer = Balancer::new(&[service, other]);
    let late = tcp("10.7.0.1:40000", "10.9.9.9:81", SYN);
    assert_eq!((balancer.host(&segment(SYN)), balancer.host(&late)), (11, 11));
    balancer.wait(8);
    assert_eq!((balancer.host(&segment(SYN)), balancer.host(&late)), (12, 11));
}

#[test]
fn the_new_flow_of_one_that_is_expired_takes_its_place() {
    let mut balancer = Balancer::new(&[tcp_service()]);
    balancer.host(&segment(SYN));
    let old = balancer.flow(segment(0).source);
    balancer.wait(70);
    balancer.run(OUTSIDE, &segment(SYN).bytes());
    let new = balancer.flow(segment(0).source);
    assert_eq!((new.at, new.backend), (old.at, 2));
}

#[test]
fn days_are_counted_too() {
    const DAY: u64 = 86_400;
    let mut service = tcp_service();
    service.timeouts[State::Established as usize] = DAY as u32 * 10;
    let mut balancer = Balancer::new(&[service]);
    assert_eq!(balancer.host(&segment(ACK)), 11);
    balancer.wait(DAY * 10);
    assert_eq!(balancer.host(&segment(ACK)), 11);
    balancer.wait(DAY * 11);
    assert_eq!(balancer.host(&segment(ACK)), 12);
}

#[test]
fn a_flow_that_is_over_never_looks_young_again_though_no_daemon_runs() {
    const HOUR: u64 = 3600;
    for (flags, state) in [(SYN, State::SynReceived), (ACK, State::Established)] {
        let mut balancer = Balancer::new(&[tcp_service()]);
        // A flow of each second of an hour: of any age a packet would find some.
        let frame = |second| tcp(&format!("10.7.1.1:{}", 10_000 + second), "10.9.9.9:80", flags);
        for second in 0..HOUR {
            balancer.run(OUTSIDE, &frame(second).bytes());
            balancer.wait(1);
            if second % ROUND == 0 {
                balancer.tables.sweep();
            }
        }
        let idle = u64::from(TIMEOUTS[state as usize]);
        for second in 0..HOUR {
            let is_there = !balancer.flows(frame(second).source).is_empty();
            let age = HOUR - second;
            assert!(is_there || age > idle, "{state:?} of {age} s ago");
            assert!(
                !is_there || age < idle + slack(idle) + ROUND,
                "{state:?} of {age} s ago"
            );
        }
    }
}

#[test]
fn between_the_end_of_a_flow_and_the_wrap_of_its_time_all_buckets_are_looked_at() {
    let tick = (HERTZ / 4).next_power_of_two().ilog2();
    let (now, round) = (0x1_2345_6789, ROUND * u64::from(HERTZ));
    for bits in 0..31 {
        for idle in [(1_u32 << bits) - 1, 1 << bits] {
            let idle = idle.min(longest(tick));
            let seen = Seen::at(now, tick, idle);
            let unit = if idle >> tick < 1 << 10 {
                1 << tick
            } else {
                u64::from(idle / 16)
            };
            for since in (0..round + round / 2).step_by(1 << tick) {
                let then = now + u64::from(idle) + 2 * unit + since;
                assert!(
                    seen.is_expired(seen.age(then, tick), tick, idle),
                    "{idle} jiffies, after {since}"
                );
            }
        }
    }
}

#[test]
fn a_sweep_leaves_no_count_of_what_it_has_forgotten_and_waits_for_the_takeover() {
    let mut balancer = Balancer::new(&[tcp_service().limited(100, 50)]);
    balancer.host(&segment(SYN));
    let counted = |balancer: &Balancer| balancer.load(1).0 + balancer.load(2).0;
    assert_eq!(counted(&balancer), 1);
    balancer.wait(70);
    balancer.control(|control| control.mode |= Control::WAITING);
    balancer.tables.sweep();
    assert_eq!(counted(&balancer), 1, "the predecessor's");
    balancer.control(|control| control.mode &= !Control::WAITING);
    balancer.tables.sweep();
    assert_eq!(counted(&balancer), 0);
    assert!(balancer.flows(segment(0).source).is_empty());
}
