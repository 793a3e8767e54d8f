//! Fragments go where the first one of their datagram went, and come back as from the service.

use lvx_test_kit::{
    fragments::fragments,
    frame::{Frame, IP},
    network::{INSIDE, OUTSIDE, backend_mac, mac},
};
use xdp_common::{layout::UnknownFragments, verdict::Verdict};

use crate::{
    balancer::{Action, Balancer},
    forwarding::Case,
};

fn request(case: &Case) -> Frame {
    case.request().payload(&[0xa7; 201])
}

#[track_caller]
fn all_forwarded(balancer: &Balancer, ingress: u32, frame: &Frame, expected: &Frame, number: u16) {
    let pieces = fragments(frame, 64, number);
    assert!(pieces.len() > 2);
    for (piece, expected) in pieces.iter().zip(fragments(expected, 64, number)) {
        balancer.forwards(ingress, piece, &expected, Action::Redirect);
    }
}

#[test]
fn fragments_by_direct_routing_go_where_the_first_one_went() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.dr()]);
        let expected = request(&case).routed().macs(backend_mac(case.real.ip()), mac(INSIDE));
        all_forwarded(&balancer, OUTSIDE, &request(&case), &expected, 1);
        assert_eq!(balancer.counters(1, 1).connections, 1);
        assert_eq!(
            balancer.counters(1, 1).packets_in as usize,
            fragments(&expected, 64, 1).len()
        );
    }
}

#[test]
fn the_fragments_of_a_translated_datagram_are_those_of_the_datagram_translated() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.nat()]);
        all_forwarded(
            &balancer,
            OUTSIDE,
            &request(&case),
            &case.translated(&request(&case)),
            1,
        );
        let answer = case.answer().payload(&[0x91; 333]);
        all_forwarded(&balancer, INSIDE, &answer, &case.returned(&answer), 2);
    }
}

#[test]
fn orphans_pass_are_dropped_or_go_by_their_addresses_as_the_node_wishes() {
    for case in Case::all() {
        let mut balancer = Balancer::new(&[case.nat()]);
        let pieces = fragments(&request(&case), 64, 1);
        let wish = |balancer: &mut Balancer, wish: UnknownFragments| {
            balancer.control(|control| control.unknown_fragments = wish as u64);
            balancer.apply();
        };
        balancer.passes(OUTSIDE, &pieces[1], Verdict::PassedFragment);
        wish(&mut balancer, UnknownFragments::Drop);
        let (action, _, counted) = balancer.judge(OUTSIDE, &pieces[1]);
        assert_eq!((action, counted), (Action::Drop, vec![Verdict::DroppedFragment]));
        wish(&mut balancer, UnknownFragments::Addresses);
        let expected = fragments(&case.translated(&request(&case)), 64, 1);
        balancer.forwards(OUTSIDE, &pieces[1], &expected[1], Action::Redirect);
        // Those that are for nobody pass whatever the wish, answers among them.
        for of in [UnknownFragments::Drop, UnknownFragments::Addresses] {
            wish(&mut balancer, of);
            let answer = fragments(&case.answer().payload(&[1; 100]), 64, 1);
            balancer.passes(INSIDE, &answer[1], Verdict::PassedFragment);
        }
    }
}

#[test]
fn fragments_of_another_datagram_or_client_are_orphans() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.nat()]);
        balancer.run(OUTSIDE, &fragments(&request(&case), 64, 1)[0]);
        balancer.passes(OUTSIDE, &fragments(&request(&case), 64, 2)[1], Verdict::PassedFragment);
        let mut other = request(&case);
        other.source.set_ip(if case.client.is_ipv4() {
            [10, 7, 0, 2].into()
        } else {
            [0x2001, 0xdb8, 7, 0, 0, 0, 0, 2].into()
        });
        balancer.passes(OUTSIDE, &fragments(&other, 64, 1)[1], Verdict::PassedFragment);
    }
}

#[test]
fn a_translated_fragment_without_a_hop_left_is_dropped_both_ways() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.nat()]);
        let mut directions = [(OUTSIDE, request(&case)), (INSIDE, case.answer().payload(&[1; 200]))];
        for (ingress, frame) in &mut directions {
            assert_eq!(balancer.run(*ingress, &fragments(frame, 64, 1)[0]).0, Action::Redirect);
            frame.hops = 1;
            let (action, _, counted) = balancer.judge(*ingress, &fragments(frame, 64, 1)[1]);
            assert_eq!((action, counted), (Action::Drop, vec![Verdict::DroppedTtlExceeded]));
        }
    }
}

#[test]
fn fragments_whose_backend_is_gone_pass() {
    for case in Case::all() {
        let mut balancer = Balancer::new(&[case.nat()]);
        let (request, answer) = (request(&case), case.answer().payload(&[1; 200]));
        assert_eq!(
            balancer.run(OUTSIDE, &fragments(&request, 64, 1)[0]).0,
            Action::Redirect
        );
        assert_eq!(balancer.run(INSIDE, &fragments(&answer, 64, 1)[0]).0, Action::Redirect);
        // Its number is another's now.
        let mut other = case.nat();
        other.vip.set_ip(if other.vip.is_ipv4() {
            [10, 9, 9, 8].into()
        } else {
            [0x2001; 8].into()
        });
        other.backends[0].address.set_ip(if other.vip.is_ipv4() {
            [10, 0, 1, 9].into()
        } else {
            [0x2002; 8].into()
        });
        balancer.services = vec![other];
        balancer.apply();
        balancer.passes(OUTSIDE, &fragments(&request, 64, 1)[1], Verdict::PassedFragment);
        balancer.passes(INSIDE, &fragments(&answer, 64, 1)[1], Verdict::PassedFragment);
    }
}

#[test]
fn fragments_of_icmp_pass() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.nat()]);
        let v4 = case.client.is_ipv4();
        for mut piece in fragments(&request(&case), 64, 1) {
            piece[if v4 { IP + 9 } else { IP + 40 }] = if v4 { 1 } else { 58 };
            balancer.passes(OUTSIDE, &piece, Verdict::PassedFragment);
        }
    }
}
