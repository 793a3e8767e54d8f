//! Draining one of three backends under load: no request fails, its new connections stop at once, its old ones finish.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lvx_tests::{
    Balancer, Lab,
    client::Download,
    load::{self, Held},
    process::wait_until,
    topology::{VIP_DR, VIP_NAT},
};

/// How long a client waits between two requests.
const PAUSE: Duration = Duration::from_millis(2);

/// Longer than any slow download here.
const LIMIT: Duration = Duration::from_secs(60);

fn serve(lab: &Lab, lvx: &Balancer<'_>, vip: &str, forward: &str, scheduler: &str) -> Result<SocketAddr> {
    let backends: Vec<_> = lab.backends.iter().map(|backend| backend.v4.to_string()).collect();
    lvx.serve(
        &format!("tcp://{vip}:80"),
        forward,
        scheduler,
        backends.iter().map(String::as_str),
    )?;
    Ok(format!("{vip}:80").parse()?)
}

/// Starts downloads of almost five seconds and waits until each has begun; each with the name of its backend.
fn downloads(lab: &Lab, url: &str) -> Result<Vec<(String, Download)>> {
    let downloads = (0..12)
        .map(|number| Download::start(&lab.client, url, lab.directory(), &format!("download{number}")))
        .collect::<Result<Vec<_>>>()?;
    downloads
        .into_iter()
        .map(|download| Ok((download.backend()?, download)))
        .collect()
}

fn draining_harms_no_request(lab: &Lab, vip: &str, forward: &str, scheduler: &str) -> Result<()> {
    let lvx = Balancer::start(lab)?;
    let address = serve(lab, &lvx, vip, forward, scheduler)?;
    let service = format!("tcp://{vip}:80");
    let second = lab.backends[1].v4.to_string();
    let url = format!("http://{vip}/slow/1m.bin");
    let stop = AtomicBool::new(false);
    let begun = Mutex::new(Vec::new());
    let answered = |begin: Instant, backend: &str| {
        // Slow enough that the client uses no port again while packets of its last connection are still under way.
        thread::sleep(PAUSE);
        if backend == "b2"
            && let Ok(mut begun) = begun.lock()
        {
            begun.push(begin);
        }
    };
    let (drained, outcome, waited, downloads) = thread::scope(|scope| -> Result<_> {
        let load = scope.spawn(|| load::until_stopped(&lab.client, address, 4, &stop, answered));
        let drain = || -> Result<_> {
            thread::sleep(Duration::from_secs(1));
            let downloads = downloads(lab, &url)?;
            let old = downloads.iter().filter(|(name, _)| name == "b2").count();
            ensure!(old > 0, "no download from b2");
            let said = lvx.lvx(["backend", "drain", &service, &second])?;
            let drained = Instant::now();
            println!("{}", said.trim());
            // Not yet: there are downloads.
            let early = lvx.output(["backend", "del", &service, &second, "--drain", "--timeout", "1s"])?;
            ensure!(early.status.code() == Some(1), "removed while downloads go on");
            let message = String::from_utf8_lossy(&early.stderr).into_owned();
            ensure!(message.contains("was not removed: it is still draining"), "{message}");
            let mut wait = lvx.command(["backend", "drain", &service, &second, "--wait", "--timeout", "60s"]);
            Ok((drained, lvx_tests::process::output_within(&mut wait, LIMIT)?, downloads))
        };
        let result = drain();
        stop.store(true, Ordering::Relaxed);
        let outcome = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        let (drained, waited, downloads) = result?;
        Ok((drained, outcome, waited, downloads))
    })?;

    println!(
        "{forward} {scheduler}: {:?}, slowest {:?}",
        outcome.answers, outcome.slowest
    );
    ensure!(
        outcome.failed == 0,
        "{} failed: {:?}; the log of lvx:\n{}",
        outcome.failed,
        outcome.failures,
        lvx.log()
    );
    let begun = begun.into_inner().map_err(|_| anyhow::anyhow!("poisoned"))?;
    ensure!(begun.iter().any(|begin| *begin < drained), "b2 had no load before");
    let late = begun.iter().filter(|begin| **begin > drained).count();
    assert_eq!(late, 0, "connections that began after the drain went to b2");
    let body = lab.body("1m.bin")?;
    for (name, download) in downloads {
        assert!(download.finish(LIMIT)? == body, "a download from {name} has changed");
    }
    ensure!(
        waited.status.success(),
        "lvx backend drain --wait: {}",
        String::from_utf8_lossy(&waited.stderr)
    );
    let progress = String::from_utf8_lossy(&waited.stdout).into_owned();
    println!("{progress}");
    let mut lines = progress.lines().rev();
    let last = lines.next().context("nothing was printed")?;
    let unseen = match forward {
        "dr" => {
            "; under dr only the clients' packets are seen: the backend may still send on connections that count as over"
        }
        _ => "",
    };
    assert_eq!(
        last,
        format!("drained backend {second} of {service}: no connections remain{unseen}")
    );
    let status = lvx.lvx(["status"])?;
    ensure!(status.contains(&format!("asked to drain{unseen}\n")), "{status}");
    ensure!(lines.any(|line| line.contains("remain")), "no progress: {progress}");
    lvx.lvx(["backend", "del", &service, &second, "--drain"])?;
    Ok(())
}

#[test]
fn draining_one_of_three_under_load_fails_no_request_under_dr() -> Result<()> {
    draining_harms_no_request(&Lab::one_armed()?, &VIP_DR.0.to_string(), "dr", "rr")
}

#[test]
fn draining_one_of_three_under_load_fails_no_request_under_nat() -> Result<()> {
    draining_harms_no_request(&Lab::two_armed()?, &VIP_NAT.0.to_string(), "nat", "mh")
}

#[test]
fn draining_one_of_three_under_load_fails_no_request_with_least_connections() -> Result<()> {
    draining_harms_no_request(&Lab::one_armed()?, &VIP_NAT.0.to_string(), "nat", "wlc")
}

#[test]
fn a_backend_that_is_still_busy_when_the_time_is_up_stays_and_says_how_many_remain() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    let vip = VIP_NAT.0.to_string();
    let address = serve(&lab, &lvx, &vip, "nat", "rr")?;
    let service = format!("tcp://{vip}:80");
    let second = lab.backends[1].v4.to_string();
    let mut held = Held::open_many(&lab.client, address, 6)?;
    let said = lvx.lvx(["backend", "drain", &service, &second])?;
    assert_eq!(
        said,
        format!("draining backend {second} of {service}: 2 connections remain\n")
    );
    let output = lvx.output([
        "backend",
        "drain",
        &service,
        &second,
        "--wait",
        "--timeout",
        "2s",
        "-o",
        "json",
    ])?;
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!((&json["remaining"], &json["drain"]), (&2.into(), &true.into()));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        message.contains("still draining after 2s: 2 connections remain"),
        "{message}"
    );
    // They go on, and the backend is back as soon as it is asked to be.
    for each in &mut held {
        each.ask()?;
    }
    lvx.lvx(["backend", "drain", &service, &second, "--undo"])?;
    let again = Held::open_many(&lab.client, address, 6)?;
    assert_eq!(load::spread(&again).get("b2"), Some(&2), "{:?}", load::spread(&again));
    Ok(())
}

#[test]
fn an_answer_that_comes_long_after_the_client_has_closed_its_side_is_waited_for_under_nat() -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start(&lab)?;
    for (vip, backend) in [
        (IpAddr::from(VIP_NAT.0), IpAddr::from(lab.backends[0].v4)),
        (IpAddr::from(VIP_NAT.1), IpAddr::from(lab.backends[0].v6)),
    ] {
        let address = SocketAddr::new(vip, 7000);
        let (service, backend) = (format!("tcp://{address}"), backend.to_string());
        lvx.serve(&service, "nat", "rr", [backend.as_str()])?;
        let listener = lab.backends[0]
            .namespace
            .inside(|| TcpListener::bind(SocketAddr::new(backend.parse()?, 7000)).map_err(anyhow::Error::from))??;
        let (answer, told) = mpsc::channel();
        let server = thread::spawn(move || -> Result<()> {
            let (mut stream, _) = listener.accept()?;
            let mut question = String::new();
            stream.read_to_string(&mut question)?;
            told.recv_timeout(LIMIT)?;
            stream.write_all(format!("{question}!").as_bytes())?;
            Ok(())
        });
        let mut client = lab.client.inside(|| TcpStream::connect(address))??;
        client.set_read_timeout(Some(LIMIT))?;
        client.write_all(b"well")?;
        client.shutdown(Shutdown::Write)?;
        let mut command = lvx.command(["backend", "del", &service, &backend, "--drain", "--timeout", "60s"]);
        let removal = thread::spawn(move || lvx_tests::process::output_within(&mut command, LIMIT));
        // Longer than a connection would count that nobody is to answer.
        wait_until("the connection has been idle for some seconds", LIMIT, || {
            let conns = lvx.lvx(["conns", "-o", "json"])?;
            let conn: serde_json::Value = serde_json::from_str(conns.lines().next().context("no connection")?)?;
            Ok(conn["state"] == "closing" && conn["idle_seconds"].as_u64() >= Some(4))
        })?;
        ensure!(!removal.is_finished(), "the backend was removed before it has answered");
        answer.send(())?;
        let mut answered = String::new();
        client.read_to_string(&mut answered)?;
        assert_eq!(answered, "well!");
        server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
        let removed = removal.join().map_err(|_| anyhow::anyhow!("the command panicked"))??;
        ensure!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    }
    Ok(())
}
