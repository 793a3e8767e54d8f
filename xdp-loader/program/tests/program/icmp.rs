//! ICMP errors follow the flow of the packet that they quote, whole messages compared.

use std::net::{IpAddr, SocketAddr};

use lvx_model::{Forward, Scheduler};
use lvx_test_kit::{
    frame::{ACK, FRAGMENT, Frame, HOP_BY_HOP, IP, SYN, Transport, assert_same, socket},
    icmp::IcmpError,
    network::{INSIDE, OUTSIDE, backend_mac, mac},
};
use xdp_common::verdict::Verdict;

use crate::balancer::{Action, Balancer};

/// A family and protocol: a client with a flow to a service by direct routing (80) and one by NAT (81).
struct Lab {
    balancer: Balancer,
    client: SocketAddr,
    vip: SocketAddr,
    real: SocketAddr,
    router: IpAddr,
    transport: Transport,
}

fn lab(client: &str, vip: &str, real: &str, router: &str, transport: Transport) -> Lab {
    let (client, vip, real) = (socket(client), socket(vip), socket(real));
    let mut balancer = Balancer::new();
    let protocol = match transport {
        Transport::Tcp { .. } => "tcp",
        Transport::Udp { .. } => "udp",
    };
    let service = |port| format!("{protocol}://{}", SocketAddr::new(vip.ip(), port));
    balancer.add(&service(80), Forward::Dr, Scheduler::Rr, &[&real.ip().to_string()]);
    balancer.add(&service(81), Forward::Nat, Scheduler::Rr, &[&real.to_string()]);
    balancer.apply();
    for port in [80, 81] {
        balancer.host(&Frame::new(client, SocketAddr::new(vip.ip(), port), transport));
    }
    Lab {
        balancer,
        client,
        vip,
        real,
        router: router.parse().unwrap(),
        transport,
    }
}

const TCP: Transport = Transport::Tcp { flags: ACK };
const UDP: Transport = Transport::Udp { checksum: true };

fn lab_v4(transport: Transport) -> Lab {
    let (client, vip) = ("10.7.0.1:40001", "10.9.9.9:80");
    lab(client, vip, "10.0.1.12:8080", "10.7.0.254", transport)
}

fn lab_v6(transport: Transport) -> Lab {
    let (client, vip) = ("[2001:db8:7::1]:40001", "[2001:db8:9::9]:80");
    lab(client, vip, "[2001:db8:1::12]:8080", "2001:db8:7::fe", transport)
}

impl Lab {
    fn vip(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.vip.ip(), port)
    }

    /// A packet that an error is about, some hops from where it was sent.
    fn packet(&self, source: SocketAddr, destination: SocketAddr) -> Frame {
        let mut packet = Frame::new(source, destination, self.transport);
        packet.hops = 9;
        packet
    }

    /// The router's error about a packet, to its sender.
    fn error(&self, about: &Frame) -> IcmpError {
        let mut error = IcmpError::new(self.router, about);
        error.to = mac(OUTSIDE);
        error.hops = 61;
        error
    }

    /// How much of a packet routers quote: the ports, 8 bytes after IP, some more, all.
    fn lengths(&self) -> [usize; 5] {
        let header = self.header();
        [header + 8, header + 16, header + 20, header + 27, usize::MAX]
    }

    /// The length of an IP header without options or extension headers.
    fn header(&self) -> usize {
        if self.client.is_ipv4() { 20 } else { 40 }
    }

    #[track_caller]
    fn forwards(&mut self, ingress: u32, error: &IcmpError, expected: &IcmpError) {
        let flows = self.balancer.flows();
        let (action, after, counted) = self.balancer.judge(ingress, &error.bytes());
        assert_eq!((action, counted), (Action::Redirect, vec![]), "{error:02x?}");
        assert_same(&after, &expected.bytes());
        assert_eq!(self.balancer.flows(), flows, "an error is no packet of the flow");
    }

    #[track_caller]
    fn passes(&mut self, ingress: u32, error: &IcmpError, verdict: Verdict) {
        self.balancer.passes(ingress, &error.bytes(), verdict);
    }

    fn errors_follow_their_flow(&mut self) {
        let macs = (backend_mac(self.real.ip()), mac(INSIDE));

        // About an answer of a backend by direct routing.
        let mut error = self.error(&self.packet(self.vip(80), self.client));
        for length in self.lengths() {
            error.quotes = length;
            let mut expected = error.clone();
            (expected.to, expected.from) = macs;
            expected.hops -= 1;
            self.forwards(OUTSIDE, &error, &expected);
        }

        // About an answer of a NAT backend, which left as the service's.
        let mut error = self.error(&self.packet(self.vip(81), self.client));
        for length in self.lengths() {
            error.quotes = length;
            let mut expected = error.clone();
            (expected.to, expected.from) = macs;
            expected.destination = self.real.ip();
            expected.hops -= 1;
            expected.about.source = self.real;
            self.forwards(OUTSIDE, &error, &expected);
        }

        // About a request that had been translated, by the backend itself or a router before it.
        let mut error = self.error(&self.packet(self.client, self.real));
        (error.to, error.from) = (macs.1, macs.0);
        // Port unreachable.
        (error.kind, error.rest) = (if self.client.is_ipv4() { [3, 3] } else { [1, 4] }, [0; 4]);
        let router = if self.client.is_ipv4() {
            "10.0.1.254"
        } else {
            "2001:db8:1::fe"
        };
        for source in [self.real.ip(), router.parse().unwrap()] {
            for length in self.lengths() {
                (error.source, error.quotes) = (source, length);
                let mut expected = error.clone();
                (expected.to, expected.from) = ([2, 0, 0, 0, 0, 0xc1], mac(OUTSIDE));
                expected.source = self.vip.ip();
                expected.hops -= 1;
                expected.about.destination = self.vip(81);
                self.forwards(INSIDE, &error, &expected);
            }
        }
    }
}

#[test]
fn icmp_errors_about_tcp_reach_the_backend_and_the_client_of_the_flow_as_if_they_had_met_it() {
    lab_v4(TCP).errors_follow_their_flow();
}

#[test]
fn icmp_errors_about_udp_reach_the_backend_and_the_client_of_the_flow_as_if_they_had_met_it() {
    lab_v4(UDP).errors_follow_their_flow();
    lab_v4(Transport::Udp { checksum: false }).errors_follow_their_flow();
}

#[test]
fn icmpv6_errors_about_tcp_reach_the_backend_and_the_client_of_the_flow_as_if_they_had_met_it() {
    lab_v6(TCP).errors_follow_their_flow();
}

#[test]
fn icmpv6_errors_about_udp_reach_the_backend_and_the_client_of_the_flow_as_if_they_had_met_it() {
    lab_v6(UDP).errors_follow_their_flow();
}

#[test]
fn the_headers_of_a_quoted_packet_are_followed_like_those_of_any_other() {
    let mut lab = lab_v4(TCP);
    let mut about = lab.packet(lab.vip(81), lab.client);
    about.options = vec![1; 24];
    let error = lab.error(&about);
    let mut expected = error.clone();
    (expected.to, expected.from, expected.hops) = (backend_mac(lab.real.ip()), mac(INSIDE), 60);
    (expected.destination, expected.about.source) = (lab.real.ip(), lab.real);
    lab.forwards(OUTSIDE, &error, &expected);

    let mut lab = lab_v6(UDP);
    let mut about = lab.packet(lab.vip(81), lab.client);
    about.extensions = vec![(HOP_BY_HOP, vec![0; 8]), (FRAGMENT, vec![0; 8])];
    let error = lab.error(&about);
    let mut expected = error.clone();
    (expected.to, expected.from, expected.hops) = (backend_mac(lab.real.ip()), mac(INSIDE), 60);
    (expected.destination, expected.about.source) = (lab.real.ip(), lab.real);
    lab.forwards(OUTSIDE, &error, &expected);
}

#[test]
fn headers_of_the_greatest_length_hide_nothing() {
    // Whose ports would be read from the wrong header: the service at port 0x4f00 looks like the start of one.
    let mut lab = lab("10.7.0.1:40001", "10.9.9.9:20224", "10.0.1.12:8080", "10.7.0.254", TCP);
    let mut about = lab.packet(lab.vip(81), lab.client);
    about.options = vec![1; 40];
    let mut error = lab.error(&about);
    error.options = vec![1; 40];
    error.tags = vec![[0x88, 0xa8, 0, 1], [0x81, 0, 0, 2]];
    let mut expected = error.clone();
    (expected.to, expected.from, expected.hops) = (backend_mac(lab.real.ip()), mac(INSIDE), 60);
    (expected.destination, expected.about.source) = (lab.real.ip(), lab.real);
    lab.forwards(OUTSIDE, &error, &expected);
}

#[test]
fn an_error_about_a_flow_that_is_not_known_goes_where_a_hash_sends_its_data() {
    for v6 in [false, true] {
        for forward in [Forward::Dr, Forward::Nat] {
            let (service, backends, clients, router) = match v6 {
                false => (
                    "tcp://10.9.9.9:80",
                    ["10.0.1.11", "10.0.1.12", "10.0.1.13"],
                    "10.7.0.1",
                    "10.7.0.254",
                ),
                true => (
                    "tcp://[2001:db8:9::9]:80",
                    ["2001:db8:1::11", "2001:db8:1::12", "2001:db8:1::13"],
                    "2001:db8:7::1",
                    "2001:db8:7::fe",
                ),
            };
            let mut balancer = Balancer::serving(service, forward, Scheduler::Mh, &backends);
            let vip = socket(service.split_once("://").unwrap().1);
            for port in 40_000..40_040 {
                let client = SocketAddr::new(clients.parse().unwrap(), port);
                let error = IcmpError::new(router.parse().unwrap(), &Frame::new(vip, client, TCP));
                let (action, after, counted) = balancer.judge(OUTSIDE, &error.bytes());
                assert_eq!((action, counted), (Action::Redirect, vec![]));
                assert!(balancer.state(client).is_none(), "an error begins no flow");
                assert_eq!(after[5], balancer.host(&Frame::new(client, vip, TCP)));
            }
        }
    }
}

#[test]
fn an_error_about_a_flow_that_is_not_known_passes_where_a_client_persists_or_backends_take_turns() {
    let error = IcmpError::new(
        "10.7.0.254".parse().unwrap(),
        &Frame::new(socket("10.9.9.9:80"), socket("10.7.0.1:40001"), TCP),
    );
    let mut balancer = Balancer::serving("tcp://10.9.9.9:80", Forward::Dr, Scheduler::Rr, &["10.0.1.11"]);
    balancer.passes(OUTSIDE, &error.bytes(), Verdict::PassedNoService);
    let mut balancer = Balancer::serving("tcp://10.9.9.9:80", Forward::Dr, Scheduler::Mh, &["10.0.1.11"]);
    let change = lvx_model::ServiceChange {
        persistence: Some(lvx_model::check::Period::from_millis(300_000)),
        ..lvx_model::ServiceChange::default()
    };
    balancer.set("tcp://10.9.9.9:80", &change);
    balancer.apply();
    balancer.passes(OUTSIDE, &error.bytes(), Verdict::PassedNoService);
}

#[test]
fn padding_behind_an_error_is_no_part_of_what_it_quotes() {
    for lab in [lab_v4, lab_v6] {
        let mut lab = lab(TCP);
        let mut error = lab.error(&lab.packet(lab.vip(81), lab.client));
        // The ports are quoted, the checksum is not; a driver's padding stands where it would.
        error.quotes = lab.header() + 8;
        let mut expected = error.clone();
        (expected.to, expected.from, expected.hops) = (backend_mac(lab.real.ip()), mac(INSIDE), 60);
        (expected.destination, expected.about.source) = (lab.real.ip(), lab.real);
        let padding = [0xa5; 40];
        let padded = |error: &IcmpError| [error.bytes(), padding.to_vec()].concat();
        let (action, after, _) = lab.balancer.judge(OUTSIDE, &padded(&error));
        assert_eq!(action, Action::Redirect);
        assert_same(&after, &padded(&expected));
        // Not even the ports are.
        error.quotes = lab.header() + 3;
        lab.balancer.passes(OUTSIDE, &padded(&error), Verdict::PassedMalformed);
    }
}

#[test]
fn a_redirect_is_for_the_host_that_gets_it() {
    let mut lab = lab_v4(TCP);
    let mut error = lab.error(&lab.packet(lab.vip(81), lab.client));
    error.kind = [5, 1];
    lab.passes(OUTSIDE, &error, Verdict::PassedOtherProtocol);
}

#[test]
fn an_error_about_no_flow_passes() {
    for mut lab in [lab_v4(TCP)] {
        let strangers = [
            (lab.vip(81), socket("10.7.0.1:40002")),
            (lab.vip(82), lab.client),
            (socket("10.9.9.10:81"), lab.client),
            (socket("10.7.0.2:22"), lab.client),
        ];
        for (source, destination) in strangers {
            let error = lab.error(&lab.packet(source, destination));
            lab.passes(OUTSIDE, &error, Verdict::PassedNoService);
        }
        let mut error = lab.error(&lab.packet(socket("10.7.0.9:1"), lab.real));
        error.to = mac(INSIDE);
        lab.passes(INSIDE, &error, Verdict::PassedNoService);
    }
}

#[test]
fn an_error_that_is_not_addressed_to_the_sender_of_what_it_quotes_passes() {
    for lab in [lab_v4, lab_v6] {
        let mut lab = lab(TCP);
        let elsewhere: IpAddr = if lab.client.is_ipv4() {
            "10.7.0.2"
        } else {
            "2001:db8:7::2"
        }
        .parse()
        .unwrap();
        for port in [80, 81] {
            let mut error = lab.error(&lab.packet(lab.vip(port), lab.client));
            error.destination = elsewhere;
            lab.passes(OUTSIDE, &error, Verdict::PassedNoService);
        }
        let mut error = lab.error(&lab.packet(lab.client, lab.real));
        (error.to, error.destination) = (mac(INSIDE), elsewhere);
        lab.passes(INSIDE, &error, Verdict::PassedNoService);
    }
}

#[test]
fn an_error_about_a_fragment_without_ports_passes() {
    let mut lab = lab_v4(UDP);
    let about = lab.packet(lab.vip(81), lab.client);
    let mut fragment = about.bytes()[IP..].to_vec();
    fragment[6..8].copy_from_slice(&[0x20, 0x10]);
    let frame = lab.error(&about).quoting(&fragment);
    let (action, after) = lab.balancer.run(OUTSIDE, &frame);
    assert_eq!(action, Action::Pass);
    assert_same(&after, &frame);
}

#[test]
fn an_error_that_quotes_too_little_is_malformed() {
    for lab in [lab_v4, lab_v6] {
        let mut lab = lab(TCP);
        let mut error = lab.error(&lab.packet(lab.vip(81), lab.client));
        for length in 0..lab.header() + 4 {
            error.quotes = length;
            lab.passes(OUTSIDE, &error, Verdict::PassedMalformed);
        }
    }
}

#[test]
fn an_error_about_another_protocol_passes() {
    for lab in [lab_v4, lab_v6] {
        let mut lab = lab(UDP);
        let about = lab.packet(lab.vip(81), lab.client);
        let mut quote = about.bytes()[IP..].to_vec();
        // An echo reply of the VIP's own.
        quote[if lab.client.is_ipv4() { 9 } else { 6 }] = if lab.client.is_ipv4() { 1 } else { 58 };
        let frame = lab.error(&about).quoting(&quote);
        lab.balancer.passes(OUTSIDE, &frame, Verdict::PassedOtherProtocol);
    }
}

#[test]
fn an_error_that_has_no_hop_left_goes_no_further() {
    for lab in [lab_v4, lab_v6] {
        for port in [80, 81] {
            let mut lab = lab(TCP);
            let mut error = lab.error(&lab.packet(lab.vip(port), lab.client));
            error.hops = 1;
            let (action, _, counted) = lab.balancer.judge(OUTSIDE, &error.bytes());
            assert_eq!((action, counted), (Action::Drop, vec![Verdict::DroppedTtlExceeded]));
        }
    }
}

#[test]
fn an_error_for_a_backend_whose_next_hop_is_lost_is_dropped() {
    let mut lab = lab_v4(Transport::Tcp { flags: SYN });
    let error = lab.error(&lab.packet(lab.vip(81), lab.client));
    lab.balancer.lose("10.0.1.12");
    lab.balancer.apply();
    let (action, _, counted) = lab.balancer.judge(OUTSIDE, &error.bytes());
    assert_eq!((action, counted), (Action::Drop, vec![Verdict::DroppedNoNextHop]));
}
