//! Health from end to end: what becomes of requests when a backend dies, hangs, asks to be drained or forgets the VIP.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lvx_tests::{
    Balancer, Lab, Options,
    client::{self, Download},
    process::{Running, finish, output, wait_until},
    topology::{BALANCER, VIP_DR, VIP_NAT},
};
use serde_json::Value;

/// Longer than anything here may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The same, where probes first have to be tried in vain.
const SHORTAGE: Duration = Duration::from_secs(60);

/// `fall` times the interval, and the timeout.
const PROMISED: Duration = Duration::from_millis(3 * 200 + 150);

const TIMING: &str = "interval = \"200ms\"\ntimeout = \"150ms\"\nrise = 2\nfall = 3\n";

/// Makes `tcp://VIP:80` with all backends the only service; `second` is written below the second backend.
fn serve(lab: &Lab, lvx: &Balancer<'_>, vip: &str, forward: &str, check: &str, second: &str) -> Result<()> {
    let mut text = format!(
        "[[service]]\naddress = \"tcp://{vip}:80\"\nforward = \"{forward}\"\nscheduler = \"rr\"\n\
         [[service.health]]\n{TIMING}{check}\n"
    );
    for backend in &lab.backends {
        text += &format!("[[service.backend]]\naddress = \"{}\"\n", backend.v4);
        if backend.name == "b2" {
            text += second;
        }
    }
    let path = lab.directory().join("services.toml");
    fs::write(&path, text)?;
    lvx.lvx(["apply", path.to_str().context("a path in UTF-8")?])?;
    Ok(())
}

/// The service, as `lvx status` or `lvx stats` tells of it.
fn service(lvx: &Balancer<'_>, report: &str) -> Result<Value> {
    Ok(lvx.json([report])?["services"][0].clone())
}

/// Lets a client make connections all the while, whatever becomes of them.
fn under_requests(lab: &Lab, vip: &str, proof: impl FnOnce() -> Result<()>) -> Result<()> {
    let stop = AtomicBool::new(false);
    let url = format!("http://{vip}/?[1-20]");
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Those that the backend had when it went may fail.
                let _ = lab.client.run(
                    "curl",
                    ["--silent", "--max-time", "1", "--header", "Connection: close", &url],
                );
            }
        });
        let proven = proof();
        stop.store(true, Ordering::Relaxed);
        proven
    })
}

/// The second backend, as `lvx status` or `lvx stats` tells of it.
fn second(lab: &Lab, lvx: &Balancer<'_>, report: &str) -> Result<Value> {
    let service = service(lvx, report)?;
    let wanted = format!("{}:80", lab.backends[1].v4);
    let backends = service["backends"].as_array().context("no backends")?;
    let found = backends.iter().find(|backend| backend["address"] == wanted.as_str());
    found.cloned().context("the second backend is not there")
}

/// Waits until the second backend is in a state, and says how long that took.
fn until(lab: &Lab, lvx: &Balancer<'_>, state: &str) -> Result<Duration> {
    let begin = Instant::now();
    wait_until(&format!("b2 is {state}"), LIMIT, || {
        Ok(second(lab, lvx, "status")?["state"] == state)
    })?;
    Ok(begin.elapsed())
}

/// Waits until all backends answer requests.
fn until_all_answer(lab: &Lab, lvx: &Balancer<'_>, vip: &str) -> Result<()> {
    wait_until("all backends are up", LIMIT, || {
        let service = service(lvx, "status")?;
        let backends = service["backends"].as_array().context("no backends")?;
        Ok(backends.iter().all(|backend| backend["state"] == "up"))
    })?;
    wait_until("all backends answer", LIMIT, || {
        Ok(client::requests(&lab.client, vip, 30)?.len() == lab.backends.len())
    })
}

fn connections(lab: &Lab, lvx: &Balancer<'_>) -> Result<u64> {
    let stats = second(lab, lvx, "stats")?;
    stats["connections"].as_u64().context("no connections")
}

/// The nginx of the second backend.
fn signal(lab: &Lab, name: &str) -> Result<()> {
    let pid = fs::read_to_string(lab.directory().join("b2/nginx.pid"))?;
    lab.backends[1].namespace.run("kill", ["-s", name, pid.trim()])?;
    Ok(())
}

/// Starts the second backend's nginx again.
fn restart(lab: &Lab) -> Result<Running> {
    let prefix = lab.directory().join("b2");
    Running::start(
        lab.backends[1]
            .namespace
            .command("nginx")
            .arg("-p")
            .arg(&prefix)
            .args(["-c", "nginx.conf", "-e", "stderr"])
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )
}

/// 300 requests, all answered, none by the second backend, to which not one new connection is led.
fn all_are_answered_by_the_others(lab: &Lab, lvx: &Balancer<'_>, vip: &str) -> Result<()> {
    let before = connections(lab, lvx)?;
    let answers = client::requests(&lab.client, vip, 300)?;
    assert!(!answers.contains_key("b2"), "{answers:?}");
    assert_eq!(connections(lab, lvx)?, before, "new connections to a dead backend");
    Ok(())
}

fn a_backend_that_dies_or_hangs_gets_no_new_connection(vip: &str, forward: &str) -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start(&lab)?;
    serve(
        &lab,
        &lvx,
        vip,
        forward,
        "type = \"http\"\npath = \"/\"\nbody = \"b\"",
        "",
    )?;
    until_all_answer(&lab, &lvx, vip)?;

    // No probe has met the balancing path: nobody but the client has made a connection.
    let before = service(&lvx, "stats")?["connections"].as_u64().context("no count")?;
    client::requests(&lab.client, vip, 30)?;
    thread::sleep(Duration::from_secs(1));
    assert_eq!(service(&lvx, "stats")?["connections"], before + 30);

    under_requests(&lab, vip, || {
        signal(&lab, "STOP")?;
        let took = until(&lab, &lvx, "down")?;
        println!("FIGURE {forward}, SIGSTOP found after {took:.0?} (promised: {PROMISED:?} and 200 ms)");
        println!("  because: {}", second(&lab, &lvx, "status")?["reason"]);
        all_are_answered_by_the_others(&lab, &lvx, vip)
    })?;
    signal(&lab, "CONT")?;
    until_all_answer(&lab, &lvx, vip)?;

    under_requests(&lab, vip, || {
        signal(&lab, "KILL")?;
        let took = until(&lab, &lvx, "down")?;
        println!("FIGURE {forward}, a dead server found after {took:.0?} (promised: {PROMISED:?} and 200 ms)");
        println!("  because: {}", second(&lab, &lvx, "status")?["reason"]);
        all_are_answered_by_the_others(&lab, &lvx, vip)
    })?;
    // It went down twice within a minute: it is held out for a while after it is back.
    let _nginx = restart(&lab)?;
    wait_until("b2 is held out", LIMIT, || {
        let reason = second(&lab, &lvx, "status")?["reason"].to_string();
        Ok(reason.contains("flaps"))
    })?;
    let took = until(&lab, &lvx, "up")?;
    println!("FIGURE {forward}, held out for {took:.0?} after going down twice");
    until_all_answer(&lab, &lvx, vip)?;
    Ok(())
}

#[test]
fn under_dr_a_backend_that_dies_or_hangs_gets_no_new_connection() -> Result<()> {
    a_backend_that_dies_or_hangs_gets_no_new_connection(&VIP_DR.0.to_string(), "dr")
}

#[test]
fn under_nat_a_backend_that_dies_or_hangs_gets_no_new_connection() -> Result<()> {
    a_backend_that_dies_or_hangs_gets_no_new_connection(&VIP_NAT.0.to_string(), "nat")
}

#[test]
fn a_503_drains_a_backend_without_a_failed_request() -> Result<()> {
    let lab = Lab::two_armed()?;
    let vip = VIP_NAT.0.to_string();
    // On the second backend, a server that tells its health: 200 while the file is there, else 503.
    let directory = lab.directory().join("state");
    fs::create_dir(&directory)?;
    let well = directory.join("well");
    fs::write(&well, "well")?;
    let path = directory.display();
    fs::write(
        directory.join("nginx.conf"),
        format!(
            "daemon off; master_process off; user root; pid {path}/pid; events {{}} http {{ access_log off; server {{ \
             listen 8081; root {path}; location / {{ try_files /well =503; }} }} }}"
        ),
    )?;
    let _state = Running::start(
        lab.backends[1]
            .namespace
            .command("nginx")
            .arg("-p")
            .arg(&directory)
            .args(["-c", "nginx.conf", "-e", "stderr"])
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )?;
    let lvx = Balancer::start(&lab)?;
    let check = format!("[[service.backend.health]]\n{TIMING}type = \"http\"\nport = 8081\n");
    serve(&lab, &lvx, &vip, "nat", "type = \"http\"", &check)?;
    until(&lab, &lvx, "up")?;

    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let requests = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                client::requests(&lab.client, &vip, 20)?;
                answered.fetch_add(20, Ordering::Relaxed);
            }
            Ok(())
        });
        let proof = || -> Result<()> {
            // Connections that are open when the drain begins: two thirds of them to others.
            let downloads = (0..9)
                .map(|number| {
                    let url = format!("http://{vip}/slow/1m.bin");
                    Download::start(&lab.client, &url, lab.directory(), &format!("slow{number}"))
                })
                .collect::<Result<Vec<_>>>()?;
            let servers = downloads.iter().map(Download::backend).collect::<Result<Vec<_>>>()?;
            ensure!(
                servers.iter().any(|name| name == "b2"),
                "no download from b2: {servers:?}"
            );
            fs::remove_file(&well)?;
            let took = until(&lab, &lvx, "drained")?;
            println!("FIGURE 503 drains after {took:.0?}");
            let before = connections(&lab, &lvx)?;
            client::requests(&lab.client, &vip, 100)?;
            ensure!(
                connections(&lab, &lvx)? == before,
                "new connections to a draining backend"
            );
            let body = lab.body("1m.bin")?;
            for download in downloads {
                ensure!(download.finish(LIMIT)? == body, "a download has changed");
            }
            fs::write(&well, "well")?;
            until(&lab, &lvx, "up")?;
            let answers = client::requests(&lab.client, &vip, 30)?;
            ensure!(answers.contains_key("b2"), "b2 is not back: {answers:?}");
            Ok(())
        };
        let proven = proof();
        stop.store(true, Ordering::Relaxed);
        let requested = requests.join().expect("no panic");
        println!(
            "FIGURE {} requests meanwhile, none failed",
            answered.load(Ordering::Relaxed)
        );
        proven.and(requested)
    })
}

#[test]
fn a_backend_that_forgets_the_vip_is_found_and_named() -> Result<()> {
    let lab = Lab::one_armed()?;
    let config = lab.directory().join("lvx.toml");
    fs::write(&config, "[health]\nprobe_addresses = [\"10.0.0.250/24\"]\n")?;
    let options = Options {
        further: vec!["--config".into(), config.to_str().context("a path in UTF-8")?.into()],
        ..Options::default()
    };
    let lvx = Balancer::start_with(&lab, options)?;
    let vip = VIP_DR.0.to_string();
    serve(&lab, &lvx, &vip, "dr", "type = \"http\"", "")?;
    until_all_answer(&lab, &lvx, &vip)?;
    lab.backends[1].namespace.ip(&format!("addr del {vip}/32 dev lo\n"))?;
    let took = until(&lab, &lvx, "down")?;
    println!("FIGURE DR black hole found after {took:.0?} (promised: {PROMISED:?} and 200 ms)");
    wait_until("the black hole is named", LIMIT, || {
        let reason = second(&lab, &lvx, "status")?["reason"].to_string();
        Ok(reason.contains("DR black hole"))
    })?;
    println!("  because: {}", second(&lab, &lvx, "status")?["reason"]);
    all_are_answered_by_the_others(&lab, &lvx, &vip)?;
    lab.backends[1].namespace.ip(&format!("addr add {vip}/32 dev lo\n"))?;
    until(&lab, &lvx, "up")?;

    // The other mistake: it has the VIP, and says so to the network.
    lab.backends[1].namespace.sysctl(&[("ipv4/conf/all/arp_ignore", "0")])?;
    wait_until("it is named that b2 answers ARP", LIMIT, || {
        let second = second(&lab, &lvx, "status")?;
        let named = second["reason"]
            .to_string()
            .contains("answers ARP for the VIP 10.0.0.100");
        Ok(named && second["state"] == "degraded")
    })?;
    println!("  because: {}", second(&lab, &lvx, "status")?["reason"]);
    lab.backends[1].namespace.sysctl(&[("ipv4/conf/all/arp_ignore", "1")])?;
    until(&lab, &lvx, "up")?;
    Ok(())
}

#[test]
fn a_fall_is_explained_told_and_not_picked() -> Result<()> {
    let lab = Lab::two_armed()?;
    let (config, told) = (lab.directory().join("lvx.toml"), lab.directory().join("told"));
    let script = format!("cat >> {}", told.display());
    fs::write(
        &config,
        format!(
            "[health]\npick = \"{}:9107\"\npick_rate = 50\n[[health.notify]]\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\n",
            BALANCER.0
        ),
    )?;
    let options = Options {
        further: vec!["--config".into(), config.to_str().context("a path in UTF-8")?.into()],
        ..Options::default()
    };
    let lvx = Balancer::start_with(&lab, options)?;
    let vip = VIP_NAT.0.to_string();
    serve(&lab, &lvx, &vip, "nat", "type = \"http\"", "")?;
    until(&lab, &lvx, "up")?;
    let address = format!("{}:80", lab.backends[1].v4);
    let picks = |count: usize| {
        let url = format!(
            "http://{}:9107/v1/pick?service=tcp://{vip}:80&n=[1-{count}]",
            BALANCER.0
        );
        lab.client
            .run("curl", ["--silent", "--write-out", " %{http_code}\n", &url])
    };
    let picked = picks(30)?;
    assert!(picked.contains(&format!("\"address\":\"{address}\"")), "{picked}");

    signal(&lab, "KILL")?;
    until(&lab, &lvx, "down")?;
    thread::sleep(Duration::from_secs(1));
    let picked = picks(120)?;
    assert!(!picked.contains(&address), "{picked}");
    assert!(picked.contains(" 200\n") && picked.contains(" 429\n"), "{picked}");

    let health = lvx.json(["health", &format!("tcp://{vip}:80")])?;
    let backends = health["services"][0]["backends"].as_array().context("no backends")?;
    let fallen = backends.iter().find(|backend| backend["address"] == address.as_str());
    let fallen = fallen.context("b2 is not there")?;
    let probe = &fallen["probes"][0];
    let (p50, p99) = (probe["p50_microseconds"].as_u64(), probe["p99_microseconds"].as_u64());
    ensure!(p50.is_some() && p99 >= p50, "{probe:#}");
    ensure!(
        fallen["changes"].as_array().is_some_and(|changes| changes.len() >= 2),
        "{fallen:#}"
    );
    let shown = lvx.lvx(["health", &format!("tcp://{vip}:80")])?;
    println!("{shown}");
    for words in ["P50", "P99", "connection refused", "http says down", "degraded -> down"] {
        assert!(shown.contains(words), "no {words:?} in\n{shown}");
    }
    wait_until("the hook is told", LIMIT, || {
        let told = fs::read_to_string(&told).unwrap_or_default();
        Ok(told.contains(&address) && told.contains("\"to\":\"down\""))
    })?;
    Ok(())
}

/// `lvx health`, asked over a connection that is open already: it costs the daemon no descriptor.
struct Open(BufReader<UnixStream>);

impl Open {
    fn health(&mut self) -> Result<Value> {
        self.0
            .get_mut()
            .write_all(b"GET /v1/health HTTP/1.1\r\nHost: lvx\r\n\r\n")?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            ensure!(self.0.read_line(&mut line)? > 0, "the daemon closed the connection");
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse()?;
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(serde_json::from_slice(&body)?)
    }
}

#[test]
fn a_daemon_without_descriptors_takes_no_backend_out_and_says_what_it_lacks() -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start(&lab)?;
    let vip = VIP_NAT.0.to_string();
    serve(&lab, &lvx, &vip, "nat", "type = \"tcp\"", "")?;
    until_all_answer(&lab, &lvx, &vip)?;
    let pid = lvx.pid().context("no daemon runs")?.to_string();
    let mut open = Open(BufReader::new(UnixStream::connect(lvx.socket())?));
    let is = |health: &Value, what: &dyn Fn(&Value) -> bool| {
        let backends = health["services"][0]["backends"].as_array();
        backends.is_some_and(|backends| backends.len() == 3 && backends.iter().all(what))
    };
    ensure!(is(&open.health()?, &|backend| backend["state"] == "up"));

    finish(Command::new("prlimit").args(["--pid", &pid, "--nofile=3:"]))?;
    // Twice as often as makes a backend down.
    let unasked = |backend: &Value| backend["probes"][0]["unknown"].as_u64() >= Some(6);
    let mut health = Value::Null;
    wait_until("no probe can be asked", SHORTAGE, || {
        health = open.health()?;
        Ok(is(&health, &unasked))
    })?;
    let kept = |backend: &Value| {
        let reason = backend["reason"].as_str().unwrap_or_default();
        backend["state"] == "up" && reason.contains("its state is kept: too many open files")
    };
    ensure!(is(&health, &kept), "{health:#}");
    ensure!(client::requests(&lab.client, &vip, 30)?.len() == 3);
    let told = lvx.log().matches("could not be asked from this node").count();
    ensure!(told == 1, "told {told} times:\n{}", lvx.log());

    finish(Command::new("prlimit").args(["--pid", &pid, "--nofile=1024:"]))?;
    wait_until("probes are asked again", SHORTAGE, || {
        let well = |backend: &Value| backend["state"] == "up" && backend["reason"].is_null();
        Ok(is(&open.health()?, &well))
    })
}

#[test]
fn a_restart_of_the_daemon_takes_no_healthy_backend_out_and_brings_no_dead_one_in() -> Result<()> {
    let lab = Lab::two_armed()?;
    let mut lvx = Balancer::start(&lab)?;
    let vip = VIP_NAT.0.to_string();
    serve(&lab, &lvx, &vip, "nat", "type = \"http\"", "")?;
    until(&lab, &lvx, "up")?;
    signal(&lab, "KILL")?;
    until(&lab, &lvx, "down")?;
    // Results are kept a second after a change at the latest, so that even this daemon's end is none for them.
    thread::sleep(Duration::from_millis(1_500));
    lvx.kill()?;
    all_requests_by_the_others(&lab, &vip)?;
    lvx.run()?;
    all_requests_by_the_others(&lab, &vip)?;
    assert_eq!(second(&lab, &lvx, "status")?["state"], "down");
    lvx.terminate()?;
    lvx.run()?;
    all_requests_by_the_others(&lab, &vip)?;
    Ok(())
}

fn all_requests_by_the_others(lab: &Lab, vip: &str) -> Result<()> {
    let answers = client::requests(&lab.client, vip, 60)?;
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["b1", "b3"]);
    Ok(())
}

#[test]
fn who_may_have_which_program_run_outlives_a_restart() -> Result<()> {
    let lab = Lab::two_armed()?;
    let config = lab.directory().join("lvx.toml");
    fs::write(&config, "[health]\nexec_allow = [\"/bin/true\"]\n")?;
    let options = Options {
        further: vec!["--config".into(), config.to_str().context("a path in UTF-8")?.into()],
        ..Options::default()
    };
    let mut lvx = Balancer::start_with(&lab, options)?;
    // The group of the socket may make changes; so that it gets there:
    for directory in lvx.socket().ancestors().skip(1).take(2) {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    }
    let service = format!("tcp://{}:80", VIP_NAT.0);
    let backend = lab.backends[0].v4.to_string();
    lvx.lvx(["service", "add", &service, "--forward", "nat"])?;
    lvx.lvx(["backend", "add", &service, &backend])?;
    let check = |command: &str| {
        [
            "service",
            "set",
            &service,
            "--health",
            "exec",
            "--health-command",
            command,
        ]
        .map(str::to_owned)
    };
    let as_somebody = |lvx: &Balancer<'_>, command: &str| -> Result<Output> {
        let mut somebody = Command::new("setpriv");
        somebody.args(["--reuid=65534", "--regid=0", "--clear-groups"]);
        somebody
            .arg(lvx.program())
            .args(check(command))
            .arg("--socket")
            .arg(lvx.socket());
        output(&mut somebody)
    };
    let reason = |lvx: &Balancer<'_>| -> Result<(Value, String)> {
        let backend = lvx.json(["health"])?["services"][0]["backends"][0].clone();
        let reason = backend["reason"].as_str().unwrap_or_default().to_owned();
        Ok((backend["state"].clone(), reason))
    };
    let until_up = |lvx: &Balancer<'_>| wait_until("the program says up", SHORTAGE, || Ok(reason(lvx)?.0 == "up"));

    // What the settings name, anybody gives who may make changes.
    let named = as_somebody(&lvx, "/bin/true")?;
    ensure!(named.status.success(), "{named:?}");
    until_up(&lvx)?;
    let refused = as_somebody(&lvx, "/bin/echo well")?;
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    ensure!(
        words.contains("`/bin/echo` may not run on this node: name it in exec_allow under [health]"),
        "{words}"
    );

    // What root gives runs, after a restart too, and others may give it again, and no other argument.
    let given = check("/bin/echo well");
    lvx.lvx(given.iter().map(String::as_str))?;
    until_up(&lvx)?;
    lvx.terminate()?;
    fs::remove_file(lvx.state_directory().join("health.json"))?;
    lvx.run()?;
    until_up(&lvx)?;
    ensure!(as_somebody(&lvx, "/bin/echo well")?.status.success());
    ensure!(as_somebody(&lvx, "/bin/echo more")?.status.code() == Some(1));

    // A state that says nothing of it, as one of an older version: the program does not run, and what was known stays.
    lvx.terminate()?;
    let path = lvx.state_directory().join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path)?)?;
    let gone = state.as_object_mut().and_then(|state| state.remove("exec_granted"));
    ensure!(gone.is_some(), "{state:#}");
    fs::write(&path, serde_json::to_vec(&state)?)?;
    lvx.run()?;
    wait_until("the program does not run", SHORTAGE, || {
        let (state, reason) = reason(&lvx)?;
        Ok(state == "up" && reason.contains("`/bin/echo` may not run on this node"))
    })?;
    // Root's whole document is root's word.
    let document = lab.directory().join("services.toml");
    fs::write(&document, lvx.lvx(["export"])?)?;
    lvx.lvx(["apply", document.to_str().context("a path in UTF-8")?])?;
    wait_until("the program runs again", SHORTAGE, || Ok(reason(&lvx)?.1.is_empty()))
}
