//! Many frames that are random or were damaged at random, the same in every run: nothing panics, what is passed is unchanged,
//! and what is forwarded has no more changed than forwarding may change.

use lvx_test_kit::{
    fragments::fragments,
    frame::Frame,
    icmp::IcmpError,
    network::{INSIDE, OUTSIDE, VETH},
    random::Random,
};
use xdp_common::{layout::UnknownFragments, load::Measure};

use crate::{
    balancer::{Action, Balancer},
    configuration::Service,
    forwarding::{Case, dressed},
};

/// Services of all kinds.
fn services() -> Vec<Service> {
    let mut services = Vec::new();
    for case in Case::all() {
        services.push(case.nat());
        let mut other = case.dr().compared(Measure::LEAST_CONNECTIONS).limited(1000, 900);
        other.vip.set_port(81);
        other.backends[0].address.set_port(81);
        services.push(other.persistent(24));
    }
    services
}

/// Frames of every kind, and the interface that each comes in by.
fn frames() -> Vec<(u32, Vec<u8>)> {
    let mut frames = Vec::new();
    for case in Case::all() {
        for frame in dressed(&case.request()) {
            let mut other = frame.clone();
            other.destination.set_port(81);
            frames.extend([frame, other].map(|frame| (OUTSIDE, frame.bytes())));
        }
        frames.extend(dressed(&case.answer()).iter().map(|frame| (INSIDE, frame.bytes())));
        let pieces = fragments(&case.request(), 32, 7);
        frames.extend(pieces.into_iter().map(|piece| (OUTSIDE, piece)));
        let sent = Frame::new(case.vip, case.client, case.transport);
        frames.push((OUTSIDE, IcmpError::new(case.client.ip(), &sent).bytes()));
        let sent = Frame::new(case.client, case.real, case.transport);
        frames.push((INSIDE, IcmpError::new(case.real.ip(), &sent).bytes()));
    }
    frames
}

#[track_caller]
fn judge(balancer: &Balancer, ingress: u32, frame: &[u8]) -> Action {
    let (action, after) = balancer.run(ingress, frame);
    match action {
        Action::Pass => assert_eq!(after, frame),
        Action::Drop => {}
        Action::Tx | Action::Redirect => {
            assert_eq!(after.len(), frame.len());
            assert_eq!(after[12..14], frame[12..14], "{frame:02x?}");
            // Addresses, ports, hops and checksums, twice in an ICMP error.
            let changed = (14..after.len()).filter(|byte| after[*byte] != frame[*byte]).count();
            assert!(
                changed <= 2 * (16 + 2 + 1 + 2 + 2) + 2,
                "{changed} bytes of {frame:02x?}"
            );
        }
    }
    action
}

#[test]
fn damaged_frames_are_passed_unchanged_or_dropped_or_forwarded_whole() {
    let mut decided = [0; 4];
    for unknown in [UnknownFragments::Pass, UnknownFragments::Addresses] {
        let mut balancer = Balancer::new(&services());
        balancer.control(|control| control.unknown_fragments = unknown as u64);
        balancer.apply();
        let frames = frames();
        let mut random = Random::new(unknown as u64);
        for _ in 0..600 {
            for (ingress, frame) in &frames {
                let mut frame = frame.clone();
                if random.below(8) > 0 {
                    random.damage(&mut frame);
                }
                let action = judge(&balancer, *ingress, &frame);
                decided[action as usize] += 1;
            }
            balancer.wait(1);
        }
    }
    // Not all frames were damaged beyond recognition, nor was none.
    assert!(decided.iter().sum::<usize>() > 150_000, "{decided:?}");
    assert!(
        decided[Action::Pass as usize] > 30_000 && decided[Action::Redirect as usize] > 30_000,
        "{decided:?}"
    );
}

#[test]
fn random_bytes_behind_a_known_ether_type_never_do_harm() {
    let mut balancer = Balancer::new(&services());
    balancer.control(|control| control.unknown_fragments = UnknownFragments::Addresses as u64);
    balancer.apply();
    let mut random = Random::new(1);
    let heads: [&[u8]; 5] = [
        &[8, 0, 0x45],
        &[8, 0, 0x4f],
        &[0x86, 0xdd, 0x60],
        &[0x81, 0, 0, 1, 8, 0, 0x46],
        &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 0x86, 0xdd, 0x60],
    ];
    for _ in 0..50_000 {
        let mut frame: Vec<u8> = (0..random.below(200)).map(|_| random.byte()).collect();
        let head = heads[random.below(heads.len())];
        if frame.len() >= 12 + head.len() {
            frame[12..12 + head.len()].copy_from_slice(head);
        }
        judge(&balancer, [OUTSIDE, INSIDE, VETH, 99][random.below(4)], &frame);
    }
}
