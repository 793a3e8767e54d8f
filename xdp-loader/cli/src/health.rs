//! `lvx health`.

use std::io::{self, Write};

use super::{
    client::{Client, segment},
    colour::Colour,
    output::Output,
    status::duration,
    table::{Cell, Table},
};
use lvx_api::health::{BackendReport, HealthReport, ProbeReport, ServiceReport};
use lvx_model::{ServiceAddress, health::State};

/// Results that are shown per probe.
const RESULTS: usize = 5;

pub(super) async fn run(
    service: Option<ServiceAddress>,
    client: &Client,
    output: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    let path = match service {
        Some(service) => format!("/v1/health?service={}", segment(service)),
        None => "/v1/health".to_owned(),
    };
    let report: HealthReport = client.get(&path).await?;
    output.answer(&report, |output| {
        if report.services.is_empty() {
            return output.line("no services: add one with `lvx service add`");
        }
        output.table(&table(&report))?;
        match service {
            Some(_) => report.services.iter().try_for_each(|service| details(output, service)),
            None => Ok(()),
        }
    })
}

fn table(report: &HealthReport) -> Table {
    let mut table = Table::new(&[
        "SERVICE", "BACKEND", "STATE", ">SINCE", ">SHARE", "PROBES", ">P50", ">P99", ">FAILED", "REASON",
    ]);
    for service in &report.services {
        for backend in &service.backends {
            let probes: Vec<_> = backend.probes.iter().map(name).collect();
            let first = backend.probes.first();
            let failed: u64 = backend.probes.iter().map(|probe| probe.failed).sum();
            let total: u64 = backend.probes.iter().map(|probe| probe.total).sum();
            table.row([
                service.address.into(),
                backend.address.into(),
                state(backend),
                duration(backend.since_seconds as u64).into(),
                share(backend).into(),
                if probes.is_empty() {
                    "none".into()
                } else {
                    probes.join(",").into()
                },
                latency(first.and_then(|probe| probe.p50_microseconds)).into(),
                latency(first.and_then(|probe| probe.p99_microseconds)).into(),
                format!("{failed}/{total}").into(),
                backend.reason.as_deref().unwrap_or_default().into(),
            ]);
        }
    }
    table
}

fn details(output: &mut Output<impl Write>, service: &ServiceReport) -> io::Result<()> {
    output.line("")?;
    let lost = if service.quorum_lost { ", lost" } else { "" };
    let (healthy, quorum) = (service.available, service.quorum);
    output.line(&format!("healthy weights {healthy}, quorum {quorum}{lost}"))?;
    for backend in &service.backends {
        output.line("")?;
        output.line(&format!("{}", backend.address))?;
        if let Some(held) = backend.held_out_seconds {
            output.line(&format!(
                "  held out for {held:.0} s more: went down {} times",
                backend.flaps
            ))?;
        }
        for probe in &backend.probes {
            output.line(&format!("  {} says {}", name(probe), verdict(probe)))?;
            if let Some(note) = &probe.note {
                output.line(&format!("    note: {note}"))?;
            }
            for result in probe.results.iter().rev().take(RESULTS) {
                output.line(&format!(
                    "    {:>7.1} s ago  {:<8} {:>8}  {}",
                    result.seconds_ago,
                    result.outcome,
                    latency(Some(result.microseconds)),
                    result.reason.as_deref().unwrap_or_default()
                ))?;
            }
        }
        for change in backend.changes.iter().rev() {
            output.line(&format!(
                "  {:>9} ago  {} -> {}  {}",
                duration(change.seconds_ago as u64),
                change.from.name(),
                change.to.name(),
                change.reason.as_deref().unwrap_or_default()
            ))?;
        }
    }
    Ok(())
}

fn name(probe: &ProbeReport) -> String {
    let vip = probe.vip.then(|| "VIP".to_owned());
    let shared = (probe.shared_by > 1).then(|| format!("shared by {}", probe.shared_by));
    let notes: Vec<_> = vip.into_iter().chain(shared).collect();
    if notes.is_empty() {
        probe.kind.to_string()
    } else {
        format!("{} ({})", probe.kind, notes.join(", "))
    }
}

fn verdict(probe: &ProbeReport) -> String {
    format!("{:?}", probe.verdict).to_lowercase()
}

fn share(backend: &BackendReport) -> String {
    if !backend.takes_new {
        return "-".to_owned();
    }
    match backend.reported_weight {
        Some(weight) => format!("{}% of {weight}", backend.share_percent),
        None => format!("{}%", backend.share_percent),
    }
}

fn state(backend: &BackendReport) -> Cell {
    let colour = match backend.state {
        State::Up => Colour::Good,
        State::Down => Colour::Bad,
        State::Unknown | State::Degraded | State::Draining | State::Disabled => Colour::Notable,
    };
    Cell::coloured(backend.state.name(), colour)
}

fn latency(micros: Option<u32>) -> String {
    match micros {
        None => "-".to_owned(),
        Some(micros) if micros < 1_000 => format!("{micros}us"),
        Some(micros) if micros < 1_000_000 => format!("{:.1}ms", f64::from(micros) / 1_000.0),
        Some(micros) => format!("{:.1}s", f64::from(micros) / 1_000_000.0),
    }
}
