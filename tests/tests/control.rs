//! The commands and what they report.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context, Result};
use lvx_tests::{
    Balancer, Lab,
    client::{self, Download},
};
use serde_json::Value;

const DOCUMENT: &str = r#"
[[service]]
address = "tcp://10.0.0.100:80"
forward = "dr"
scheduler = "mh"
[[service.backend]]
address = "10.0.0.11"
weight = 2
[[service.backend]]
address = "10.0.0.12"

[[service]]
address = "tcp://[fd00::101]:80"
forward = "nat"
scheduler = "wrr"
[[service.backend]]
address = "[fd00::13]:8080"
"#;

/// The entry of `list` whose `address` is `address`.
fn entry<'a>(list: &'a Value, address: &str) -> Result<&'a Value> {
    list.as_array()
        .into_iter()
        .flatten()
        .find(|entry| entry["address"] == address)
        .with_context(|| format!("no {address} in {list}"))
}

/// The names of the fields of `value`.
fn fields(value: &Value) -> BTreeSet<&str> {
    value
        .as_object()
        .map(|fields| fields.keys().map(String::as_str).collect())
        .unwrap_or_default()
}

fn assert_fields(value: &Value, wanted: &[&str]) {
    let missing: Vec<_> = wanted.iter().filter(|name| !fields(value).contains(*name)).collect();
    assert!(missing.is_empty(), "no {missing:?} in {value}");
}

#[test]
fn apply_makes_the_running_configuration_equal_to_the_file() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    lvx.serve("tcp://10.0.0.101:80", "nat", "mh", ["10.0.0.11"])?;
    let file = lab.directory().join("services.toml");
    let path = file.to_str().context("the path is not text")?;
    fs::write(&file, DOCUMENT)?;

    let before = lvx.lvx(["export"])?;
    let difference = lvx.lvx(["apply", "--dry-run", path])?;
    for word in ["tcp://10.0.0.100:80", "tcp://[fd00::101]:80", "tcp://10.0.0.101:80"] {
        assert!(difference.contains(word), "no {word} in {difference}");
    }
    assert_eq!(lvx.lvx(["export"])?, before, "--dry-run changes nothing");

    lvx.lvx(["apply", path])?;
    let services = lvx.json(["service", "list"])?;
    assert!(entry(&services, "tcp://10.0.0.101:80").is_err(), "{services}");
    client::requests(&lab.client, "10.0.0.100", 10)?;
    let answers = client::requests(&lab.client, "[fd00::101]", 10)?;
    assert_eq!(answers, [("b3".to_owned(), 10)].into());
    Ok(())
}

#[test]
fn what_export_writes_apply_reads_back() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    let file = lab.directory().join("services.toml");
    fs::write(&file, DOCUMENT)?;
    lvx.lvx(["apply", file.to_str().context("the path is not text")?])?;
    let exported = lvx.lvx(["export"])?;
    assert!(exported.contains("weight = 2"), "{exported}");

    for service in ["tcp://10.0.0.100:80", "tcp://[fd00::101]:80"] {
        lvx.lvx(["service", "del", service])?;
    }
    let empty = lvx.lvx(["export"])?;
    assert_ne!(empty, exported);
    let again = lab.directory().join("exported.toml");
    let path = again.to_str().context("the path is not text")?;
    fs::write(&again, &exported)?;
    lvx.lvx(["apply", path])?;
    assert_eq!(lvx.lvx(["export"])?, exported);
    // Nothing at all is a configuration too.
    fs::write(&again, &empty)?;
    lvx.lvx(["apply", path])?;
    assert_eq!(lvx.lvx(["export"])?, empty);
    // JSON says the same.
    let json = lab.directory().join("exported.json");
    fs::write(&again, &exported)?;
    lvx.lvx(["apply", path])?;
    fs::write(&json, lvx.json(["export"])?.to_string())?;
    fs::write(&again, &empty)?;
    lvx.lvx(["apply", path])?;
    lvx.lvx(["apply", json.to_str().context("the path is not text")?])?;
    assert_eq!(lvx.lvx(["export"])?, exported);
    Ok(())
}

#[test]
fn status_says_what_is_attached_and_healthy() -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start(&lab)?;
    lvx.serve("tcp://10.0.0.101:80", "nat", "wrr", ["10.0.1.11", "10.0.1.99"])?;
    // Nobody answers for 10.0.1.99.
    lvx_tests::process::wait_until("an absent backend is noticed", Duration::from_secs(15), || {
        let status = lvx.json(["status"])?;
        let service = entry(&status["services"], "tcp://10.0.0.101:80")?;
        let absent = entry(&service["backends"], "10.0.1.99:80")?;
        Ok(absent["state"] == "unreachable" && absent["reason"].is_string())
    })?;
    let status = lvx.json(["status"])?;
    assert_fields(
        &status,
        &[
            "version",
            "pid",
            "uptime_seconds",
            "interfaces",
            "services",
            "flows",
            "vip_interface",
        ],
    );
    let names: Vec<_> = status["interfaces"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|interface| &interface["name"])
        .collect();
    assert_eq!(names, ["eth0", "eth1"]);
    for interface in status["interfaces"].as_array().into_iter().flatten() {
        assert_fields(interface, &["name", "ifindex", "mode", "link_up"]);
        assert_eq!(interface["mode"], "native", "{status}");
    }
    let service = entry(&status["services"], "tcp://10.0.0.101:80")?;
    assert_eq!(service["forward"], "nat");
    assert_eq!(service["scheduler"], "wrr");
    let present = entry(&service["backends"], "10.0.1.11:80")?;
    assert_fields(present, &["address", "weight", "forward", "state"]);
    assert_eq!(present["state"], "up", "{status}");
    // All requests go to the one that is there.
    let answers = client::requests(&lab.client, "10.0.0.101", 20)?;
    assert_eq!(answers, [("b1".to_owned(), 20)].into());
    // The table for people says the same.
    let table = lvx.lvx(["status"])?;
    for word in ["eth0", "eth1", "native", "10.0.0.101", "10.0.1.99", "unreachable"] {
        assert!(table.contains(word), "no {word} in\n{table}");
    }
    Ok(())
}

#[test]
fn stats_count_what_passes_in_both_directions() -> Result<()> {
    const REQUESTS: u64 = 30;
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    lvx.serve("tcp://10.0.0.101:80", "nat", "rr", ["10.0.0.11", "10.0.0.12"])?;
    client::requests(&lab.client, "10.0.0.101", REQUESTS as usize)?;
    let stats = lvx.json(["stats"])?;
    let service = entry(&stats["services"], "tcp://10.0.0.101:80")?;
    let count = |of: &Value, name: &str| of[name].as_u64().unwrap_or(0);
    assert_eq!(count(service, "connections"), REQUESTS, "{service}");
    // SYN, ACK, request, FIN or two at least, in both directions.
    assert!(count(service, "packets_in") >= 4 * REQUESTS, "{service}");
    assert!(count(service, "packets_out") >= 3 * REQUESTS, "{service}");
    assert!(
        count(service, "bytes_in") > 40 * count(service, "packets_in"),
        "{service}"
    );
    assert!(
        count(service, "bytes_out") > 40 * count(service, "packets_out"),
        "{service}"
    );
    for name in ["connections", "packets_in", "packets_out", "bytes_in", "bytes_out"] {
        let sum: u64 = service["backends"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|backend| count(backend, name))
            .sum();
        assert_eq!(sum, count(service, name), "{name}: {service}");
    }
    assert_eq!(stats["interfaces"][0]["name"], "eth0");
    assert_fields(&stats["interfaces"][0]["verdicts"][0], &["verdict", "packets"]);
    lvx.lvx(["stats"])?;
    Ok(())
}

#[test]
fn conns_shows_who_speaks_with_whom() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    for (service, forward, backend, url) in [
        (
            "tcp://10.0.0.101:80",
            "nat",
            "10.0.0.12:80",
            "http://10.0.0.101/slow/1m.bin",
        ),
        (
            "tcp://[fd00::100]:80",
            "dr",
            "[fd00::13]:80",
            "http://[fd00::100]/slow/1m.bin",
        ),
    ] {
        let address = backend.trim_end_matches(":80").trim_matches(['[', ']']);
        lvx.serve(service, forward, "mh", [address])?;
        let download = Download::start(&lab.client, url, lab.directory(), forward)?;
        download.backend()?;
        // One JSON object on each line, so that a table of millions can be read as it comes.
        let conns = lvx.lvx(["conns", "-o", "json"])?;
        let conn = conns
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<Vec<Value>, _>>()?
            .into_iter()
            .find(|conn| conn["service"] == service)
            .with_context(|| format!("no {service} in {conns}"))?;
        assert_eq!(conn["protocol"], "tcp", "{conn}");
        assert_eq!(conn["backend"], backend, "{conn}");
        assert_eq!(conn["forward"], forward, "{conn}");
        assert_eq!(conn["state"], "established", "{conn}");
        assert_fields(&conn, &["client", "idle_seconds"]);
    }
    let table = lvx.lvx(["conns"])?;
    assert!(
        table.contains("10.0.0.12:80") && table.contains("[fd00::13]:80"),
        "{table}"
    );
    Ok(())
}

#[test]
fn a_drained_backend_keeps_its_connections_and_gets_no_new_ones() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    lvx.serve("tcp://10.0.0.100:80", "dr", "rr", ["10.0.0.11", "10.0.0.12"])?;
    let downloads = (0..6)
        .map(|number| {
            let url = "http://10.0.0.100/slow/1m.bin";
            Download::start(&lab.client, url, lab.directory(), &format!("download{number}"))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut from_drained = 0;
    for download in &downloads {
        from_drained += usize::from(download.backend()? == "b1");
    }
    assert_eq!(from_drained, 3);
    lvx.lvx(["backend", "drain", "tcp://10.0.0.100:80", "10.0.0.11"])?;
    let status = lvx.json(["status"])?;
    let service = entry(&status["services"], "tcp://10.0.0.100:80")?;
    assert_eq!(entry(&service["backends"], "10.0.0.11:80")?["state"], "drained");
    let answers = client::requests(&lab.client, "10.0.0.100", 30)?;
    assert_eq!(answers, [("b2".to_owned(), 30)].into());
    let body = lab.body("1m.bin")?;
    for download in downloads {
        assert!(download.finish(Duration::from_secs(30))? == body);
    }
    Ok(())
}

#[test]
fn shells_get_their_completion_and_people_their_help() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::prepare(&lab, lvx_tests::Options::default())?;
    for shell in ["bash", "zsh", "fish"] {
        let output = lvx.output(["completion", shell])?;
        assert!(output.status.success() && output.stdout.len() > 1000, "{shell}");
    }
    let help = lvx.output(["service", "add", "--help"])?;
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(help.contains("tcp://"), "an example is missing in\n{help}");
    Ok(())
}
