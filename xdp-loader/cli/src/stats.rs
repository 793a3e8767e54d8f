//! `lvx stats`: counters, and rates as the difference of two readings.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{client::Client, output::Output, table::Table};
use lvx_api::{BackendStats, InterfaceStats, ServiceStats, Stats, Traffic, VerdictCount};

/// What `lvx stats --rate` prints as JSON.
#[derive(Debug, Serialize)]
struct Rates {
    /// Time between the two readings.
    seconds: f64,
    /// The second reading.
    counters: Stats,
    /// The same, per second; `active_flows` is what there is now.
    per_second: Stats,
}

pub(super) async fn run(
    all: bool,
    rate: Option<u64>,
    client: &Client,
    output: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    let first: Stats = client.get("/v1/stats").await?;
    let Some(rate) = rate else {
        return output.answer(&first, |output| show(output, &first, all));
    };
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(rate)).await;
    let counters: Stats = client.get("/v1/stats").await?;
    let seconds = begun.elapsed().as_secs_f64();
    let rates = Rates {
        seconds,
        per_second: per_second(&first, &counters, seconds),
        counters,
    };
    output.answer(&rates, |output| {
        output.line(&format!("per second, over {seconds:.1} s"))?;
        show(output, &rates.per_second, all)
    })
}

/// Prints the tables; rows in which nothing was counted only if `all` are wanted.
fn show(output: &mut Output<impl Write>, stats: &Stats, all: bool) -> io::Result<()> {
    let mut verdicts = Table::new(&["INTERFACE", "VERDICT", ">PACKETS"]);
    for interface in &stats.interfaces {
        for count in interface.verdicts.iter().filter(|count| all || count.packets > 0) {
            verdicts.row([(&interface.name).into(), (&count.verdict).into(), count.packets.into()]);
        }
    }
    output.table(&verdicts)?;
    if stats.services.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let titles = [
        "SERVICE",
        "BACKEND",
        ">PACKETS IN",
        ">BYTES IN",
        ">PACKETS OUT",
        ">BYTES OUT",
        ">CONNECTIONS",
        ">FLOWS",
    ];
    let mut services = Table::new(&titles);
    for service in &stats.services {
        let is_shown = |traffic: Traffic| all || traffic != Traffic::default();
        if is_shown(service.traffic) {
            row(&mut services, service, "(all)".to_owned(), service.traffic);
        }
        for backend in service.backends.iter().filter(|backend| is_shown(backend.traffic)) {
            row(&mut services, service, backend.address.to_string(), backend.traffic);
        }
    }
    output.table(&services)
}

fn row(table: &mut Table, service: &ServiceStats, backend: String, traffic: Traffic) {
    let Traffic {
        packets_in,
        bytes_in,
        packets_out,
        bytes_out,
        connections,
        active_flows,
    } = traffic;
    let counters = [packets_in, bytes_in, packets_out, bytes_out, connections, active_flows];
    table.row(
        [service.address.into(), backend.into()]
            .into_iter()
            .chain(counters.map(Into::into)),
    );
}

/// The change from one reading to the next per second. What the first reading lacks began at 0.
fn per_second(first: &Stats, second: &Stats, seconds: f64) -> Stats {
    let rate = |before: u64, after: u64| rate(before, after, seconds);
    let traffic = |before: Traffic, after: Traffic| Traffic {
        packets_in: rate(before.packets_in, after.packets_in),
        bytes_in: rate(before.bytes_in, after.bytes_in),
        packets_out: rate(before.packets_out, after.packets_out),
        bytes_out: rate(before.bytes_out, after.bytes_out),
        connections: rate(before.connections, after.connections),
        active_flows: after.active_flows,
    };
    let interface = |after: &InterfaceStats| {
        let before = first.interfaces.iter().find(|before| before.name == after.name);
        let verdict = |after: &VerdictCount| {
            let before = before.and_then(|before| before.verdicts.iter().find(|one| one.verdict == after.verdict));
            let before = before.map_or(0, |before| before.packets);
            VerdictCount {
                verdict: after.verdict.clone(),
                packets: rate(before, after.packets),
            }
        };
        InterfaceStats {
            name: after.name.clone(),
            verdicts: after.verdicts.iter().map(verdict).collect(),
        }
    };
    let service = |after: &ServiceStats| {
        let before = first.services.iter().find(|before| before.address == after.address);
        let backend = |after: &BackendStats| {
            let before = before.and_then(|before| before.backends.iter().find(|one| one.address == after.address));
            let before = before.map(|before| before.traffic).unwrap_or_default();
            BackendStats {
                address: after.address,
                traffic: traffic(before, after.traffic),
            }
        };
        let before = before.map(|before| before.traffic).unwrap_or_default();
        ServiceStats {
            address: after.address,
            traffic: traffic(before, after.traffic),
            backends: after.backends.iter().map(backend).collect(),
        }
    };
    Stats {
        interfaces: second.interfaces.iter().map(interface).collect(),
        services: second.services.iter().map(service).collect(),
    }
}

/// Rounded to whole units; a counter that went back was replaced, and counts from 0.
fn rate(before: u64, after: u64, seconds: f64) -> u64 {
    let difference = after.checked_sub(before).unwrap_or(after);
    (difference as f64 / seconds).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Form;

    fn shown(stats: &Stats, all: bool) -> String {
        let mut text = Vec::new();
        let mut output = Output::new(&mut text, Form::Table, false);
        show(&mut output, stats, all).expect("memory takes everything");
        String::from_utf8(text).expect("text")
    }

    #[test]
    fn rows_of_zeros_are_hidden_unless_all_are_wanted() {
        let verdict = |verdict: &str, packets| VerdictCount {
            verdict: verdict.to_owned(),
            packets,
        };
        let backend = |address: &str, packets_in| BackendStats {
            address: address.parse().expect("an address"),
            traffic: Traffic {
                packets_in,
                ..Traffic::default()
            },
        };
        let stats = Stats {
            interfaces: vec![InterfaceStats {
                name: "lan0".to_owned(),
                verdicts: vec![verdict("passed_not_ip", 3), verdict("flow_evicted", 0)],
            }],
            services: vec![ServiceStats {
                address: "tcp://10.0.0.100:80".parse().expect("a service"),
                traffic: backend("10.0.0.11:80", 5).traffic,
                backends: vec![backend("10.0.0.11:80", 5), backend("10.0.0.12:80", 0)],
            }],
        };
        let zeros = ["flow_evicted", "10.0.0.12:80"];
        let (some, all) = (shown(&stats, false), shown(&stats, true));
        assert!(
            some.contains("passed_not_ip") && some.contains("10.0.0.11:80") && some.contains("(all)"),
            "{some}"
        );
        assert!(zeros.iter().all(|zero| !some.contains(zero)), "{some}");
        assert!(zeros.iter().all(|zero| all.contains(zero)), "{all}");
    }

    #[test]
    fn a_rate_is_the_difference_by_time_and_survives_a_reset() {
        assert_eq!(
            (rate(100, 300, 2.0), rate(300, 100, 2.0), rate(0, 1, 2.0)),
            (100, 50, 1)
        );
    }
}
