//! The tables that the daemon works on: how long a Maglev table takes to build, and a full flow table to sweep.

use std::{hint::black_box, time::Instant};

use anyhow::{Result, ensure};
use lvx_bench_report::{Report, Row, grouped};
use lvx_dataplane::{flows, maglev, ring::RingMember};
use lvx_model::Forward::{Dr, Nat};

use crate::{
    case::Case,
    frame::{
        Direction,
        Kind::{Ack, Udp},
    },
    harness::Harness,
    wrapper::pin,
};

/// How much to measure.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Runs of each case, of which the median counts
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
}

/// The slots of a Maglev table by default.
const SLOTS: u32 = 65_537;
/// What it is to take at most to build with 1,000 backends, ms.
const MAGLEV_BOUND: f64 = 15.0;
/// Flows that are swept.
const FLOWS: u32 = 1_000_000;

/// Measures both.
pub fn measure(arguments: &Arguments) -> Result<Report> {
    let runs = arguments.runs;
    pin(0)?;
    let mut report = Report::new("tables", "The tables that the daemon works on", "ms");
    for (backends, bound) in [(10, None), (1_000, Some(MAGLEV_BOUND))] {
        let members = members(backends);
        let times: Vec<f64> = (0..runs)
            .map(|_| milliseconds(|| maglev::table(&members, SLOTS)))
            .collect();
        let case = format!("{} slots, {} backends", grouped(SLOTS), grouped(u32::from(backends)));
        report.add(Row {
            bound,
            ..Row::new("Maglev table", case, &times)
        });
    }
    for (name, case) in [
        ("UDP, DR", Case::known(Dr, Udp, Direction::In, false, &[])),
        ("TCP, NAT", Case::known(Nat, Ack, Direction::In, false, &[])),
    ] {
        let mut harness = case.harness()?;
        for flows in [0, FLOWS] {
            if flows > 0 {
                case.open_flows(&mut harness, 0, flows)?;
            }
            let mut found = 0;
            let times = (0..runs)
                .map(|_| sweep(&mut harness, &mut found))
                .collect::<Result<Vec<f64>>>()?;
            ensure!(
                found >= u64::from(flows) / 10 * 9,
                "of {flows} flows only {found} were found"
            );
            let note = format!("{found} flows counted");
            let case = match flows {
                0 => format!("{name}, an empty table of 1,048,576"),
                _ => format!("{name}, {} flows", grouped(flows)),
            };
            report.add(Row::new("flows swept", case, &times).note(note));
        }
    }
    Ok(report)
}

/// Backends of the weights 1 to 4.
fn members(count: u16) -> Vec<RingMember> {
    (0..count)
        .map(|number| RingMember {
            identity: [0x0a80_0000 + u64::from(number), 80],
            weight: 1 + number % 4,
        })
        .collect()
}

/// Sweeps once: how long it took, and how many flows it found.
fn sweep(harness: &mut Harness, found: &mut u64) -> Result<f64> {
    let clock = harness.tables().clock();
    let maps = harness.tables().maps().clone();
    let rules = harness.tables().rules();
    let begun = Instant::now();
    let census = flows::sweep(&maps, clock.now(), &rules, &flows::Gone::default())?;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    *found = census.v4 + census.v6;
    Ok(took)
}

/// What `work` takes.
fn milliseconds<T>(work: impl FnOnce() -> T) -> f64 {
    let begun = Instant::now();
    black_box(work());
    begun.elapsed().as_secs_f64() * 1e3
}
