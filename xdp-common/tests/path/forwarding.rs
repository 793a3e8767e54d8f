//! What is forwarded, by direct routing and NAT, byte for byte: both families and transports, with and without tags, options
//! and extension headers.

use std::net::SocketAddr;

use lvx_test_kit::{
    frame::{ACK, DESTINATION, FRAGMENT, Frame, HOP_BY_HOP, ROUTING, SYN, Transport, socket, tcp},
    network::{INSIDE, OUTSIDE, VETH, backend_mac, mac},
};
use xdp_common::{
    layout::{Hop, Sizes},
    tcp_state::State,
    verdict::Verdict,
};

use crate::{
    balancer::{Action, Balancer},
    configuration::Service,
    image::slot,
    image::wire_mac,
};

/// A client, a service and a backend of one family and transport.
pub struct Case {
    pub transport: Transport,
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub real: SocketAddr,
}

impl Case {
    pub fn all() -> Vec<Self> {
        let transports = [Transport::Tcp { flags: SYN }, Transport::Udp { checksum: true }];
        let ends = [
            ["10.7.0.1:40001", "10.9.9.9:80", "10.0.1.12:8080"],
            ["[2001:db8:7::1]:40001", "[2001:db8:9::9]:80", "[2001:db8:1::12]:8080"],
        ];
        let all = transports
            .into_iter()
            .flat_map(|transport| ends.map(|ends| (transport, ends.map(socket))));
        all.map(|(transport, [client, vip, real])| Self {
            transport,
            client,
            vip,
            real,
        })
        .collect()
    }

    pub fn service(&self) -> String {
        let protocol = if matches!(self.transport, Transport::Tcp { .. }) {
            "tcp"
        } else {
            "udp"
        };
        format!("{protocol}://{}", self.vip)
    }

    pub fn nat(&self) -> Service {
        Service::nat(&self.service(), &[&self.real.to_string()])
    }

    pub fn dr(&self) -> Service {
        let real = SocketAddr::new(self.real.ip(), self.vip.port());
        Service::dr(&self.service(), &[&real.to_string()])
    }

    pub fn request(&self) -> Frame {
        Frame::new(self.client, self.vip, self.transport)
    }

    /// The client's request as its backend gets it by NAT.
    pub fn translated(&self, request: &Frame) -> Frame {
        let macs = (backend_mac(self.real.ip()), mac(INSIDE));
        request.clone().translated_to(self.real).macs(macs.0, macs.1)
    }

    /// The backend's answer to a request.
    pub fn answer(&self) -> Frame {
        let transport = match self.transport {
            Transport::Tcp { .. } => Transport::Tcp { flags: SYN | ACK },
            udp => udp,
        };
        Frame::new(self.real, self.client, transport)
            .payload(b"an answer")
            .macs(mac(INSIDE), backend_mac(self.real.ip()))
    }

    /// The answer as the client gets it.
    pub fn returned(&self, answer: &Frame) -> Frame {
        answer
            .clone()
            .translated_from(self.vip)
            .macs(self.request().from, mac(OUTSIDE))
    }
}

/// A frame, and the same with all that may stand before its transport header.
pub fn dressed(plain: &Frame) -> Vec<Frame> {
    let mut frames = vec![plain.clone()];
    for tags in [&[[0x81, 0, 0x20, 7]][..], &[[0x88, 0xa8, 0, 1], [0x81, 0, 0, 2]]] {
        frames.push(Frame {
            tags: tags.to_vec(),
            ..plain.clone()
        });
    }
    for more in 1..=10 {
        let mut frame = frames[more % 3].clone();
        if plain.source.is_ipv4() {
            frame.options = vec![1; more * 4];
        } else {
            let kinds = [HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, DESTINATION, ROUTING];
            let kinds = kinds.iter().take(more).map(|kind| (*kind, vec![0; 8]));
            frame.extensions = kinds.collect();
            if more > 6 {
                // A longer one: its second byte says by how many units of eight bytes.
                frame.extensions.truncate(2);
                frame.extensions[0].1 = vec![0; more * 8];
                frame.extensions[0].1[1] = more as u8 - 1;
            }
        }
        frames.push(frame);
    }
    for padding in [1, 20] {
        let mut frame = plain.clone();
        frame.payload.truncate(3);
        frame.padding = vec![0; padding];
        frames.push(frame);
    }
    frames
}

#[test]
fn by_direct_routing_only_the_macs_and_the_hops_of_a_frame_change() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.dr()]);
        for frame in dressed(&case.request()) {
            let expected = frame.clone().routed().macs(backend_mac(case.real.ip()), mac(INSIDE));
            balancer.forwards(OUTSIDE, &frame.bytes(), &expected.bytes(), Action::Redirect);
        }
    }
}

#[test]
fn nat_rewrites_a_request_and_its_answer_and_all_checksums_are_right() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.nat()]);
        let (requests, answers) = (dressed(&case.request()), dressed(&case.answer()));
        for (request, answer) in requests.iter().zip(&answers) {
            let expected = case.translated(request).bytes();
            balancer.forwards(OUTSIDE, &request.bytes(), &expected, Action::Redirect);
            let expected = case.returned(answer).bytes();
            balancer.forwards(INSIDE, &answer.bytes(), &expected, Action::Redirect);
        }
    }
}

#[test]
fn every_payload_and_length_comes_out_with_its_checksum_right() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.nat()]);
        for length in 0..200_usize {
            let payload: Vec<u8> = (0..length).map(|byte| (byte * 37 + length * 101) as u8).collect();
            let request = case.request().payload(&payload);
            let expected = case.translated(&request).bytes();
            balancer.forwards(OUTSIDE, &request.bytes(), &expected, Action::Redirect);
        }
    }
}

#[test]
fn udp_without_a_checksum_stays_without_one() {
    for case in Case::all()
        .into_iter()
        .filter(|case| case.transport == Transport::Udp { checksum: true })
    {
        let balancer = Balancer::new(&[case.nat()]);
        let mut request = case.request();
        request.transport = Transport::Udp { checksum: false };
        let expected = case.translated(&request).bytes();
        balancer.forwards(OUTSIDE, &request.bytes(), &expected, Action::Redirect);
    }
}

#[test]
fn a_frame_leaves_by_the_interface_it_came_in_by_without_a_redirect_unless_that_is_a_veth() {
    for (network, ingress, action) in [
        (0, OUTSIDE, Action::Tx),
        (1, OUTSIDE, Action::Redirect),
        (1, INSIDE, Action::Tx),
        (2, VETH, Action::Redirect),
    ] {
        let backend = format!("10.0.{network}.12:80");
        let balancer = Balancer::new(&[Service::dr("tcp://10.9.9.9:80", &[&backend])]);
        let request = tcp("10.7.0.1:40001", "10.9.9.9:80", SYN);
        let macs = (backend_mac(socket(&backend).ip()), mac(OUTSIDE + network));
        let expected = request.clone().routed().macs(macs.0, macs.1);
        balancer.forwards(ingress, &request.bytes(), &expected.bytes(), action);
    }
}

#[test]
fn answers_go_to_the_neighbour_and_interface_that_the_client_was_last_seen_behind() {
    for case in Case::all() {
        let mut balancer = Balancer::new(&[case.nat()]);
        let mut request = case.request();
        balancer.run(OUTSIDE, &request.bytes());
        let learnt = balancer.flow(case.client).hop;
        assert_eq!(learnt, Hop::new(wire_mac(request.from), slot(OUTSIDE)));
        balancer.wait(2);
        request.from = [2, 0, 0, 0, 0, 0xc2];
        if let Transport::Tcp { .. } = case.transport {
            request = request.with_flags(ACK);
        }
        balancer.run(VETH, &request.bytes());
        let answer = case.answer();
        let expected = case.returned(&answer).macs(request.from, mac(VETH));
        balancer.forwards(INSIDE, &answer.bytes(), &expected.bytes(), Action::Redirect);
    }
}

#[test]
fn nat_takes_a_hop_and_drops_a_packet_that_has_none_left() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.nat()]);
        for hops in [0, 1] {
            let request = Frame { hops, ..case.request() };
            balancer.drops(OUTSIDE, &request, Verdict::DroppedTtlExceeded);
            assert_eq!(balancer.count_flows(), 0);
        }
        let request = Frame {
            hops: 2,
            ..case.request()
        };
        let expected = case.translated(&request).bytes();
        balancer.forwards(OUTSIDE, &request.bytes(), &expected, Action::Redirect);
        for hops in [0, 1] {
            let answer = Frame { hops, ..case.answer() };
            balancer.drops(INSIDE, &answer, Verdict::DroppedTtlExceeded);
        }
        assert_ne!(balancer.flow(case.client).state, State::Template);
    }
}

#[test]
fn a_packet_for_no_service_and_a_backends_own_packets_pass() {
    for case in Case::all() {
        let balancer = Balancer::new(&[case.nat()]);
        let mut elsewhere = case.request();
        elsewhere.destination.set_port(82);
        balancer.passes(OUTSIDE, &elsewhere.bytes(), Verdict::PassedNoService);
        balancer.passes(INSIDE, &case.answer().bytes(), Verdict::PassedNoService);
    }
}

#[test]
fn an_endpoint_whose_bucket_is_full_is_found_in_the_next() {
    const SERVICES: u16 = 1000;
    for (client, vip, host) in [
        ("10.7.0.1:9", "10.9.9.9", "10.0.1.12"),
        ("[2001:db8:7::1]:9", "[2001:db8:9::9]", "[2001:db8:1::12]"),
    ] {
        // As many endpoints as buckets: each backend is one too.
        let service = |port| Service::nat(&format!("udp://{vip}:{port}"), &[&format!("{host}:{}", 10_000 + port)]);
        let services: Vec<Service> = (1..=SERVICES).map(service).collect();
        let sizes = Sizes::new(u32::from(SERVICES), u32::from(SERVICES), 4096, 4096);
        let balancer = Balancer::sized(sizes, &services);
        let tables = &balancer.tables;
        let spilled = (0..tables.endpoints_v4.len()).filter(|bucket| {
            tables.endpoints_v4.read(*bucket)[0].spilled + tables.endpoints_v6.read(*bucket)[0].spilled > 0
        });
        assert_ne!(spilled.count(), 0, "the test is to cover buckets that are full");
        for service in &services {
            let transport = Transport::Udp { checksum: true };
            let request = Frame::new(socket(client), service.vip, transport).bytes();
            assert_eq!(balancer.run(OUTSIDE, &request).0, Action::Redirect, "{}", service.vip);
            let answer = Frame::new(service.backends[0].address, socket(client), transport).bytes();
            let (action, _, counted) = balancer.judge(INSIDE, &answer);
            // One client's bucket has room for eight flows, and the oldest are forgotten for new ones.
            assert_eq!((action, counted), (Action::Redirect, vec![]), "{}", service.vip);
        }
    }
}
