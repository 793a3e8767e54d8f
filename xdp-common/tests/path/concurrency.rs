//! Several CPUs at once, each a thread, in one table: all its entries are whole, and all counts are right.

use std::{collections::BTreeSet, net::SocketAddr, thread};

use lvx_test_kit::{
    frame::{ACK, FIN, Frame, SYN, Transport},
    network::OUTSIDE,
    random::Random,
};
use xdp_common::{
    layout::{FlowEntry, Sizes},
    load::Measure,
    path::outcome::action,
};

use crate::{
    balancer::{Balancer, CPUS},
    configuration::Service,
};

/// The smallest tables that there are, so that buckets are full and every new flow takes another's place.
fn balancer(v4: bool) -> Balancer {
    let (vip, hosts) = match v4 {
        true => ("tcp://10.9.9.9:80", ["10.0.1.11:80", "10.0.1.12:80"]),
        false => ("tcp://[2001:db8:9::9]:80", ["[2001:db8:1::b]:80", "[2001:db8:1::c]:80"]),
    };
    let service = Service::nat(vip, &hosts).compared(Measure::LEAST_CONNECTIONS);
    Balancer::sized(Sizes::new(1, 2, 1, 1), &[service])
}

fn client(v4: bool, number: u32) -> SocketAddr {
    let (host, port) = ((number >> 10) as u16, 1024 + (number & 1023) as u16);
    match v4 {
        true => SocketAddr::new([10, 7, 0, host as u8].into(), port),
        false => SocketAddr::new([0x2001, 0xdb8, 7, 0, 0, 0, 0, host].into(), port),
    }
}

/// Sends segments at random of clients with these numbers, on a CPU: how many were forwarded.
fn send(balancer: &Balancer, cpu: u32, numbers: &[u32], segments: usize) -> u64 {
    let vip = balancer.services[0].vip;
    let mut random = Random::new(u64::from(cpu));
    let mut forwarded = 0;
    for _ in 0..segments {
        let client = client(vip.is_ipv4(), numbers[random.below(numbers.len())]);
        let flags = [SYN, SYN, ACK, FIN | ACK][random.below(4)];
        let frame = Frame::new(client, vip, Transport::Tcp { flags }).payload(&[]);
        let action = balancer.tables.run(cpu, OUTSIDE, &mut frame.bytes());
        assert_eq!(action, action::REDIRECT);
        forwarded += 1;
    }
    forwarded
}

/// Every entry is a flow of one of these clients, in its bucket, with a backend and, over IPv6, an address; the backends'
/// counts say how many there are.
fn assert_whole(balancer: &Balancer, numbers: &[u32]) {
    let v4 = balancer.services[0].vip.is_ipv4();
    let clients: BTreeSet<SocketAddr> = numbers.iter().map(|number| client(v4, *number)).collect();
    let known: usize = clients.iter().map(|client| balancer.flows(*client).len()).sum();
    assert_eq!(known, balancer.count_flows(), "all flows are those of clients");
    for client in &clients {
        for flow in balancer.flows(*client) {
            assert!((1..=2).contains(&flow.backend), "{flow:?}");
            assert_eq!(flow.hop.interface(), crate::image::slot(OUTSIDE));
            if !v4 {
                let address = balancer.tables.clients_v6.read(flow.at.0).addresses[flow.at.1];
                assert_eq!(address, crate::image::wide(client.ip()));
            }
        }
    }
    let counted = [1, 2]
        .map(|backend| balancer.load(backend))
        .map(|(active, inactive, _)| active + inactive);
    assert_eq!(counted.iter().sum::<u32>() as usize, known, "{counted:?}");
}

#[test]
fn two_cpus_insert_into_one_table_at_once_and_it_stays_whole() {
    const SEGMENTS: usize = 15_000;
    for v4 in [true, false] {
        // Clients of their own, and the same ones.
        for shared in [false, true] {
            let balancer = balancer(v4);
            let numbers = |cpu: u32| -> Vec<u32> {
                let first = if shared { 0 } else { cpu * 1500 };
                (first..first + 1500).collect()
            };
            let forwarded: u64 = thread::scope(|scope| {
                let threads = [0, 2].map(|cpu| {
                    let (balancer, numbers) = (&balancer, numbers(cpu));
                    scope.spawn(move || send(balancer, cpu, &numbers, SEGMENTS))
                });
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            let all: Vec<u32> = [0, 2].into_iter().flat_map(numbers).collect();
            assert_whole(&balancer, &all);
            let counters = (0..CPUS).flat_map(|cpu| [1, 2].map(|backend| balancer.counters(cpu, backend)));
            assert_eq!(counters.map(|counted| counted.packets_in).sum::<u64>(), forwarded);
            for table in [&balancer.tables.flows_v4, &balancer.tables.flows_v6] {
                let busy = (0..table.len())
                    .flat_map(|bucket| table.read(bucket))
                    .filter(|flow| *flow == FlowEntry::BUSY);
                assert_eq!(busy.count(), 0);
            }
        }
    }
}

#[test]
fn turns_that_two_cpus_take_at_once_are_each_taken_once() {
    const FLOWS: u32 = 10_000;
    let mut balancer = balancer(true);
    balancer.services[0] = Service::dr("tcp://10.9.9.9:80", &["10.0.1.11:80", "10.0.1.12:80"]);
    balancer.apply();
    thread::scope(|scope| {
        for cpu in 0..2 {
            let balancer = &balancer;
            scope.spawn(move || {
                for number in cpu * FLOWS..(cpu + 1) * FLOWS {
                    let transport = Transport::Tcp { flags: SYN };
                    let frame = Frame::new(client(true, number), balancer.services[0].vip, transport);
                    balancer.tables.run(cpu, OUTSIDE, &mut frame.bytes());
                }
            });
        }
    });
    let begun = |backend| {
        (0..CPUS)
            .map(|cpu| balancer.counters(cpu, backend).connections)
            .sum::<u64>()
    };
    assert_eq!([begun(1), begun(2)], [u64::from(FLOWS); 2]);
}
