//! What a node lacks is not its backends' fault: probes that cannot be asked leave states as they are, and that is told.

use std::{env, net::TcpStream, time::Duration};

use lvx_api::health::{BackendReport, HealthReport};
use lvx_model::{health::State, settings::HealthSettings};
use lvx_test_kit::process;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    kinds::{nginx, unbound},
    lab::{Net, PATIENCE, Watch, settings},
    server::serve,
    vip::SILENT,
};

/// Makes this test program a node that runs out of descriptors.
const VARIABLE: &str = "LVX_TEST_DESCRIPTORS";

/// More results than `fall` asks for.
const ENOUGH: u64 = 6;

const TIMING: &str = "interval = \"500ms\"\ntimeout = \"500ms\"\nrise = 2\nfall = 5\n";

/// All backends of a report.
fn backends(report: &HealthReport) -> impl Iterator<Item = &BackendReport> {
    report.services.iter().flat_map(|service| &service.backends)
}

/// Waits until the report of all is as it should be.
async fn until(watch: &Watch, what: &str, is: impl Fn(&BackendReport) -> bool) {
    let begin = Instant::now();
    loop {
        let report = watch.health.report(None).await;
        if backends(&report).all(&is) {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "not {what}: {report:#?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_node_without_descriptors_leaves_every_state_as_it_is_whatever_is_asked() {
    let net = Net::new(1);
    let backend = &net.backends[0];
    backend.sysctl(&SILENT).unwrap();
    backend.ip("addr add 10.9.0.101/32 dev lo").unwrap();
    let _servers = [
        nginx(&net, backend),
        unbound(&net, backend),
        serve(backend, "udp", "10.9.0.11:9000"),
        serve(backend, "grpc", "10.9.0.11:9001"),
        serve(backend, "agent", "10.9.0.11:9777"),
    ];
    let this = env::current_exe().unwrap();
    let mut node = net.balancer.command("env");
    node.arg(format!("{VARIABLE}=1")).arg(this);
    node.args(["--exact", "own_trouble::be_a_node_without_descriptors"]);
    node.args(["--ignored", "--nocapture"]);
    let output = process::output_within(&mut node, PATIENCE * 5).unwrap();
    let said = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "a process for the test above, which starts it"]
fn be_a_node_without_descriptors() {
    if env::var(VARIABLE).is_err() {
        return;
    }
    let probes = [
        "type = \"icmp\"",
        "type = \"tcp\"",
        "type = \"udp\"\nport = 9000\nsend = \"PING\"\nexpect = \"PING\"",
        "type = \"http\"\nbody = \"well\"",
        "type = \"https\"\nport = 443\nverify = false",
        "type = \"dns\"\nport = 5353\nname = \"www.shop.example\"",
        "type = \"grpc\"\nport = 9001\ngrpc_service = \"shop\"",
        "type = \"agent\"\nport = 9777",
    ]
    .map(|probe| format!("[[service.health]]\n{TIMING}{probe}\n"))
    .concat();
    let backend = "[[service.backend]]\naddress = \"10.9.0.11\"\n";
    let text = format!(
        "[[service]]\naddress = \"tcp://10.9.0.100:80\"\nforward = \"nat\"\n{probes}{backend}\
         [[service]]\naddress = \"tcp://10.9.0.101:80\"\nforward = \"dr\"\n[[service.health]]\n{TIMING}type = \"http\"\n{backend}\
         [[service]]\naddress = \"tcp://10.9.0.102:80\"\nforward = \"nat\"\n[[service.health]]\n{TIMING}type = \"exec\"\n\
         command = [\"/bin/true\"]\n{backend}"
    );
    let node = HealthSettings {
        probe_addresses: vec!["10.9.0.250/24".parse().unwrap()],
        ..settings()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let watch = Watch::start(&text, node).await;
        until(&watch, "up", |backend| backend.state == State::Up).await;
        let report = watch.health.report(None).await;
        assert!(report.services[1].backends[0].probes[0].vip, "{report:#?}");
        let whole = getrlimit(Resource::Nofile);
        let none = Rlimit {
            current: Some(3),
            ..whole
        };
        setrlimit(Resource::Nofile, none).unwrap();
        until(&watch, "without descriptors", |backend| {
            backend.probes.iter().all(|probe| probe.unknown >= ENOUGH)
        })
        .await;
        let report = watch.health.report(None).await;
        for backend in backends(&report) {
            assert_eq!(backend.state, State::Up, "{backend:#?}");
            let reason = backend.reason.as_deref().unwrap_or_default();
            assert!(
                reason.contains("its state is kept: ") && reason.contains("too many open files"),
                "{reason}"
            );
        }
        setrlimit(Resource::Nofile, whole).unwrap();
        until(&watch, "asked again", |backend| {
            let last =
                |probe: &lvx_api::health::ProbeReport| probe.results.last().is_some_and(|it| it.outcome != "unknown");
            backend.state == State::Up && backend.reason.is_none() && backend.probes.iter().all(last)
        })
        .await;
    });
}

#[test]
fn a_node_without_local_ports_leaves_states_as_they_are() {
    let net = Net::new(1);
    net.balancer.block_on(async || {
        let _server = serve(&net.backends[0], "patient", "10.9.0.11:80");
        let text = format!(
            "[[service]]\naddress = \"tcp://10.9.0.100:80\"\nforward = \"nat\"\n[[service.health]]\n{TIMING}type = \"tcp\"\n\
             [[service.backend]]\naddress = \"10.9.0.11\"\n"
        );
        let mut watch = Watch::start(&text, HealthSettings::default()).await;
        watch.until("10.9.0.11", State::Up).await;
        let range = |range| net.balancer.sysctl(&[("ipv4/ip_local_port_range", range)]).unwrap();
        range("40000 40000");
        // A probe may have the one port just now.
        let taken = timeout(PATIENCE, async {
            loop {
                match TcpStream::connect("10.9.0.11:80") {
                    Ok(stream) => break stream,
                    Err(_) => sleep(Duration::from_millis(5)).await,
                }
            }
        });
        let taken = taken.await.unwrap();
        until(&watch, "without ports", |backend| backend.probes[0].unknown >= ENOUGH).await;
        assert_eq!(watch.backend("10.9.0.11").state, State::Up);
        let reason = watch.reason("10.9.0.11").await;
        assert!(reason.contains("cannot assign requested address"), "{reason}");
        range("32768 60999");
        drop(taken);
        until(&watch, "asked again", |backend| {
            backend.state == State::Up && backend.reason.is_none()
        })
        .await;
    });
}
