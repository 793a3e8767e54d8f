//! Frames that are cut short or contradict themselves: passed as they came, counted as malformed, and no flow begins with
//! them.

use lvx_test_kit::{
    frame::{DESTINATION, Frame, HOP_BY_HOP, IP, L4_V6, Transport, seal_ipv4},
    network::OUTSIDE,
};
use xdp_common::verdict::Verdict;

use crate::{
    balancer::{Action, Balancer},
    forwarding::{Case, dressed},
};

fn balancer() -> Balancer {
    let services: Vec<_> = Case::all().iter().map(Case::nat).collect();
    Balancer::new(&services)
}

fn frames(v4: bool) -> Vec<Frame> {
    let cases = Case::all().into_iter().filter(|case| case.client.is_ipv4() == v4);
    cases.map(|case| case.request()).collect()
}

#[track_caller]
fn malformed(balancer: &Balancer, frame: &[u8]) {
    balancer.passes(OUTSIDE, frame, Verdict::PassedMalformed);
}

#[test]
fn a_frame_cut_anywhere_is_malformed() {
    let balancer = balancer();
    for case in Case::all() {
        for frame in dressed(&case.request()) {
            let bytes = frame.bytes();
            for length in 0..bytes.len() - frame.padding.len() {
                malformed(&balancer, &bytes[..length]);
            }
        }
    }
    assert_eq!(balancer.count_flows(), 0);
    for case in Case::all() {
        assert_eq!(balancer.run(OUTSIDE, &case.request().bytes()).0, Action::Redirect);
    }
}

#[test]
fn an_ip_header_of_another_version_than_its_ether_type_says_is_malformed() {
    let balancer = balancer();
    for (v4, right) in [(true, 4), (false, 6)] {
        for frame in frames(v4) {
            for version in (0..16).filter(|version| *version != right) {
                let mut bytes = frame.bytes();
                bytes[IP] = bytes[IP] & 0x0f | version << 4;
                malformed(&balancer, &bytes);
            }
        }
    }
}

#[test]
fn an_ipv4_header_shorter_than_its_fixed_part_or_longer_than_its_packet_is_malformed() {
    let balancer = balancer();
    for frame in frames(true) {
        for words in 0..5 {
            let mut bytes = frame.bytes();
            bytes[IP] = 0x40 | words;
            malformed(&balancer, &bytes);
        }
        let mut bytes = frame.payload(&[]).bytes();
        bytes[IP] = 0x4f;
        malformed(&balancer, &bytes);
    }
}

#[test]
fn a_packet_that_ends_within_its_headers_is_malformed_though_the_frame_goes_on() {
    let balancer = balancer();
    let transport = |frame: &Frame| {
        if matches!(frame.transport, Transport::Tcp { .. }) {
            20
        } else {
            8
        }
    };
    for frame in frames(true) {
        for length in 0..20 + transport(&frame) {
            let mut bytes = frame.bytes();
            bytes[IP + 2..IP + 4].copy_from_slice(&u16::to_be_bytes(length));
            seal_ipv4(&mut bytes);
            malformed(&balancer, &bytes);
        }
    }
    for frame in frames(false) {
        for length in 0..transport(&frame) {
            let mut bytes = frame.bytes();
            bytes[IP + 4..IP + 6].copy_from_slice(&length.to_be_bytes());
            malformed(&balancer, &bytes);
        }
    }
}

#[test]
fn a_packet_that_says_it_is_longer_than_its_frame_is_malformed() {
    let balancer = balancer();
    for v4 in [true, false] {
        for frame in frames(v4) {
            let length = (frame.bytes().len() - IP) as u16;
            for more in [1, 2, 100, u16::MAX - length] {
                let (at, said) = if v4 {
                    (IP + 2, length + more)
                } else {
                    (IP + 4, length - 40 + more)
                };
                let mut bytes = frame.bytes();
                bytes[at..at + 2].copy_from_slice(&said.to_be_bytes());
                malformed(&balancer, &bytes);
            }
        }
    }
}

#[test]
fn an_ipv6_extension_header_that_reaches_past_the_frame_is_malformed() {
    let balancer = balancer();
    for mut frame in frames(false) {
        frame.extensions = vec![(HOP_BY_HOP, vec![0; 8]), (DESTINATION, vec![0; 8])];
        for at in [L4_V6, L4_V6 + 8] {
            for units in [16, 32, 254, 255] {
                let mut bytes = frame.bytes();
                bytes[at + 1] = units;
                malformed(&balancer, &bytes);
            }
        }
    }
}

#[test]
fn more_tags_or_extension_headers_than_are_followed_pass_as_too_deep() {
    let balancer = balancer();
    for v4 in [true, false] {
        for mut frame in frames(v4) {
            frame.tags = vec![[0x81, 0, 0, 1]; 3];
            balancer.passes(OUTSIDE, &frame.bytes(), Verdict::PassedTooDeep);
        }
    }
    for mut frame in frames(false) {
        frame.extensions = vec![(DESTINATION, vec![0; 8]); 6];
        assert_eq!(balancer.run(OUTSIDE, &frame.bytes()).0, Action::Redirect);
        frame.extensions.push((DESTINATION, vec![0; 8]));
        balancer.passes(OUTSIDE, &frame.bytes(), Verdict::PassedTooDeep);
    }
}

#[test]
fn what_is_neither_ipv4_nor_ipv6_passes() {
    let balancer = balancer();
    for ether_type in [[0x08, 0x06], [0x88, 0x47], [0, 0], [0xff, 0xff]] {
        for v4 in [true, false] {
            for frame in frames(v4) {
                let mut bytes = frame.bytes();
                bytes[12..14].copy_from_slice(&ether_type);
                balancer.passes(OUTSIDE, &bytes, Verdict::PassedNotIp);
            }
        }
    }
}
