//! Who gets the next flow.

use std::{collections::BTreeMap, net::SocketAddr};

use lvx_dataplane::{maglev, ring::RingMember, words};
use lvx_model::{Forward, Scheduler};
use lvx_test_kit::{
    frame::{Frame, SYN, Transport, socket},
    network::OUTSIDE,
};
use xdp_common::hash;

use crate::{
    balancer::{Balancer, sizes},
    network,
};

const SERVICE: &str = "tcp://10.9.9.9:80";
const SERVICE_V6: &str = "tcp://[2001:db8:9::9]:80";

/// The host numbers of the backends that so many new clients reach, in their order.
fn sequence(balancer: &mut Balancer, clients: u16) -> Vec<u8> {
    (0..clients)
        .map(|number| balancer.host(&syn(SocketAddr::new("10.7.0.1".parse().unwrap(), 20_000 + number))))
        .collect()
}

fn syn(client: SocketAddr) -> Frame {
    let vip = if client.is_ipv4() {
        "10.9.9.9:80"
    } else {
        "[2001:db8:9::9]:80"
    };
    Frame::new(client, socket(vip), Transport::Tcp { flags: SYN })
}

#[test]
fn round_robin_gives_each_backend_one_flow_in_turn_whatever_their_weights() {
    let backends = ["10.0.1.11", "10.0.1.12", "10.0.1.13"];
    let mut balancer = Balancer::serving(SERVICE, Forward::Dr, Scheduler::Rr, &backends);
    balancer.weigh(SERVICE, "10.0.1.12", 50);
    balancer.apply();
    assert_eq!(sequence(&mut balancer, 9), [11, 12, 13, 11, 12, 13, 11, 12, 13]);
}

#[test]
fn weighted_round_robin_meets_the_weights_exactly_in_every_round_and_spreads_them() {
    let backends = ["10.0.1.11", "10.0.1.12", "10.0.1.13"];
    let mut balancer = Balancer::serving(SERVICE, Forward::Dr, Scheduler::Wrr, &backends);
    balancer.weigh(SERVICE, "10.0.1.12", 2);
    balancer.weigh(SERVICE, "10.0.1.13", 3);
    balancer.apply();
    let reached = sequence(&mut balancer, 600);
    // Turns at 1/6, 1/4, 1/2 (the heaviest first), 3/4 and 5/6 of a round.
    assert_eq!(reached[..6], [13, 12, 13, 11, 12, 13].map(|host| host));
    for round in reached.chunks(6) {
        assert_eq!(round, &reached[..6]);
    }
    assert!(reached[..6].windows(2).all(|pair| pair[0] != pair[1]), "no runs");
}

#[test]
fn a_backend_with_no_weight_draining_or_out_of_reach_gets_no_new_flows() {
    for scheduler in [Scheduler::Rr, Scheduler::Wrr, Scheduler::Mh] {
        let backends = ["10.0.1.11", "10.0.1.12", "10.0.1.13", "10.0.1.14"];
        let mut balancer = Balancer::serving(SERVICE, Forward::Dr, scheduler, &backends);
        balancer.weigh(SERVICE, "10.0.1.11", 0);
        balancer.drain(SERVICE, "10.0.1.12");
        balancer.lose("10.0.1.13");
        balancer.apply();
        assert_eq!(sequence(&mut balancer, 50), [14; 50], "{scheduler}");
    }
}

#[test]
fn two_services_take_turns_of_their_own() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Dr, Scheduler::Rr, &["10.0.1.11", "10.0.1.12"]);
    balancer.add(
        "tcp://10.9.9.9:81",
        Forward::Dr,
        Scheduler::Rr,
        &["10.0.1.11", "10.0.1.12"],
    );
    balancer.apply();
    for port in 20_000..20_010_u16 {
        let mut frame = syn(SocketAddr::new("10.7.0.1".parse().unwrap(), port));
        let first = balancer.host(&frame);
        frame.destination.set_port(81);
        assert_eq!(balancer.host(&frame), first);
    }
}

/// How `mh` sees a backend.
fn member(name: &str, weight: u16) -> RingMember {
    let backend: SocketAddr = name.parse().unwrap();
    let [high, low] = words::wide(backend.ip());
    RingMember {
        identity: [high ^ u64::from(backend.port()).rotate_left(32), low],
        weight,
    }
}

/// Clients of both families, at many addresses and ports.
fn clients() -> Vec<SocketAddr> {
    (0..500_u16)
        .flat_map(|number| {
            [
                SocketAddr::new(
                    [10, 7, (number / 100) as u8, (number % 100) as u8].into(),
                    1024 + number * 7,
                ),
                SocketAddr::new([0x2001, 0xdb8, 7, number, 0, 0, number % 3, 1].into(), 50_000 - number),
            ]
        })
        .collect()
}

#[test]
fn maglev_gives_each_client_the_backend_of_its_slot_in_the_table() {
    let mut balancer = Balancer::new();
    balancer.add(
        SERVICE,
        Forward::Dr,
        Scheduler::Mh,
        &["10.0.1.11", "10.0.1.12", "10.0.1.13"],
    );
    balancer.weigh(SERVICE, "10.0.1.13", 2);
    balancer.add(
        SERVICE_V6,
        Forward::Nat,
        Scheduler::Mh,
        &["[2001:db8:1::11]:8080", "2001:db8:1::12"],
    );
    balancer.apply();
    let v4 = [
        member("10.0.1.11:80", 1),
        member("10.0.1.12:80", 1),
        member("10.0.1.13:80", 2),
    ];
    let v6 = [member("[2001:db8:1::11]:8080", 1), member("[2001:db8:1::12]:80", 1)];
    let (table_v4, table_v6) = (maglev::table(&v4, 251), maglev::table(&v6, 251));
    let (seed_v4, seed_v6) = (
        balancer.service_entry(SERVICE).seed,
        balancer.service_entry(SERVICE_V6).seed,
    );
    for client in clients() {
        let port = client.port().to_be();
        let slot = match words::of(client.ip()) {
            words::Words::V4(address) => {
                table_v4[hash::spread(hash::client_v4(address, port, seed_v4), 251) as usize] + 11
            }
            words::Words::V6(address) => {
                table_v6[hash::spread(hash::client_v6(address, port, seed_v6), 251) as usize] + 0x11
            }
        };
        assert_eq!(u16::from(balancer.host(&syn(client))), slot, "{client}");
    }
}

#[test]
fn maglev_gives_the_same_backends_on_every_node_whatever_was_configured_first() {
    let backends = ["10.0.1.11", "10.0.1.12", "10.0.1.13", "10.0.1.14"];
    let backends_v6 = ["2001:db8:1::11", "2001:db8:1::12", "2001:db8:1::13"];
    let mut one = Balancer::with(None, sizes(), network::enter());
    one.add(SERVICE, Forward::Dr, Scheduler::Mh, &backends);
    one.add(SERVICE_V6, Forward::Dr, Scheduler::Mh, &backends_v6);
    one.apply();

    let mut other = Balancer::with(None, sizes(), one.links.clone());
    other.add(
        "udp://10.9.9.1:53",
        Forward::Dr,
        Scheduler::Rr,
        &["10.0.1.99", "10.0.1.12"],
    );
    other.apply();
    other.add(SERVICE_V6, Forward::Dr, Scheduler::Mh, &backends_v6[2..]);
    other.apply();
    for backend in backends_v6[..2].iter().rev() {
        other.add_backend(SERVICE_V6, backend);
        other.apply();
    }
    other.add(SERVICE, Forward::Dr, Scheduler::Mh, &["10.0.1.13", "10.0.1.98"]);
    other.apply();
    for backend in ["10.0.1.14", "10.0.1.11", "10.0.1.12"] {
        other.add_backend(SERVICE, backend);
        other.apply();
    }
    other.del_backend(SERVICE, "10.0.1.98");
    other.apply();
    assert_ne!(
        one.backend_number(SERVICE, "10.0.1.11:80"),
        other.backend_number(SERVICE, "10.0.1.11:80")
    );
    assert_ne!(one.control().keys, other.control().keys);

    let mut shares = BTreeMap::new();
    for client in clients() {
        let host = one.host(&syn(client));
        assert_eq!(host, other.host(&syn(client)), "{client}");
        *shares.entry((client.is_ipv4(), host)).or_insert(0) += 1;
    }
    assert_eq!(shares.len(), backends.len() + backends_v6.len(), "{shares:?}");
}

#[test]
fn a_table_of_the_default_size_reaches_every_backend_in_its_share() {
    let mut balancer = Balancer::new();
    balancer.add(SERVICE, Forward::Dr, Scheduler::Mh, &[]);
    balancer.apply();
    let change = lvx_model::ServiceChange {
        mh_slots: Some(65_537),
        ..Default::default()
    };
    balancer.desired.set_service(SERVICE.parse().unwrap(), &change).unwrap();
    for backend in ["10.0.1.11", "10.0.1.12", "10.0.1.13"] {
        balancer.add_backend(SERVICE, backend);
    }
    balancer.apply();
    assert_eq!(balancer.service_entry(SERVICE).slots, 65_537);
    let mut shares = BTreeMap::new();
    for client in 0..3000_u16 {
        let address = [10, 7, (client >> 8) as u8, client as u8];
        *shares.entry(balancer.host(&syn((address, 40_000).into()))).or_insert(0) += 1;
    }
    assert!(
        shares.len() == 3 && shares.values().all(|share| (850..1150).contains(share)),
        "{shares:?}"
    );
}

#[test]
fn a_service_of_many_backends_reaches_all_of_them() {
    let names: Vec<String> = (1..=200).map(|host| format!("10.0.1.{host}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut balancer = Balancer::with(None, lvx_dataplane::Sizes::new(16, 256, 4096, 4096), network::enter());
    balancer.add(SERVICE, Forward::Dr, Scheduler::Rr, &names);
    balancer.apply();
    assert_eq!(sequence(&mut balancer, 200), (1..=200).collect::<Vec<u8>>());
    let (_, _, counted) = balancer.judge(OUTSIDE, &syn(socket("10.7.0.1:19999")).bytes());
    assert!(counted.is_empty());
}
