//! Only frames that are addressed to this host are balanced, and every method takes a hop.

use lvx_model::{Forward, Scheduler};
use lvx_test_kit::{
    fragments::fragments,
    frame::{ACK, Frame, Transport, socket, udp},
    icmp::IcmpError,
    network::{HOST, INSIDE, OUTSIDE, backend_mac, mac},
};
use xdp_common::verdict::Verdict;

use crate::balancer::{Action, Balancer};

/// A service by direct routing at port 80 and one by NAT at port 81, with a flow each.
fn serving(is_v6: bool) -> (Balancer, [Frame; 2], Frame) {
    let (client, vip, real) = match is_v6 {
        false => ("10.7.0.1:40001", "10.9.9.9", "10.0.1.12:8080"),
        true => ("[2001:db8:7::1]:40001", "[2001:db8:9::9]", "[2001:db8:1::12]:8080"),
    };
    let (client, real) = (socket(client), socket(real));
    let mut balancer = Balancer::new();
    let service = |port| format!("tcp://{vip}:{port}");
    balancer.add(&service(80), Forward::Dr, Scheduler::Rr, &[&real.ip().to_string()]);
    balancer.add(&service(81), Forward::Nat, Scheduler::Rr, &[&real.to_string()]);
    balancer.apply();
    let tcp = Transport::Tcp { flags: ACK };
    let requests = [80, 81].map(|port| Frame::new(client, socket(&format!("{vip}:{port}")), tcp));
    let answer = Frame::new(real, client, tcp);
    (balancer, requests, answer)
}

/// MACs to which frames are nobody's, everybody's, another interface's of this host, or another host's.
fn others(ingress: u32) -> Vec<[u8; 6]> {
    let other = if ingress == OUTSIDE { INSIDE } else { OUTSIDE };
    let mut own = mac(ingress);
    let mut near: Vec<[u8; 6]> = (0..6)
        .map(|byte| {
            own = mac(ingress);
            own[byte] ^= 4;
            own
        })
        .collect();
    near.extend([
        [0; 6],
        [0xff; 6],
        [0x01, 0, 0x5e, 0, 0, 1],
        [0x33, 0x33, 0, 0, 0, 1],
        mac(other),
        backend_mac("10.0.1.12".parse().unwrap()),
    ]);
    near
}

#[test]
fn a_packet_for_a_service_in_a_frame_for_another_host_passes() {
    for is_v6 in [false, true] {
        let (mut balancer, requests, answer) = serving(is_v6);
        for to in others(OUTSIDE) {
            for request in &requests {
                let frame = request.clone().macs(to, request.from);
                balancer.passes(OUTSIDE, &frame.bytes(), Verdict::PassedOtherHost);
            }
        }
        assert!(balancer.flows().is_empty());
        for request in &requests {
            // To the interface itself, and to the device above it.
            for to in [mac(OUTSIDE), HOST] {
                balancer.host(&request.clone().macs(to, request.from));
            }
        }
        for to in others(INSIDE) {
            let frame = answer.clone().macs(to, answer.from);
            balancer.passes(INSIDE, &frame.bytes(), Verdict::PassedOtherHost);
        }
        for request in &requests {
            let error = IcmpError::new(
                answer.source.ip(),
                &Frame::new(request.destination, request.source, request.transport),
            );
            for to in others(OUTSIDE) {
                let error = IcmpError { to, ..error.clone() };
                balancer.passes(OUTSIDE, &error.bytes(), Verdict::PassedOtherHost);
            }
            let (action, ..) = balancer.judge(OUTSIDE, &error.bytes());
            assert_eq!(action, Action::Redirect);
        }
    }
}

#[test]
fn a_fragment_in_a_frame_for_another_host_does_not_follow_the_first_one() {
    let mut balancer = Balancer::serving("udp://10.9.9.9:80", Forward::Nat, Scheduler::Rr, &["10.0.1.12"]);
    let pieces = fragments(&udp("10.7.0.1:40001", "10.9.9.9:80").payload(&[7; 100]), 64, 0x7a11);
    let (action, ..) = balancer.judge(OUTSIDE, &pieces[0]);
    assert_eq!(action, Action::Redirect);
    for to in others(OUTSIDE) {
        let mut piece = pieces[1].clone();
        piece[..6].copy_from_slice(&to);
        balancer.passes(OUTSIDE, &piece, Verdict::PassedOtherHost);
    }
    let (action, ..) = balancer.judge(OUTSIDE, &pieces[1]);
    assert_eq!(action, Action::Redirect);
}

#[test]
fn a_frame_for_another_host_that_no_service_wants_is_counted_as_any_other() {
    let (mut balancer, [request, _], _) = serving(false);
    let mut frame = request;
    frame.to = [2, 0, 0, 0, 0, 9];
    frame.destination.set_port(82);
    balancer.passes(OUTSIDE, &frame.bytes(), Verdict::PassedNoService);
}
