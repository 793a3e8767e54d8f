//! What the program costs, by `BPF_PROG_TEST_RUN`, less what the wrapper costs.

use std::{
    iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
};

use anyhow::{Context, Result, ensure};
use xdp_common::bench::{Order, Script};
use xdp_loader::{
    dataplane::Sizes,
    model::{
        Backend, BackendAddress, Desired,
        Forward::{self, Dr, Nat},
        Protocol, Scheduler, Service, ServiceAddress,
    },
    netlink::{Link, LinkTable, NextHop, NextHops},
};

use crate::{
    frame::{
        self, BALANCER,
        Kind::{self, Ack, Syn, Udp},
        Way,
    },
    harness::{Cost, Effort, Harness, action},
    report::{Check, Report, Row, median},
};

/// What to measure, and how much.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Measure only what has all these words in its name
    filter: Vec<String>,
    /// Runs of each case, of which the median counts
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Packets of each run
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..))]
    packets: u32,
    /// The CPU to measure on; the last one by default
    #[arg(long)]
    cpu: Option<usize>,
}

/// Flows that the tables have room for.
const ROOM: u32 = 1 << 20;
/// Flows that a small table has room for: one that fits into a CPU's cache.
const LITTLE_ROOM: u32 = 1 << 15;
/// The share of flows that a table which is as full as promised may have forgotten.
const MOST_ASTRAY: f64 = 0.03;
/// The port of all services.
const PORT: u16 = 80;
/// Kinds of flows and packets that differ in what the program has to do.
const FLOWS: [u32; 4] = [1, 10_000, 100_000, 1_000_000];

/// What the packets of a case are to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packets {
    /// Of flows that are known.
    Known,
    /// Each the first of a flow.
    New,
    /// For no service.
    Foreign,
    /// Not IP.
    Arp,
}

/// A case to measure.
#[derive(Clone, Debug)]
struct Case {
    group: &'static str,
    name: String,
    forward: Forward,
    kind: Kind,
    way: Way,
    ipv6: bool,
    packets: Packets,
    scheduler: Scheduler,
    services: u32,
    /// Whether the flows go to all services or to one.
    to_all: bool,
    backends: u32,
    room: u32,
    /// Whether packets leave through the devmap.
    redirect: bool,
    flows: &'static [u32],
    /// Upper bounds of the net cost by number of flows.
    bounds: &'static [(u32, f64)],
}

impl Case {
    /// A case in which known flows go to one service.
    fn known(forward: Forward, kind: Kind, way: Way, ipv6: bool, bounds: &'static [(u32, f64)]) -> Self {
        let method = match (forward, way) {
            (Dr, _) => "DR",
            (Nat, Way::In) => "NAT in",
            (Nat, Way::Back) => "NAT back",
        };
        Self {
            group: "known flows",
            name: format!("{method} {} {}", protocol_name(kind), family_name(ipv6)),
            forward,
            kind,
            way,
            ipv6,
            packets: Packets::Known,
            scheduler: Scheduler::Mh,
            services: 1,
            to_all: false,
            // The way back is that of one backend.
            backends: if way == Way::Back { 1 } else { 10 },
            room: ROOM,
            redirect: false,
            flows: &FLOWS,
            bounds,
        }
    }

    /// A case in which every packet begins a flow.
    fn new_flows(
        forward: Forward,
        kind: Kind,
        ipv6: bool,
        scheduler: Scheduler,
        bounds: &'static [(u32, f64)],
    ) -> Self {
        let known = Self::known(forward, kind, Way::In, ipv6, bounds);
        Self {
            group: "new flows",
            name: format!("{}, {}", known.name.replace("TCP", "SYN"), scheduler.name()),
            packets: Packets::New,
            scheduler,
            flows: &[0],
            ..known
        }
    }

    /// A case in which packets are not the balancer's.
    fn foreign(packets: Packets, kind: Kind, ipv6: bool) -> Self {
        let known = Self::known(Dr, kind, Way::In, ipv6, &[(1, 12.0)]);
        Self {
            group: "not for a service",
            name: match packets {
                Packets::Arp => "ARP".to_owned(),
                _ => format!("{} {}", protocol_name(kind), family_name(ipv6)),
            },
            packets,
            flows: &[1, 10_000],
            ..known
        }
    }

    /// The frames of this case's flows.
    fn script(&self, kind: Kind, way: Way, flows: u32) -> Script {
        if self.packets == Packets::Arp {
            return frame::arp();
        }
        let first: IpAddr = match self.ipv6 {
            false => Ipv4Addr::new(172, 16, 0, 1).into(),
            true => "fd00:c::1".parse().unwrap_or(Ipv6Addr::LOCALHOST).into(),
        };
        let other = match (way, self.packets) {
            (_, Packets::Foreign) => (self.vip(0), PORT + 1),
            (Way::In, _) => (self.vip(if self.to_all { 0 } else { self.services / 2 }), PORT),
            (Way::Back, _) => (self.backend(0), PORT),
        };
        Script {
            flows,
            services: if self.to_all { self.services } else { 1 },
            ..frame::script(kind, way, first, other)
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
                    Backend::new(BackendAddress {
                        ip: self.backend(number * self.backends + backend),
                        port: None,
                    })
                })
                .collect();
            desired.add_service(service)?;
        }
        Ok(desired)
    }

    /// The program, configured for this case.
    fn harness(&self) -> Result<Harness> {
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
        })
        .collect();
        let (v4, v6) = if self.ipv6 { (64, self.room) } else { (self.room, 64) };
        let sizes = Sizes::new(self.services, self.services * self.backends, v4, v6);
        Harness::new(sizes, &desired, &NextHops(hops), &links)
    }

    /// What the program is to answer.
    fn action(&self) -> u32 {
        match (self.packets, self.redirect) {
            (Packets::Foreign | Packets::Arp, _) => action::PASS,
            (_, false) => action::TX,
            (_, true) => action::REDIRECT,
        }
    }

    /// Makes the flows known.
    fn begin(&self, harness: &mut Harness, cpu: usize, flows: u32) -> Result<()> {
        if self.packets != Packets::Known {
            return Ok(());
        }
        let kinds: &[Kind] = match self.kind {
            Udp => &[Udp],
            Syn => &[Syn],
            Ack => &[Syn, Ack],
        };
        for kind in kinds {
            harness.send(&self.script(*kind, Way::In, flows), cpu)?;
        }
        if self.way == Way::Back {
            harness.send(&self.script(self.kind, Way::Back, flows), cpu)?;
        }
        Ok(())
    }

    /// Measures the case, in as many rows as it has numbers of flows.
    fn measure(&self, effort: Effort) -> Result<Vec<Row>> {
        let mut harness = self.harness()?;
        let mut rows = Vec::new();
        for &flows in self.flows {
            let (cost, astray) = self.cost(&mut harness, effort, flows)?;
            let row = Row {
                group: self.group.to_owned(),
                case: match flows {
                    0 => self.name.clone(),
                    1 => format!("{}, 1 flow", self.name),
                    _ => format!("{}, {} flows", self.name, grouped(flows)),
                },
                median: cost.median,
                min: cost.min,
                max: cost.max,
                unit: None,
                gross: Some(cost.gross),
                bound: self.bounds.iter().find(|(of, _)| *of == flows).map(|(_, bound)| *bound),
                note: (astray > 0.0).then(|| {
                    format!(
                        "{:.1} % of the packets met a flow that had been forgotten",
                        astray * 100.0
                    )
                }),
            };
            eprintln!("{:>6.0} ns  {}", row.median, row.case);
            rows.push(row);
        }
        Ok(rows)
    }

    /// What a packet costs with so many flows, or if 0, where each begins one; and the share of packets that were not
    /// forwarded as flows that are known should be: a full bucket forgets some.
    fn cost(&self, harness: &mut Harness, effort: Effort, flows: u32) -> Result<(Cost, f64)> {
        if self.packets == Packets::New {
            let each = self.room / 10 * 9 / effort.runs as u32;
            let script = self.script(self.kind, self.way, each);
            let astray = harness.astray(
                &Script {
                    first: self.room,
                    ..script
                },
                self.action(),
            )?;
            ensure!(astray == 0.0, "a new flow was not forwarded");
            return Ok((harness.cost(&script, effort, true)?, 0.0));
        }
        self.begin(harness, effort.cpu, flows)?;
        let script = Script {
            order: Order::AtRandom as u32,
            ..self.script(self.kind, self.way, flows)
        };
        let astray = harness.astray(&script, self.action())?;
        ensure!(
            astray < MOST_ASTRAY,
            "{:.1} % of the packets were not answered with action {}",
            astray * 100.0,
            self.action()
        );
        Ok((harness.cost(&script, effort, false)?, astray))
    }
}

/// The index of the loopback in every network namespace.
const LOOPBACK: u32 = 1;

/// All cases but those of two CPUs.
fn cases() -> Vec<Case> {
    let in_and_back = &[(1, 40.0)];
    let mut cases = vec![
        Case {
            flows: &[1, 10_000, 100_000, 131_072, 524_288, 1_000_000],
            ..Case::known(Dr, Udp, Way::In, false, &[(1, 30.0), (131_072, 70.0), (524_288, 100.0)])
        },
        Case::known(Dr, Ack, Way::In, false, &[(1, 30.0)]),
        Case::known(Nat, Udp, Way::In, false, in_and_back),
        Case::known(Nat, Udp, Way::Back, false, in_and_back),
        Case::known(Nat, Ack, Way::In, false, in_and_back),
        Case::known(Nat, Ack, Way::Back, false, in_and_back),
        Case::known(Dr, Udp, Way::In, true, in_and_back),
        Case::known(Dr, Ack, Way::In, true, in_and_back),
        Case::known(Nat, Ack, Way::In, true, &[]),
        Case::known(Nat, Ack, Way::Back, true, &[]),
    ];
    for (forward, kind) in [(Dr, Udp), (Nat, Ack)] {
        let known = Case::known(forward, kind, Way::In, false, &[]);
        cases.push(Case {
            name: format!("{}, redirected", known.name),
            redirect: true,
            flows: &[1, 100_000],
            ..known
        });
    }
    cases.push(Case {
        name: "DR SYN again IPv4".to_owned(),
        flows: &[1, 100_000],
        ..Case::known(Dr, Syn, Way::In, false, &[])
    });
    for packets in [Packets::Foreign, Packets::Arp] {
        cases.push(Case::foreign(packets, Udp, false));
    }
    cases.push(Case::foreign(Packets::Foreign, Ack, false));
    cases.push(Case::foreign(Packets::Foreign, Ack, true));

    let syn = &[(0, 90.0)];
    for scheduler in Scheduler::ALL {
        cases.push(Case::new_flows(Dr, Syn, false, *scheduler, syn));
    }
    cases.push(Case::new_flows(Dr, Udp, false, Scheduler::Mh, &[]));
    cases.push(Case::new_flows(Nat, Syn, false, Scheduler::Mh, &[]));
    cases.push(Case::new_flows(Dr, Syn, true, Scheduler::Mh, &[]));
    let small = Case::new_flows(Dr, Syn, false, Scheduler::Mh, syn);
    cases.push(Case {
        name: format!("{}, small table", small.name),
        room: LITTLE_ROOM,
        ..small
    });

    for services in [1, 1_000, 10_000] {
        for to_all in [false, true] {
            if to_all && services == 1 {
                continue;
            }
            let known = Case::known(Dr, Ack, Way::In, false, &[]);
            cases.push(Case {
                group: "services",
                name: format!(
                    "DR TCP to {} of {} services",
                    if to_all { "any" } else { "one" },
                    grouped(services)
                ),
                services,
                to_all,
                flows: &[1, 10_000],
                ..known
            });
        }
    }
    for backends in [10, 1_000] {
        let known = Case::known(Dr, Ack, Way::In, false, &[]);
        cases.push(Case {
            group: "backends",
            name: format!("DR TCP to one service of {} backends", grouped(backends)),
            backends,
            flows: &[1, 10_000],
            ..known
        });
    }
    cases
}

/// The cases that are measured on two CPUs.
fn two_cpu_cases() -> Vec<Case> {
    let known = |forward, kind, flows| Case {
        group: "two CPUs",
        flows,
        ..Case::known(forward, kind, Way::In, false, &[])
    };
    let fresh = |scheduler| Case {
        group: "two CPUs",
        ..Case::new_flows(Dr, Syn, false, scheduler, &[])
    };
    vec![
        known(Dr, Udp, &[1, 100_000]),
        known(Nat, Ack, &[1, 100_000]),
        fresh(Scheduler::Mh),
        fresh(Scheduler::Rr),
    ]
}

/// Measures a case on one CPU and on two.
fn two_cpus(case: &Case, effort: Effort) -> Result<Vec<Row>> {
    let mut harness = case.harness()?;
    let mut rows = Vec::new();
    for &flows in case.flows {
        let fresh = case.packets == Packets::New;
        let each = match fresh {
            // One CPU, then both; the wrapper, then the program.
            true => case.room / 10 * 9 / effort.runs as u32 / 8,
            false => flows,
        };
        case.begin(&mut harness, 0, 2 * each)?;
        let script = Script {
            order: if fresh { Order::InTurn } else { Order::AtRandom } as u32,
            ..case.script(case.kind, case.way, each)
        };
        let (program, wrapper) = harness.two_cpus(&script, effort, fresh)?;
        let row = Row {
            group: case.group.to_owned(),
            case: match flows {
                0 => case.name.clone(),
                1 => format!("{}, 1 flow per CPU", case.name),
                _ => format!("{}, {} flows per CPU", case.name, grouped(flows)),
            },
            median: median(&program),
            min: program.iter().copied().fold(f64::INFINITY, f64::min),
            max: program.iter().copied().fold(0.0, f64::max),
            unit: None,
            gross: None,
            bound: None,
            note: Some(format!(
                "times the packets of one CPU; the wrapper alone {:.2} times",
                median(&wrapper)
            )),
        };
        eprintln!("{:>6.2} x   {}", row.median, row.case);
        rows.push(row);
    }
    Ok(rows)
}

/// Measures what was asked for.
pub fn measure(arguments: &Arguments) -> Result<Report> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let effort = Effort {
        runs: arguments.runs as usize,
        packets: arguments.packets,
        cpu: arguments.cpu.unwrap_or(cpus - 1),
    };
    let wanted = |case: &&Case| {
        let name = format!("{} {}", case.group, case.name).to_lowercase();
        arguments.filter.iter().all(|word| name.contains(&word.to_lowercase()))
    };
    let mut report = Report::new(
        "program",
        "The XDP program by BPF_PROG_TEST_RUN: net cost of a packet, the wrapper's cost subtracted",
        "ns",
    );
    let sizes = Case::known(Dr, Udp, Way::In, false, &[]).harness()?.program_sizes()?;
    report.notes.push(format!(
        "program: {} instructions ({} bytes translated), {} bytes compiled, {} instructions walked by the verifier",
        sizes[0] / 8,
        sizes[0],
        sizes[1],
        sizes[2]
    ));
    report.notes.push(format!(
        "{} runs of {} packets each, CPU {}; flows at random",
        effort.runs,
        grouped(effort.packets),
        effort.cpu
    ));
    for case in cases().iter().filter(wanted) {
        let rows = case.measure(effort).with_context(|| case.name.clone())?;
        report.rows.extend(rows);
    }
    let two: Vec<Case> = two_cpu_cases().into_iter().filter(|case| wanted(&case)).collect();
    match cpus {
        1 => report.notes.push("one CPU only: two were not measured".to_owned()),
        _ => {
            for case in &two {
                let rows = two_cpus(case, effort).with_context(|| case.name.clone())?;
                report.rows.extend(rows);
            }
        }
    }
    check(&mut report);
    Ok(report)
}

/// What the rows show.
fn check(report: &mut Report) {
    for row in &report.rows {
        if let Some(bound) = row.bound {
            report.checks.push(Check::at_most(
                format!("{}: {}, net ns", row.group, row.case),
                row.median,
                bound,
            ));
        }
    }
    for flows in ["1 flow", "10,000 flows"] {
        let find = |services: &str| {
            let name = format!("DR TCP to {services} services, {flows}");
            report.rows.iter().find(|row| row.case == name).map(|row| row.median)
        };
        if let (Some(one), Some(of_many), Some(any)) = (find("one of 1"), find("one of 10,000"), find("any of 10,000"))
        {
            report.checks.push(Check::at_most(
                format!("one of 10,000 services against one of 1, {flows}"),
                of_many / one,
                1.15,
            ));
            if flows != "1 flow" {
                report.checks.push(Check::at_most(
                    format!("any of 10,000 services against one of 1, {flows}"),
                    any / one,
                    1.15,
                ));
            }
        }
    }
    for row in report.rows.iter().filter(|row| row.group == "two CPUs") {
        report.checks.push(Check::at_least(
            format!("two CPUs against one, {}", row.case),
            row.median,
            1.8,
        ));
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

/// A number with a comma before each three digits.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
