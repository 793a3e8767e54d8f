//! Reject: who asks a service that has no backend left is answered, from the service and by the way that the packet came.

use std::net::IpAddr;

use lvx_dataplane::memory::Memory;
use lvx_model::{Forward, OnNone, Scheduler, ServiceChange};
use lvx_test_kit::{
    frame::{ACK, DESTINATION, FIN, Frame, IP, RST, SYN, Transport, assert_checksums, checksum, socket, tcp, udp},
    network::{HOST, INSIDE, OUTSIDE, VETH},
};
use xdp_common::{
    layout::{ANSWERS_PER_SECOND, Control, QUOTED},
    verdict::Verdict,
};

use crate::{
    balancer::{Action, Balancer, sizes},
    network,
};

/// A service of each family and its client.
const ENDS: [(&str, &str); 2] = [
    ("10.9.9.9:80", "10.7.0.1:40001"),
    ("[2001:db8:9::9]:80", "[2001:db8:7::1]:40001"),
];

/// The sequence and acknowledgment numbers of the kit's segments.
const SEQUENCE: u32 = 0x1234_5678;
const ACKNOWLEDGMENT: u32 = 0x9abc_def0;

fn rejecting() -> ServiceChange {
    ServiceChange {
        on_none: Some(OnNone::Reject),
        ..ServiceChange::default()
    }
}

/// Services of both families and protocols without a backend.
fn configure(balancer: &mut Balancer, forward: Forward) {
    for (vip, _) in ENDS {
        for protocol in ["tcp", "udp"] {
            let service = format!("{protocol}://{vip}");
            balancer.add(&service, forward, Scheduler::Mh, &[]);
            balancer.set(&service, &rejecting());
        }
    }
    balancer.apply();
}

fn site(forward: Forward) -> Balancer {
    let mut balancer = Balancer::new();
    configure(&mut balancer, forward);
    balancer
}

#[track_caller]
fn answer(balancer: &mut Balancer, frame: &Frame) -> Vec<u8> {
    let (action, after, counted) = balancer.judge(OUTSIDE, &frame.bytes());
    assert_eq!(
        (action, counted),
        (Action::Tx, vec![Verdict::RejectedNoBackend]),
        "{frame:?}"
    );
    assert_eq!(
        (&after[..6], &after[6..12]),
        (&frame.from[..], &frame.to[..]),
        "the MACs"
    );
    let tags = frame.tags.concat();
    assert_eq!(after[12..12 + tags.len()], tags, "the tags");
    [after[..12].to_vec(), after[12 + tags.len()..].to_vec()].concat()
}

/// Addresses, protocol, hop count, and what follows the header, which must be without options and all that the frame has.
#[track_caller]
fn parts(answer: &[u8]) -> (IpAddr, IpAddr, u8, u8, &[u8]) {
    let packet = &answer[IP..];
    let number = |at: usize| usize::from(packet[at]) << 8 | usize::from(packet[at + 1]);
    if packet[0] == 0x45 {
        assert_eq!(checksum(&packet[..20]), [0, 0], "the header's checksum");
        assert_eq!(number(2), packet.len(), "the length");
        let address = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap().into();
        return (address(12), address(16), packet[9], packet[8], &packet[20..]);
    }
    assert_eq!(packet[..4], [0x60, 0, 0, 0]);
    assert_eq!(number(4) + 40, packet.len(), "the length");
    let address = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap().into();
    (address(8), address(24), packet[6], packet[7], &packet[40..])
}

#[track_caller]
fn assert_reset(balancer: &mut Balancer, frame: &Frame, flags: u8, sequence: u32, acknowledgment: u32) {
    let answer = answer(balancer, frame);
    assert_checksums(&answer);
    let (source, destination, protocol, hops, segment) = parts(&answer);
    assert_eq!((source, destination), (frame.destination.ip(), frame.source.ip()));
    assert_eq!((protocol, hops, segment.len()), (6, 64, 20));
    let ports = [frame.destination.port(), frame.source.port()].map(u16::to_be_bytes);
    assert_eq!(segment[..4], ports.concat());
    let numbers = [sequence, acknowledgment].map(u32::to_be_bytes);
    assert_eq!(segment[4..12], numbers.concat(), "{frame:?}");
    assert_eq!(segment[12..16], [0x50, flags, 0, 0]);
    assert_eq!(segment[18..], [0, 0]);
}

#[test]
fn tcp_is_answered_with_the_rst_that_its_sender_believes() {
    for forward in [Forward::Dr, Forward::Nat] {
        let mut balancer = site(forward);
        for (vip, client) in ENDS {
            let segment = |flags: u8, payload: &[u8]| tcp(client, vip, flags).payload(payload);
            // RFC 9293, section 3.10.7.1: without an acknowledgment all that the segment has is acknowledged.
            for (flags, payload, length) in [
                (SYN, &b""[..], 1),
                (SYN, b"fast open", 10),
                (FIN, b"", 1),
                (0, b"data", 4),
            ] {
                let acknowledgment = SEQUENCE + length;
                assert_reset(&mut balancer, &segment(flags, payload), RST | ACK, 0, acknowledgment);
            }
            for flags in [ACK, ACK | FIN, SYN | ACK] {
                assert_reset(&mut balancer, &segment(flags, b"data"), RST, ACKNOWLEDGMENT, 0);
            }
        }
    }
}

#[test]
fn tags_stay_and_options_do_not() {
    let mut balancer = site(Forward::Dr);
    for (vip, client) in ENDS {
        for tags in [
            vec![],
            vec![[0x81, 0, 0, 7]],
            vec![[0x88, 0xa8, 0, 9], [0x81, 0, 0x20, 7]],
        ] {
            for is_long in [false, true] {
                for is_udp in [false, true] {
                    let mut frame = if is_udp {
                        udp(client, vip)
                    } else {
                        tcp(client, vip, SYN)
                    };
                    frame.tags.clone_from(&tags);
                    if is_long {
                        frame.options = vec![1; 40];
                        frame.tcp_options = vec![1; 40];
                        frame.extensions = vec![(DESTINATION, vec![0; 8])];
                        frame.padding = vec![0xee; 9];
                    }
                    if is_udp {
                        assert_unreachable(&mut balancer, &frame);
                    } else {
                        let length = frame.payload.len() as u32 + 1;
                        assert_reset(&mut balancer, &frame, RST | ACK, 0, SEQUENCE + length);
                    }
                }
            }
        }
    }
}

#[track_caller]
fn assert_unreachable(balancer: &mut Balancer, frame: &Frame) {
    let answer = answer(balancer, frame);
    let (source, destination, protocol, hops, message) = parts(&answer);
    assert_eq!((source, destination), (frame.destination.ip(), frame.source.ip()));
    let (number, kind_and_code) = if source.is_ipv4() { (1, [3, 3]) } else { (58, [1, 4]) };
    assert_eq!((protocol, hops), (number, 64));
    assert_eq!(message[..2], kind_and_code);
    assert_eq!(message[4..8], [0; 4]);
    let packet = &frame.bytes()[IP + 4 * frame.tags.len()..];
    let whole = frame.ip_length() as usize;
    assert!(
        message[8..] == packet[..whole.min(QUOTED)],
        "the quote of {whole} bytes"
    );
    let mut summed = match (source, destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = (message.len() as u32).to_be_bytes();
            [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, 58]].concat()
        }
        _ => vec![],
    };
    summed.extend(message);
    assert_eq!(
        checksum(&summed),
        [0, 0],
        "the message's checksum over a quote of {whole} bytes"
    );
}

#[test]
fn udp_is_answered_with_a_port_unreachable_that_quotes_it() {
    for forward in [Forward::Dr, Forward::Nat] {
        let mut balancer = site(forward);
        for (vip, client) in ENDS {
            let lengths = (0..20).chain([440, 450, 459, 460, 461, 463, 479, 480, 481, 482, 485, 1000, 1400]);
            for length in lengths {
                let payload: Vec<u8> = (0..length).map(|at: u32| (at * 7 + 1) as u8).collect();
                assert_unreachable(&mut balancer, &udp(client, vip).payload(&payload));
            }
        }
    }
}

#[test]
fn what_must_not_be_answered_is_dropped() {
    let mut balancer = site(Forward::Dr);
    for (vip, client) in ENDS {
        for flags in [RST, RST | ACK] {
            balancer.drops(OUTSIDE, &tcp(client, vip, flags), Verdict::DroppedNoBackend);
        }
    }
    let nobodys = [
        "0.0.0.0:7",
        "127.0.0.1:7",
        "224.0.0.1:7",
        "239.1.2.3:7",
        "255.255.255.255:7",
        "10.9.9.9:7",
        "[::]:7",
        "[::1]:7",
        "[ff02::1]:7",
        "[2001:db8:9::9]:7",
    ];
    for source in nobodys.map(socket) {
        let (vip, _) = ENDS[usize::from(source.is_ipv6())];
        for transport in [Transport::Tcp { flags: SYN }, Transport::Udp { checksum: true }] {
            let frame = Frame::new(source, socket(vip), transport);
            balancer.drops(OUTSIDE, &frame, Verdict::DroppedNoBackend);
        }
    }
    // Nor what is for another host.
    let (vip, client) = ENDS[0];
    let frame = tcp(client, vip, SYN).macs([0xff; 6], HOST);
    balancer.passes(OUTSIDE, &frame.bytes(), Verdict::PassedOtherHost);
}

#[test]
fn an_answer_leaves_as_packets_for_a_backend_there_would() {
    let mut balancer = site(Forward::Dr);
    for (vip, client) in ENDS {
        for frame in [tcp(client, vip, SYN), udp(client, vip)] {
            for (ingress, action) in [(OUTSIDE, Action::Tx), (INSIDE, Action::Tx), (VETH, Action::Redirect)] {
                assert_eq!(balancer.run(ingress, &frame.bytes()).0, action);
            }
        }
    }
}

#[test]
fn a_service_that_drops_says_nothing_and_one_with_a_backend_serves() {
    let mut balancer = site(Forward::Dr);
    let (vip, client) = ENDS[0];
    let service = format!("tcp://{vip}");
    balancer.set(
        &service,
        &ServiceChange {
            on_none: Some(OnNone::Drop),
            ..ServiceChange::default()
        },
    );
    balancer.apply();
    balancer.drops(OUTSIDE, &tcp(client, vip, SYN), Verdict::DroppedNoBackend);
    balancer.set(&service, &rejecting());
    balancer.add_backend(&service, "10.0.1.11");
    balancer.apply();
    assert_eq!(
        balancer.run(OUTSIDE, &tcp(client, vip, SYN).bytes()).0,
        Action::Redirect
    );
    // Its connection is told once the backend is gone, and so is the next.
    balancer.del_backend(&service, "10.0.1.11");
    balancer.apply();
    assert_reset(&mut balancer, &tcp(client, vip, ACK), RST, ACKNOWLEDGMENT, 0);
    balancer.add_backend(&service, "10.0.1.11");
    balancer.lose("10.0.1.11");
    balancer.apply();
    assert_reset(
        &mut balancer,
        &tcp(client, vip, SYN).payload(b""),
        RST | ACK,
        0,
        SEQUENCE + 1,
    );
}

#[test]
fn a_cpu_answers_no_more_than_so_often_in_a_second() {
    let links = network::enter();
    let mut balancer = Balancer::with(None, sizes(), links);
    configure(&mut balancer, Forward::Dr);
    // A second that does not end.
    let control: Memory<Control> = balancer.tables.maps().control.whole().unwrap();
    let set = |hertz: u32| {
        control.write(
            0,
            &Control {
                hertz,
                ..control.read(0)
            },
        );
    };
    let hertz = control.read(0).hertz;
    set(u32::MAX);
    let (vip, client) = ENDS[0];
    let frame = tcp(client, vip, SYN).bytes();
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    let mut answered = 0;
    for _ in 0..(ANSWERS_PER_SECOND + 1) * cpus {
        match balancer.run(OUTSIDE, &frame).0 {
            Action::Tx => answered += 1,
            action => assert_eq!(action, Action::Drop),
        }
    }
    assert!(
        (ANSWERS_PER_SECOND..=ANSWERS_PER_SECOND * cpus).contains(&answered),
        "{answered}"
    );
    // The next second has as many again.
    set(hertz);
    assert_eq!(balancer.run(OUTSIDE, &frame).0, Action::Tx);
}
