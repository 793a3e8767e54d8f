//! ICMP errors follow the flow of the packet that they quote, whole messages compared.

use std::net::{IpAddr, SocketAddr};

use lvx_model::{Forward, Scheduler};
use xdp_common::verdict::Verdict;

use crate::{
    balancer::{Action, Balancer},
    frame::{ACK, FRAGMENT, Frame, HOP_BY_HOP, IP, SYN, Transport, assert_same, checksum, socket},
    network::{INSIDE, OUTSIDE, backend_mac, mac},
};

/// An ICMP or ICMPv6 error.
#[derive(Clone, Debug)]
struct Error {
    to: [u8; 6],
    from: [u8; 6],
    source: IpAddr,
    destination: IpAddr,
    hops: u8,
    /// Type and code.
    what: [u8; 2],
    /// MTU, pointer or nothing.
    rest: [u8; 4],
    /// The packet that it is about, from its IP header on, as much of it as is quoted.
    quote: Vec<u8>,
}

impl Error {
    fn bytes(&self) -> Vec<u8> {
        let mut message = [&self.what[..], &[0, 0], &self.rest, &self.quote].concat();
        let mut frame = [self.to, self.from].concat();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let sum = checksum(&message);
                message[2..4].copy_from_slice(&sum);
                let mut header = vec![0x45, 0xc0];
                header.extend((20 + message.len() as u16).to_be_bytes());
                header.extend([0x12, 0x34, 0, 0, self.hops, 1, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum);
                frame.extend([0x08, 0x00]);
                frame.extend(header);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let addresses = [source.octets(), destination.octets()].concat();
                let length = message.len() as u32;
                let pseudo = [&addresses[..], &length.to_be_bytes(), &[0, 0, 0, 58], &message].concat();
                let sum = checksum(&pseudo);
                message[2..4].copy_from_slice(&sum);
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend((length as u16).to_be_bytes());
                frame.extend([58, self.hops]);
                frame.extend(addresses);
            }
            _ => panic!("one family per message"),
        }
        frame.extend(message);
        frame
    }
}

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

    /// A packet, from its IP header on.
    fn quote(&self, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
        let mut quoted = Frame::new(source, destination, self.transport);
        quoted.hops = 9;
        quoted.bytes()[IP..].to_vec()
    }

    fn error(&self, destination: IpAddr, quote: Vec<u8>) -> Error {
        let v4 = destination.is_ipv4();
        Error {
            to: mac(OUTSIDE),
            from: [2, 0, 0, 0, 0, 0xc1],
            source: self.router,
            destination,
            hops: 61,
            // Fragmentation needed; packet too big. Both with an MTU of 1280.
            what: if v4 { [3, 4] } else { [2, 0] },
            rest: [0, 0, 5, 0],
            quote,
        }
    }

    /// How much of a packet routers quote: the ports, 8 bytes after IP, some more, all.
    fn lengths(&self, quote: &[u8]) -> Vec<usize> {
        let header = if self.client.is_ipv4() { 20 } else { 40 };
        vec![header + 8, header + 16, header + 20, header + 27, quote.len()]
    }

    #[track_caller]
    fn forwards(&mut self, ingress: u32, error: &Error, expected: &Error) {
        let flows = self.balancer.flows();
        let (action, after, counted) = self.balancer.judge(ingress, &error.bytes());
        assert_eq!((action, counted), (Action::Redirect, vec![]), "{error:02x?}");
        assert_same(&after, &expected.bytes());
        assert_eq!(self.balancer.flows(), flows, "an error is no packet of the flow");
    }

    #[track_caller]
    fn passes(&mut self, ingress: u32, error: &Error, verdict: Verdict) {
        self.balancer.passes(ingress, &error.bytes(), verdict);
    }

    fn errors_follow_their_flow(&mut self) {
        let macs = (backend_mac(self.real.ip()), mac(INSIDE));

        // About an answer of a backend by direct routing.
        let quote = self.quote(self.vip(80), self.client);
        for length in self.lengths(&quote) {
            let error = self.error(self.vip.ip(), quote[..length].to_vec());
            let mut expected = error.clone();
            (expected.to, expected.from) = macs;
            self.forwards(OUTSIDE, &error, &expected);
        }

        // About an answer of a NAT backend, which left as the service's.
        let quote = self.quote(self.vip(81), self.client);
        let as_sent = self.quote(self.real, self.client);
        for length in self.lengths(&quote) {
            let error = self.error(self.vip.ip(), quote[..length].to_vec());
            let mut expected = error.clone();
            (expected.to, expected.from) = macs;
            expected.destination = self.real.ip();
            expected.hops -= 1;
            expected.quote = as_sent[..length].to_vec();
            self.forwards(OUTSIDE, &error, &expected);
        }

        // About a request that had been translated, by the backend itself or a router before it.
        let quote = self.quote(self.client, self.real);
        let as_sent = self.quote(self.client, self.vip(81));
        let router = if self.client.is_ipv4() {
            "10.0.1.254"
        } else {
            "2001:db8:1::fe"
        };
        for source in [self.real.ip(), router.parse().unwrap()] {
            for length in self.lengths(&quote) {
                let mut error = self.error(self.client.ip(), quote[..length].to_vec());
                (error.to, error.from, error.source) = (macs.1, macs.0, source);
                // Port unreachable.
                (error.what, error.rest) = (if self.client.is_ipv4() { [3, 3] } else { [1, 4] }, [0; 4]);
                let mut expected = error.clone();
                (expected.to, expected.from) = ([2, 0, 0, 0, 0, 0xc1], mac(OUTSIDE));
                expected.source = self.vip.ip();
                expected.hops -= 1;
                expected.quote = as_sent[..length].to_vec();
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
    let quote = |source: SocketAddr| {
        let mut frame = Frame::new(source, socket("10.7.0.1:40001"), TCP);
        frame.options = vec![1; 24];
        frame.bytes()[IP..].to_vec()
    };
    let error = lab.error(lab.vip.ip(), quote(lab.vip(81)));
    let mut expected = error.clone();
    (expected.to, expected.from, expected.hops) = (backend_mac(lab.real.ip()), mac(INSIDE), 60);
    (expected.destination, expected.quote) = (lab.real.ip(), quote(lab.real));
    lab.forwards(OUTSIDE, &error, &expected);

    let mut lab = lab_v6(UDP);
    let quote = |source: SocketAddr| {
        let mut frame = Frame::new(source, socket("[2001:db8:7::1]:40001"), UDP);
        frame.extensions = vec![(HOP_BY_HOP, vec![0; 8]), (FRAGMENT, vec![0; 8])];
        frame.bytes()[IP..].to_vec()
    };
    let error = lab.error(lab.vip.ip(), quote(lab.vip(81)));
    let mut expected = error.clone();
    (expected.to, expected.from, expected.hops) = (backend_mac(lab.real.ip()), mac(INSIDE), 60);
    (expected.destination, expected.quote) = (lab.real.ip(), quote(lab.real));
    lab.forwards(OUTSIDE, &error, &expected);
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
            let error = lab.error(source.ip(), lab.quote(source, destination));
            lab.passes(OUTSIDE, &error, Verdict::PassedNoService);
        }
        let error = lab.error("10.7.0.9".parse().unwrap(), lab.quote(socket("10.7.0.9:1"), lab.real));
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
            let error = lab.error(elsewhere, lab.quote(lab.vip(port), lab.client));
            lab.passes(OUTSIDE, &error, Verdict::PassedNoService);
        }
        let error = lab.error(elsewhere, lab.quote(lab.client, lab.real));
        lab.passes(INSIDE, &error, Verdict::PassedNoService);
    }
}

#[test]
fn an_error_about_a_fragment_without_ports_passes() {
    let mut lab = lab_v4(UDP);
    let mut quote = lab.quote(lab.vip(81), lab.client);
    quote[6..8].copy_from_slice(&[0x20, 0x10]);
    let error = lab.error(lab.vip.ip(), quote);
    let (action, after) = lab.balancer.run(OUTSIDE, &error.bytes());
    assert_eq!(action, Action::Pass);
    assert_same(&after, &error.bytes());
}

#[test]
fn an_error_that_quotes_too_little_is_malformed() {
    for lab in [lab_v4, lab_v6] {
        let mut lab = lab(TCP);
        let quote = lab.quote(lab.vip(81), lab.client);
        let header = if lab.client.is_ipv4() { 20 } else { 40 };
        for length in 0..header + 4 {
            let error = lab.error(lab.vip.ip(), quote[..length].to_vec());
            lab.passes(OUTSIDE, &error, Verdict::PassedMalformed);
        }
    }
}

#[test]
fn an_error_about_another_protocol_passes() {
    for lab in [lab_v4, lab_v6] {
        let mut lab = lab(UDP);
        let mut quote = lab.quote(lab.vip(81), lab.client);
        // An echo reply of the VIP's own.
        quote[if lab.client.is_ipv4() { 9 } else { 6 }] = if lab.client.is_ipv4() { 1 } else { 58 };
        let error = lab.error(lab.vip.ip(), quote);
        lab.passes(OUTSIDE, &error, Verdict::PassedOtherProtocol);
    }
}

#[test]
fn an_error_that_has_no_hop_left_is_not_translated() {
    for lab in [lab_v4, lab_v6] {
        let mut lab = lab(TCP);
        let mut error = lab.error(lab.vip.ip(), lab.quote(lab.vip(81), lab.client));
        error.hops = 1;
        let (action, _, counted) = lab.balancer.judge(OUTSIDE, &error.bytes());
        assert_eq!((action, counted), (Action::Drop, vec![Verdict::DroppedTtlExceeded]));
    }
}

#[test]
fn an_error_for_a_backend_whose_next_hop_is_lost_is_dropped() {
    let mut lab = lab_v4(Transport::Tcp { flags: SYN });
    let error = lab.error(lab.vip.ip(), lab.quote(lab.vip(81), lab.client));
    lab.balancer.lose("10.0.1.12");
    lab.balancer.apply();
    let (action, _, counted) = lab.balancer.judge(OUTSIDE, &error.bytes());
    assert_eq!((action, counted), (Action::Drop, vec![Verdict::DroppedNoNextHop]));
}
