//! Thresholds: a backend with enough connections gets no new ones, and what becomes of those that it would have got.

use lvx_model::{BackendChange, Forward, Overload, Period, Scheduler, ServiceChange};
use lvx_test_kit::{
    frame::{ACK, FIN, Frame, RST, SYN, socket, tcp, udp},
    network::{INSIDE, OUTSIDE},
};
use xdp_common::verdict::Verdict;

use crate::balancer::{Action, Balancer};

const SERVICE: &str = "tcp://10.9.9.9:80";

fn syn(port: u16) -> Frame {
    client(port, SYN)
}

fn client(port: u16, flags: u8) -> Frame {
    tcp(&format!("10.7.0.1:{port}"), "10.9.9.9:80", flags)
}

fn limit(balancer: &mut Balancer, backend: &str, upper: u32, lower: u32) {
    let change = BackendChange {
        upper: Some(upper),
        lower: Some(lower),
        ..BackendChange::default()
    };
    balancer.set_backend(SERVICE, backend, &change);
}

fn overload(balancer: &mut Balancer, overload: Overload) {
    let change = ServiceChange {
        overload: Some(overload),
        ..ServiceChange::default()
    };
    balancer.set(SERVICE, &change);
}

/// Whose the new connections from some ports are, and what was counted for each.
fn opened(balancer: &mut Balancer, ports: std::ops::Range<u16>) -> Vec<(Option<u8>, Vec<Verdict>)> {
    ports
        .map(|port| {
            let (action, after, counted) = balancer.judge(OUTSIDE, &syn(port).bytes());
            let host = (action != Action::Drop).then(|| after[5]);
            (host, counted)
        })
        .collect()
}

#[test]
fn a_backend_gets_no_new_connections_from_the_upper_threshold_down_to_the_lower_one() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Nat, Scheduler::Sh, &["10.0.1.11"]);
    limit(&mut balancer, "10.0.1.11", 4, 2);
    balancer.apply();
    for port in 40_000..40_004 {
        assert_eq!(balancer.host(&syn(port)), 11);
    }
    assert_eq!(balancer.load(SERVICE, "10.0.1.11:80"), (4, 0, true));
    balancer.drops(OUTSIDE, &syn(41_000), Verdict::DroppedOverloaded);
    // Inactive connections count as well.
    balancer.host(&client(40_000, FIN | ACK));
    balancer.drops(OUTSIDE, &syn(41_000), Verdict::DroppedOverloaded);
    assert_eq!(balancer.host(&client(40_001, ACK)), 11, "those that there are go on");

    let forget = |balancer: &mut Balancer, port: u16| {
        let rules = balancer.tables.rules();
        let flows = lvx_dataplane::flows::flush(balancer.tables.maps(), &rules, |flow| flow.port == port);
        assert_eq!(flows.unwrap(), 1);
        balancer.sweep();
    };
    forget(&mut balancer, 40_000);
    forget(&mut balancer, 40_001);
    assert_eq!(balancer.load(SERVICE, "10.0.1.11:80"), (2, 0, true));
    balancer.drops(OUTSIDE, &syn(41_000), Verdict::DroppedOverloaded);
    forget(&mut balancer, 40_002);
    assert_eq!(balancer.load(SERVICE, "10.0.1.11:80"), (1, 0, false));
    for port in 42_000..42_003 {
        assert_eq!(balancer.host(&syn(port)), 11);
    }
    balancer.drops(OUTSIDE, &syn(41_000), Verdict::DroppedOverloaded);
}

#[test]
fn without_a_lower_threshold_it_is_three_quarters_of_the_upper_one() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Dr, Scheduler::Rr, &["10.0.1.11"]);
    limit(&mut balancer, "10.0.1.11", 8, 0);
    balancer.apply();
    for port in 40_000..40_008 {
        assert_eq!(balancer.host(&syn(port)), 11);
    }
    for (left, is_overloaded) in [(7, true), (6, true), (5, false)] {
        let rules = balancer.tables.rules();
        let port = 40_000 + left;
        lvx_dataplane::flows::flush(balancer.tables.maps(), &rules, |flow| flow.port == port).unwrap();
        balancer.sweep();
        assert_eq!(
            balancer.load(SERVICE, "10.0.1.11:80"),
            (u32::from(left), 0, is_overloaded)
        );
    }
}

#[test]
fn a_closed_connection_counts_until_it_is_forgotten() {
    // The scheduler is asked before the old connection's entry is used again.
    let mut balancer = Balancer::serving(SERVICE, Forward::Nat, Scheduler::Rr, &["10.0.1.11", "10.0.1.12"]);
    limit(&mut balancer, "10.0.1.11", 1, 0);
    balancer.apply();
    assert_eq!(balancer.host(&syn(40_000)), 11);
    balancer.host(&client(40_000, ACK));
    balancer.host(&client(40_000, FIN | ACK));
    let reset = tcp("10.0.1.11:80", "10.7.0.1:40000", RST);
    assert_eq!(balancer.run(INSIDE, &reset.bytes()).0, Action::Redirect);
    assert_eq!(balancer.host(&syn(40_000)), 12);
    assert_eq!(balancer.load(SERVICE, "10.0.1.11:80"), (0, 0, false));
}

#[test]
fn the_next_backend_takes_what_an_overloaded_one_would_have_got_and_that_is_counted() {
    for &scheduler in Scheduler::ALL {
        let backends = ["10.0.1.11", "10.0.1.12", "10.0.1.13"];
        let mut balancer = Balancer::serving(SERVICE, Forward::Dr, scheduler, &backends);
        for (backend, weight) in backends.iter().zip([3, 2, 1]) {
            balancer.weigh(SERVICE, backend, weight * 100);
            limit(&mut balancer, backend, 10, 0);
        }
        balancer.apply();
        let opened = opened(&mut balancer, 40_000..40_031);
        for host in 11..=13 {
            let had = opened.iter().filter(|(to, _)| *to == Some(host)).count();
            assert_eq!(had, 10, "{scheduler}: {host}");
        }
        assert_eq!(opened[30], (None, vec![Verdict::DroppedOverloaded]), "{scheduler}");
        let seconds = opened[..30]
            .iter()
            .filter(|(_, counted)| *counted == [Verdict::BackendOverloaded])
            .count();
        let others = opened[..30].iter().filter(|(_, counted)| counted.is_empty()).count();
        assert_eq!(seconds + others, 30);
        let compares = matches!(
            scheduler,
            Scheduler::Lc | Scheduler::Wlc | Scheduler::Sed | Scheduler::Nq | Scheduler::Fo | Scheduler::Ovf
        );
        match scheduler {
            // Who compares has no first choice but the best that takes it.
            _ if compares => assert_eq!(seconds, 0, "{scheduler}"),
            Scheduler::Dh => assert_eq!(seconds, 20),
            Scheduler::Wrr | Scheduler::Mh | Scheduler::Sh => assert!(seconds > 0, "{scheduler}"),
            _ => {}
        }
    }
}

#[test]
fn an_overloaded_backend_s_connections_are_dropped_where_that_is_wished() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Dr, Scheduler::Rr, &["10.0.1.11", "10.0.1.12"]);
    limit(&mut balancer, "10.0.1.11", 2, 0);
    overload(&mut balancer, Overload::Drop);
    balancer.apply();
    let opened = opened(&mut balancer, 40_000..40_008);
    let dropped = (None, vec![Verdict::DroppedOverloaded]);
    let (one, other) = ((Some(11), vec![]), (Some(12), vec![]));
    let expected = [&one, &other, &one, &other, &dropped, &other, &dropped, &other].map(Clone::clone);
    assert_eq!(opened, expected);
}

#[test]
fn the_sorry_backend_takes_what_overloaded_ones_would_have_got() {
    for scheduler in [
        Scheduler::Rr,
        Scheduler::Mh,
        Scheduler::Wlc,
        Scheduler::Ovf,
        Scheduler::P2c,
    ] {
        let mut balancer = Balancer::serving(SERVICE, Forward::Dr, scheduler, &["10.0.1.11", "10.0.1.99"]);
        let sorry = BackendChange {
            sorry: Some(true),
            ..BackendChange::default()
        };
        balancer.set_backend(SERVICE, "10.0.1.99", &sorry);
        balancer.weigh(SERVICE, "10.0.1.11", 100);
        limit(&mut balancer, "10.0.1.11", 2, 0);
        overload(&mut balancer, Overload::Sorry);
        balancer.apply();
        let opened = opened(&mut balancer, 40_000..40_004);
        let sorry = (Some(99), vec![Verdict::BackendOverloaded]);
        let own = (Some(11), vec![]);
        assert_eq!(opened, [own.clone(), own, sorry.clone(), sorry], "{scheduler}");
        assert_eq!(balancer.host(&client(40_003, ACK)), 99, "{scheduler}: it keeps them");
    }
}

#[test]
fn without_a_sorry_backend_that_is_there_the_connection_is_dropped() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Dr, Scheduler::Rr, &["10.0.1.11", "10.0.1.99"]);
    let sorry = BackendChange {
        sorry: Some(true),
        ..BackendChange::default()
    };
    balancer.set_backend(SERVICE, "10.0.1.99", &sorry);
    limit(&mut balancer, "10.0.1.11", 1, 0);
    overload(&mut balancer, Overload::Sorry);
    balancer.is_up(SERVICE, "10.0.1.99:80", false);
    balancer.apply();
    assert_eq!(balancer.host(&syn(40_000)), 11);
    balancer.drops(OUTSIDE, &syn(40_001), Verdict::DroppedOverloaded);
}

#[test]
fn a_threshold_that_is_taken_off_is_forgotten_at_once() {
    for &scheduler in Scheduler::ALL {
        let mut balancer = Balancer::serving(SERVICE, Forward::Dr, scheduler, &["10.0.1.11"]);
        balancer.weigh(SERVICE, "10.0.1.11", 100);
        limit(&mut balancer, "10.0.1.11", 1, 0);
        balancer.apply();
        balancer.host(&syn(40_000));
        balancer.drops(OUTSIDE, &syn(40_001), Verdict::DroppedOverloaded);
        limit(&mut balancer, "10.0.1.11", 0, 0);
        balancer.apply();
        for port in 40_001..40_005 {
            assert_eq!(balancer.chosen(&syn(port)), Some([1, 11]), "{scheduler}");
        }
    }
}

#[test]
fn a_threshold_of_a_live_service_counts_the_connections_that_there_are() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Dr, Scheduler::Rr, &["10.0.1.11"]);
    for port in 40_000..40_005 {
        balancer.host(&syn(port));
    }
    limit(&mut balancer, "10.0.1.11", 5, 0);
    balancer.apply();
    balancer.sweep();
    assert_eq!(balancer.load(SERVICE, "10.0.1.11:80"), (5, 0, true));
    balancer.drops(OUTSIDE, &syn(41_000), Verdict::DroppedOverloaded);
}

#[test]
fn a_client_that_persists_goes_to_its_backend_though_that_is_overloaded() {
    // As in IPVS: a template is asked before the scheduler.
    let mut balancer = Balancer::serving(SERVICE, Forward::Dr, Scheduler::Rr, &["10.0.1.11", "10.0.1.12"]);
    let change = ServiceChange {
        persistence: Some(Period::from_millis(300_000)),
        ..ServiceChange::default()
    };
    balancer.set(SERVICE, &change);
    limit(&mut balancer, "10.0.1.11", 1, 0);
    balancer.apply();
    for port in 40_000..40_003 {
        assert_eq!(balancer.host(&syn(port)), 11);
    }
    assert_eq!(balancer.load(SERVICE, "10.0.1.11:80"), (3, 0, true));
    for client in 2..5 {
        let frame = tcp(&format!("10.7.0.{client}:40000"), "10.9.9.9:80", SYN);
        assert_eq!(balancer.host(&frame), 12, "others do not");
    }
}

#[test]
fn thresholds_hold_for_datagrams_and_over_ipv6() {
    for (service, vip, client, backends) in [
        (
            "udp://10.9.9.9:80",
            "10.9.9.9:80",
            "10.7.0.1",
            ["10.0.1.11", "10.0.1.12"],
        ),
        (
            "udp://[2001:db8:9::9]:80",
            "[2001:db8:9::9]:80",
            "[2001:db8:7::1]",
            ["2001:db8:1::11", "2001:db8:1::12"],
        ),
    ] {
        let mut balancer = Balancer::serving(service, Forward::Nat, Scheduler::Lc, &backends);
        for backend in backends {
            let change = BackendChange {
                upper: Some(3),
                ..BackendChange::default()
            };
            balancer.set_backend(service, backend, &change);
        }
        balancer.apply();
        for port in 40_000..40_006 {
            balancer.host(&udp(&format!("{client}:{port}"), vip));
        }
        let one_more = udp(&format!("{client}:40006"), vip);
        balancer.drops(OUTSIDE, &one_more, Verdict::DroppedOverloaded);
        assert_eq!(balancer.flows().get(&socket(&format!("{client}:40006"))), None);
        balancer.host(&udp(&format!("{client}:40000"), vip));
    }
}
