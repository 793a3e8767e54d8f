//! The daemon's own life: its settings read again, its watchdog, its end, and that there is one at a time.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lvx_tests::{
    Balancer, Lab, Namespace, Options, client,
    page::root,
    process::{self, Running, wait_until},
};

const WEB: &str = "tcp://10.0.0.101:80";
const LIMIT: Duration = Duration::from_secs(60);

/// Options with a settings file of the lab's.
fn with_settings(file: &Path) -> Options {
    Options {
        further: vec!["--config".to_owned(), file.display().to_string()],
        ..Options::default()
    }
}

fn hang_up(lvx: &Balancer<'_>) -> Result<()> {
    let pid = lvx.pid().context("no daemon runs")?.to_string();
    process::finish(Command::new("kill").args(["-s", "HUP", &pid]))?;
    Ok(())
}

/// Waits until the daemon's log has a line with all of these.
fn wait_for_log(lvx: &Balancer<'_>, words: &[&str]) -> Result<()> {
    wait_until(&format!("the log says {words:?}"), LIMIT, || {
        Ok(lvx
            .log()
            .lines()
            .any(|line| words.iter().all(|word| line.contains(word))))
    })
    .with_context(|| lvx.log())
}

/// Whether metrics are served at an address.
fn is_metrics(namespace: &Namespace, address: &str) -> bool {
    namespace
        .run("curl", ["-sf", "-m", "5", &format!("http://{address}/metrics")])
        .is_ok_and(|page| page.contains("lvx_info"))
}

#[test]
fn sighup_reads_the_settings_again_and_wrong_ones_change_nothing() -> Result<()> {
    let lab = Lab::one_armed()?;
    let file = lab.directory().join("lvx.toml");
    fs::write(&file, "metrics = \"127.0.0.1:9105\"\n")?;
    let lvx = Balancer::start_with(&lab, with_settings(&file))?;
    let backend = lab.backends[0].v4.to_string();
    lvx.serve(WEB, "nat", "mh", [backend.as_str()])?;
    ensure!(is_metrics(&lab.balancer, "127.0.0.1:9105"));

    // Metrics move, and idle flows are forgotten sooner; the size waits for a restart.
    let text = "metrics = \"127.0.0.1:9106\"\nflows_v4 = 4096\n[timeouts]\nestablished = \"1s\"\nfin = \"1s\"\nclosed = \"1s\"\n";
    fs::write(&file, text)?;
    client::requests(&lab.client, "10.0.0.101", 3)?;
    hang_up(&lvx)?;
    wait_for_log(&lvx, &["WARN", "flows_v4", "restart"])?;
    wait_until("metrics have moved", LIMIT, || {
        Ok(is_metrics(&lab.balancer, "127.0.0.1:9106") && !is_metrics(&lab.balancer, "127.0.0.1:9105"))
    })?;
    wait_until("the flows are forgotten", LIMIT, || {
        Ok(lvx.lvx(["conns", "-o", "json"])?.trim().is_empty())
    })?;

    // What is wrong is named with its line, and what was in force stays.
    fs::write(&file, "metrics = \"127.0.0.1:9107\"\nflows_v5 = 1\n")?;
    hang_up(&lvx)?;
    wait_for_log(&lvx, &["ERROR", "lvx.toml:2", "flows_v5", "stay in force"])?;
    ensure!(is_metrics(&lab.balancer, "127.0.0.1:9106"));
    client::requests(&lab.client, "10.0.0.101", 3)?;
    Ok(())
}

#[test]
fn systemd_is_told_of_start_reload_and_life() -> Result<()> {
    let lab = Lab::one_armed()?;
    let mut lvx = Balancer::prepare(&lab, Options::default())?;
    let path = lab.directory().join("notify.sock");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(LIMIT))?;
    lvx.set_environment("NOTIFY_SOCKET", path.as_os_str());
    lvx.run()?;
    let wait = |wanted: &str| -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let length = match socket.recv(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                received => received.with_context(|| format!("no {wanted}"))?,
            };
            let told = String::from_utf8_lossy(&buffer[..length]);
            if told.lines().any(|line| line == wanted) {
                return Ok(());
            }
        }
    };
    wait("READY=1")?;
    wait("WATCHDOG=1")?;
    hang_up(&lvx)?;
    wait("RELOADING=1")?;
    wait("READY=1")?;
    wait("WATCHDOG=1")?;
    lvx.terminate()?;
    wait("STOPPING=1")
}

/// Leaves a process no descriptor: the lowest that is free is one too many.
fn exhaust(pid: u32) -> Result<()> {
    let open = fs::read_dir(format!("/proc/{pid}/fd"))?;
    let open: BTreeSet<u32> = open
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let free = (0..)
        .find(|descriptor| !open.contains(descriptor))
        .context("all are open")?;
    limit(pid, free)
}

/// Limits the descriptors of a process.
fn limit(pid: u32, files: u32) -> Result<()> {
    let files = format!("--nofile={files}:");
    process::finish(Command::new("prlimit").args([&files, "--pid", &pid.to_string()]))?;
    Ok(())
}

#[test]
fn a_reconcile_that_fails_is_tried_again_until_it_succeeds() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    lvx.serve("tcp://10.0.0.100:80", "dr", "mh", ["10.0.0.99"])?;
    wait_until("nobody answers for the backend", LIMIT, || {
        Ok(lvx.json(["status"])?["services"][0]["backends"][0]["state"] == "unreachable")
    })?;
    // Its first scheduling table takes a map, and a map a descriptor.
    let pid = lvx.pid().context("no daemon runs")?;
    exhaust(pid)?;
    lab.backends[0].namespace.ip("address add 10.0.0.99/24 dev eth0\n")?;
    for tries in ["failures=1", "failures=2", "failures=3"] {
        wait_for_log(
            &lvx,
            &["WARN", "not in place", "trying again", "Too many open files", tries],
        )?;
    }
    limit(pid, 1_024)?;
    wait_for_log(&lvx, &["INFO", "in place again"])?;
    client::requests(&lab.client, "10.0.0.100", 5)?;
    assert!(lvx.json(["status"])?["reconcile_failure"].is_null());
    Ok(())
}

/// `lvx run` of the same pins, with a state directory and a socket of its own.
fn second(lvx: &Balancer<'_>, namespace: &Namespace, directory: &Path) -> Command {
    let mut command = namespace.command(lvx.program());
    command
        .arg("run")
        .arg("--pin-dir")
        .arg(lvx.pins())
        .arg("--state-dir")
        .arg(directory.join("second"))
        .arg("--socket")
        .arg(directory.join("second.sock"))
        .args(["--interface", "eth0"])
        .env("NO_COLOR", "1");
    command
}

#[test]
fn a_second_daemon_on_the_same_pins_is_refused_wherever_it_runs() -> Result<()> {
    let lab = Lab::one_armed()?;
    let mut lvx = Balancer::start(&lab)?;
    let backend = lab.backends[0].v4.to_string();
    lvx.serve(WEB, "nat", "mh", [backend.as_str()])?;
    let pid = lvx.pid().context("no daemon runs")?.to_string();
    for namespace in [&lab.balancer, &lab.client] {
        let output = lvx.run_in_vain(&mut second(&lvx, namespace, lab.directory()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let reason = said.lines().last().unwrap_or_default();
        for words in [
            "another lvx daemon",
            &format!("pid {pid}"),
            &lvx.pins().display().to_string(),
        ] {
            assert!(reason.contains(words), "no `{words}` in: {said}");
        }
        assert!(!reason.contains("--"), "it is not to be led round that: {said}");
        // Nor does it take down what is another's.
        let mut detach = namespace.command(lvx.program());
        detach
            .args(["detach", "--socket"])
            .arg(lab.directory().join("second.sock"));
        detach.arg("--pin-dir").arg(lvx.pins());
        let output = lvx.run_in_vain(&mut detach)?;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        client::requests(&lab.client, "10.0.0.101", 20)?;
    }
    // Once it has ended, however, another one may come.
    lvx.kill()?;
    lvx.run()?;
    client::requests(&lab.client, "10.0.0.101", 20)?;
    Ok(())
}

#[test]
fn a_daemon_that_is_told_to_detach_is_not_to_be_started_again() -> Result<()> {
    let lab = Lab::one_armed()?;
    let mut lvx = Balancer::start(&lab)?;
    lvx.detach()?;
    let status = lvx.ended(LIMIT)?;
    assert_eq!(status.code(), Some(6), "{}", lvx.log());
    let unit = fs::read_to_string(root().join("scripts/lvx.service"))?;
    for line in ["RestartPreventExitStatus=6", "SuccessExitStatus=6"] {
        assert!(unit.lines().any(|found| found == line), "no {line}");
    }
    Ok(())
}

/// The value of a setting in a section of the systemd unit.
fn of_unit(unit: &str, section: &str, setting: &str) -> Option<String> {
    let mut within = "";
    unit.lines().find_map(|line| {
        if line.starts_with('[') {
            within = line;
        }
        let value = line.strip_prefix(setting)?.strip_prefix('=')?;
        (within == section).then(|| value.to_owned())
    })
}

#[test]
fn the_unit_restarts_always_and_without_a_limit() -> Result<()> {
    let unit = fs::read_to_string(root().join("scripts/lvx.service"))?;
    let of = |section, setting| of_unit(&unit, section, setting);
    assert_eq!(of("[Service]", "Restart").as_deref(), Some("always"));
    assert_eq!(of("[Unit]", "StartLimitIntervalSec").as_deref(), Some("0"));
    assert!(of("[Service]", "WatchdogSec").is_some());
    assert_eq!(
        of("[Service]", "ExecReload").as_deref(),
        Some("/bin/kill -s HUP $MAINPID")
    );
    Ok(())
}

/// `lvx run` with these capabilities and no others.
fn with_capabilities(lvx: &Balancer<'_>, capabilities: &[&str]) -> Command {
    let run = lvx.run_command();
    let mut arguments = run.get_args();
    let net = arguments.next();
    let mut command = Command::new("nsenter");
    command.args(net).arg("setpriv");
    let list = |sign: &str| {
        let names = capabilities.iter().map(|name| format!("{sign}{name}"));
        std::iter::once("-all".to_owned())
            .chain(names)
            .collect::<Vec<_>>()
            .join(",")
    };
    command
        .arg(format!("--bounding-set={}", list("+")))
        .arg(format!("--inh-caps={}", list("+")))
        .args(arguments)
        .env("NO_COLOR", "1");
    command
}

#[test]
fn the_capabilities_that_it_names_are_enough_to_serve_and_to_take_over() -> Result<()> {
    let lab = Lab::one_armed()?;
    let mut lvx = Balancer::start(&lab)?;
    let backends: Vec<String> = lab.backends.iter().map(|backend| backend.v4.to_string()).collect();
    lvx.serve(WEB, "nat", "mh", backends.iter().map(String::as_str))?;
    lvx.terminate()?;
    let four = ["bpf", "net_admin", "net_raw", "perfmon"];
    for change in ["1", "2"] {
        let mut command = with_capabilities(&lvx, &four);
        lvx.run_as(&mut command)?;
        lvx.lvx(["backend", "set", WEB, &backends[0], "--weight", change])?;
        client::requests(&lab.client, "10.0.0.101", 20)?;
        lvx.terminate()?;
    }
    Ok(())
}

#[test]
fn idle_clients_of_metrics_take_no_descriptor_that_a_probe_needs() -> Result<()> {
    let lab = Lab::one_armed()?;
    let metrics = "10.0.0.2:9105";
    let options = Options {
        further: vec!["--metrics".to_owned(), metrics.to_owned()],
        ..Options::default()
    };
    let mut lvx = Balancer::prepare(&lab, options)?;
    let run = lvx.run_command();
    let mut command = Command::new("prlimit");
    command.arg("--nofile=1024:20000").arg("nsenter").args(run.get_args());
    lvx.run_as(&mut command)?;
    lvx.lvx([
        "service",
        "add",
        WEB,
        "--forward",
        "nat",
        "--health",
        "tcp",
        "--health-interval",
        "500ms",
    ])?;
    lvx.lvx(["backend", "add", WEB, "10.0.0.11"])?;
    let pid = lvx.pid().context("no daemon runs")?;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let files = limits.lines().find(|line| line.starts_with("Max open files"));
    assert!(files.is_some_and(|line| line.matches("20000").count() == 2), "{limits}");

    process::finish(Command::new("prlimit").args(["--nofile=20000:20000", "--pid", &std::process::id().to_string()]))?;
    let idle = lab.client.inside(|| -> Result<Vec<std::net::TcpStream>> {
        (0..1_100).map(|_| Ok(std::net::TcpStream::connect(metrics)?)).collect()
    })??;
    assert!(is_metrics(&lab.client, metrics), "the newest is served");
    let open = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    assert!(open < 1_000, "{open} descriptors");
    let status = lvx.json(["status"])?;
    assert_eq!(status["services"][0]["backends"][0]["state"], "up", "{status}");
    drop(idle);
    Ok(())
}

/// Starts a daemon by this command that may fail to start. One that does leaves nothing of what was not there `before`; returns
/// whether it serves.
fn serves_or_leaves_nothing(lab: &Lab, lvx: &Balancer<'_>, command: &mut Command, before: &str) -> Result<bool> {
    let log = lab.directory().join("starts");
    let said = File::create(&log)?;
    let mut daemon = Running::start(command.env("NO_COLOR", "1").stdout(said.try_clone()?).stderr(said))?;
    let mut has_ended = false;
    wait_until("it serves or ends", LIMIT, || {
        has_ended = daemon.ended()?.is_some();
        Ok(has_ended || fs::read_to_string(&log)?.contains(" ready "))
    })?;
    if has_ended {
        let said = fs::read_to_string(&log)?;
        assert!(!lvx.pins().exists(), "pins are left: {said}");
        assert_eq!(lab.balancer.run("ip", ["-details", "address"])?, before, "{said}");
    }
    Ok(!has_ended)
}

/// A lab whose balancer has a service in its state, and no daemon.
fn detached<'lab>(lab: &'lab Lab, service: &str, backend: &str) -> Result<Balancer<'lab>> {
    let mut lvx = Balancer::start(lab)?;
    lvx.serve(service, "nat", "mh", [backend])?;
    lvx.detach()?;
    lvx.ended(LIMIT)?;
    Ok(lvx)
}

#[test]
fn a_start_that_fails_for_want_of_descriptors_leaves_nothing() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = detached(&lab, WEB, "10.0.0.11")?;
    let before = lab.balancer.run("ip", ["-details", "address"])?;
    // With some more each time, it fails a little later.
    for files in (10..50).step_by(10).chain((50..).step_by(3)) {
        let run = lvx.run_command();
        let mut command = Command::new("prlimit");
        command
            .arg(format!("--nofile={files}:{files}"))
            .arg("nsenter")
            .args(run.get_args());
        if serves_or_leaves_nothing(&lab, &lvx, &mut command, &before)? {
            break;
        }
    }
    Ok(())
}

#[test]
fn a_start_that_fails_after_it_has_attached_leaves_nothing() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = detached(&lab, "tcp://[fd00::101]:80", "fd00::11")?;
    // The kernel takes no VIP there. A daemon that starts all the same has not failed.
    lab.balancer.sysctl(&[("ipv6/conf/eth0/disable_ipv6", "1")])?;
    let before = lab.balancer.run("ip", ["-details", "address"])?;
    serves_or_leaves_nothing(&lab, &lvx, &mut lvx.run_command(), &before)?;
    Ok(())
}
