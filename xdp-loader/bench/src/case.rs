//! A case to measure: which packets, of which flows, in which configuration.

use std::{
    iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::Result;
use lvx_bench_report::grouped;
use lvx_dataplane::Sizes;
use lvx_model::{
    Backend, BackendAddress, Desired,
    Forward::{self, Dr, Nat},
    Protocol, Scheduler, Service, ServiceAddress,
};
use lvx_netlink::{Link, LinkTable, NextHop, NextHops};
use xdp_common::bench::Script;

use crate::{
    frame::{
        self, BALANCER, Direction,
        Kind::{self, Ack, Syn, Udp},
    },
    harness::{Harness, World, action},
};

/// Flows that the tables have room for.
pub const ROOM: u32 = 1 << 20;
/// The same for a small table: one that fits into a CPU's cache.
pub const LITTLE_ROOM: u32 = 1 << 15;
/// The port of all services.
const PORT: u16 = 80;
/// Numbers of flows that differ in what memory the program has to reach.
const FLOWS: [u32; 4] = [1, 10_000, 100_000, 1_000_000];
/// The index of the loopback in every network namespace.
pub const LOOPBACK: u32 = 1;

/// What the packets of a case are to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packets {
    /// Of flows that are known.
    Known,
    /// Each the first of a flow.
    New,
    /// For no service.
    Unmatched,
    /// Not IP.
    Arp,
}

/// A case to measure.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it belongs to.
    pub group: &'static str,
    /// What is measured.
    pub name: String,
    /// How the service forwards.
    pub forward: Forward,
    /// What the packets are.
    pub kind: Kind,
    /// Whether they come from the client or go to it.
    pub direction: Direction,
    /// Whether they are IPv6.
    pub ipv6: bool,
    /// What they are to the program.
    pub packets: Packets,
    /// How a backend is chosen.
    pub scheduler: Scheduler,
    /// How many services there are.
    pub services: u32,
    /// Whether the flows go to all services or to one.
    pub to_all: bool,
    /// Backends of each service.
    pub backends: u32,
    /// Flows that the table has room for.
    pub room: u32,
    /// Whether packets leave through the devmap.
    pub redirect: bool,
    /// Numbers of flows to measure with; 0 where each packet opens one.
    pub flows: Vec<u32>,
    /// Upper bounds of the net cost by number of flows.
    pub bounds: &'static [(u32, f64)],
}

impl Case {
    /// A case in which known flows go to one service.
    pub fn known(
        forward: Forward,
        kind: Kind,
        direction: Direction,
        ipv6: bool,
        bounds: &'static [(u32, f64)],
    ) -> Self {
        let method = match (forward, direction) {
            (Dr, _) => "DR",
            (Nat, Direction::In) => "NAT in",
            (Nat, Direction::Back) => "NAT back",
        };
        Self {
            group: "known flows",
            name: format!("{method} {} {}", protocol_name(kind), family_name(ipv6)),
            forward,
            kind,
            direction,
            ipv6,
            packets: Packets::Known,
            scheduler: Scheduler::Mh,
            services: 1,
            to_all: false,
            // Only one backend answers.
            backends: if direction == Direction::Back { 1 } else { 10 },
            room: ROOM,
            redirect: false,
            flows: FLOWS.to_vec(),
            bounds,
        }
    }

    /// A case in which every packet opens a flow, in a table that a CPU's cache holds: what is measured is the program's work.
    pub fn new_flows(
        forward: Forward,
        kind: Kind,
        ipv6: bool,
        scheduler: Scheduler,
        bounds: &'static [(u32, f64)],
    ) -> Self {
        let known = Self::known(forward, kind, Direction::In, ipv6, bounds);
        Self {
            group: "new flows",
            name: format!("{}, {}", known.name.replace("TCP", "SYN"), scheduler.name()),
            packets: Packets::New,
            scheduler,
            flows: vec![0],
            room: LITTLE_ROOM,
            ..known
        }
    }

    /// A case in which packets are not the balancer's.
    pub fn unmatched(packets: Packets, kind: Kind, ipv6: bool) -> Self {
        let known = Self::known(Dr, kind, Direction::In, ipv6, &[(1, 12.0)]);
        Self {
            group: "not for a service",
            name: match packets {
                Packets::Arp => "ARP".to_owned(),
                _ => format!("{} {}", protocol_name(kind), family_name(ipv6)),
            },
            packets,
            flows: vec![1, 10_000],
            ..known
        }
    }

    /// The frames of this case's flows.
    pub fn script(&self, kind: Kind, direction: Direction, flows: u32) -> Script {
        if self.packets == Packets::Arp {
            return frame::arp();
        }
        let first: IpAddr = match self.ipv6 {
            false => Ipv4Addr::new(172, 16, 0, 1).into(),
            true => "fd00:c::1".parse().unwrap_or(Ipv6Addr::LOCALHOST).into(),
        };
        let other = match (direction, self.packets) {
            (_, Packets::Unmatched) => (self.vip(0), PORT + 1),
            (Direction::In, _) => (self.vip(if self.to_all { 0 } else { self.services / 2 }), PORT),
            (Direction::Back, _) => (self.backend(0), PORT),
        };
        Script {
            flows,
            services: if self.to_all { self.services } else { 1 },
            ..frame::script(kind, direction, first, other)
        }
    }

    /// The address of a service.
    fn vip(&self, number: u32) -> IpAddr {
        match self.ipv6 {
            false => Ipv4Addr::from_bits(0x0a00_0064 + number).into(),
            true => Ipv6Addr::from_bits((0xfd00_000a_u128 << 96) + 0x64 + u128::from(number)).into(),
        }
    }

    /// The address of a backend, of all services' together.
    fn backend(&self, number: u32) -> IpAddr {
        match self.ipv6 {
            false => Ipv4Addr::from_bits(0x0a80_0001 + number).into(),
            true => Ipv6Addr::from_bits((0xfd00_000b_u128 << 96) + 1 + u128::from(number)).into(),
        }
    }

    /// The configuration of this case.
    fn desired(&self) -> Result<Desired> {
        let mut desired = Desired::default();
        for number in 0..self.services {
            let mut service = Service::new(ServiceAddress {
                protocol: match self.kind {
                    Udp => Protocol::Udp,
                    Syn | Ack => Protocol::Tcp,
                },
                ip: self.vip(number),
                port: PORT,
            });
            service.forward = self.forward;
            service.scheduler = self.scheduler;
            if self.services > 1000 {
                // 65,537 slots for each would take 1.3 GB, and this is not about the tables' sizes.
                service.mh_slots = 1021;
            }
            service.backends = (0..self.backends)
                .map(|backend| {
                    let mut backend = Backend::new(BackendAddress {
                        ip: self.backend(number * self.backends + backend),
                        port: None,
                    });
                    if self.scheduler == Scheduler::Ovf {
                        backend.weight = u16::MAX;
                    }
                    backend
                })
                .collect();
            desired.add_service(service)?;
        }
        Ok(desired)
    }

    /// The program, configured for this case.
    pub fn harness(&self) -> Result<Harness> {
        let (v4, v6) = if self.ipv6 { (64, self.room) } else { (self.room, 64) };
        let sizes = Sizes::new(self.services, self.services * self.backends, v4, v6);
        Harness::new(sizes, &self.world()?)
    }

    /// What the program is told in this case.
    pub fn world(&self) -> Result<World> {
        let desired = self.desired()?;
        let hops = desired
            .services()
            .values()
            .flat_map(|service| &service.backends)
            .zip(0_u32..)
            .map(|(backend, number)| {
                let [_, a, b, c] = number.to_be_bytes();
                let hop = NextHop {
                    ifindex: LOOPBACK,
                    source_mac: BALANCER,
                    mac: [2, 0, 1, a, b, c],
                    mtu: 1500,
                };
                (backend.address, Ok(hop))
            })
            .collect();
        // Packets come in by the loopback, as the kernel has it in test runs. Were it a veth, they would not go back
        // out of it by XDP_TX.
        let links: LinkTable = iter::once(Link {
            name: "lo".to_owned(),
            index: LOOPBACK,
            mac: Some(BALANCER),
            mtu: 1500,
            up: true,
            admin_up: true,
            kind: if self.redirect { "veth" } else { "physical" }.to_owned(),
            master: None,
            base: None,
            elsewhere: None,
            gro_max: 0,
        })
        .collect();
        Ok(World {
            desired,
            hops: NextHops(hops),
            links,
        })
    }

    /// What the program is to answer.
    pub fn action(&self) -> u32 {
        match (self.packets, self.redirect) {
            (Packets::Unmatched | Packets::Arp, _) => action::PASS,
            (_, false) => action::TX,
            (_, true) => action::REDIRECT,
        }
    }

    /// Opens the flows, so that they are known.
    pub fn open_flows(&self, harness: &mut Harness, cpu: usize, flows: u32) -> Result<()> {
        if self.packets != Packets::Known {
            return Ok(());
        }
        let kinds: &[Kind] = match self.kind {
            Udp => &[Udp],
            Syn => &[Syn],
            Ack => &[Syn, Ack],
        };
        for kind in kinds {
            harness.send(&self.script(*kind, Direction::In, flows), cpu)?;
        }
        if self.direction == Direction::Back {
            harness.send(&self.script(self.kind, Direction::Back, flows), cpu)?;
        }
        Ok(())
    }

    /// The name of the row that has so many flows; 0 where each packet opens one.
    pub fn row_name(&self, flows: u32) -> String {
        match flows {
            0 => self.name.clone(),
            1 => format!("{}, 1 flow", self.name),
            _ => format!("{}, {} flows", self.name, grouped(flows)),
        }
    }
}

/// UDP or TCP.
fn protocol_name(kind: Kind) -> &'static str {
    match kind {
        Udp => "UDP",
        Syn | Ack => "TCP",
    }
}

/// IPv4 or IPv6.
fn family_name(ipv6: bool) -> &'static str {
    if ipv6 { "IPv6" } else { "IPv4" }
}
