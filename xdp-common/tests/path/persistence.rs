//! Persistence: a client's new connections go where its last ones went.

use std::net::SocketAddr;

use lvx_test_kit::{
    frame::{ACK, Frame, SYN, Transport, socket},
    network::INSIDE,
};
use xdp_common::tcp_state::State;

use crate::{balancer::Balancer, configuration::Service};

const TCP: Transport = Transport::Tcp { flags: SYN };

/// Two services in turn, of either family, whose clients persist by a prefix: IPv4's, IPv6's.
fn serving(v4: bool, prefixes: [u8; 2]) -> [Service; 2] {
    let names = match v4 {
        true => ["tcp://10.9.9.9:80", "tcp://10.9.9.9:443"],
        false => ["tcp://[2001:db8:9::9]:80", "tcp://[2001:db8:9::9]:443"],
    };
    names.map(|name| {
        let hosts = (11..14).map(|host| match v4 {
            true => format!("10.0.1.{host}:8080"),
            false => format!("[2001:db8:1::{host:x}]:8080"),
        });
        let hosts: Vec<String> = hosts.collect();
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        Service::nat(name, &hosts).persistent(prefixes[usize::from(!v4)])
    })
}

fn client(v4: bool, host: u8, port: u16) -> SocketAddr {
    match v4 {
        true => SocketAddr::new([10, 7, 0, host].into(), port),
        false => SocketAddr::new([0x2001, 0xdb8, 7, 0, 0, 0, 0, u16::from(host)].into(), port),
    }
}

fn syn(client: SocketAddr, service: &Service) -> Frame {
    Frame::new(client, service.vip, TCP)
}

/// The template of a client of the group with a number.
fn template(of: SocketAddr, group: u32) -> SocketAddr {
    // The number stands as it is where a port stands as on the wire.
    SocketAddr::new(of.ip(), u16::from_be(group as u16))
}

#[test]
fn a_client_meets_the_same_backend_from_every_port_and_other_clients_take_turns() {
    for v4 in [true, false] {
        let [service, _] = serving(v4, [32, 128]);
        let balancer = Balancer::new(std::slice::from_ref(&service));
        for host in 1..=3 {
            for port in 40_000..40_010 {
                assert_eq!(balancer.host(&syn(client(v4, host, port), &service)), 10 + host);
            }
            let known = balancer.flow(template(client(v4, host, 0), 1));
            assert_eq!((known.backend, known.state), (u32::from(host), State::Template));
        }
    }
}

#[test]
fn clients_of_one_network_persist_together() {
    for (v4, prefixes, hosts) in [
        (true, [24, 0], [1, 200]),
        (true, [30, 0], [4, 7]),
        (false, [0, 64], [1, 200]),
        (false, [0, 126], [4, 7]),
    ] {
        let [service, _] = serving(v4, prefixes);
        let balancer = Balancer::new(std::slice::from_ref(&service));
        for host in hosts {
            assert_eq!(balancer.host(&syn(client(v4, host, 40_000), &service)), 11);
        }
        let mut stranger = client(v4, 1, 40_000);
        stranger.set_ip(if v4 {
            [10, 8, 0, 1].into()
        } else {
            [0x2001, 0xdb8, 8, 0, 0, 0, 0, 1].into()
        });
        assert_eq!(balancer.host(&syn(stranger, &service)), 12);
    }
}

#[test]
fn services_of_one_mark_send_a_client_to_one_host() {
    for v4 in [true, false] {
        let mut services = serving(v4, [32, 128]);
        for service in &mut services {
            service.group = 7;
        }
        // The other one has its own order.
        services[1].backends.reverse();
        let balancer = Balancer::new(&services);
        for host in 1..=3 {
            let first = balancer.host(&syn(client(v4, host, 40_000), &services[0]));
            assert_eq!(balancer.host(&syn(client(v4, host, 40_001), &services[1])), first);
        }
    }
}

#[test]
fn a_template_ends_with_its_timeout_and_is_renewed_by_packets_of_flows() {
    for v4 in [true, false] {
        let [service, _] = serving(v4, [32, 128]);
        let mut balancer = Balancer::new(std::slice::from_ref(&service));
        let from = |port| client(v4, 1, port);
        assert_eq!(balancer.host(&syn(from(40_000), &service)), 11);
        for _ in 0..5 {
            balancer.wait(250);
            let ack = Frame::new(from(40_000), service.vip, Transport::Tcp { flags: ACK });
            if balancer.flow(from(40_000)).state == State::SynReceived {
                // The half-open flow is expired by now: this one is scheduled, to the persistent backend.
                assert_eq!(balancer.host(&ack), 11);
            }
            assert_eq!(balancer.host(&ack), 11);
        }
        assert_eq!(balancer.host(&syn(from(40_001), &service)), 11);
        balancer.wait(350);
        assert_eq!(balancer.host(&syn(from(40_002), &service)), 12);
    }
}

#[test]
fn a_backend_that_takes_no_new_connections_loses_the_clients_that_persist_with_it() {
    for v4 in [true, false] {
        let [service, _] = serving(v4, [32, 128]);
        let mut balancer = Balancer::new(std::slice::from_ref(&service));
        assert_eq!(balancer.host(&syn(client(v4, 1, 40_000), &service)), 11);
        balancer.services = vec![service.clone().weights(&[0, 1, 1])];
        balancer.apply();
        let elsewhere = balancer.host(&syn(client(v4, 1, 40_001), &service));
        assert_ne!(elsewhere, 11);
        assert_eq!(balancer.host(&syn(client(v4, 1, 40_002), &service)), elsewhere);
        let ack = Frame::new(client(v4, 1, 40_000), service.vip, Transport::Tcp { flags: ACK });
        assert_eq!(balancer.host(&ack), 11, "the connection that is there goes on");
    }
}

#[test]
fn a_template_is_no_flow_of_a_client_whose_port_is_the_groups_number() {
    let [mut service, _] = serving(true, [32, 128]);
    service.group = u32::from(80_u16.to_be());
    let balancer = Balancer::new(std::slice::from_ref(&service));
    assert_eq!(balancer.host(&syn(client(true, 1, 40_000), &service)), 11);
    // Its template stands where this one's flow would: the answer of a backend finds none.
    let answer = Frame::new(socket("10.0.1.11:8080"), client(true, 1, 80), TCP);
    let verdict = xdp_common::verdict::Verdict::PassedNoService;
    balancer.passes(INSIDE, &answer.bytes(), verdict);
    assert_eq!(balancer.host(&syn(client(true, 1, 80), &service)), 11);
    assert_eq!(balancer.flows(client(true, 1, 80)).len(), 2);
}
