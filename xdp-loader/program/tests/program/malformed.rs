//! Frames that are cut short or contradict themselves: passed as they came, counted as malformed, never forwarded, and
//! no flow begins with them.

use std::net::SocketAddr;

use lvx_model::{Forward, Scheduler};
use lvx_test_kit::{
    frame::{DESTINATION, Frame, HOP_BY_HOP, IP, L4_V6, SYN, Transport, seal_ipv4, socket},
    network::OUTSIDE,
};
use xdp_common::verdict::Verdict;

use crate::balancer::{Action, Balancer};

/// Services by direct routing (80) and NAT (81), of both families and protocols.
fn balancer() -> Balancer {
    let mut balancer = Balancer::new();
    for protocol in ["tcp", "udp"] {
        for (vip, backend) in [("10.9.9.9", "10.0.1.12"), ("[2001:db8:9::9]", "2001:db8:1::12")] {
            let service = |port| format!("{protocol}://{vip}:{port}");
            balancer.add(&service(80), Forward::Dr, Scheduler::Rr, &[backend]);
            balancer.add(&service(81), Forward::Nat, Scheduler::Rr, &[backend]);
        }
    }
    balancer.apply();
    balancer
}

/// Frames for all of the services.
fn frames() -> Vec<Frame> {
    let mut frames = Vec::new();
    for transport in [Transport::Tcp { flags: SYN }, Transport::Udp { checksum: true }] {
        for (client, vip) in [
            ("10.7.0.1:40001", "10.9.9.9:80"),
            ("[2001:db8:7::1]:40001", "[2001:db8:9::9]:80"),
        ] {
            for port in [80, 81] {
                let vip = SocketAddr::new(socket(vip).ip(), port);
                frames.push(Frame::new(socket(client), vip, transport));
            }
        }
    }
    frames
}

fn malformed(balancer: &mut Balancer, frame: &[u8]) {
    balancer.passes(OUTSIDE, frame, Verdict::PassedMalformed);
}

#[test]
fn a_frame_cut_anywhere_before_its_end_is_malformed() {
    let mut balancer = balancer();
    for plain in frames() {
        let mut dressed = plain.clone();
        dressed.tags = vec![[0x88, 0xa8, 0, 1], [0x81, 0, 0, 2]];
        if plain.source.is_ipv4() {
            dressed.options = vec![1; 12];
        } else {
            let mut options = vec![0; 16];
            options[1] = 1;
            dressed.extensions = vec![(HOP_BY_HOP, options.clone()), (DESTINATION, options)];
        }
        for frame in [plain, dressed] {
            let bytes = frame.bytes();
            // The kernel gives no program less than an Ethernet header.
            for length in IP..bytes.len() {
                malformed(&mut balancer, &bytes[..length]);
            }
        }
    }
    assert!(balancer.flows().is_empty());
    for frame in frames() {
        assert_eq!(balancer.run(OUTSIDE, &frame.bytes()).0, Action::Redirect);
    }
}

#[test]
fn a_frame_that_is_only_an_ethernet_header_passes() {
    let mut balancer = balancer();
    for (ether_type, verdict) in [
        ([0x08, 0x00], Verdict::PassedMalformed),
        ([0x86, 0xdd], Verdict::PassedMalformed),
        ([0x81, 0x00], Verdict::PassedMalformed),
        ([0x08, 0x06], Verdict::PassedNotIp),
    ] {
        let frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &ether_type].concat();
        balancer.passes(OUTSIDE, &frame, verdict);
    }
}

fn v4() -> Vec<Frame> {
    frames().into_iter().filter(|frame| frame.source.is_ipv4()).collect()
}

fn v6() -> Vec<Frame> {
    frames().into_iter().filter(|frame| frame.source.is_ipv6()).collect()
}

#[test]
fn an_ip_header_of_another_version_than_its_ether_type_says_is_malformed() {
    let mut balancer = balancer();
    for (frames, right) in [(v4(), 4), (v6(), 6)] {
        for frame in frames {
            for version in (0..16).filter(|version| *version != right) {
                let mut bytes = frame.bytes();
                bytes[IP] = bytes[IP] & 0x0f | version << 4;
                malformed(&mut balancer, &bytes);
            }
        }
    }
    assert!(balancer.flows().is_empty());
}

#[test]
fn an_ipv4_header_that_is_shorter_than_its_fixed_part_is_malformed() {
    let mut balancer = balancer();
    for frame in v4() {
        for words in 0..5 {
            let mut bytes = frame.bytes();
            bytes[IP] = 0x40 | words;
            malformed(&mut balancer, &bytes);
        }
    }
}

#[test]
fn an_ipv4_header_that_reaches_past_its_packet_or_its_frame_is_malformed() {
    let mut balancer = balancer();
    for frame in v4() {
        let mut bytes = frame.payload(&[]).bytes();
        bytes[IP] = 0x4f;
        seal_ipv4_of(&mut bytes);
        malformed(&mut balancer, &bytes);
    }
}

/// As [`seal_ipv4`], where the header's length is a lie.
fn seal_ipv4_of(frame: &mut [u8]) {
    let lie = frame[IP];
    frame[IP] = 0x45;
    seal_ipv4(frame);
    frame[IP] = lie;
}

#[test]
fn an_ipv4_packet_shorter_than_its_header_is_malformed() {
    let mut balancer = balancer();
    for mut frame in v4() {
        for options in [0, 40] {
            frame.options = vec![1; options];
            for length in 0..20 + options as u16 {
                let mut bytes = frame.bytes();
                bytes[IP + 2..IP + 4].copy_from_slice(&length.to_be_bytes());
                seal_ipv4(&mut bytes);
                malformed(&mut balancer, &bytes);
            }
        }
    }
}

/// Bytes of a frame's transport header.
fn transport_length(frame: &Frame) -> u16 {
    match frame.transport {
        Transport::Tcp { .. } => 20,
        Transport::Udp { .. } => 8,
    }
}

#[test]
fn a_packet_that_ends_within_its_transport_header_is_malformed_though_the_frame_goes_on() {
    let mut balancer = balancer();
    for frame in v4() {
        for length in 20..20 + transport_length(&frame) {
            let mut bytes = frame.bytes();
            bytes[IP + 2..IP + 4].copy_from_slice(&length.to_be_bytes());
            seal_ipv4(&mut bytes);
            malformed(&mut balancer, &bytes);
        }
    }
    for frame in v6() {
        for length in 0..transport_length(&frame) {
            let mut bytes = frame.bytes();
            bytes[IP + 4..IP + 6].copy_from_slice(&length.to_be_bytes());
            malformed(&mut balancer, &bytes);
        }
    }
    assert!(balancer.flows().is_empty());
}

#[test]
fn a_packet_that_says_it_is_longer_than_its_frame_is_malformed() {
    let mut balancer = balancer();
    for frame in frames() {
        let length = frame.ip_length() as u16;
        for more in [1, 2, 100, u16::MAX - length] {
            let mut bytes = frame.bytes();
            if frame.source.is_ipv4() {
                bytes[IP + 2..IP + 4].copy_from_slice(&(length + more).to_be_bytes());
                seal_ipv4(&mut bytes);
            } else {
                bytes[IP + 4..IP + 6].copy_from_slice(&(length - 40 + more).to_be_bytes());
            }
            malformed(&mut balancer, &bytes);
        }
    }
    assert!(balancer.flows().is_empty());
}

#[test]
fn an_ipv6_extension_header_that_reaches_past_the_frame_is_malformed() {
    let mut balancer = balancer();
    for mut frame in v6() {
        frame.extensions = vec![(HOP_BY_HOP, vec![0; 8])];
        for units in [16, 32, 254, 255] {
            let mut bytes = frame.bytes();
            bytes[L4_V6 + 1] = units;
            malformed(&mut balancer, &bytes);
        }
    }
}

#[test]
fn a_vlan_tag_that_is_cut_short_is_malformed() {
    let mut balancer = balancer();
    let mut frame = frames().remove(0);
    frame.tags = vec![[0x81, 0, 0, 1], [0x81, 0, 0, 2]];
    let bytes = frame.bytes();
    for length in IP..IP + 8 {
        malformed(&mut balancer, &bytes[..length]);
    }
}
