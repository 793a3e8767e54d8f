//! The cases that are measured.

use lvx_bench_report::grouped;
use lvx_model::{
    Forward::{Dr, Nat},
    Scheduler::{self, Fo, Lc, Nq, Ovf, P2c, Sed, Wlc},
};

use crate::{
    case::{Case, Packets, ROOM},
    frame::{
        Direction,
        Kind::{Ack, Syn, Udp},
    },
};

/// Flows that a table of a million places has room for: every second place is left free.
const HALF_ROOM: u32 = 1 << 19;

/// All cases but those of two CPUs.
pub fn one_cpu() -> Vec<Case> {
    let in_and_back = &[(1, 40.0)];
    let mut cases = vec![
        Case {
            room: HALF_ROOM,
            flows: vec![1, 10_000, 100_000, 131_072, 524_288],
            ..Case::known(
                Dr,
                Udp,
                Direction::In,
                false,
                &[(1, 30.0), (131_072, 70.0), (524_288, 100.0)],
            )
        },
        Case {
            flows: vec![100_000, 524_288, 1_000_000],
            name: format!("DR UDP IPv4, room for {}", grouped(ROOM)),
            ..Case::known(Dr, Udp, Direction::In, false, &[])
        },
        Case::known(Dr, Ack, Direction::In, false, &[(1, 30.0)]),
        Case::known(Nat, Udp, Direction::In, false, in_and_back),
        Case::known(Nat, Udp, Direction::Back, false, in_and_back),
        Case::known(Nat, Ack, Direction::In, false, in_and_back),
        Case::known(Nat, Ack, Direction::Back, false, in_and_back),
        Case {
            room: HALF_ROOM,
            flows: vec![1, 10_000, 100_000, 131_072, 524_288],
            ..Case::known(Dr, Udp, Direction::In, true, in_and_back)
        },
        Case::known(Dr, Ack, Direction::In, true, in_and_back),
        Case::known(Nat, Udp, Direction::In, true, in_and_back),
        Case::known(Nat, Udp, Direction::Back, true, in_and_back),
        Case::known(Nat, Ack, Direction::In, true, in_and_back),
        Case::known(Nat, Ack, Direction::Back, true, in_and_back),
    ];
    for (forward, kind) in [(Dr, Udp), (Nat, Ack)] {
        let known = Case::known(forward, kind, Direction::In, false, &[]);
        cases.push(Case {
            name: format!("{}, redirected", known.name),
            redirect: true,
            flows: vec![1, 100_000],
            ..known
        });
    }
    cases.push(Case {
        name: "DR SYN again IPv4".to_owned(),
        flows: vec![1, 100_000],
        ..Case::known(Dr, Syn, Direction::In, false, &[])
    });
    for packets in [Packets::Unmatched, Packets::Arp] {
        cases.push(Case::unmatched(packets, Udp, false));
    }
    cases.push(Case::unmatched(Packets::Unmatched, Ack, false));
    let beside = Case::unmatched(Packets::Unmatched, Udp, false);
    cases.push(Case {
        // They may be answers of its backends.
        name: format!("{}, a service with NAT", beside.name),
        forward: Nat,
        ..beside
    });
    cases.push(Case::unmatched(Packets::Unmatched, Ack, true));

    let syn = &[(0, 90.0)];
    for scheduler in Scheduler::ALL {
        // Those that compare all members do more than what the bound is about: a hash, or a turn.
        let compares = matches!(scheduler, Lc | Wlc | Sed | Nq | Fo | Ovf | P2c);
        let bounds: &[(u32, f64)] = if compares { &[] } else { syn };
        cases.push(Case::new_flows(Dr, Syn, false, *scheduler, bounds));
    }
    cases.push(Case::new_flows(Dr, Udp, false, Scheduler::Mh, &[]));
    cases.push(Case::new_flows(Nat, Syn, false, Scheduler::Mh, &[]));
    cases.push(Case::new_flows(Dr, Syn, true, Scheduler::Mh, &[]));
    cases.push(Case::new_flows(Nat, Syn, true, Scheduler::Mh, &[]));
    let large = Case::new_flows(Dr, Syn, false, Scheduler::Mh, syn);
    cases.push(Case {
        // Here each flow waits for a line of memory that no cache holds.
        name: format!("{}, room for {}", large.name, grouped(ROOM)),
        room: ROOM,
        ..large
    });

    for services in [1, 1_000, 10_000] {
        for to_all in [false, true] {
            if to_all && services == 1 {
                continue;
            }
            let known = Case::known(Dr, Ack, Direction::In, false, &[]);
            cases.push(Case {
                group: "services",
                name: format!(
                    "DR TCP to {} of {} services",
                    if to_all { "any" } else { "one" },
                    grouped(services)
                ),
                services,
                to_all,
                flows: vec![1, 10_000],
                ..known
            });
        }
    }
    for backends in [10, 1_000] {
        let known = Case::known(Dr, Ack, Direction::In, false, &[]);
        cases.push(Case {
            group: "backends",
            name: format!("DR TCP to one service of {} backends", grouped(backends)),
            backends,
            flows: vec![1, 10_000],
            ..known
        });
    }
    cases
}

/// The cases whose instructions are counted, one for each path through the program: how many flows and services there are makes
/// no difference to that.
pub fn counted() -> Vec<Case> {
    let of_one_path = |case: &Case| {
        ["known flows", "new flows", "not for a service"].contains(&case.group)
            && case.flows.iter().any(|&flows| flows <= 1)
            && !case.name.contains("room for")
    };
    let mut cases: Vec<Case> = one_cpu().into_iter().filter(of_one_path).collect();
    cases.push(Case::new_flows(Dr, Udp, true, Scheduler::Mh, &[]));
    cases.push(Case::new_flows(Nat, Udp, false, Scheduler::Mh, &[]));
    cases.push(Case::new_flows(Nat, Udp, true, Scheduler::Mh, &[]));
    cases
}

/// The cases that are measured on two CPUs.
pub fn two_cpus() -> Vec<Case> {
    let known = |forward, kind, flows| Case {
        group: "two CPUs",
        flows,
        ..Case::known(forward, kind, Direction::In, false, &[])
    };
    let new_flows = |scheduler| Case {
        group: "two CPUs",
        room: ROOM,
        ..Case::new_flows(Dr, Syn, false, scheduler, &[])
    };
    vec![
        known(Dr, Udp, vec![1, 100_000]),
        known(Nat, Ack, vec![1, 100_000]),
        new_flows(Scheduler::Mh),
        new_flows(Scheduler::Rr),
    ]
}
