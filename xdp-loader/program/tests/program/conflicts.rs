//! A client that reaches one NAT backend through two services, or through a service and directly, from one port.

use std::net::SocketAddr;

use lvx_model::{Forward, Scheduler};
use lvx_test_kit::{
    frame::{ACK, FIN, Frame, PSH, RST, SYN, Transport, socket},
    network::{INSIDE, OUTSIDE, backend_mac, mac},
};
use xdp_common::{tcp_state::State, verdict::Verdict};

use crate::balancer::{Action, Balancer};

/// Two services of one family and protocol, and a client.
struct Site {
    balancer: Balancer,
    protocol: &'static str,
    client: SocketAddr,
    vips: [SocketAddr; 2],
    backends: Vec<SocketAddr>,
}

/// With so many backends behind both services.
fn site(protocol: &'static str, is_v6: bool, backends: u8) -> Site {
    let (client, vips) = match is_v6 {
        false => ("10.7.0.1:41000", ["10.9.9.1:7", "10.9.9.2:7"]),
        true => ("[2001:db8:7::1]:41000", ["[2001:db8:9::1]:7", "[2001:db8:9::2]:7"]),
    };
    let backends: Vec<SocketAddr> = (0..backends)
        .map(|host| match is_v6 {
            false => socket(&format!("10.0.1.{}:7", 11 + host)),
            true => socket(&format!("[2001:db8:1::{}]:7", 11 + host)),
        })
        .collect();
    let mut balancer = Balancer::new();
    let names: Vec<String> = backends.iter().map(ToString::to_string).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for vip in vips {
        balancer.add(&format!("{protocol}://{vip}"), Forward::Nat, Scheduler::Rr, &names);
    }
    balancer.apply();
    Site {
        balancer,
        protocol,
        client: socket(client),
        vips: vips.map(socket),
        backends,
    }
}

const FAMILIES: [bool; 2] = [false, true];

impl Site {
    fn frame(&self, source: SocketAddr, destination: SocketAddr, flags: u8) -> Frame {
        let transport = match self.protocol {
            "tcp" => Transport::Tcp { flags },
            _ => Transport::Udp { checksum: true },
        };
        let frame = Frame::new(source, destination, transport);
        if self.protocol == "tcp" && flags & PSH == 0 {
            frame.payload(b"")
        } else {
            frame
        }
    }

    /// The client's packet to a service reaches this backend.
    #[track_caller]
    fn reaches(&mut self, vip: usize, flags: u8) -> SocketAddr {
        let frame = self.frame(self.client, self.vips[vip], flags);
        let host = self.balancer.host(&frame);
        let backend = self.backends.iter().find(|it| backend_mac(it.ip())[5] == host);
        *backend.unwrap()
    }

    /// A backend's answer comes to the client from a service.
    #[track_caller]
    fn answers_as(&mut self, backend: SocketAddr, vip: usize, flags: u8) {
        let answer = self
            .frame(backend, self.client, flags)
            .macs(mac(INSIDE), backend_mac(backend.ip()));
        let back = answer.clone().translated_from(self.vips[vip]);
        let back = back.macs([2, 0, 0, 0, 0, 0xc1], mac(OUTSIDE));
        self.balancer.forwards(INSIDE, &answer, &back, Action::Redirect);
    }

    /// A packet between the client and a backend passes as it came.
    #[track_caller]
    fn passes(&mut self, source: SocketAddr, destination: SocketAddr, flags: u8) {
        let ingress = if source == self.client { OUTSIDE } else { INSIDE };
        let frame = self.frame(source, destination, flags);
        self.balancer.passes(ingress, &frame.bytes(), Verdict::PassedNoService);
    }

    /// A connection that both ends have closed.
    fn connects_and_closes(&mut self, vip: usize) {
        let backend = self.reaches(vip, SYN);
        self.answers_as(backend, vip, SYN | ACK);
        self.reaches(vip, ACK);
        self.reaches(vip, FIN | ACK);
        self.answers_as(backend, vip, FIN | ACK);
        self.reaches(vip, ACK);
    }
}

#[test]
fn a_port_used_again_for_another_service_gets_the_answers_of_that_service() {
    for is_v6 in FAMILIES {
        let mut site = site("tcp", is_v6, 1);
        let backend = site.backends[0];
        for _ in 0..3 {
            for vip in [0, 1] {
                site.connects_and_closes(vip);
                assert_eq!(site.balancer.flows().len(), 1, "the other's flow has ended");
            }
        }
        site.reaches(0, SYN);
        site.answers_as(backend, 0, RST | ACK);
        site.reaches(1, SYN);
        site.answers_as(backend, 1, SYN | ACK);
    }
}

#[test]
fn the_ended_flow_of_another_service_is_no_longer_counted() {
    let mut site = site("tcp", false, 1);
    for vip in site.vips {
        site.balancer.schedule(&format!("tcp://{vip}"), Scheduler::Wlc);
    }
    site.balancer.apply();
    site.connects_and_closes(0);
    let load = |site: &Site, vip: usize| {
        let service = format!("tcp://{}", site.vips[vip]);
        site.balancer.load(&service, "10.0.1.11:7")
    };
    assert_eq!((load(&site, 0), load(&site, 1)), ((0, 1, false), (0, 0, false)));
    site.reaches(1, SYN);
    assert_eq!((load(&site, 0), load(&site, 1)), ((0, 0, false), (1, 0, false)));
}

#[test]
fn while_the_first_connection_is_alive_the_second_gets_another_backend() {
    for is_v6 in FAMILIES {
        for protocol in ["tcp", "udp"] {
            let mut site = site(protocol, is_v6, 2);
            let first = site.reaches(0, SYN);
            site.answers_as(first, 0, SYN | ACK);
            site.reaches(0, ACK);
            // The scheduler's turn is at the same backend again.
            let second = site.reaches(1, SYN);
            assert_ne!(first, second);
            site.answers_as(second, 1, SYN | ACK);
            site.answers_as(first, 0, PSH | ACK);
            assert_eq!(site.reaches(0, PSH | ACK), first);
            assert_eq!(site.reaches(1, PSH | ACK), second);
        }
    }
}

#[test]
fn a_client_that_needs_another_backend_gets_one_that_takes_connections() {
    let mut site = site("tcp", false, 4);
    let second = format!("tcp://{}", site.vips[1]);
    site.balancer.drain(&second, "10.0.1.12:7");
    site.balancer.is_up(&second, "10.0.1.13:7", false);
    for host in [12, 13, 14] {
        // Only the first backend and the last are left to the second service; the first service has the first one only.
        site.balancer
            .del_backend(&format!("tcp://{}", site.vips[0]), &format!("10.0.1.{host}:7"));
    }
    site.balancer.apply();
    for port in 41_000..41_040 {
        site.client.set_port(port);
        site.reaches(0, SYN);
        assert_eq!(site.reaches(1, SYN), socket("10.0.1.14:7"));
    }
}

#[test]
fn without_another_backend_the_second_connection_is_dropped_and_the_first_goes_on() {
    for is_v6 in FAMILIES {
        let mut site = site("tcp", is_v6, 1);
        let backend = site.backends[0];
        site.reaches(0, SYN);
        site.reaches(0, ACK);
        let syn = site.frame(site.client, site.vips[1], SYN);
        site.balancer.drops(OUTSIDE, &syn, Verdict::NatConflict);
        site.answers_as(backend, 0, PSH | ACK);
        assert_eq!(site.reaches(0, PSH | ACK), backend);
        // Another port of the client is not concerned.
        let mut other = syn.clone();
        other.source.set_port(41_001);
        site.balancer.host(&other);
    }
}

#[test]
fn datagrams_to_one_backend_through_two_services_are_answered_by_the_service_that_was_asked_last() {
    for is_v6 in FAMILIES {
        let mut site = site("udp", is_v6, 1);
        let backend = site.backends[0];
        for _ in 0..3 {
            for vip in [0, 1] {
                site.reaches(vip, 0);
                site.answers_as(backend, vip, 0);
            }
        }
    }
}

#[test]
fn a_direct_connection_is_untouched_once_that_of_the_service_has_ended() {
    for is_v6 in FAMILIES {
        // Whether the client's own packets come this way too, or the backend's alone.
        for is_seen in [true, false] {
            let mut site = site("tcp", is_v6, 1);
            let (client, backend) = (site.client, site.backends[0]);
            site.connects_and_closes(0);
            if is_seen {
                site.passes(client, backend, SYN);
            }
            site.passes(backend, client, SYN | ACK);
            for flags in [ACK, PSH | ACK, FIN | ACK] {
                if is_seen {
                    site.passes(client, backend, flags);
                }
                site.passes(backend, client, flags);
            }
            site.connects_and_closes(0);
        }
    }
}

#[test]
fn a_direct_packet_ends_no_connection_of_the_service_that_is_alive() {
    let mut site = site("tcp", false, 1);
    let (client, backend) = (site.client, site.backends[0]);
    site.reaches(0, SYN);
    site.reaches(0, ACK);
    site.passes(client, backend, SYN);
    site.passes(client, backend, ACK);
    assert_eq!(site.balancer.state(client), Some(State::Established));
    site.answers_as(backend, 0, PSH | ACK);
}

#[test]
fn a_datagram_that_asks_the_backend_directly_is_answered_directly() {
    for is_v6 in FAMILIES {
        let mut site = site("udp", is_v6, 1);
        let (client, backend) = (site.client, site.backends[0]);
        for _ in 0..2 {
            site.reaches(0, 0);
            site.answers_as(backend, 0, 0);
            site.passes(client, backend, 0);
            site.passes(backend, client, 0);
        }
    }
}
