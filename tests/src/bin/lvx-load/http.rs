//! Requests and bytes per second through LVX and its rivals, and new connections per second.

use anyhow::{Context, Result};
use lvx_bench_report::{Report, Row, median};
use serde_json::Value;

use crate::{
    Programs,
    rivals::{Labs, Rivals, STREAM, Target},
    wrk::{self, Load, Measured, PERCENTILES},
};

/// How much to measure.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Runs of each case, of which the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Seconds of each run
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Requests at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Measure only what has this in its name
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
}

impl Arguments {
    /// Whether what balances so is measured.
    fn want(&self, target: &Target<'_>) -> bool {
        let name = target.name.to_lowercase();
        self.only.is_empty() || self.only.iter().any(|word| name.contains(&word.to_lowercase()))
    }

    /// What wrk is to do.
    fn load(&self, anew: bool) -> Load {
        Load {
            connections: self.connections,
            seconds: self.seconds,
            anew,
        }
    }

    /// Calls `measure` for each target in turns, as often as there are runs: what it returned, by target.
    fn in_turns<'a, 'r, T>(
        &self,
        rivals: &'r Rivals<'a>,
        what: &str,
        mut measure: impl FnMut(&Target<'a>) -> Result<T>,
    ) -> Result<Vec<(&'r Target<'a>, Vec<T>)>> {
        let mut all: Vec<(&Target<'a>, Vec<T>)> = rivals
            .targets
            .iter()
            .filter(|target| self.want(target))
            .map(|target| (target, Vec::new()))
            .collect();
        for run in 0..self.runs {
            eprintln!("{what}, run {} of {}", run + 1, self.runs);
            for (target, measured) in &mut all {
                measured.push(measure(target).with_context(|| target.name)?);
            }
        }
        Ok(all)
    }
}

/// Requests over connections that stay, and bytes of one stream.
pub fn measure(programs: &Programs, arguments: &Arguments) -> Result<Report> {
    let labs = Labs::new()?;
    let rivals = Rivals::start(&labs, programs)?;
    let mut report = Report::new(
        "http",
        "Requests by wrk and bytes by iperf3 through balancers, client and backends on the same machine",
        "requests/s",
    );
    let requests = arguments.in_turns(&rivals, "requests", |target| {
        wrk::run(target.client, &target.address, arguments.load(false))
    })?;
    tell(&mut report, "requests, connections kept", &requests);
    let streams = arguments.in_turns(&rivals, "a stream", |target| stream(target, arguments.seconds))?;
    let ours = streams.first().map(|(_, rates)| median(rates));
    for (target, rates) in &streams {
        let row = Row::new("bytes of one TCP stream", target.name, rates).unit("Gbit/s");
        report.add(against(row, ours));
    }
    remark(&mut report, arguments);
    Ok(report)
}

/// A connection for each request.
pub fn measure_connections(programs: &Programs, arguments: &Arguments) -> Result<Report> {
    let labs = Labs::new()?;
    let rivals = Rivals::start(&labs, programs)?;
    let mut report = Report::new(
        "connections",
        "New connections through balancers, one for each request, client and backends on the same machine",
        "connections/s",
    );
    let connections = arguments.in_turns(&rivals, "connections", |target| {
        wrk::run(target.client, &target.address, arguments.load(true))
    })?;
    tell(&mut report, "new connections", &connections);
    remark(&mut report, arguments);
    Ok(report)
}

/// The rows of what wrk measured: per second, and the times within which they were answered.
fn tell(report: &mut Report, group: &str, all: &[(&Target<'_>, Vec<Measured>)]) {
    let rates = |measured: &[Measured]| -> Vec<f64> { measured.iter().map(|run| run.per_second).collect() };
    let ours = all.first().map(|(_, measured)| median(&rates(measured)));
    for (target, measured) in all {
        let failed: u64 = measured.iter().map(|run| run.failed).sum();
        let mut row = against(Row::new(group, target.name, &rates(measured)), ours);
        if failed > 0 {
            let note = row.note.unwrap_or_default();
            row.note = Some(format!("{note}; {failed} FAILED"));
        }
        report.add(row);
    }
    for (place, percentile) in PERCENTILES.into_iter().enumerate() {
        for (target, measured) in all {
            let times: Vec<f64> = measured.iter().map(|run| run.percentiles[place]).collect();
            report.add(Row::new(&format!("{percentile} of them within"), target.name, &times).unit("ms"));
        }
    }
}

/// With a remark how it compares with the first, LVX's.
fn against(row: Row, ours: Option<f64>) -> Row {
    match ours {
        Some(ours) if row.median > 0.0 => {
            let ratio = row.median / ours;
            row.note(format!("{ratio:.2} times LVX's DR"))
        }
        _ => row,
    }
}

/// How it was measured.
fn remark(report: &mut Report, arguments: &Arguments) {
    report.notes.push(format!(
        "{} runs of {} s each, in turns; {} connections; three nginx as backends, frames of at most 1,500 bytes, no \
         offloads",
        arguments.runs, arguments.seconds, arguments.connections
    ));
}

/// A stream by iperf3: Gbit/s that arrived.
fn stream(target: &Target<'_>, seconds: u32) -> Result<f64> {
    let (port, seconds) = (STREAM.to_string(), seconds.to_string());
    let arguments = ["-c", &target.address, "-p", &port, "-t", &seconds, "-J"];
    let said = target.client.run("iperf3", arguments)?;
    let said: Value = serde_json::from_str(&said)?;
    let rate = said["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(rate.with_context(|| format!("iperf3 says something else: {said}"))? / 1e9)
}
