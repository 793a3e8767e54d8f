//! What watching many backends costs: `health_bench [BACKENDS [INTERVAL_MS [SECONDS]]]`, as root.
//!
//! Two network namespaces: in one a server that has all the backends' addresses, in the other the prober, a process of
//! its own, so that its CPU time and memory are its own. Prints one JSON object.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, TcpListener},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use xdp_loader::{
    document::{Document, Format},
    health::{Health, settings::HealthSettings},
    model::Desired,
    netlink::NextHops,
};

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |at: usize, default: u64| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    match arguments.first().map(String::as_str) {
        Some("--serve") => serve(Duration::from_secs(number(1, 30))),
        Some("--probe") => probe(number(1, 2_000), number(2, 1_000), Duration::from_secs(number(3, 20))),
        _ => measure(number(0, 2_000), number(1, 1_000), number(2, 20)),
    }
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}");
}

/// A network namespace, removed when dropped.
struct Namespace(String);

impl Namespace {
    fn new(role: &str) -> Self {
        let name = format!("lvxh-bench-{}-{role}", std::process::id());
        run(&format!("ip netns add {name}"));
        Self(name)
    }

    fn ip(&self, arguments: &str) {
        run(&format!("ip -n {} {arguments}", self.0));
    }

    /// This program in another role.
    fn start(&self, arguments: &str) -> Child {
        Command::new("ip")
            .args(["netns", "exec", &self.0])
            .arg(env::current_exe().unwrap())
            .args(arguments.split_whitespace())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn measure(backends: u64, interval_ms: u64, seconds: u64) {
    let (server, prober) = (Namespace::new("s"), Namespace::new("p"));
    prober.ip(&format!("link add eth0 type veth peer name eth0 netns {}", server.0));
    for (namespace, host) in [(&prober, 1), (&server, 2)] {
        namespace.ip("link set lo up");
        namespace.ip(&format!("addr add 10.63.0.{host}/24 dev eth0"));
        namespace.ip("link set eth0 up");
    }
    // Every address of the network is the server's own.
    server.ip("route add local 10.64.0.0/16 dev lo");
    prober.ip("route add 10.64.0.0/16 via 10.63.0.2");
    thread::sleep(Duration::from_secs(1));
    let serving = server.start(&format!("--serve {}", seconds + 3));
    let probing = prober.start(&format!("--probe {backends} {interval_ms} {seconds}"));
    let probed = probing.wait_with_output().unwrap();
    let served = serving.wait_with_output().unwrap();
    let mut report: serde_json::Value = serde_json::from_slice(&probed.stdout).unwrap();
    let seen: serde_json::Value = serde_json::from_slice(&served.stdout).unwrap();
    report
        .as_object_mut()
        .unwrap()
        .extend(seen.as_object().unwrap().clone());
    println!("{report:#}");
}

/// Accepts, and counts how many connections came within any hundredth of a second.
fn serve(time: Duration) {
    let listener = TcpListener::bind("0.0.0.0:80").unwrap();
    listener.set_nonblocking(true).unwrap();
    let begin = Instant::now();
    let mut slots = vec![0_u64; usize::try_from(time.as_millis() / 10).unwrap() + 1];
    while begin.elapsed() < time {
        match listener.accept() {
            Ok(_) => slots[usize::try_from(begin.elapsed().as_millis() / 10).unwrap()] += 1,
            Err(_) => thread::sleep(Duration::from_micros(500)),
        }
    }
    let mut sorted = slots;
    sorted.retain(|slot| *slot > 0);
    sorted.sort_unstable();
    let at = |percent: usize| {
        sorted
            .get(sorted.len().saturating_sub(1) * percent / 100)
            .copied()
            .unwrap_or(0)
    };
    let report = serde_json::json!({"connections_per_10_ms": {"p50": at(50), "p99": at(99), "largest": at(100)}});
    println!("{report}");
}

/// CPU time of this process, user's and system's, in seconds.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let after = stat.rsplit_once(')').unwrap().1;
    let ticks: u64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum();
    ticks as f64 / 100.0
}

/// Memory of this process, in MB, at most so far.
fn resident_mb() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1_000.0
}

fn probe(backends: u64, interval_ms: u64, time: Duration) {
    let address = |number: u64| IpAddr::V4(Ipv4Addr::from(0x0a40_0000 + 1 + number as u32));
    let list: String = (0..backends)
        .map(|number| format!("[[service.backend]]\naddress = \"{}\"\n", address(number)))
        .collect();
    let text = format!(
        "[[service]]\naddress = \"tcp://10.63.0.100:80\"\nforward = \"nat\"\n[[service.health]]\ntype = \"tcp\"\n\
         interval = \"{interval_ms}ms\"\ntimeout = \"{}ms\"\n{list}",
        interval_ms.min(1_000)
    );
    let document = Document::parse(&text, Format::Toml, "bench").unwrap();
    let desired = Arc::new(Desired::from_document(document).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (_hops, hops) = watch::channel(Arc::new(NextHops::default()));
        let health = Health::start(HealthSettings::default(), hops).await.unwrap();
        health.set_targets(desired).await;
        // The first round, and its tables, are not what it costs from day to day.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let total = |report: &xdp_loader::health::report::HealthReport| -> (u64, u64) {
            let probes = report
                .services
                .iter()
                .flat_map(|service| &service.backends)
                .flat_map(|backend| &backend.probes);
            probes.fold((0, 0), |(total, failed), probe| {
                (total + probe.total, failed + probe.failed)
            })
        };
        let (before, _) = total(&health.report(None).await);
        let (cpu, begin) = (cpu_seconds(), Instant::now());
        tokio::time::sleep(time).await;
        let (cpu, wall) = (cpu_seconds() - cpu, begin.elapsed().as_secs_f64());
        let resident = resident_mb();
        let report = health.report(None).await;
        let (after, failed) = total(&report);
        let up = report.services[0].available;
        let answer = serde_json::json!({
            "backends": backends,
            "interval_ms": interval_ms,
            "seconds": wall,
            "probes_per_second": (after - before) as f64 / wall,
            "failed": failed,
            "backends_up": up,
            "cpu_percent_of_one_core": cpu / wall * 100.0,
            "microseconds_per_probe": cpu / (after - before) as f64 * 1e6,
            "resident_mb_at_most": resident,
        });
        println!("{answer}");
    });
}
