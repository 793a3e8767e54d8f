//! Flows whose backend is gone: scheduled anew, or dropped until their clients begin others.

use lvx_test_kit::{
    frame::{ACK, Frame, SYN, Transport, tcp},
    network::{INSIDE, OUTSIDE},
};
use xdp_common::{
    layout::{BANKS, Backend, Interface, Method},
    verdict::Verdict,
};

use crate::{
    balancer::{Action, Balancer},
    configuration::Service,
    forwarding::Case,
    image::slot,
};

const HOSTS: [&str; 2] = ["10.0.1.11:80", "10.0.1.12:80"];

fn segment(flags: u8) -> Frame {
    tcp("10.7.0.1:40000", "10.9.9.9:80", flags)
}

/// A balancer with a flow at its first backend, which then is lost.
fn lost(flags: u16) -> Balancer {
    let mut balancer = Balancer::new(&[Service::nat("tcp://10.9.9.9:80", &HOSTS).limited(100, 0)]);
    assert_eq!(balancer.host(&segment(SYN)), 11);
    balancer.services[0].backends[0].flags = flags;
    balancer.apply();
    balancer
}

#[test]
fn a_flow_whose_backend_is_down_is_scheduled_anew_in_its_place() {
    let balancer = lost(Backend::ENDED);
    let old = balancer.flow(segment(0).source);
    assert_eq!(balancer.host(&segment(ACK)), 12);
    let new = balancer.flow(segment(0).source);
    assert_eq!((new.at, new.backend), (old.at, 2));
    assert_eq!((balancer.load(1), balancer.load(2)), ((0, 0, false), (1, 0, false)));
}

#[test]
fn where_its_flows_are_dropped_a_new_one_begins_with_a_syn() {
    let balancer = lost(Backend::DROPPING);
    balancer.drops(OUTSIDE, &segment(ACK), Verdict::DroppedBackendLost);
    assert_eq!(balancer.flow(segment(0).source).backend, 1);
    assert_eq!(balancer.host(&segment(SYN)), 12);
    assert_eq!(balancer.host(&segment(ACK)), 12);
}

#[test]
fn a_backend_that_comes_back_has_its_flows_again() {
    let mut balancer = lost(Backend::DROPPING);
    balancer.services[0].backends[0].flags = 0;
    balancer.apply();
    assert_eq!(balancer.host(&segment(ACK)), 11);
}

#[test]
fn packets_to_a_backend_whose_next_hop_is_unknown_are_dropped_and_told() {
    for case in Case::all() {
        for service in [case.nat(), case.dr()] {
            let mut balancer = Balancer::new(&[service]);
            balancer.run(OUTSIDE, &case.request().bytes());
            balancer.services[0].backends[0].is_reached = false;
            balancer.apply();
            balancer.drops(OUTSIDE, &case.request(), Verdict::DroppedNoNextHop);
            let mut other = case.request();
            other.source.set_port(5);
            balancer.drops(OUTSIDE, &other, Verdict::DroppedNoBackend);
            assert_eq!((balancer.tables.warned(), balancer.count_flows()), (2, 1));
        }
    }
}

#[test]
fn a_flow_whose_backend_has_no_entry_any_more_begins_anew() {
    for case in Case::all() {
        let mut balancer = Balancer::new(&[case.nat()]);
        balancer.run(OUTSIDE, &case.request().bytes());
        for bank in 0..2 {
            balancer.tables.backends.write(2 + bank, Backend::NONE);
        }
        balancer.passes(INSIDE, &case.answer().bytes(), Verdict::PassedNoService);
        balancer.services[0].backends[0].method = Method::NAT;
        balancer.apply();
        assert_eq!(balancer.run(OUTSIDE, &case.request().bytes()).0, Action::Redirect);
        assert_eq!(balancer.count_flows(), 1);
    }
}

#[test]
fn answers_whose_interface_is_gone_are_dropped() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.nat()]);
        balancer.run(OUTSIDE, &Frame::new(case.client, case.vip, case.transport).bytes());
        for bank in 0..BANKS {
            let place = (slot(OUTSIDE) << 1 | bank) as usize;
            balancer.tables.interfaces.write(place, Interface::default());
        }
        let answer = Frame::new(case.real, case.client, Transport::Udp { checksum: true });
        let answer = Frame {
            transport: case.transport,
            ..answer
        };
        balancer.drops(INSIDE, &answer, Verdict::DroppedNoInterface);
    }
}
