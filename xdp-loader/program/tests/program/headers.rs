//! What may stand around the transport header: VLAN tags, IPv4 options, IPv6 extension headers, Ethernet padding.

use std::net::SocketAddr;

use lvx_model::{Forward, Scheduler};
use lvx_test_kit::{
    frame::{AUTHENTICATION, DESTINATION, FRAGMENT, Frame, HOP_BY_HOP, ROUTING, SYN, Transport, socket},
    network::{INSIDE, OUTSIDE, backend_mac, mac},
};
use xdp_common::verdict::Verdict;

use crate::balancer::{Action, Balancer};

const TRANSPORTS: [Transport; 2] = [Transport::Tcp { flags: SYN }, Transport::Udp { checksum: true }];

/// A client and services of one family: 80 by direct routing, 81 by NAT, each with one backend.
struct Lab {
    balancer: Balancer,
    client: SocketAddr,
    vip: SocketAddr,
    real: SocketAddr,
}

fn lab(client: &str, vip: &str, real: &str) -> Lab {
    let (client, vip, real) = (socket(client), socket(vip), socket(real));
    let mut balancer = Balancer::new();
    for protocol in ["tcp", "udp"] {
        let service = |port| format!("{protocol}://{}", SocketAddr::new(vip.ip(), port));
        balancer.add(&service(80), Forward::Dr, Scheduler::Rr, &[&real.ip().to_string()]);
        balancer.add(&service(81), Forward::Nat, Scheduler::Rr, &[&real.to_string()]);
    }
    balancer.apply();
    Lab {
        balancer,
        client,
        vip,
        real,
    }
}

fn lab_v4() -> Lab {
    lab("10.7.0.1:40001", "10.9.9.9:80", "10.0.1.12:8080")
}

fn lab_v6() -> Lab {
    lab("[2001:db8:7::1]:40001", "[2001:db8:9::9]:80", "[2001:db8:1::12]:8080")
}

impl Lab {
    /// Sends frames so changed through both services and back.
    #[track_caller]
    fn forwards(&mut self, change: impl Fn(Frame) -> Frame) {
        let macs = (backend_mac(self.real.ip()), mac(INSIDE));
        for transport in TRANSPORTS {
            let frame = change(Frame::new(self.client, self.vip, transport));
            let expected = frame.clone().routed().macs(macs.0, macs.1);
            self.balancer.forwards(OUTSIDE, &frame, &expected, Action::Redirect);

            let vip = SocketAddr::new(self.vip.ip(), 81);
            let frame = change(Frame::new(self.client, vip, transport));
            let expected = frame.clone().translated_to(self.real).macs(macs.0, macs.1);
            self.balancer.forwards(OUTSIDE, &frame, &expected, Action::Redirect);

            let answer = change(Frame::new(self.real, self.client, transport).macs(macs.1, macs.0));
            let back = answer.clone().translated_from(vip).macs(frame.from, mac(OUTSIDE));
            self.balancer.forwards(INSIDE, &answer, &back, Action::Redirect);
        }
    }

    /// Sends frames so changed to both services: they are passed.
    #[track_caller]
    fn passes(&mut self, verdict: Verdict, change: impl Fn(Frame) -> Frame) {
        for transport in TRANSPORTS {
            for port in [80, 81] {
                let frame = change(Frame::new(self.client, SocketAddr::new(self.vip.ip(), port), transport));
                self.balancer.passes(OUTSIDE, &frame.bytes(), verdict);
            }
        }
        assert!(self.balancer.flows().is_empty());
    }
}

#[test]
fn ipv4_options_of_every_length_are_kept() {
    let mut lab = lab_v4();
    for words in 0..=10 {
        // Record route, as long as there is room; anything with both halves of a word in it does for the checksum.
        let options: Vec<u8> = (0..words * 4)
            .map(|byte| [7, words as u8 * 4, 4, 0xa5][byte % 4])
            .collect();
        lab.forwards(|mut frame| {
            frame.options.clone_from(&options);
            frame
        });
    }
}

/// An extension header of so many bytes, the length field right; the first byte is filled in with the frame.
fn extension(kind: u8, length: usize) -> (u8, Vec<u8>) {
    let mut bytes = vec![0; length];
    bytes[1] = (length / 8 - 1) as u8;
    if kind != ROUTING {
        // One option that pads all the rest. A routing header's type is unused, and no segment of it is left.
        bytes[2] = 1;
        bytes[3] = (length - 4).min(255) as u8;
    }
    (kind, bytes)
}

/// An authentication header of so many bytes (RFC 4302, section 2).
fn authentication(length: usize) -> (u8, Vec<u8>) {
    let mut bytes = vec![0x5a; length];
    bytes[1] = (length / 4 - 2) as u8;
    (AUTHENTICATION, bytes)
}

/// The fragment header of a datagram that is whole (RFC 6946).
fn atomic_fragment() -> (u8, Vec<u8>) {
    (FRAGMENT, vec![0, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef])
}

#[test]
fn ipv6_extension_headers_of_every_kind_and_length_are_followed_and_kept() {
    let mut lab = lab_v6();
    for kind in [HOP_BY_HOP, ROUTING, DESTINATION] {
        for length in [8, 16, 24, 40, 264, 2048] {
            lab.forwards(|mut frame| {
                frame.extensions = vec![extension(kind, length)];
                frame
            });
        }
    }
    lab.forwards(|mut frame| {
        frame.extensions = vec![atomic_fragment()];
        frame
    });
}

#[test]
fn an_authentication_header_is_followed_and_kept_over_ipv6_and_ipv4() {
    for mut lab in [lab_v4(), lab_v6()] {
        for length in [12, 16, 24, 44, 1028] {
            lab.forwards(|mut frame| {
                frame.extensions = vec![authentication(length)];
                frame
            });
        }
        lab.forwards(|mut frame| {
            frame.options = if frame.source.is_ipv4() {
                vec![1; 40]
            } else {
                Vec::new()
            };
            frame.extensions = vec![authentication(24)];
            frame
        });
    }
}

#[test]
fn a_packet_with_a_routing_header_that_leads_elsewhere_passes() {
    let mut lab = lab_v6();
    for transport in TRANSPORTS {
        let mut frame = Frame::new(lab.client, lab.vip, transport);
        let (kind, mut bytes) = extension(ROUTING, 24);
        // One address is yet to be visited.
        bytes[3] = 1;
        frame.extensions = vec![(kind, bytes)];
        lab.balancer
            .passes(OUTSIDE, &frame.bytes(), Verdict::PassedOtherProtocol);
    }
}

/// So many extension headers, all kinds among them, as RFC 8200, section 4.1, orders them.
fn chain(length: usize) -> Vec<(u8, Vec<u8>)> {
    let all = [
        extension(HOP_BY_HOP, 8),
        extension(DESTINATION, 16),
        extension(ROUTING, 24),
        atomic_fragment(),
        extension(DESTINATION, 8),
        extension(DESTINATION, 40),
        extension(DESTINATION, 8),
        extension(DESTINATION, 8),
    ];
    all[..length].to_vec()
}

#[test]
fn six_ipv6_extension_headers_are_followed_and_with_a_seventh_the_packet_passes() {
    let mut lab = lab_v6();
    for length in 7..=8 {
        lab.passes(Verdict::PassedTooDeep, |mut frame| {
            frame.extensions = chain(length);
            frame
        });
    }
    for length in 0..=6 {
        lab.forwards(|mut frame| {
            frame.extensions = chain(length);
            frame
        });
    }
}

#[test]
fn one_vlan_tag_and_two_are_kept_and_with_a_third_the_packet_passes() {
    const DOT1Q: [u8; 4] = [0x81, 0x00, 0x20, 0x64];
    const PRIORITY: [u8; 4] = [0x81, 0x00, 0xe0, 0x00];
    const DOT1AD: [u8; 4] = [0x88, 0xa8, 0x3f, 0xff];
    for lab in [lab_v4, lab_v6] {
        let mut lab = lab();
        for tags in [
            vec![DOT1Q, DOT1Q, DOT1Q],
            vec![DOT1AD, DOT1AD, DOT1Q],
            vec![DOT1AD, DOT1Q, PRIORITY],
        ] {
            lab.passes(Verdict::PassedTooDeep, |mut frame| {
                frame.tags.clone_from(&tags);
                frame
            });
        }
        for tags in [
            vec![DOT1Q],
            vec![PRIORITY],
            vec![DOT1AD],
            vec![DOT1AD, DOT1Q],
            vec![DOT1Q, DOT1Q],
            vec![DOT1AD, DOT1AD],
        ] {
            lab.forwards(|mut frame| {
                frame.tags.clone_from(&tags);
                frame
            });
        }
    }
}

#[test]
fn tags_options_and_padding_together_are_kept() {
    let mut lab = lab_v4();
    lab.forwards(|mut frame| {
        frame.tags = vec![[0x88, 0xa8, 0, 1], [0x81, 0, 0, 2]];
        frame.options = vec![1; 40];
        frame.padding = vec![0xab; 7];
        frame
    });
    let mut lab = lab_v6();
    lab.forwards(|mut frame| {
        frame.tags = vec![[0x88, 0xa8, 0, 1], [0x81, 0, 0, 2]];
        frame.extensions = chain(6);
        frame.padding = vec![0xab; 7];
        frame
    });
}

#[test]
fn the_padding_of_a_shortest_frame_is_kept_and_neither_summed_nor_counted() {
    let mut lab = lab_v4();
    for length in [0, 1, 2, 3] {
        lab.forwards(|mut frame| {
            frame.payload = vec![0x5a; length];
            let padding = 60_usize.saturating_sub(frame.bytes().len());
            frame.padding = vec![0xff; padding];
            assert_eq!(frame.bytes().len(), 60);
            frame
        });
    }
    let counted = lab.balancer.counters("udp://10.9.9.9:80", "10.0.1.12:80");
    assert_eq!((counted.packets_in, counted.bytes_in), (4, 28 + 29 + 30 + 31));
}
