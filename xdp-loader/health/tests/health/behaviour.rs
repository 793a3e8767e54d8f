//! What follows from results: flapping, restarts, notices, picks, many probes.

use std::{fs, sync::Arc, time::Duration};

use lvx_api::health::{BackendReport, HealthReport, ProbeReport};
use lvx_model::{
    health::{ProbeVerdict, State},
    settings::{HealthSettings, Hook},
};
use lvx_server::pick;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{
    lab::{Net, PATIENCE, Watch, desired, figure, tcp_counter},
    server::serve,
};

const FAST: &str = "interval = \"100ms\"\ntimeout = \"100ms\"\nrise = 2\nfall = 2\n";

fn service(availability: &str, check: &str, backends: &[&str]) -> String {
    let backends: String = backends
        .iter()
        .map(|backend| format!("[[service.backend]]\naddress = {backend}\n"))
        .collect();
    format!(
        "[[service]]\naddress = \"tcp://10.9.0.100:80\"\nforward = \"nat\"\n[service.availability]\n{availability}\n\
         [[service.health]]\n{FAST}{check}\n{backends}"
    )
}

#[test]
fn a_flapping_server_does_not_flap_in_the_dataplane() {
    let net = Net::new(2);
    net.balancer.block_on(async || {
        let _flapping = serve(&net.backends[0], "flapping", "10.9.0.11:80");
        let _steady = serve(&net.backends[1], "tcp", "10.9.0.12:80");
        let text = service("", "type = \"tcp\"", &["\"10.9.0.11\"", "\"10.9.0.12\""]);
        let mut watch = Watch::start(&text, HealthSettings::default()).await;
        watch.until("10.9.0.12", State::Up).await;
        watch.until("10.9.0.11", State::Up).await;
        let (begin, mut changes, mut last) = (Instant::now(), 0, watch.weights());
        while begin.elapsed() < Duration::from_secs(15) {
            let _ = tokio::time::timeout(Duration::from_millis(200), watch.view.changed()).await;
            let now = watch.weights();
            changes += usize::from(now != last);
            last = now;
        }
        println!(
            "FIGURE a server that goes up and down every second: {changes} changes of weights in 15 s (of 15 by itself)"
        );
        // Down, up, down and out.
        assert!(changes <= 3, "{changes}");
        assert_eq!(last, [0, 1]);
        let reason = watch.reason("10.9.0.11").await;
        println!("  because: {reason}");
        let report = watch.health.report(None).await;
        let backend = &report.services[0].backends[0];
        assert!(backend.flaps >= 4 && backend.held_out_seconds.is_some(), "{backend:?}");
    });
}

#[test]
fn a_restart_takes_no_healthy_backend_out_and_brings_no_dead_one_in() {
    let net = Net::new(3);
    net.balancer.block_on(async || {
        let _well = serve(&net.backends[0], "tcp", "10.9.0.11:80");
        let _agent = serve(&net.backends[2], "agent", "10.9.0.13:9777");
        let agent = "\"10.9.0.13\"\nweight = 4\nhealth = { type = \"agent\", port = 9777, interval = \"100ms\" }";
        let text = service("", "type = \"tcp\"", &["\"10.9.0.11\"", "\"10.9.0.12\"", agent]);
        let settings = HealthSettings {
            state_dir: Some(net.path().to_owned()),
            ..HealthSettings::default()
        };
        let mut first = Watch::start(&text, settings.clone()).await;
        first.until("10.9.0.11", State::Up).await;
        first.until("10.9.0.12", State::Down).await;
        first
            .until_health("10.9.0.13", "at half", |health| health.share == 50)
            .await;
        let weights = first.weights();
        drop(first);
        // Nothing answers while the daemon starts: what was known must do.
        let mut second = Watch::start(&text, settings).await;
        assert_eq!(second.weights(), weights, "before any probe");
        assert_eq!(
            (second.backend("10.9.0.11").state, second.backend("10.9.0.12").state),
            (State::Up, State::Down)
        );
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(1) {
            assert_eq!(second.weights(), weights);
            let _ = tokio::time::timeout(Duration::from_millis(50), second.view.changed()).await;
        }
        assert_eq!(weights, [20, 0, 40]);
    });
}

#[test]
fn changes_are_told_to_a_command_and_kept_in_the_history() {
    let net = Net::new(1);
    net.balancer.block_on(async || {
        let mut server = serve(&net.backends[0], "tcp", "10.9.0.11:80");
        let told = net.path().join("told");
        let script = format!("cat >> {0}; echo >> {0}", told.display());
        let settings = HealthSettings {
            notify: vec![Hook::Command(["/bin/sh", "-c", &script].map(str::to_owned).to_vec())],
            ..HealthSettings::default()
        };
        let mut watch = Watch::start(&service("", "type = \"tcp\"", &["\"10.9.0.11\""]), settings).await;
        watch.until("10.9.0.11", State::Up).await;
        server.kill().unwrap();
        watch.until("10.9.0.11", State::Down).await;
        let begin = Instant::now();
        let lines = loop {
            let text = fs::read_to_string(&told).unwrap_or_default();
            if text.contains("\"to\":\"down\"") || begin.elapsed() > Duration::from_secs(10) {
                break text;
            }
            sleep(Duration::from_millis(20)).await;
        };
        assert!(
            lines.contains("\"to\":\"up\"") && lines.contains("connection refused"),
            "{lines}"
        );
        let report: HealthReport = watch.health.report(None).await;
        let backend = &report.services[0].backends[0];
        let changes: Vec<_> = backend.changes.iter().map(|change| change.to).collect();
        assert_eq!(changes, [State::Up, State::Degraded, State::Down]);
        let probe = &backend.probes[0];
        assert!(probe.p50_microseconds.is_some() && probe.p99_microseconds >= probe.p50_microseconds);
        assert!(probe.failed >= 2 && probe.results.iter().any(|result| result.outcome == "up"));
    });
}

async fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[test]
fn picks_name_only_healthy_backends_and_are_limited() {
    let net = Net::new(2);
    net.balancer.block_on(async || {
        let mut first = serve(&net.backends[0], "tcp", "10.9.0.11:80");
        let _second = serve(&net.backends[1], "tcp", "10.9.0.12:80");
        let text = service("", "type = \"tcp\"", &["\"10.9.0.11\"", "\"10.9.0.12\""]);
        let mut watch = Watch::start(&text, HealthSettings::default()).await;
        let source = pick::Source {
            view: watch.health.subscribe(),
            desired: tokio::sync::watch::Sender::new(Arc::clone(&watch.desired)).subscribe(),
            rate: Arc::new(pick::Rate::new(100)),
        };
        let listener = pick::listen("10.9.0.1:9107".parse().unwrap()).unwrap();
        tokio::spawn(pick::serve(listener, source, std::future::pending()));
        watch.until("10.9.0.11", State::Up).await;
        watch.until("10.9.0.12", State::Up).await;
        let path = "/v1/pick?service=tcp%3A%2F%2F10.9.0.100%3A80";
        let mut both = [0, 0];
        for _ in 0..30 {
            let answer = get("10.9.0.1:9107", path).await;
            both[usize::from(answer.contains("\"10.9.0.12:80\""))] += 1;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        assert!(both[0] > 3 && both[1] > 3, "{both:?}");
        first.kill().unwrap();
        watch.until("10.9.0.11", State::Down).await;
        sleep(Duration::from_secs(1)).await;
        let mut limited = 0;
        for _ in 0..200 {
            let answer = get("10.9.0.1:9107", path).await;
            assert!(!answer.contains("10.9.0.11"), "{answer}");
            limited += usize::from(answer.starts_with("HTTP/1.1 429"));
        }
        assert!(limited > 0);
        assert!(
            get("10.9.0.1:9107", "/v1/pick?service=tcp://10.9.0.99:80")
                .await
                .contains(" 4")
        );
    });
}

#[test]
fn quorum_sorry_fail_open_and_slow_start_are_decided_for_the_dataplane() {
    let net = Net::new(3);
    net.balancer.block_on(async || {
        let backends = ["\"10.9.0.11\"", "\"10.9.0.12\"", "\"10.9.0.13\"\nsorry = true"];
        let mut servers: Vec<_> = (0..3)
            .map(|at| Some(serve(&net.backends[at], "tcp", &format!("10.9.0.{}:80", 11 + at))))
            .collect();
        let text = service(
            "slow_start = \"2s\"\nquorum = 2\nfail_open = true",
            "type = \"tcp\"",
            &backends,
        );
        let mut watch = Watch::start(&text, HealthSettings::default()).await;
        for ip in ["10.9.0.11", "10.9.0.12", "10.9.0.13"] {
            watch.until(ip, State::Up).await;
        }
        assert_eq!(watch.weights(), [1, 1, 0]);
        servers[0].take().unwrap().kill().unwrap();
        watch
            .until_health("10.9.0.13", "serving", |health| health.takes_new)
            .await;
        assert_eq!(
            watch.weights(),
            [0, 0, 1],
            "the sorry backend serves while the quorum is lost"
        );
        servers[2].take().unwrap().kill().unwrap();
        watch
            .until_health("10.9.0.12", "serving", |health| health.takes_new)
            .await;
        assert_eq!(
            watch.weights(),
            [0, 1, 0],
            "without the sorry backend, what is left serves"
        );
        servers[1].take().unwrap().kill().unwrap();
        watch.until("10.9.0.12", State::Down).await;
        assert_eq!(watch.weights(), [1, 1, 0], "when all are down, all get connections");
        servers[0] = Some(serve(&net.backends[0], "tcp", "10.9.0.11:80"));
        watch.until("10.9.0.11", State::Up).await;
        assert_eq!(watch.backend("10.9.0.11").share, 10);
        let took = watch
            .until_health("10.9.0.11", "in full", |health| health.share == 100)
            .await;
        figure("slow start of 2 s", took, Duration::from_secs(2));
    });
}

/// Waits until the one probe of every backend is as it should be.
async fn until_probes(
    watch: &Watch,
    what: &str,
    is: impl Fn(&BackendReport, &ProbeReport) -> bool,
) -> Vec<ProbeReport> {
    let begin = Instant::now();
    loop {
        let report = watch.health.report(None).await;
        let backends = report.services.into_iter().flat_map(|service| service.backends);
        let backends: Vec<_> = backends.collect();
        if backends.iter().all(|backend| is(backend, &backend.probes[0])) {
            return backends.into_iter().flat_map(|backend| backend.probes).collect();
        }
        assert!(begin.elapsed() < PATIENCE, "not {what}: {backends:#?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn services_with_the_same_check_of_a_backend_share_one_probe() {
    let net = Net::new(1);
    net.balancer.block_on(async || {
        let mut server = serve(&net.backends[0], "tcp", "10.9.0.11:80");
        let service = |vip: u8, check: &str| {
            format!(
                "[[service]]\naddress = \"tcp://10.9.0.{vip}:80\"\nforward = \"nat\"\n[[service.health]]\n\
                 interval = \"100ms\"\nrise = 2\nfall = 2\ntype = \"tcp\"\n{check}\n[[service.backend]]\naddress = \"10.9.0.11\"\n"
            )
        };
        let three = [100, 101, 102].map(|vip| service(vip, "")).concat();
        let watch = Watch::start(&three, HealthSettings::default()).await;
        let answered = |backend: &BackendReport, probe: &ProbeReport| backend.state == State::Up && probe.total >= 10;
        until_probes(&watch, "up", answered).await;
        let connections = tcp_counter(&net.backends[0], "PassiveOpens");
        let probes = until_probes(&watch, "up", answered).await;
        let most = probes.iter().map(|probe| probe.total).max().unwrap_or_default();
        assert!(connections <= most + 1, "{connections} connections for {most} results");
        assert_eq!(probes.iter().map(|probe| probe.shared_by).collect::<Vec<_>>(), [3, 3, 3]);

        // The first, which asked for all, goes; another comes that asks by itself.
        let rest = [service(101, ""), service(102, ""), service(103, "share = false")].concat();
        watch.health.set_targets(Arc::new(desired(&rest))).await;
        let more = |_: &BackendReport, probe: &ProbeReport| probe.total >= if probe.shared_by == 2 { most + 5 } else { 5 };
        let probes = until_probes(&watch, "asked by the next", more).await;
        assert_eq!(probes.iter().map(|probe| probe.shared_by).collect::<Vec<_>>(), [2, 2, 1]);
        server.kill().unwrap();
        until_probes(&watch, "down", |backend, _| backend.state == State::Down).await;
        let _server = serve(&net.backends[0], "tcp", "10.9.0.11:80");
        until_probes(&watch, "up again", |backend, _| backend.state == State::Up).await;
    });
}

#[test]
fn a_new_check_of_a_backend_that_is_held_out_is_no_fall_and_no_hold_out_releases_it() {
    let net = Net::new(1);
    net.balancer.block_on(async || {
        let text =
            |hold_out: &str, check: &str| service(&format!("hold_out = \"{hold_out}\""), check, &["\"10.9.0.11\""]);
        let watched = text("4m", "type = \"tcp\"");
        let mut server = serve(&net.backends[0], "tcp", "10.9.0.11:80");
        let mut watch = Watch::start(&watched, HealthSettings::default()).await;
        watch.until("10.9.0.11", State::Up).await;
        server.kill().unwrap();
        watch.until("10.9.0.11", State::Down).await;
        server = serve(&net.backends[0], "tcp", "10.9.0.11:80");
        watch.until("10.9.0.11", State::Up).await;
        server.kill().unwrap();
        watch.until("10.9.0.11", State::Down).await;
        let _server = serve(&net.backends[0], "tcp", "10.9.0.11:80");
        watch
            .until_reason("10.9.0.11", "flaps: went down 2 times; answers, and is held out for ")
            .await;

        let other = Arc::new(desired(&text("4m", "type = \"tcp\"\njitter = 0")));
        watch.health.set_targets(other).await;
        until_probes(&watch, "asked anew", |_, probe| {
            probe.verdict == ProbeVerdict::Up && probe.total >= 3
        })
        .await;
        until_probes(&watch, "held out as before", |backend, _| {
            assert_eq!((backend.flaps, backend.state), (2, State::Down), "{backend:#?}");
            true
        })
        .await;
        watch
            .until_reason("10.9.0.11", "flaps: went down 2 times; answers, and is held out for ")
            .await;
        watch
            .health
            .set_targets(Arc::new(desired(&text("0s", "type = \"tcp\"\njitter = 0"))))
            .await;
        watch.until("10.9.0.11", State::Up).await;
    });
}

#[test]
fn several_probes_are_combined_as_the_service_says() {
    let net = Net::new(1);
    net.balancer.block_on(async || {
        let _server = serve(&net.backends[0], "tcp", "10.9.0.11:80");
        // Port 80 answers, port 81 refuses.
        let both = format!("type = \"tcp\"\n[[service.health]]\n{FAST}type = \"tcp\"\nport = 81\n");
        let mut all = Watch::start(
            &service("combine = \"all\"", &both, &["\"10.9.0.11\""]),
            HealthSettings::default(),
        )
        .await;
        all.until("10.9.0.11", State::Down).await;
        all.until_reason("10.9.0.11", "tcp: connection refused").await;
        let mut any = Watch::start(
            &service("combine = \"any\"", &both, &["\"10.9.0.11\""]),
            HealthSettings::default(),
        )
        .await;
        any.until_health("10.9.0.11", "serving", |health| health.state.serves())
            .await;
        sleep(Duration::from_secs(1)).await;
        assert!(any.backend("10.9.0.11").state.serves());
        assert_eq!(any.weights(), [1]);
    });
}

#[test]
fn a_probe_is_asked_from_the_address_that_was_chosen() {
    let net = Net::new(1);
    net.balancer.block_on(async || {
        let _server = serve(&net.backends[0], "tcp", "10.9.0.11:80");
        net.balancer.ip("addr add 10.9.0.77/24 dev eth0").unwrap();
        // Only the other address is answered.
        net.backends[0].ip("route add blackhole 10.9.0.1/32").unwrap();
        for (source, state) in [("10.9.0.1", State::Down), ("10.9.0.77", State::Up)] {
            for kind in ["tcp", "icmp"] {
                let check = format!("type = \"{kind}\"\nsource = \"{source}\"\n");
                let text = service("", &check, &["\"10.9.0.11\""]);
                let mut watch = Watch::start(&text, HealthSettings::default()).await;
                watch.until("10.9.0.11", state).await;
            }
        }
    });
}

#[test]
fn a_backend_without_probes_serves_from_the_first_moment() {
    let net = Net::new(1);
    net.balancer.block_on(async || {
        let backends = ["\"10.9.0.11\"", "\"10.9.0.12\""].map(|address| format!("{{ address = {address} }}"));
        let text = |backends: &[String]| {
            format!(
                "[[service]]\naddress = \"tcp://10.9.0.100:80\"\nforward = \"nat\"\nbackend = [{}]\n",
                backends.join(", ")
            )
        };
        let mut watch = Watch::start(&text(&backends[..1]), HealthSettings::default()).await;
        assert_eq!(watch.weights(), [1]);
        watch.desired = Arc::new(desired(&text(&backends)));
        watch.health.set_targets(Arc::clone(&watch.desired)).await;
        assert_eq!(watch.weights(), [1, 1]);
        assert_eq!(watch.backend("10.9.0.12").state, State::Up);
    });
}
