//! Thousands of frames that were damaged at random, the same in every run: nothing is passed changed, nothing is
//! forwarded with more changed than forwarding may change, and the program always ends as it should.

use std::collections::BTreeMap;

use lvx_model::{Forward, Scheduler};
use lvx_test_kit::{
    frame::{ACK, DESTINATION, FRAGMENT, Frame, HOP_BY_HOP, IP, ROUTING, SYN, Transport, socket, tcp, udp},
    icmp::IcmpError,
    network::{INSIDE, OUTSIDE},
    random::Random,
};

use crate::balancer::{Action, Balancer};

fn services() -> Balancer {
    let mut balancer = Balancer::new();
    for protocol in ["tcp", "udp"] {
        for (vip, backend) in [("10.9.9.9", "10.0.1.12"), ("[2001:db8:9::9]", "2001:db8:1::12")] {
            balancer.add(
                &format!("{protocol}://{vip}:80"),
                Forward::Dr,
                Scheduler::Rr,
                &[backend],
            );
            balancer.add(
                &format!("{protocol}://{vip}:81"),
                Forward::Nat,
                Scheduler::Mh,
                &[backend],
            );
        }
    }
    balancer.apply();
    balancer
}

/// Frames of every kind that is forwarded, and the interface that each comes in by.
fn frames() -> Vec<(u32, Vec<u8>)> {
    let mut frames = Vec::new();
    for transport in [Transport::Tcp { flags: SYN | ACK }, Transport::Udp { checksum: true }] {
        for (client, vip, real) in [
            ("10.7.0.1:40001", "10.9.9.9", "10.0.1.12:81"),
            ("[2001:db8:7::1]:40001", "2001:db8:9::9", "[2001:db8:1::12]:81"),
        ] {
            for port in [80, 81] {
                let vip = std::net::SocketAddr::new(vip.parse().unwrap(), port);
                let plain = Frame::new(socket(client), vip, transport);
                let mut dressed = plain.clone();
                dressed.tags = vec![[0x88, 0xa8, 0, 1], [0x81, 0, 0, 2]];
                if vip.is_ipv4() {
                    dressed.options = vec![1; 8];
                } else {
                    dressed.extensions = [HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION]
                        .map(|kind| (kind, vec![0; 8]))
                        .to_vec();
                }
                frames.push((OUTSIDE, plain.bytes()));
                frames.push((OUTSIDE, dressed.bytes()));
            }
            frames.push((INSIDE, Frame::new(socket(real), socket(client), transport).bytes()));
        }
    }
    for (router, about) in [
        ("10.7.0.254", tcp("10.9.9.9:81", "10.7.0.1:40001", ACK)),
        ("2001:db8:7::fe", udp("[2001:db8:9::9]:81", "[2001:db8:7::1]:40001")),
    ] {
        let error = IcmpError::new(router.parse().unwrap(), &about);
        frames.push((OUTSIDE, error.bytes()));
    }
    frames
}

#[test]
fn damaged_frames_are_passed_unchanged_or_dropped_or_forwarded_whole() {
    const EACH: usize = 400;
    let mut balancer = services();
    let mut random = Random::new(1);
    let mut decided: BTreeMap<String, usize> = BTreeMap::new();
    for (ingress, frame) in frames() {
        balancer.run(ingress, &frame);
        for _ in 0..EACH {
            let mut damaged = frame.clone();
            random.damage(&mut damaged);
            // The kernel runs a program on no less than an Ethernet header.
            damaged.resize(damaged.len().max(IP), 0);
            let (action, after) = balancer.run(ingress, &damaged);
            *decided.entry(format!("{action:?}")).or_default() += 1;
            match action {
                Action::Aborted => panic!("the program aborted on {damaged:02x?}"),
                Action::Pass => assert_eq!(after, damaged),
                Action::Drop => {}
                Action::Tx | Action::Redirect => {
                    assert_eq!(after.len(), damaged.len(), "{damaged:02x?}");
                    assert_eq!(after[12..14], damaged[12..14], "{damaged:02x?}");
                    // MACs, addresses, ports, hops and checksums, twice in an ICMP error.
                    let changed = (12..after.len()).filter(|byte| after[*byte] != damaged[*byte]).count();
                    assert!(
                        changed <= 2 * (16 + 2 + 1 + 2 + 2) + 2,
                        "{changed} bytes of {damaged:02x?}"
                    );
                }
            }
        }
    }
    // Not all frames were damaged beyond recognition, nor was none.
    assert!(decided["Pass"] > 1000 && decided["Redirect"] > 1000, "{decided:?}");
}
