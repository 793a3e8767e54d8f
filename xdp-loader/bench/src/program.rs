//! What the program costs, by `BPF_PROG_TEST_RUN`, less what the wrapper costs; and how many instructions that is.

use std::thread;

use anyhow::{Context, Result, ensure};
use lvx_bench_report::{Check, Report, Row, grouped, median};
use lvx_model::Forward::Dr;
use xdp_common::bench::{Order, Script};

use crate::{
    case::{Case, Packets},
    cases,
    frame::{Direction, Kind::Udp},
    harness::{Cost, Effort, Harness},
    instructions,
};

/// What to measure, and how much.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Measure only what has all these words in its name: `nat in tcp ipv4 100,000`
    filter: Vec<String>,
    /// Measure only what has this in its name; given several times, what has any of them
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Fewer and shorter runs: 5 of 200,000 packets. For a look while tuning, not for figures to keep
    #[arg(long, conflicts_with_all = ["runs", "packets"])]
    quick: bool,
    /// Only count instructions, and time nothing: a second or two
    #[arg(long)]
    instructions: bool,
    /// Only say what would be measured
    #[arg(long)]
    list: bool,
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

impl Arguments {
    /// How much is measured on a machine with so many CPUs.
    fn effort(&self, cpus: usize) -> Effort {
        let (runs, packets) = match self.quick {
            true => (5, 200_000),
            false => (self.runs as usize, self.packets),
        };
        Effort {
            runs,
            packets,
            cpu: self.cpu.unwrap_or(cpus - 1),
        }
    }

    /// Whether a row is asked for.
    fn want(&self, group: &str, row: &str) -> bool {
        let name = format!("{group} {row}").to_lowercase();
        let has = |word: &String| name.contains(&word.to_lowercase());
        self.filter.iter().all(has) && (self.only.is_empty() || self.only.iter().any(has))
    }

    /// The cases to time, on one CPU and on two.
    fn timed(&self) -> [Vec<Case>; 2] {
        match self.instructions {
            true => [Vec::new(), Vec::new()],
            false => [self.chosen(cases::one_cpu()), self.chosen(cases::two_cpus())],
        }
    }

    /// The cases whose instructions are to be counted.
    fn counted(&self) -> Vec<Case> {
        let mut cases = cases::counted();
        cases.retain(|case| self.want(instructions::GROUP, &case.name));
        cases
    }

    /// The cases with the numbers of flows that are asked for, without those where none is.
    fn chosen(&self, cases: Vec<Case>) -> Vec<Case> {
        let rows = |case: Case| Case {
            flows: case
                .flows
                .iter()
                .copied()
                .filter(|&flows| self.want(case.group, &case.row_name(flows)))
                .collect(),
            ..case
        };
        cases
            .into_iter()
            .map(rows)
            .filter(|case| !case.flows.is_empty())
            .collect()
    }
}

/// The share of flows that a table which is as full as promised may have forgotten.
const MOST_FORGOTTEN: f64 = 0.03;

/// How often a case is loaded anew whose cost is compared with another's: where programs and tables come to lie in memory
/// makes a nanosecond or two.
const LOADS: usize = 5;

/// Measures a case, in as many rows as it has numbers of flows.
fn one_cpu(case: &Case, effort: Effort) -> Result<Vec<Row>> {
    let loads = if case.group == "services" { LOADS } else { 1 };
    let mut measured = vec![Vec::new(); case.flows.len()];
    for _ in 0..loads {
        let mut harness = case.harness()?;
        for (&flows, measured) in case.flows.iter().zip(&mut measured) {
            measured.push(cost(case, &mut harness, effort, flows)?);
        }
    }
    let rows = case.flows.iter().zip(&measured).map(|(&flows, measured)| {
        let costs: Vec<Cost> = measured.iter().map(|(cost, _)| cost.clone()).collect();
        let cost = Cost::median_of(&costs);
        let forgotten = measured.iter().map(|(_, forgotten)| *forgotten).fold(0.0, f64::max);
        Row {
            group: case.group.to_owned(),
            case: case.row_name(flows),
            median: cost.median,
            min: cost.min,
            max: cost.max,
            unit: None,
            gross: Some(cost.gross),
            bound: case.bounds.iter().find(|(of, _)| *of == flows).map(|(_, bound)| *bound),
            note: (forgotten > 0.0).then(|| {
                format!(
                    "{:.1} % of the packets met a flow that had been forgotten",
                    forgotten * 100.0
                )
            }),
        }
    });
    Ok(rows.collect())
}

/// What a packet costs with so many flows, or if 0, where each opens one; and the share of packets that were not
/// forwarded as flows that are known should be: a full bucket forgets some.
fn cost(case: &Case, harness: &mut Harness, effort: Effort, flows: u32) -> Result<(Cost, f64)> {
    if case.packets == Packets::New {
        let script = case.script(case.kind, case.direction, case.room / 10 * 9);
        let unexpected = harness.unexpected_share(
            &Script {
                first: case.room,
                ..script
            },
            case.action(),
        )?;
        ensure!(unexpected == 0.0, "a new flow was not forwarded");
        return Ok((harness.cost_of_new(&script, effort)?, 0.0));
    }
    case.open_flows(harness, effort.cpu, flows)?;
    let script = Script {
        order: Order::AtRandom as u32,
        ..case.script(case.kind, case.direction, flows)
    };
    let forgotten = harness.unexpected_share(&script, case.action())?;
    ensure!(
        forgotten < MOST_FORGOTTEN,
        "{:.1} % of the packets were not answered with action {}",
        forgotten * 100.0,
        case.action()
    );
    Ok((harness.cost(&script, effort)?, forgotten))
}

/// Measures a case on one CPU and on two.
fn two_cpus(case: &Case, effort: Effort) -> Result<Vec<Row>> {
    let mut harness = case.harness()?;
    let mut rows = Vec::new();
    for &flows in &case.flows {
        let new_flows = case.packets == Packets::New;
        let each = match new_flows {
            // One CPU, then both; the wrapper, then the program.
            true => case.room / 10 * 9 / effort.runs as u32 / 8,
            false => flows,
        };
        case.open_flows(&mut harness, 0, 2 * each)?;
        let script = Script {
            order: if new_flows { Order::InTurn } else { Order::AtRandom } as u32,
            ..case.script(case.kind, case.direction, each)
        };
        let (program, wrapper) = harness.two_cpus(&script, effort, new_flows)?;
        let wrapper = median(&wrapper);
        rows.push(
            Row::new(case.group, case.row_name(flows), &program)
                .unit("times")
                .note(format!("each CPU its own flows; the wrapper alone {wrapper:.2} times")),
        );
    }
    Ok(rows)
}

/// Measures what was asked for.
pub fn measure(arguments: &Arguments) -> Result<Report> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let effort = arguments.effort(cpus);
    let mut report = Report::new(
        "program",
        "The XDP program by BPF_PROG_TEST_RUN: net cost of a packet, the wrapper's cost subtracted",
        "ns",
    );
    let [one, two] = arguments.timed();
    let counted = arguments.counted();
    ensure!(
        !one.is_empty() || !two.is_empty() || !counted.is_empty(),
        "nothing has such a name; --list shows what there is"
    );
    if arguments.list {
        for case in one.iter().chain(&two) {
            for &flows in &case.flows {
                eprintln!("{}: {}", case.group, case.row_name(flows));
            }
        }
        for case in &counted {
            eprintln!("{}: {}", instructions::GROUP, case.name);
        }
        return Ok(report);
    }
    let counted = instructions::count(&counted, effort.cpu)?;
    if arguments.instructions {
        report.title = "The XDP program: how many of its instructions a packet takes".to_owned();
        report.add_all(counted);
        check(&mut report);
        return Ok(report);
    }
    let sizes = Case::known(Dr, Udp, Direction::In, false, &[])
        .harness()?
        .program_sizes()?;
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
    for case in &one {
        report.add_all(one_cpu(case, effort).with_context(|| case.name.clone())?);
    }
    if cpus == 1 && !two.is_empty() {
        report.notes.push("one CPU only: two were not measured".to_owned());
    } else {
        for case in &two {
            report.add_all(two_cpus(case, effort).with_context(|| case.name.clone())?);
        }
    }
    report.add_all(counted);
    check(&mut report);
    Ok(report)
}

/// Instructions that may not become more than a fiftieth more: of packets of known flows, and of the program that takes them.
/// What they were when every packet had its frame's MAC looked at and a hop taken.
const INSTRUCTIONS: [(&str, f64); 3] = [("DR UDP IPv4", 364.0), ("NAT in UDP IPv6", 437.0), ("lvx", 6384.0)];

/// How many times what an IPv4 packet costs an IPv6 one may cost, with more flows than caches hold.
const IPV6: f64 = 1.6;

/// Checks what rows show beside each other, and how many instructions there are.
fn check(report: &mut Report) {
    for (case, instructions) in INSTRUCTIONS {
        let counted = |row: &&Row| row.case == case && row.unit.as_deref() == Some("instructions");
        if let Some(row) = report.rows.iter().find(counted) {
            let name = format!("instructions of {case}");
            report
                .checks
                .push(Check::at_most(name, row.median, instructions * 1.02));
        }
    }
    let many = |family: &str| {
        let name = format!("DR UDP {family}, 131,072 flows");
        report.rows.iter().find(|row| row.case == name).map(|row| row.median)
    };
    if let (Some(v4), Some(v6)) = (many("IPv4"), many("IPv6")) {
        report
            .checks
            .push(Check::at_most("IPv6 against IPv4, 131,072 flows", v6 / v4, IPV6));
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
