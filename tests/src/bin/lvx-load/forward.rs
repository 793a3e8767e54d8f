//! Packets through balancers between namespaces, side by side: each with a passage of its own, in turns, with the same
//! frames.

use std::path::Path;

use anyhow::{Context, Result};
use lvx_bench_report::{Check, Report, Row, grouped, median};
use lvx_tests::{leftovers, process};

use crate::{
    Programs,
    daemon::Daemon,
    frames::{Frames, Generator, PORT},
    passage::{Passage, SINK},
};

/// How much to measure.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What makes the frames
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Generator::Live])]
    pub generator: Vec<Generator>,
    /// Runs of each case, of which the median counts
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// Frames of each run
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    pub packets: u32,
    /// Numbers of flows
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10_000])]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub flows: Vec<u32>,
    /// Measure only what has this in its name; the generator and the floor are measured in any case
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// The clock counts executed instructions, as in a virtual machine with a counting clock
    #[arg(long)]
    pub instructions: bool,
}

/// What forwards, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forwarder {
    Dropped,
    TwoMacs,
    LvxDr,
    LvxNat,
    Routing,
    Nftables,
    IpvsDr,
    IpvsNat,
}

/// All of them.
const FORWARDERS: [Forwarder; 8] = [
    Forwarder::Dropped,
    Forwarder::TwoMacs,
    Forwarder::LvxDr,
    Forwarder::LvxNat,
    Forwarder::Routing,
    Forwarder::Nftables,
    Forwarder::IpvsDr,
    Forwarder::IpvsNat,
];

impl Forwarder {
    /// Its name in the table.
    fn name(self) -> &'static str {
        match self {
            Self::Dropped => "dropped on arrival: the generator",
            Self::TwoMacs => "two MACs and a redirect: the floor",
            Self::LvxDr => "LVX, DR, mh",
            Self::LvxNat => "LVX, NAT, mh",
            Self::Routing => "plain IP forwarding",
            Self::Nftables => "nftables, DNAT",
            Self::IpvsDr => "IPVS, DR, rr",
            Self::IpvsNat => "IPVS, NAT, rr",
        }
    }

    /// The first of the addresses that frames come from: clients of one service each, as clients are.
    fn clients(self) -> &'static str {
        match self {
            Self::LvxNat | Self::IpvsNat => "172.24.0.1",
            _ => "172.16.0.1",
        }
    }

    /// Where frames go to.
    fn address(self) -> &'static str {
        match self {
            Self::Routing => SINK,
            Self::LvxNat | Self::IpvsNat => "10.0.0.101",
            _ => "10.0.0.100",
        }
    }
}

/// What makes a passage forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Dropped,
    TwoMacs,
    Lvx,
    Routing,
    Nftables,
    Ipvs,
}

impl Forwarder {
    fn kind(self) -> Kind {
        match self {
            Self::Dropped => Kind::Dropped,
            Self::TwoMacs => Kind::TwoMacs,
            Self::LvxDr | Self::LvxNat => Kind::Lvx,
            Self::Routing => Kind::Routing,
            Self::Nftables => Kind::Nftables,
            Self::IpvsDr | Self::IpvsNat => Kind::Ipvs,
        }
    }
}

/// The runs of a forwarder with a number of flows.
struct Runs {
    forwarder: Forwarder,
    generator: Generator,
    flows: u32,
    costs: Vec<f64>,
    lost: u64,
}

/// Measures.
pub fn measure(programs: &Programs, arguments: &Arguments) -> Result<Report> {
    leftovers::remove()?;
    let id = format!("lvx-{}-fw", std::process::id());
    let directory = tempfile::Builder::new().prefix(&format!("{id}-")).tempdir()?;
    let mut report = Report::new(
        "forward",
        "Packets through a balancer between namespaces, 64-byte UDP, one CPU: cost net of the generator's own",
        "ns",
    );
    let wanted = |forwarder: &Forwarder| {
        let name = forwarder.name().to_lowercase();
        matches!(forwarder, Forwarder::Dropped | Forwarder::TwoMacs)
            || arguments.only.is_empty()
            || arguments.only.iter().any(|word| name.contains(&word.to_lowercase()))
    };
    let forwarders: Vec<Forwarder> = FORWARDERS.into_iter().filter(wanted).collect();
    let mut passages: Vec<(Kind, Passage)> = Vec::new();
    for kind in forwarders.iter().map(|forwarder| forwarder.kind()) {
        if passages.iter().any(|(made, _)| *made == kind) {
            continue;
        }
        let number = passages.len();
        let mut passage = Passage::new(&format!("{id}{number}"), &programs.lvx_bench, directory.path())?;
        match kind {
            Kind::Dropped => passage.drop_on_arrival()?,
            Kind::TwoMacs => passage.two_macs()?,
            Kind::Lvx | Kind::Routing => {}
            Kind::Nftables => nftables(&passage)?,
            Kind::Ipvs => {
                if let Err(error) = ipvs(&passage) {
                    eprintln!("no IPVS: {error:#}");
                    if report.notes.is_empty() {
                        report.notes.push("no IPVS on this kernel".to_owned());
                    }
                    continue;
                }
            }
        }
        passages.push((kind, passage));
    }
    let find = |forwarder: Forwarder| {
        passages
            .iter()
            .find(|(kind, _)| *kind == forwarder.kind())
            .map(|(_, passage)| passage)
    };
    let daemon = match find(Forwarder::LvxDr) {
        Some(passage) => Some(lvx(passage, &programs.lvx, &id)?),
        None => None,
    };

    let mut all: Vec<Vec<Runs>> = Vec::new();
    for &generator in &arguments.generator {
        for &flows in &arguments.flows {
            let frames = |forwarder: Forwarder, packets, in_turn| Frames {
                generator,
                from: forwarder.clients(),
                to: forwarder.address(),
                flows,
                packets,
                in_turn,
                to_balancer: forwarder == Forwarder::Dropped,
            };
            let mut together: Vec<Runs> = Vec::new();
            for &forwarder in &forwarders {
                let Some(passage) = find(forwarder) else { continue };
                // Each flow once, so that all are known.
                passage.send(frames(forwarder, flows.max(1_000), true))?;
                together.push(Runs {
                    forwarder,
                    generator,
                    flows,
                    costs: Vec::new(),
                    lost: 0,
                });
            }
            for run in 0..arguments.runs {
                eprintln!("{flows} flows, run {} of {}", run + 1, arguments.runs);
                for runs in &mut together {
                    let Some(passage) = find(runs.forwarder) else { continue };
                    let sent = passage
                        .send(frames(runs.forwarder, arguments.packets, false))
                        .with_context(|| runs.forwarder.name())?;
                    runs.costs.push(sent.cost);
                    runs.lost += sent.lost;
                }
            }
            all.push(together);
        }
    }
    if let (Some(daemon), true) = (
        daemon,
        all.iter()
            .flatten()
            .any(|runs| runs.forwarder.kind() == Kind::Lvx && runs.lost > 0),
    ) {
        // Why.
        eprintln!("lvx stats: {}\n{}", daemon.get("/v1/stats")?, daemon.log());
    }
    if arguments.instructions {
        "instructions".clone_into(&mut report.unit);
    }
    for together in &all {
        tell(&mut report, arguments, together);
    }
    if arguments.generator.contains(&Generator::Pktgen) {
        report.notes.push(
            "pktgen's frames are packets of the kernel's stack, which a veth has to copy for an XDP program: a cost that \
             no card's driver has. It is in the figures of all XDP programs, that which drops on arrival too, so that \
             what the stack forwards looks cheaper than it is"
                .to_owned(),
        );
    }
    report.notes.push(format!(
        "{} runs of {} frames each, in turns; live frames are redirected into a veth by a program of ours",
        arguments.runs,
        grouped(arguments.packets)
    ));
    Ok(report)
}

/// The rows of what was measured in turns, and what they show.
fn tell(report: &mut Report, arguments: &Arguments, all: &[Runs]) {
    let gross = |forwarder: Forwarder| {
        let runs = all.iter().find(|runs| runs.forwarder == forwarder)?;
        Some(median(&runs.costs))
    };
    let (Some(generator), Some(first)) = (gross(Forwarder::Dropped), all.first()) else {
        return;
    };
    let net = |forwarder: Forwarder| gross(forwarder).map(|gross| gross - generator);
    let mut group = match first.flows {
        1 => "1 flow".to_owned(),
        flows => format!("{} flows at random", grouped(flows)),
    };
    if first.generator == Generator::Pktgen {
        group = format!("frames of pktgen, {group}");
    }
    for runs in all {
        let own = if runs.forwarder == Forwarder::Dropped {
            0.0
        } else {
            generator
        };
        let costs: Vec<f64> = runs.costs.iter().map(|cost| cost - own).collect();
        let mut row = Row::new(&group, runs.forwarder.name(), &costs);
        row.gross = Some(median(&runs.costs));
        let sent = u64::from(arguments.packets) * runs.costs.len() as u64;
        let arrived = match runs.lost {
            0 => "all arrived".to_owned(),
            lost => format!("{lost} of {sent} LOST"),
        };
        row.note = Some(match net(Forwarder::LvxDr) {
            Some(ours) if !matches!(runs.forwarder, Forwarder::Dropped | Forwarder::LvxDr) => {
                format!("{:.2} times LVX's DR; {arrived}", row.median / ours)
            }
            _ => arrived,
        });
        report.add(row);
    }
    if first.generator == Generator::Pktgen {
        // For an XDP program a virtual interface copies them, which costs more than the program.
        return;
    }
    let mut ratio = |what: &str, dividend: Option<f64>, divisor: Option<f64>, bound: f64, at_most: bool| {
        let (Some(dividend), Some(divisor)) = (dividend, divisor) else {
            return;
        };
        let check = if at_most { Check::at_most } else { Check::at_least };
        report
            .checks
            .push(check(format!("{group}: {what}"), dividend / divisor, bound));
    };
    let [dr, nat, floor] = [Forwarder::LvxDr, Forwarder::LvxNat, Forwarder::TwoMacs].map(net);
    if arguments.instructions {
        ratio("IPVS DR against LVX DR", net(Forwarder::IpvsDr), dr, 10.0, false);
        ratio("IPVS NAT against LVX NAT", net(Forwarder::IpvsNat), nat, 10.0, false);
    } else {
        ratio("LVX DR against the floor", dr, floor, 1.5, true);
        ratio("nftables DNAT against LVX DR", net(Forwarder::Nftables), dr, 8.0, false);
        ratio(
            "nftables DNAT against LVX NAT",
            net(Forwarder::Nftables),
            nat,
            8.0,
            false,
        );
    }
}

/// A daemon that balances by DR and by NAT.
fn lvx<'a>(passage: &'a Passage, program: &Path, id: &str) -> Result<Daemon<'a>> {
    let mut daemon = Daemon::new(&passage.balancer, program, id, &["eth0", "eth1"])?;
    daemon.start()?;
    for (vip, forward) in [("10.0.0.100", "dr"), ("10.0.0.101", "nat")] {
        let service = format!("udp://{vip}:{PORT}");
        daemon.lvx(&["service", "add", &service, "--forward", forward, "--scheduler", "mh"])?;
        daemon.lvx(&["backend", "add", &service, SINK])?;
    }
    daemon.wait_until_up()?;
    Ok(daemon)
}

/// A table of nftables that sends the service to the sink.
fn nftables(passage: &Passage) -> Result<()> {
    passage.balancer.ip("addr add 10.0.0.100/32 dev eth0\n")?;
    let rules = format!(
        "table ip nat {{\n\
           chain prerouting {{\n\
             type nat hook prerouting priority dstnat; policy accept;\n\
             ip daddr 10.0.0.100 udp dport {PORT} dnat to {SINK}:{PORT}\n\
           }}\n\
         }}\n"
    );
    process::feed(passage.balancer.command("nft").args(["-f", "-"]), rules.as_bytes())?;
    Ok(())
}

/// Services of IPVS, by DR and by NAT.
fn ipvs(passage: &Passage) -> Result<()> {
    // Where it is built in, there is no module.
    let _ = process::finish(std::process::Command::new("modprobe").arg("ip_vs"));
    passage
        .balancer
        .ip("addr add 10.0.0.100/32 dev eth0\naddr add 10.0.0.101/32 dev eth0\n")?;
    let rules = format!(
        "-A -u 10.0.0.100:{PORT} -s rr\n-a -u 10.0.0.100:{PORT} -r {SINK}:{PORT} -g\n\
         -A -u 10.0.0.101:{PORT} -s rr\n-a -u 10.0.0.101:{PORT} -r {SINK}:{PORT} -m\n"
    );
    process::feed(passage.balancer.command("ipvsadm").arg("-R"), rules.as_bytes())?;
    Ok(())
}
