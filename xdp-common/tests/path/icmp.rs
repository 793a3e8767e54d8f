//! ICMP errors follow the flow of the packet that they quote, both ways, whole messages compared.

use std::net::IpAddr;

use lvx_test_kit::{
    frame::{DESTINATION, Frame, HOP_BY_HOP, IP, L4_V6, seal_ipv4},
    icmp::IcmpError,
    network::{INSIDE, OUTSIDE, backend_mac, mac},
};
use xdp_common::verdict::Verdict;

use crate::{
    balancer::{Action, Balancer},
    forwarding::Case,
};

/// A router near the client, and one near the backend.
fn routers(case: &Case) -> [IpAddr; 2] {
    let names = match case.client.is_ipv4() {
        true => ["10.7.0.254", "10.0.1.254"],
        false => ["2001:db8:7::fe", "2001:db8:1::fe"],
    };
    names.map(|name| name.parse().unwrap())
}

/// What the service sent to the client, as that and routers before it see it.
fn sent(case: &Case) -> Frame {
    Frame::new(case.vip, case.client, case.transport)
}

/// The same error, and the same about a packet with more headers.
fn variants(error: &IcmpError) -> Vec<IcmpError> {
    let mut all = vec![error.clone(), error.clone(), error.clone(), error.clone()];
    all[1].tags = vec![[0x88, 0xa8, 0, 1], [0x81, 0, 0, 2]];
    if error.source.is_ipv4() {
        all[2].about.options = vec![1; 8];
        // No more than 8 bytes of the transport header, as RFC 792 has it.
        all[3].quotes = 28;
        let mut both = all[1].clone();
        both.options = vec![1; 40];
        both.about.options = vec![1; 40];
        all.push(both);
    } else {
        all[2].about.extensions = vec![(HOP_BY_HOP, vec![0; 8])];
        all[3].quotes = 48;
    }
    all
}

#[test]
fn an_error_about_what_the_service_sent_goes_to_the_backend_as_if_about_what_that_sent() {
    for case in Case::all() {
        for is_nat in [true, false] {
            let service = if is_nat { case.nat() } else { case.dr() };
            let balancer = Balancer::new(&[service]);
            balancer.run(OUTSIDE, &case.request().bytes());
            for source in [case.client.ip(), routers(&case)[0]] {
                for error in variants(&IcmpError::new(source, &sent(&case))) {
                    let mut expected = error.clone();
                    (expected.to, expected.from) = (backend_mac(case.real.ip()), mac(INSIDE));
                    expected.hops -= 1;
                    if is_nat {
                        expected.destination = case.real.ip();
                        expected.about.source = case.real;
                    }
                    balancer.forwards(OUTSIDE, &error.bytes(), &expected.bytes(), Action::Redirect);
                }
            }
        }
    }
}

#[test]
fn an_error_about_what_a_client_sent_goes_back_to_it_as_from_the_service() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.nat()]);
        balancer.run(OUTSIDE, &case.request().bytes());
        let about = Frame::new(case.client, case.real, case.transport);
        for source in [case.real.ip(), routers(&case)[1]] {
            for error in variants(&IcmpError::new(source, &about)) {
                let mut expected = error.clone();
                (expected.to, expected.from) = (case.request().from, mac(OUTSIDE));
                expected.source = case.vip.ip();
                expected.about.destination = case.vip;
                expected.hops -= 1;
                balancer.forwards(INSIDE, &error.bytes(), &expected.bytes(), Action::Redirect);
            }
        }
    }
}

#[test]
fn an_error_about_no_known_flow_passes() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.nat()]);
        let error = IcmpError::new(case.client.ip(), &sent(&case)).bytes();
        balancer.passes(OUTSIDE, &error, Verdict::PassedNoService);
        let about = Frame::new(case.client, case.real, case.transport);
        let error = IcmpError::new(case.real.ip(), &about).bytes();
        balancer.passes(INSIDE, &error, Verdict::PassedNoService);
        assert_eq!(balancer.count_flows(), 0);
    }
}

#[test]
fn an_error_to_another_address_than_that_of_the_packet_it_quotes_passes() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.nat()]);
        balancer.run(OUTSIDE, &case.request().bytes());
        let mut error = IcmpError::new(case.client.ip(), &sent(&case));
        error.destination = routers(&case)[1];
        balancer.passes(OUTSIDE, &error.bytes(), Verdict::PassedNoService);
    }
}

#[test]
fn questions_answers_and_other_protocols_pass() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.nat()]);
        balancer.run(OUTSIDE, &case.request().bytes());
        let mut error = IcmpError::new(case.client.ip(), &sent(&case));
        for kind in if case.client.is_ipv4() {
            [0, 8, 13]
        } else {
            [128, 129, 135]
        } {
            error.kind[0] = kind;
            balancer.passes(OUTSIDE, &error.bytes(), Verdict::PassedOtherProtocol);
        }
        let mut gre = case.request().bytes();
        let protocol = if case.client.is_ipv4() { 14 + 9 } else { 14 + 6 };
        gre[protocol] = 47;
        if case.client.is_ipv4() {
            seal_ipv4(&mut gre);
        }
        balancer.passes(OUTSIDE, &gre, Verdict::PassedOtherProtocol);
    }
}

#[test]
fn an_error_without_a_hop_left_is_dropped() {
    for case in Case::all() {
        for service in [case.nat(), case.dr()] {
            let balancer = Balancer::new(&[service]);
            balancer.run(OUTSIDE, &case.request().bytes());
            let mut error = IcmpError::new(case.client.ip(), &sent(&case));
            error.hops = 1;
            let (action, _, counted) = balancer.judge(OUTSIDE, &error.bytes());
            assert_eq!((action, counted), (Action::Drop, vec![Verdict::DroppedTtlExceeded]));
        }
    }
}

#[test]
fn an_error_cut_short_anywhere_passes_as_it_came() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.nat()]);
        balancer.run(OUTSIDE, &case.request().bytes());
        let error = IcmpError::new(case.client.ip(), &sent(&case)).bytes();
        for length in 0..error.len() {
            balancer.passes(OUTSIDE, &error[..length], Verdict::PassedMalformed);
        }
    }
}

#[test]
fn the_longest_headers_before_and_in_an_error_are_followed() {
    let case = Case::all().into_iter().find(|case| case.client.is_ipv6()).unwrap();
    let balancer = Balancer::new(&[case.dr()]);
    balancer.run(OUTSIDE, &case.request().bytes());
    // As long as an extension header can be.
    let longest = || {
        let mut bytes = vec![0; 2048];
        bytes[1] = 255;
        (DESTINATION, bytes)
    };
    let mut error = IcmpError::new(case.client.ip(), &sent(&case));
    error.about.extensions = (0..6).map(|_| longest()).collect();
    let mut outer = vec![0; 6 * 2048];
    for header in outer.chunks_mut(2048) {
        header[..2].copy_from_slice(&[DESTINATION, 255]);
    }
    outer[5 * 2048] = 58;
    let mut frame = error.bytes();
    frame[IP + 6] = DESTINATION;
    frame.splice(L4_V6..L4_V6, outer);
    let length = (frame.len() - L4_V6) as u16;
    frame[IP + 4..IP + 6].copy_from_slice(&length.to_be_bytes());
    let mut expected = frame.clone();
    expected[..12].copy_from_slice(&[backend_mac(case.real.ip()), mac(INSIDE)].concat());
    expected[IP + 7] -= 1;
    balancer.forwards(OUTSIDE, &frame, &expected, Action::Redirect);
}
