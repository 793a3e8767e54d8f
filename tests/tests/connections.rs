//! The flow table tells the truth: short connections by the ten thousands, held ones by the thousand, ports that are used
//! again at once, and a table with a million entries.

use std::{
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lvx_tests::{
    Balancer, Lab, Namespace, Options,
    datagram::{self, Kind},
    load::{self, End, Held},
    process::wait_until,
    topology::{CLIENT, VIP_DR, VIP_NAT},
};

/// Short connections each way.
const SHORT: usize = 100_000;
/// Connections held open at once: fewer than nginx takes on each of three backends.
const HELD: usize = 2_400;
/// Reconnections from one port.
const ROUNDS: usize = 50;

/// Adds `tcp://VIP:80` with all backends; flows that are over are soon forgotten.
fn serve(lab: &Lab, lvx: &Balancer<'_>, vip: IpAddr, forward: &str, scheduler: &str) -> Result<SocketAddr> {
    let address = SocketAddr::new(vip, 80);
    let service = format!("tcp://{address}");
    let backends: Vec<_> = lab
        .backends
        .iter()
        .map(|backend| {
            if vip.is_ipv4() {
                backend.v4.to_string()
            } else {
                backend.v6.to_string()
            }
        })
        .collect();
    lvx.serve(&service, forward, scheduler, backends.iter().map(String::as_str))?;
    lvx.lvx([
        "service",
        "set",
        &service,
        "--timeout",
        "fin=2s",
        "--timeout",
        "closed=1s",
    ])?;
    Ok(address)
}

fn count(lvx: &Balancer<'_>, filters: &[&str]) -> Result<usize> {
    let printed = lvx.lvx([&["conns", "--count"], filters].concat())?;
    Ok(printed.trim().parse()?)
}

fn short_connections_leave_nothing_behind(lab: &Lab, vip: IpAddr, forward: &str) -> Result<()> {
    let lvx = Balancer::start(lab)?;
    let address = serve(lab, &lvx, vip, forward, "rr")?;
    let begin = Instant::now();
    let outcome = load::short_connections(&lab.client, address, SHORT, 8)?;
    println!(
        "{forward} {vip}: {SHORT} connections in {:.1} s, the slowest {:?}: {:?}",
        begin.elapsed().as_secs_f64(),
        outcome.slowest,
        outcome.answers
    );
    ensure!(outcome.failed == 0, "{} failed: {:?}", outcome.failed, outcome.failures);
    assert_eq!(outcome.answered(), SHORT);
    let stats = lvx.json(["stats"])?;
    assert_eq!(
        stats["services"][0]["connections"], SHORT,
        "every connection was counted once"
    );
    wait_until("no connection is left", Duration::from_secs(20), || {
        Ok(count(&lvx, &[])? == 0)
    })?;
    wait_until("the counts are zero", Duration::from_secs(5), || {
        let status = lvx.json(["status"])?;
        let backends = status["services"][0]["backends"].as_array().context("no backends")?;
        Ok(backends.iter().all(|backend| backend["active_flows"] == 0))
    })
}

#[test]
fn of_100_000_short_connections_through_dr_none_fails_and_the_counts_return_to_zero() -> Result<()> {
    short_connections_leave_nothing_behind(&Lab::one_armed()?, VIP_DR.0.into(), "dr")
}

#[test]
fn of_100_000_short_connections_through_nat_none_fails_and_the_counts_return_to_zero() -> Result<()> {
    short_connections_leave_nothing_behind(&Lab::two_armed()?, VIP_NAT.0.into(), "nat")
}

/// Established connections to port 80 from the client that the backend's kernel knows of.
fn established(backend: &Namespace) -> Result<usize> {
    let lines = backend.run("ss", ["-Htn", "state", "established", "sport = :80"])?;
    let client = CLIENT.0.to_string();
    Ok(lines.lines().filter(|line| line.contains(&client)).count())
}

fn the_count_is_that_of_the_backends(vip: IpAddr, forward: &str) -> Result<()> {
    let lab = Lab::one_armed()?;
    let mut lvx = Balancer::start(&lab)?;
    let address = serve(&lab, &lvx, vip, forward, "rr")?;
    let mut held = Held::open_many(&lab.client, address, HELD)?;
    let agrees = |lvx: &Balancer<'_>, wanted: usize| -> Result<()> {
        for backend in &lab.backends {
            let address = backend.v4.to_string();
            let theirs = established(&backend.namespace)?;
            let ours = count(lvx, &["--state", "established", "--backend", &address])?;
            println!("{forward} {}: lvx counts {ours}, ss {theirs}", backend.name);
            ensure!(
                ours.abs_diff(theirs) * 100 <= theirs,
                "{}: {ours} and {theirs}",
                backend.name
            );
        }
        let all = count(lvx, &["--state", "established"])?;
        ensure!(all.abs_diff(wanted) * 100 <= wanted, "{all} of {wanted}");
        Ok(())
    };
    agrees(&lvx, HELD)?;
    // Half of them go, and the daemon begins anew.
    held.truncate(HELD / 2);
    lvx.kill()?;
    lvx.run()?;
    thread::sleep(Duration::from_secs(1));
    agrees(&lvx, HELD / 2)?;
    let status = lvx.json(["status"])?;
    let backends = status["services"][0]["backends"].as_array().context("no backends")?;
    let flows: u64 = backends
        .iter()
        .filter_map(|backend| backend["active_flows"].as_u64())
        .sum();
    ensure!(flows >= HELD as u64 / 2, "{flows} after a restart: {status}");
    Ok(())
}

#[test]
fn lvx_counts_as_many_connections_as_the_backends_have_under_dr() -> Result<()> {
    the_count_is_that_of_the_backends(VIP_DR.0.into(), "dr")
}

#[test]
fn lvx_counts_as_many_connections_as_the_backends_have_under_nat() -> Result<()> {
    the_count_is_that_of_the_backends(VIP_NAT.0.into(), "nat")
}

/// What IPVS answers after a second, when the client has sent its SYN again.
fn a_port_that_is_used_again_is_answered(vip: IpAddr, forward: &str, from: IpAddr) -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    let address = serve(&lab, &lvx, vip, forward, "rr")?;
    for (end, port) in [(End::Orderly, 40_001), (End::Abort, 40_002)] {
        let mut slowest = Duration::ZERO;
        let mut backends = load::spread(&[]).len();
        let mut last = String::new();
        for _ in 0..ROUNDS {
            let (backend, took) = load::from_port(&lab.client, SocketAddr::new(from, port), address, end)?;
            slowest = slowest.max(took);
            backends += usize::from(backend != last);
            last = backend;
        }
        println!("{forward} {vip}, {end:?}: {ROUNDS} connections from port {port}, the slowest took {slowest:?}");
        // A SYN that is lost comes again after a second.
        ensure!(slowest < Duration::from_millis(500), "{end:?}: {slowest:?}");
        // Where LVX has seen one end's FIN or RST only, the SYN goes to the backend that knows the port's last connection.
        if forward == "nat" && end == End::Orderly {
            ensure!(
                backends > ROUNDS / 2,
                "each is scheduled anew: {backends} of {ROUNDS} changed the backend"
            );
        }
    }
    Ok(())
}

#[test]
fn a_client_port_that_is_used_again_at_once_is_answered_at_once_under_dr() -> Result<()> {
    a_port_that_is_used_again_is_answered(VIP_DR.0.into(), "dr", CLIENT.0.into())
}

#[test]
fn a_client_port_that_is_used_again_at_once_is_answered_at_once_under_nat() -> Result<()> {
    a_port_that_is_used_again_is_answered(VIP_NAT.0.into(), "nat", CLIENT.0.into())
}

#[test]
fn a_client_port_that_is_used_again_at_once_is_answered_at_once_over_ipv6() -> Result<()> {
    a_port_that_is_used_again_is_answered(VIP_NAT.1.into(), "nat", CLIENT.1.into())
}

#[test]
fn connections_are_shown_by_filters_and_flushed_by_the_same() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    let address = serve(&lab, &lvx, VIP_NAT.0.into(), "nat", "rr")?;
    let mut held = Held::open_many(&lab.client, address, 30)?;
    let first = lab.backends[0].v4.to_string();
    assert_eq!(count(&lvx, &["--backend", &first])?, 10);
    assert_eq!(count(&lvx, &["--client", "10.0.0.0/24"])?, 30);
    assert_eq!(count(&lvx, &["--client", "10.0.1.0/24"])?, 0);
    assert_eq!(count(&lvx, &["--state", "closing"])?, 0);
    let shown = lvx.lvx(["conns", "--limit", "7", "-o", "json"])?;
    assert_eq!(shown.lines().count(), 7, "{shown}");

    let refused = lvx.output(["conns", "flush"])?;
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(
        lvx.lvx(["conns", "flush", "--backend", &first])?,
        "flushed 10 connections\n"
    );
    assert_eq!(count(&lvx, &["--backend", &first])?, 0);
    // Those that were not flushed do not notice.
    for each in held.iter_mut().filter(|each| each.backend != "b1") {
        let before = each.backend.clone();
        assert_eq!(each.ask()?, before);
    }
    assert_eq!(count(&lvx, &[])?, 20);
    assert_eq!(lvx.json(["conns", "flush", "--all"])?["flushed"], 20);
    Ok(())
}

/// Flows that fill a table of the default size to its promise, or nearly: some buckets are full before others.
const MILLION: u32 = 1_000_000;

/// The most memory that a process has had, in KiB.
fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[test]
fn with_a_million_flows_conns_prints_at_once_and_stays_small() -> Result<()> {
    const LIMIT_KIB: u64 = 100 * 1024;
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start_with(&lab, Options::default())?;
    let backends: Vec<_> = lab.backends.iter().map(|backend| backend.v4.to_string()).collect();
    lvx.serve("udp://10.0.0.100:9", "dr", "mh", backends.iter().map(String::as_str))?;
    // They are received, and nobody answers, not even to say that nobody listens.
    let mut sinks = Vec::new();
    for backend in &lab.backends {
        sinks.push(
            backend
                .namespace
                .inside(|| std::net::UdpSocket::bind("10.0.0.100:9"))??,
        );
    }
    let begin = Instant::now();
    datagram::flood(&lab.client, "10.0.0.100:9".parse()?, MILLION, Kind::Datagram)?;
    println!("{MILLION} datagrams in {:.1} s", begin.elapsed().as_secs_f64());
    let flows = count(&lvx, &[])?;
    println!("{flows} flows");
    ensure!(flows > MILLION as usize * 9 / 10, "{flows} flows in the table");

    for form in ["table", "json"] {
        let begin = Instant::now();
        let mut command = lvx.command(["conns", "-o", form]);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        if form == "table" {
            line.clear();
            lines.read_line(&mut line)?;
        }
        let first = begin.elapsed();
        let (mut printed, mut most) = (1, 0);
        while {
            line.clear();
            lines.read_line(&mut line)? > 0
        } {
            printed += 1;
            if printed % 10_000 == 0 {
                most = peak(child.id()).unwrap_or(0).max(most);
            }
        }
        ensure!(child.wait()?.success(), "lvx conns failed");
        println!(
            "{form}: the first line after {first:?}, {printed} lines in {:?}, {most} KiB",
            begin.elapsed()
        );
        ensure!(first < Duration::from_secs(1), "the first line came after {first:?}");
        ensure!(printed > MILLION as usize * 9 / 10, "{printed} lines");
        ensure!(most > 0 && most < LIMIT_KIB, "the command took {most} KiB");
    }
    let begin = Instant::now();
    let flushed = lvx.json(["conns", "flush", "--client", "10.20.0.0/16"])?["flushed"].as_u64();
    println!("{flushed:?} flushed in {:?}", begin.elapsed());
    assert_eq!(flushed, Some(flows as u64));
    assert_eq!(count(&lvx, &[])?, 0);
    let daemon = peak(lvx.pid().context("no daemon")?).context("no VmHWM")?;
    println!("the daemon: {daemon} KiB");
    ensure!(daemon < LIMIT_KIB, "the daemon took {daemon} KiB");
    Ok(())
}
