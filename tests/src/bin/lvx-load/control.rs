//! Large configurations: applied, changed, restarted with, and what they take of the daemon's memory.
//!
//! A change is acknowledged once it is on disk and in the maps, so the time until the answer is the time until packets
//! meet it.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use lvx_bench_report::{Check, Report, Row, grouped, median};
use lvx_tests::{Namespace, leftovers, process};
use serde_json::{Value, json};

use crate::{Programs, daemon::Daemon, scrape::Scraper};

/// How much to measure.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Times that everything is done, of which the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Services
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=4_000))]
    services: u32,
    /// Backends of each service
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    backends: u32,
}

/// Single changes in each run.
const CHANGES: u32 = 20;
/// How long nothing changes before a single change.
const PAUSE: Duration = Duration::from_millis(100);
/// Backends of the one large service.
const MANY: u32 = 1_000;
/// The most that is to be taken: to apply, ms; to make a change, ms; of memory, MB.
const APPLY: f64 = 2_000.0;
const CHANGE: f64 = 20.0;
const MEMORY: f64 = 60.0;
/// How much longer a change may take while metrics are scraped.
const SCRAPED: f64 = 1.2;

/// The balancer and a neighbour that is the gateway to all backends.
struct Site {
    balancer: Namespace,
    _neighbour: Namespace,
    id: String,
}

impl Site {
    fn new() -> Result<Self> {
        leftovers::remove()?;
        let id = format!("lvx-{}-control", std::process::id());
        let balancer = Namespace::create(&format!("{id}-lb"))?;
        let neighbour = Namespace::create(&format!("{id}-net"))?;
        balancer.ip(&format!(
            "link add eth0 type veth peer name eth0 netns {}\n\
             addr add 10.0.0.2/24 dev eth0\n\
             link set eth0 up\n",
            neighbour.name()
        ))?;
        neighbour.ip("addr add 10.0.0.3/24 dev eth0\nlink set eth0 up\n")?;
        balancer.ip("route add 10.128.0.0/9 via 10.0.0.3\n")?;
        Ok(Self {
            balancer,
            _neighbour: neighbour,
            id,
        })
    }
}

/// What each run measured, by row.
#[derive(Default)]
struct Times {
    apply: Vec<f64>,
    change: Vec<f64>,
    change_at_once: Vec<f64>,
    /// Without anybody who asks, and while metrics are scraped, in turns.
    unscraped: Vec<f64>,
    scraped: Vec<f64>,
    scrapes: Vec<f64>,
    change_command: Vec<f64>,
    apply_again: Vec<f64>,
    remove: Vec<f64>,
    takeover: Vec<f64>,
    start: Vec<f64>,
    resident: Vec<f64>,
    anonymous: Vec<f64>,
    resident_restarted: Vec<f64>,
}

/// Measures.
pub fn measure(programs: &Programs, arguments: &Arguments) -> Result<Report> {
    let site = Site::new()?;
    let mut report = Report::new(
        "control",
        "The control plane with large configurations: time until acknowledged, which is on disk and in the maps",
        "ms",
    );
    let size = format!(
        "{} services x {} backends",
        grouped(arguments.services),
        grouped(arguments.backends)
    );
    for scheduler in ["mh", "rr"] {
        let mut times = Times::default();
        for run in 0..arguments.runs {
            eprintln!("{scheduler}, run {} of {}", run + 1, arguments.runs);
            one_run(programs, arguments, &site, scheduler, &mut times)?;
        }
        let group = format!("{size}, {scheduler}");
        let row = |case: &str, values: &[f64]| Row::new(&group, case, values);
        report.add(row("lvx apply of all, from nothing", &times.apply).bound(APPLY));
        report.add(row("one weight changed through the API", &times.change).bound(CHANGE));
        report.add(row(
            "the same, one after the other without a pause",
            &times.change_at_once,
        ));
        report.add(row("one weight changed by `lvx backend set`", &times.change_command));
        report.add(row("one weight changed, nobody asks for metrics", &times.unscraped));
        let scraped = row("the same while /metrics is scraped 100 times a second", &times.scraped);
        report.add(scraped.note(format!("{:.0} answers a second", median(&times.scrapes))));
        report.checks.push(Check::at_most(
            format!("{group}: one weight changed while /metrics is scraped, against without"),
            median(&times.scraped) / median(&times.unscraped),
            SCRAPED,
        ));
        report.add(row("lvx apply of all with one weight changed", &times.apply_again));
        report.add(row("one service removed through the API", &times.remove));
        report.add(row("lvx run takes over the maps", &times.takeover));
        report.add(row("lvx run with that state and no maps", &times.start));
        let memory = row("daemon's resident memory", &times.resident).unit("MB");
        let memory = memory.note(format!("{:.1} MB of it its own", median(&times.anonymous)));
        report.add(memory.bound(MEMORY));
        report.add(row("the same after it took over", &times.resident_restarted).unit("MB"));
    }
    report.add(one_large_service(programs, &site, arguments.runs)?);
    let tables = tables(&programs.lvx_bench)?;
    report.rows.extend(tables.rows);
    report.checks.extend(tables.checks);
    report.notes.push(format!(
        "{} times everything, {CHANGES} single changes each; backends behind one gateway, VIPs added to the interface",
        arguments.runs
    ));
    Ok(report)
}

/// From nothing to a daemon with all, and changes to it.
fn one_run(programs: &Programs, arguments: &Arguments, site: &Site, scheduler: &str, times: &mut Times) -> Result<()> {
    let mut daemon = Daemon::new(&site.balancer, &programs.lvx, &site.id, &["eth0"])?;
    daemon.start()?;
    let file = daemon.path("services.toml");
    let path = file.to_str().context("a path that is no text")?.to_owned();
    fs::write(&file, configuration(arguments, scheduler, 1))?;
    times.apply.push(milliseconds(daemon.lvx(&["apply", &path])?));
    daemon.wait_until_up()?;
    let (resident, anonymous) = daemon.memory()?;
    times.resident.push(resident);
    times.anonymous.push(anonymous);
    for (pause, all) in [(PAUSE, &mut times.change), (Duration::ZERO, &mut times.change_at_once)] {
        for change in 0..CHANGES {
            thread::sleep(pause);
            let service = (change * 37) % arguments.services;
            let backend = backend(service * arguments.backends + change % arguments.backends);
            let weight = 2 + change + u32::from(pause.is_zero()) * CHANGES;
            all.push(set_weight(&daemon, &vip(service), &backend, weight)?);
        }
    }
    while_scraped(&daemon, arguments, site, times)?;
    let (service, of_it) = (format!("tcp://{}:80", vip(0)), backend(0));
    for weight in ["50", "51", "52"] {
        let took = daemon.lvx(&["backend", "set", &service, &of_it, "--weight", weight])?;
        times.change_command.push(milliseconds(took));
    }
    fs::write(&file, configuration(arguments, scheduler, 9))?;
    // The changes above are undone by this; from here on it is one.
    daemon.lvx(&["apply", &path])?;
    fs::write(&file, configuration(arguments, scheduler, 10))?;
    times.apply_again.push(milliseconds(daemon.lvx(&["apply", &path])?));
    let begun = Instant::now();
    daemon.request("DELETE", &service_path(&vip(arguments.services - 1)), None)?;
    times.remove.push(milliseconds(begun.elapsed()));

    daemon.stop()?;
    times.takeover.push(milliseconds(daemon.start()?));
    daemon.wait_until_up()?;
    times.resident_restarted.push(daemon.memory()?.0);
    daemon.detach()?;
    times.start.push(milliseconds(daemon.start()?));
    daemon.wait_until_up()?;
    Ok(())
}

/// Single changes, with and without somebody who scrapes the metrics, in turns.
fn while_scraped(daemon: &Daemon<'_>, arguments: &Arguments, site: &Site, times: &mut Times) -> Result<()> {
    for turn in 0..4 {
        let scraper = (turn % 2 == 1).then(|| Scraper::start(&site.balancer)).transpose()?;
        for change in 0..CHANGES / 2 {
            thread::sleep(PAUSE);
            let service = (change * 53) % arguments.services;
            let backend = backend(service * arguments.backends + change % arguments.backends);
            let took = set_weight(daemon, &vip(service), &backend, 100 + turn * CHANGES + change)?;
            match &scraper {
                Some(_) => times.scraped.push(took),
                None => times.unscraped.push(took),
            }
        }
        if let Some(scraper) = scraper {
            times.scrapes.push(scraper.stop()?);
        }
    }
    Ok(())
}

/// One service with many backends, each change of which builds its table anew.
fn one_large_service(programs: &Programs, site: &Site, runs: u32) -> Result<Row> {
    let mut daemon = Daemon::new(&site.balancer, &programs.lvx, &site.id, &["eth0"])?;
    daemon.start()?;
    let arguments = Arguments {
        runs,
        services: 1,
        backends: MANY,
    };
    let file = daemon.path("services.toml");
    fs::write(&file, configuration(&arguments, "mh", 1))?;
    daemon.lvx(&["apply", file.to_str().context("a path that is no text")?])?;
    daemon.wait_until_up()?;
    let times: Vec<f64> = (0..runs * 4)
        .map(|change| set_weight(&daemon, &vip(0), &backend(change), 2 + change))
        .collect::<Result<_>>()?;
    let group = format!("1 service x {} backends, mh", grouped(MANY));
    Ok(Row::new(
        &group,
        "one weight changed through the API: the Maglev table built anew",
        &times,
    ))
}

/// What building a Maglev table and sweeping flows take in themselves.
fn tables(lvx_bench: &Path) -> Result<Report> {
    eprintln!("Maglev tables and 1,000,000 flows");
    let printed = process::finish(Command::new(lvx_bench).arg("tables"))?;
    Report::read(&printed).context("lvx-bench's report cannot be read")
}

/// Sets a backend's weight: how long it took, ms.
fn set_weight(daemon: &Daemon<'_>, vip: &str, backend: &str, weight: u32) -> Result<f64> {
    let path = format!("{}/backends/{backend}", service_path(vip));
    let body: Value = json!({ "weight": weight });
    let begun = Instant::now();
    daemon.request("PATCH", &path, Some(&body))?;
    Ok(milliseconds(begun.elapsed()))
}

/// The path of the TCP service at a VIP, port 80.
fn service_path(vip: &str) -> String {
    format!("/v1/services/tcp%3A%2F%2F{vip}%3A80")
}

/// The address of a service.
fn vip(number: u32) -> String {
    format!("10.1.{}.{}", number / 250, 1 + number % 250)
}

/// The address of a backend, of all services' together.
fn backend(number: u32) -> String {
    format!(
        "10.{}.{}.{}",
        128 + number / 62_500,
        number / 250 % 250,
        1 + number % 250
    )
}

/// The file for `lvx apply`; the first backend has this weight and all others 1.
fn configuration(arguments: &Arguments, scheduler: &str, weight: u32) -> String {
    let mut text = String::new();
    for service in 0..arguments.services {
        // Writing into a string does not fail.
        let _ = write!(
            text,
            "[[service]]\naddress = \"tcp://{}:80\"\nforward = \"dr\"\nscheduler = \"{scheduler}\"\n",
            vip(service)
        );
        for number in 0..arguments.backends {
            let number = service * arguments.backends + number;
            let weight = if number == 0 { weight } else { 1 };
            let _ = write!(
                text,
                "[[service.backend]]\naddress = \"{}\"\nweight = {weight}\n",
                backend(number)
            );
        }
    }
    text
}

/// A time in ms.
fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
