//! What watching many backends costs the daemon: `lvx run` in one network namespace, and in another a server that has
//! the addresses of all backends and notes when it is asked.

mod daemon;
mod site;

use std::{
    ops::Range,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use lvx_bench_report::{Check, Report, Row, median, range};

use self::{
    daemon::{Daemon, Use},
    site::{Arrivals, Site},
};

/// What the daemon may cost: percent of one core, and MB of memory.
const CPU: f64 = 15.0;
const MEMORY: f64 = 60.0;
/// How long the daemon is let be after a change before it is measured, in rounds of probes.
const SETTLE: u32 = 4;

/// Measures what watching backends costs the daemon.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The program `lvx` [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    lvx: Option<PathBuf>,
    /// So many backends
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..60_000))]
    backends: u32,
    /// Each is probed every so many milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..))]
    interval: u64,
    /// So many measurements
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds that each takes
    #[arg(long, value_name = "S", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// Measures.
pub fn measure(arguments: &Arguments) -> Result<Report> {
    let lvx = match &arguments.lvx {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("lvx"),
    };
    let (backends, interval) = (arguments.backends, Duration::from_millis(arguments.interval));
    let site = Site::new()?;
    let arrivals = site.serve()?;
    let daemon = Daemon::start(&site, &lvx)?;

    eprintln!("lvx-bench: {backends} backends that are not probed");
    daemon.apply(&services(backends, None))?;
    thread::sleep(interval * SETTLE);
    let idle = usage(&daemon, arguments)?;

    eprintln!("lvx-bench: {backends} backends, each probed every {interval:?}");
    daemon.apply(&services(backends, Some(interval)))?;
    thread::sleep(interval * SETTLE);
    let begin = arrivals.now();
    let probing = usage(&daemon, arguments)?;
    let window = begin..arrivals.now();
    let up = daemon.backends_up()?;
    report(arguments, &idle, &probing, &arrivals, window, up)
}

/// What the daemon takes, in each of the measurements.
fn usage(daemon: &Daemon<'_>, arguments: &Arguments) -> Result<Vec<Use>> {
    let once = |_| -> Result<Use> {
        let (before, begin) = (daemon.cpu()?, Instant::now());
        thread::sleep(Duration::from_secs(arguments.seconds));
        let took = (daemon.cpu()? - before).as_secs_f64();
        Ok(Use {
            cpu_percent: took / begin.elapsed().as_secs_f64() * 100.0,
            resident_mb: daemon.resident_mb()?,
        })
    };
    (0..arguments.rounds).map(once).collect()
}

/// One service of so many backends, probed by TCP if at all.
fn services(backends: u32, interval: Option<Duration>) -> String {
    let mut text = "[[service]]\naddress = \"tcp://10.63.0.100:80\"\nforward = \"nat\"\n".to_owned();
    if let Some(interval) = interval {
        let millis = interval.as_millis();
        text += &format!(
            "[service.health]\ntype = \"tcp\"\ninterval = \"{millis}ms\"\ntimeout = \"{}ms\"\n",
            millis.min(1_000)
        );
    }
    for number in 0..backends {
        text += &format!("[[service.backend]]\naddress = \"{}\"\n", site::backend(number));
    }
    text
}

fn report(
    arguments: &Arguments,
    idle: &[Use],
    probing: &[Use],
    arrivals: &Arrivals,
    window: Range<Duration>,
    up: u64,
) -> Result<Report> {
    let (backends, interval) = (arguments.backends, arguments.interval);
    let mut report = Report::new(
        "health",
        format!("What the daemon takes to probe {backends} backends by TCP, each every {interval} ms"),
        "% of one core",
    );
    let cpu = |of: &[Use]| of.iter().map(|one| one.cpu_percent).collect::<Vec<_>>();
    let memory = |of: &[Use]| of.iter().map(|one| one.resident_mb).collect::<Vec<_>>();
    let watched = format!("{backends} backends, probed");
    let let_be = format!("{backends} backends, not probed");
    report.add(Row::new("CPU of lvx run", &watched, &cpu(probing)).bound(CPU));
    report.add(Row::new("CPU of lvx run", &let_be, &cpu(idle)));
    let resident = |case: &str, of: &[Use]| Row::new("Resident memory of lvx run", case, &memory(of)).unit("MB");
    report.add(resident(&watched, probing).bound(MEMORY));
    report.add(resident(&let_be, idle));

    let seconds = (window.end - window.start).as_secs_f64();
    let slots = arrivals.per_slot(window);
    let slots: Vec<f64> = slots.iter().map(|&count| f64::from(count)).collect();
    let total: f64 = slots.iter().sum();
    let mean = total / slots.len().max(1) as f64;
    let (_, largest) = range(&slots);
    let slot = format!("probes within {} ms, as they arrive", site::SLOT.as_millis());
    report.add(Row::new("Spread", &slot, &slots).unit("probes"));

    report.checks.extend([
        Check::at_most(
            "the most resident memory of the daemon, in MB",
            range(&memory(probing)).1,
            MEMORY,
        ),
        Check::at_least("backends that are up", up as f64, f64::from(backends)),
        Check::at_least(
            "probes per second, as the server counts them",
            total / seconds,
            f64::from(backends) * 1_000.0 / interval as f64,
        ),
        Check::at_most(
            format!(
                "the most probes within {} ms, in times the mean",
                site::SLOT.as_millis()
            ),
            largest / mean.max(f64::MIN_POSITIVE),
            4.0,
        ),
    ]);
    let extra = median(&cpu(probing)) - median(&cpu(idle));
    report.notes.push(format!(
        "{:.0} us of CPU per probe, beyond what the daemon takes anyway",
        extra / 100.0 / (total / seconds).max(1.0) * 1e6
    ));
    report
        .notes
        .push("An interval is shortened by up to 10 % by chance, so there are a few more probes than asked for".into());
    Ok(report)
}

/// Runs a program that must succeed: what it prints.
fn run(command: &mut std::process::Command) -> Result<String> {
    let line = format!("{command:?}");
    let output = command.output().with_context(|| format!("cannot start {line}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
