//! What the flow table does at its limits: half-open scans, a full table, fragments whose first was not seen.

use std::{fs, net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use lvx_tests::{
    Balancer, Lab, Options,
    datagram::{self, Client, Echo, Kind},
    load::{self, End, Held},
    process::wait_until,
    topology::{CLIENT, VIP_DR, VIP_NAT},
    wire::{Capture, Direction},
};
use serde_json::Value;

/// How long the counts of connections may take until they are right.
const COUNTED: Duration = Duration::from_secs(3);

/// A daemon with these settings.
fn start<'lab>(lab: &'lab Lab, settings: &str) -> Result<Balancer<'lab>> {
    let file = lab.directory().join(format!("{}.toml", settings.len()));
    fs::write(&file, settings)?;
    let file = file.to_str().context("a path in UTF-8")?.to_owned();
    Balancer::start_with(
        lab,
        Options {
            further: vec!["--config".into(), file],
            ..Options::default()
        },
    )
}

/// Active and inactive connections of all backends of the first service.
fn counts(lvx: &Balancer<'_>) -> Result<(u64, u64)> {
    let status = lvx.json(["status"])?;
    let backends = status["services"][0]["backends"].as_array().context("no backends")?;
    let sum = |field: &str| backends.iter().filter_map(|backend| backend[field].as_u64()).sum();
    Ok((sum("active_connections"), sum("inactive_connections")))
}

fn verdict(stats: &Value, name: &str) -> u64 {
    let verdicts = stats["interfaces"][0]["verdicts"].as_array();
    let found = verdicts.into_iter().flatten().find(|each| each["verdict"] == name);
    found.and_then(|found| found["packets"].as_u64()).unwrap_or(0)
}

#[test]
fn a_half_open_scan_counts_as_inactive_and_is_forgotten() -> Result<()> {
    const SCAN: u32 = 5_000;
    let lab = Lab::one_armed()?;
    let lvx = start(&lab, "[timeouts]\nsyn = \"4s\"\nclosed = \"1s\"\n")?;
    let vip: SocketAddr = format!("{}:80", VIP_NAT.0).parse()?;
    let backends: Vec<_> = lab.backends.iter().map(|backend| backend.v4.to_string()).collect();
    lvx.serve(
        &format!("tcp://{vip}"),
        "nat",
        "rr",
        backends.iter().map(String::as_str),
    )?;
    let held = Held::open_many(&lab.client, vip, 30)?;
    datagram::flood(&lab.client, vip, SCAN, Kind::Syn)?;
    let wanted = u64::from(SCAN);
    wait_until("the scan is counted", COUNTED, || {
        let (active, inactive) = counts(&lvx)?;
        Ok(active == 30 && inactive.abs_diff(wanted) * 100 <= wanted)
    })?;
    assert_eq!(lvx.lvx(["conns", "--count", "--state", "established"])?, "30\n");
    wait_until("the scan is forgotten", Duration::from_secs(10), || {
        Ok(counts(&lvx)? == (30, 0))
    })?;
    drop(held);

    // Those that end by RST are inactive at once, and forgotten soon.
    for port in 41_000..41_020 {
        load::from_port(&lab.client, SocketAddr::new(CLIENT.0.into(), port), vip, End::Abort)?;
    }
    wait_until("none that was reset is active", COUNTED, || Ok(counts(&lvx)?.0 == 0))
}

#[test]
fn a_full_table_forgets_the_oldest_idle_flows_and_refuses_none() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = start(&lab, "flows_v4 = 1024\nflows_v6 = 1024\nmax_backends = 16\n")?;
    let backends: Vec<_> = lab.backends.iter().map(|backend| backend.v4.to_string()).collect();
    let web: SocketAddr = format!("{}:80", VIP_NAT.0).parse()?;
    let sink: SocketAddr = format!("{}:9", VIP_DR.0).parse()?;
    lvx.serve(
        &format!("tcp://{web}"),
        "nat",
        "rr",
        backends.iter().map(String::as_str),
    )?;
    lvx.serve(
        &format!("udp://{sink}"),
        "dr",
        "rr",
        backends.iter().map(String::as_str),
    )?;
    let mut sinks = Vec::new();
    for backend in &lab.backends {
        sinks.push(backend.namespace.inside(|| std::net::UdpSocket::bind(sink))??);
    }
    let mut held = Held::open_many(&lab.client, web, 10)?;
    // Twice what the table promises, so few at a time that those in use are never the oldest of the eight that share a
    // place. (When a flow was seen is noted once a second.)
    for round in 0..14 {
        datagram::flood_from(&lab.client, sink, round * 250..(round + 1) * 250, Kind::Datagram)?;
        thread::sleep(Duration::from_millis(1100));
        for each in &mut held {
            let before = each.backend.clone();
            assert_eq!(each.ask()?, before, "a connection in use was forgotten");
        }
        // And new ones are taken.
        Held::open(&lab.client, web)?;
    }
    let stats = lvx.json(["stats"])?;
    ensure!(verdict(&stats, "flow_evicted") > 0, "{stats}");
    thread::sleep(Duration::from_millis(1500));
    let status = lvx.json(["status"])?;
    let used = status["flows"]["v4"]["used"].as_u64().context("no number")?;
    let counted: u64 = lvx.lvx(["conns", "--count"])?.trim().parse()?;
    ensure!(
        used.abs_diff(counted) * 100 <= counted,
        "{used} in the status, {counted} in the table"
    );
    Ok(())
}

fn unknown_fragments(settings: &str, reach_the_backend: bool) -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = start(&lab, settings)?;
    let backend = &lab.backends[0];
    let own = backend.v4.to_string();
    for (vip, forward) in [(VIP_DR.0, "dr"), (VIP_NAT.0, "nat")] {
        let service = SocketAddr::new(vip.into(), 5300);
        lvx.serve(&format!("udp://{service}"), forward, "mh", [own.as_str()])?;
        let filter = "ip[6:2] & 0x1fff != 0";
        let capture = Capture::start(
            &backend.namespace,
            "eth0",
            Direction::In,
            filter,
            lab.directory(),
            forward,
        )?;
        datagram::flood(&lab.client, service, 10, Kind::LaterFragment)?;
        thread::sleep(Duration::from_millis(300));
        let arrived = capture.stop()?.len();
        assert_eq!(
            arrived,
            if reach_the_backend { 10 } else { 0 },
            "{settings:?} {forward}"
        );
    }
    Ok(())
}

#[test]
fn fragments_whose_first_was_not_seen_are_not_sent_to_a_backend_by_default() -> Result<()> {
    unknown_fragments("", false)
}

#[test]
fn fragments_whose_first_was_not_seen_are_dropped_if_so_configured() -> Result<()> {
    unknown_fragments("unknown_fragments = \"drop\"\n", false)
}

#[test]
fn fragments_whose_first_was_not_seen_go_by_their_addresses_if_so_configured() -> Result<()> {
    unknown_fragments("unknown_fragments = \"addresses\"\n", true)
}

#[test]
fn flows_are_kept_as_long_as_their_service_says_or_else_the_node() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = start(&lab, "[timeouts]\nudp = \"10s\"\n")?;
    let own = lab.backends[0].v4.to_string();
    let mut servers = Vec::new();
    for port in [5300, 5301, 5302] {
        let service = SocketAddr::new(VIP_NAT.0.into(), port);
        servers.push(Echo::start(
            &lab.backends[0],
            SocketAddr::new(lab.backends[0].v4.into(), port),
        )?);
        lvx.serve(&format!("udp://{service}"), "nat", "mh", [own.as_str()])?;
    }
    let service = |port: u16| format!("udp://{}:{port}", VIP_NAT.0);
    lvx.lvx(["service", "set", &service(5301), "--timeout", "udp=4s"])?;
    lvx.lvx(["service", "set", &service(5302), "--timeout", "udp=1h"])?;
    for port in [5300, 5301, 5302] {
        let client = Client::of(&lab.client, SocketAddr::new(VIP_NAT.0.into(), port))?;
        ensure!(
            client.ask(b"anybody?", Duration::from_secs(2))?.is_some(),
            "port {port}"
        );
    }
    let kept = || -> Result<Vec<bool>> {
        [5300, 5301, 5302]
            .into_iter()
            .map(|port| Ok(lvx.lvx(["conns", "--count", "--service", &service(port)])? == "1\n"))
            .collect()
    };
    assert_eq!(kept()?, [true; 3]);
    let wait = |what: &str, wanted: [bool; 3]| wait_until(what, Duration::from_secs(15), || Ok(kept()? == wanted));
    wait("the service's own four seconds are over", [true, false, true])?;
    wait("the node's ten seconds are over", [false, false, true])?;
    // A change holds for flows that are there.
    lvx.lvx(["service", "set", &service(5302), "--timeout", "udp=default"])?;
    wait("the last flow is forgotten", [false; 3])
}
