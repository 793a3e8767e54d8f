//! Counters: one line per backend and CPU for what is forwarded, one row per interface and CPU for the rest.

use lvx_test_kit::{
    frame::Frame,
    network::{INSIDE, OUTSIDE, mac},
};
use xdp_common::{
    layout::{BackendCounters, MAX_INTERFACES},
    verdict::Verdict,
};

use crate::{
    balancer::{Action, Balancer, CPUS},
    forwarding::Case,
    image::{self, slot},
};

#[test]
fn packets_bytes_and_flows_are_counted_for_the_backend_both_ways() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.nat()]);
        let mut request = case.request();
        request.tags = vec![[0x81, 0, 0, 1]];
        let answer = Frame {
            padding: vec![0; 9],
            ..case.answer()
        };
        for _ in 0..3 {
            balancer.run(OUTSIDE, &request.bytes());
        }
        for _ in 0..2 {
            balancer.run(INSIDE, &answer.bytes());
        }
        let expected = BackendCounters {
            packets_in: 3,
            bytes_in: 3 * request.ip_length(),
            packets_out: 2,
            bytes_out: 2 * answer.ip_length(),
            connections: 1,
            room: [0; 3],
        };
        assert_eq!(balancer.counters(1, 1), expected);
    }
}

#[test]
fn each_cpu_counts_for_itself_and_knows_the_flows_of_the_others() {
    for case in Case::all() {
        let mut balancer = Balancer::new(&[case.nat()]);
        for cpu in 0..CPUS {
            balancer.cpu = cpu;
            for _ in 0..=cpu {
                balancer.run(OUTSIDE, &case.request().bytes());
            }
            balancer.passes(INSIDE, &[0; 60], Verdict::PassedNotIp);
        }
        assert_eq!(balancer.count_flows(), 1);
        for cpu in 0..CPUS {
            let counted = balancer.counters(cpu, 1);
            assert_eq!(
                (counted.packets_in, counted.connections),
                (u64::from(cpu) + 1, u64::from(cpu == 0))
            );
            balancer.cpu = cpu;
            assert_eq!(balancer.verdicts(slot(INSIDE))[Verdict::PassedNotIp as usize], 1);
        }
    }
}

#[test]
fn what_is_not_forwarded_changes_no_backends_counters() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.nat()]);
        balancer.run(OUTSIDE, &case.request().bytes());
        let before = balancer.counters(1, 1);
        let request = Frame {
            hops: 1,
            ..case.request()
        };
        balancer.drops(OUTSIDE, &request, Verdict::DroppedTtlExceeded);
        balancer.passes(OUTSIDE, &case.request().bytes()[..40], Verdict::PassedMalformed);
        assert_eq!(balancer.counters(1, 1), before);
    }
}

/// Their indices have one remainder by 1,024.
const ALIKE: [(u32, u32); 2] = [(70_001, 20), (73_073, 21)];

#[test]
fn interfaces_whose_indices_are_alike_are_counted_apart() {
    let balancer = Balancer::new(&[]);
    for (ifindex, slot) in ALIKE {
        image::interface(&balancer.tables, ifindex, slot);
    }
    for (times, (ifindex, _)) in (1..).zip(ALIKE) {
        for _ in 0..times {
            balancer.run(ifindex, &[0; 60]);
        }
    }
    balancer.run(70_001 + 1024, &[0; 60]);
    let counted = |slot| balancer.verdicts(slot)[Verdict::PassedNotIp as usize];
    assert_eq!(ALIKE.map(|(_, slot)| counted(slot)), [1, 2]);
    assert_eq!(counted(0), 1, "an interface without a slot is nobody's");
    assert_eq!((0..MAX_INTERFACES).map(counted).sum::<u64>(), 4);
}

#[test]
fn answers_go_out_of_the_interface_that_the_request_came_in_by_though_another_is_alike() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.nat()]);
        for (ifindex, slot) in ALIKE {
            image::interface(&balancer.tables, ifindex, slot);
        }
        for (port, (ifindex, slot)) in (1..).zip(ALIKE) {
            let mut request = case.request();
            request.source.set_port(port);
            assert_eq!(balancer.run(ifindex, &request.bytes()).0, Action::Redirect);
            assert_eq!(balancer.flow(request.source).hop.interface(), slot);
            let mut answer = case.answer();
            answer.destination.set_port(port);
            let (_, after) = balancer.run(INSIDE, &answer.bytes());
            assert_eq!(after[6..12], mac(ifindex));
        }
    }
}
