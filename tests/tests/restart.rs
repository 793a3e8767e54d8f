//! The dataplane outlives the daemon, and the daemon's state outlives both.

use std::{thread, time::Duration};

use anyhow::Result;
use lvx_tests::{
    Balancer, Lab, Namespace,
    client::{self, Download, Stream},
    topology::{VIP_DR, VIP_NAT},
};

/// What `ip` says about the interface `eth0`, XDP program and addresses included.
fn eth0(namespace: &Namespace) -> Result<String> {
    namespace.run("ip", ["-details", "address", "show", "dev", "eth0"])
}

fn a_killed_daemon_costs_nothing(lab: &Lab, vip: &str, forward: &str) -> Result<()> {
    let mut lvx = Balancer::start(lab)?;
    let backend = &lab.backends[0];
    let address = backend.v4.to_string();
    let web = format!("tcp://{vip}:80");
    lvx.serve(&web, forward, "mh", [address.as_str()])?;
    for protocol in ["tcp", "udp"] {
        let service = format!("{protocol}://{vip}:5201");
        lvx.serve(&service, forward, "mh", [address.as_str()])?;
    }
    let listen = if forward == "dr" { vip } else { &address };
    let _server = client::iperf_server(&backend.namespace, listen)?;

    let stream = Stream::start(&lab.client, vip, 6, lab.directory())?;
    let url = format!("http://{vip}/slow/1m.bin");
    let download = Download::start(&lab.client, &url, lab.directory(), "download")?;
    download.backend()?;
    thread::sleep(Duration::from_secs(1));

    let second = lab.backends[1].v4.to_string();
    lvx.lvx(["backend", "add", &web, &second, "--weight", "7"])?;
    lvx.kill()?;
    thread::sleep(Duration::from_secs(1));
    lvx.run()?;

    let status = lvx.json(["status"])?;
    let services = status["services"].as_array().map_or(0, Vec::len);
    assert_eq!(services, 3, "{status}");
    assert_eq!(status["interfaces"][0]["name"], "eth0", "{status}");
    for service in status["services"].as_array().into_iter().flatten() {
        for backend in service["backends"].as_array().into_iter().flatten() {
            assert_eq!(backend["state"], "up", "{status}");
        }
    }
    let added = lvx.json(["service", "show", &web])?.to_string();
    assert!(added.contains(&second) && added.contains('7'), "{added}");

    assert!(download.finish(Duration::from_secs(30))? == lab.body("1m.bin")?);
    let result = stream.finish(Duration::from_secs(30))?;
    assert_eq!(result.lost, 0, "{result:?}");
    assert!(result.sent > 2_500, "{result:?}");
    let answers = client::requests(&lab.client, vip, 60)?;
    assert_eq!(answers.len(), 2, "both backends answer: {answers:?}");
    Ok(())
}

#[test]
fn kill_9_under_dr_loses_no_packet_and_no_acknowledged_change() -> Result<()> {
    a_killed_daemon_costs_nothing(&Lab::one_armed()?, &VIP_DR.0.to_string(), "dr")
}

#[test]
fn kill_9_under_nat_loses_no_packet_and_no_acknowledged_change() -> Result<()> {
    a_killed_daemon_costs_nothing(&Lab::two_armed()?, &VIP_NAT.0.to_string(), "nat")
}

#[test]
fn sigterm_leaves_forwarding_and_detach_ends_it() -> Result<()> {
    let lab = Lab::one_armed()?;
    let before = eth0(&lab.balancer)?;
    let mut lvx = Balancer::start(&lab)?;
    let [v4, v6] = [lab.backends[0].v4.to_string(), lab.backends[0].v6.to_string()];
    lvx.serve("tcp://10.0.0.101:80", "nat", "mh", [v4.as_str()])?;
    lvx.serve("tcp://[fd00::101]:80", "nat", "mh", [v6.as_str()])?;
    let attached = eth0(&lab.balancer)?;
    assert!(attached.contains("10.0.0.101/32"), "{attached}");
    assert!(attached.contains("fd00::101/128"), "{attached}");
    assert!(attached.contains("xdp"), "{attached}");

    lvx.terminate()?;
    client::requests(&lab.client, "10.0.0.101", 20)?;
    client::requests(&lab.client, "[fd00::101]", 20)?;

    lvx.run()?;
    client::requests(&lab.client, "10.0.0.101", 20)?;
    lvx.detach()?;
    assert_eq!(eth0(&lab.balancer)?, before);
    assert!(!lvx.pins().exists(), "pins are left behind");
    assert!(client::requests(&lab.client, "10.0.0.101", 1).is_err());
    Ok(())
}

#[test]
fn detach_needs_no_daemon() -> Result<()> {
    let lab = Lab::one_armed()?;
    let before = eth0(&lab.balancer)?;
    let mut lvx = Balancer::start(&lab)?;
    let backend = lab.backends[0].v4.to_string();
    lvx.serve("tcp://10.0.0.101:80", "nat", "mh", [backend.as_str()])?;
    lvx.kill()?;
    lvx.detach()?;
    assert_eq!(eth0(&lab.balancer)?, before);
    assert!(!lvx.pins().exists(), "pins are left behind");
    Ok(())
}

#[test]
fn an_address_that_was_there_before_stays_when_its_service_goes() -> Result<()> {
    let lab = Lab::one_armed()?;
    lab.balancer.ip("address add 10.0.0.101/32 dev eth0\n")?;
    let lvx = Balancer::start(&lab)?;
    let backend = lab.backends[0].v4.to_string();
    lvx.serve("tcp://10.0.0.101:80", "nat", "mh", [backend.as_str()])?;
    lvx.serve("tcp://10.0.0.102:80", "nat", "mh", [backend.as_str()])?;
    assert!(eth0(&lab.balancer)?.contains("10.0.0.102/32"));
    lvx.lvx(["service", "del", "tcp://10.0.0.101:80"])?;
    lvx.lvx(["service", "del", "tcp://10.0.0.102:80"])?;
    let addresses = eth0(&lab.balancer)?;
    assert!(addresses.contains("10.0.0.101/32"), "{addresses}");
    assert!(!addresses.contains("10.0.0.102/32"), "{addresses}");
    Ok(())
}
