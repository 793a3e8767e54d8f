//! Interfaces come and go, are renamed and lose the program; VIPs stand where their network is, and only where the program is.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use lvx_tests::{
    Balancer, Lab, Namespace, Options, client,
    process::wait_until,
    topology::BALANCER_INSIDE,
    wire::{Capture, Direction},
};
use serde_json::Value;

/// Longer than anything here takes, on a loaded machine too.
const LIMIT: Duration = Duration::from_secs(60);
const WEB: &str = "tcp://10.0.0.101:80";
/// A VIP of the backends' network.
const INSIDE: (&str, &str) = ("tcp://10.0.1.101:80", "10.0.1.101");

/// The entry of an interface in `lvx status`.
fn interface(lvx: &Balancer<'_>, number: usize) -> Result<Value> {
    Ok(lvx.json(["status"])?["interfaces"][number].clone())
}

/// The VIP of a service in `lvx status`.
fn vip(lvx: &Balancer<'_>, service: &str) -> Result<Value> {
    let status = lvx.json(["status"])?;
    let services = status["services"].as_array().into_iter().flatten();
    let found = services.into_iter().find(|entry| entry["address"] == service);
    Ok(found.with_context(|| format!("no {service} in {status}"))?["vip"].clone())
}

/// Waits until clients are served.
fn until_served(lab: &Lab, host: &str) -> Result<()> {
    let url = format!("http://{host}/");
    let asks = ["--silent", "--fail", "--max-time", "2", url.as_str()];
    wait_until("clients are served", LIMIT, || Ok(lab.client.run("curl", asks).is_ok()))?;
    client::requests(&lab.client, host, 5)?;
    Ok(())
}

/// Whether an interface has an address.
fn has(namespace: &Namespace, interface: &str, address: &str) -> bool {
    let shown = namespace.run("ip", ["-o", "address", "show", "dev", interface]);
    shown.is_ok_and(|shown| shown.contains(&format!(" {address}/")))
}

fn until_has(namespace: &Namespace, interface: &str, address: &str) -> Result<()> {
    wait_until(&format!("{interface} has {address}"), LIMIT, || {
        Ok(has(namespace, interface, address))
    })
}

#[test]
fn an_interface_that_is_made_again_is_attached_again_and_then_has_its_vips() -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start(&lab)?;
    lvx.serve(WEB, "nat", "rr", ["10.0.1.11"])?;
    lvx.serve(INSIDE.0, "nat", "rr", ["10.0.1.11"])?;
    until_served(&lab, "10.0.0.101")?;
    until_has(&lab.balancer, "eth1", INSIDE.1)?;
    let before = interface(&lvx, 1)?;

    lab.balancer.ip("link del eth1\n")?;
    wait_until("it is noticed", LIMIT, || Ok(interface(&lvx, 1)?["mode"].is_null()))?;
    let gone = interface(&lvx, 1)?;
    assert!(gone["error"].to_string().contains("there is no interface"), "{gone}");
    let homeless = vip(&lvx, INSIDE.0)?;
    assert_ne!(homeless["interface"], "eth1", "{homeless}");
    // Changes go on meanwhile.
    lvx.lvx(["backend", "add", WEB, "10.0.1.12"])?;
    lvx.lvx(["service", "set", WEB, "--scheduler", "wrr"])?;

    lab.plug("eth1", "br1", None)?;
    lab.balancer
        .ip(&format!("addr add {}/24 dev eth1\n", BALANCER_INSIDE.0))?;
    until_has(&lab.balancer, "eth1", INSIDE.1)?;
    let after = interface(&lvx, 1)?;
    assert_eq!(after["mode"], "native", "the program comes before the VIP: {after}");
    assert_ne!(after["ifindex"], before["ifindex"]);
    assert!(after["error"].is_null(), "{after}");
    until_served(&lab, "10.0.0.101")?;
    let answers = client::requests(&lab.client, "10.0.0.101", 20)?;
    assert_eq!(answers.len(), 2, "the backend that was added serves too: {answers:?}");
    Ok(())
}

#[test]
fn an_interface_that_comes_back_with_its_old_index_is_attached_again() -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start(&lab)?;
    lvx.serve(WEB, "nat", "rr", ["10.0.1.11"])?;
    until_served(&lab, "10.0.0.101")?;
    let index = interface(&lvx, 1)?["ifindex"].as_u64();
    lab.balancer.ip("link del eth1\n")?;
    lab.plug("eth1", "br1", index)?;
    lab.balancer
        .ip(&format!("addr add {}/24 dev eth1\n", BALANCER_INSIDE.0))?;
    until_served(&lab, "10.0.0.101")?;
    let after = interface(&lvx, 1)?;
    assert_eq!(after["ifindex"].as_u64(), index);
    assert_eq!(after["mode"], "native", "{after}");
    Ok(())
}

#[test]
fn a_renamed_interface_keeps_the_program_and_its_vips() -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start(&lab)?;
    lvx.serve(WEB, "nat", "rr", ["10.0.1.11"])?;
    until_served(&lab, "10.0.0.101")?;
    lab.balancer
        .ip("link set eth0 down\nlink set eth0 name ext0\nlink set ext0 up\n")?;
    wait_until("the new name is told", LIMIT, || {
        Ok(interface(&lvx, 0)?["name"] == "ext0")
    })?;
    let renamed = interface(&lvx, 0)?;
    assert_eq!(renamed["mode"], "native", "{renamed}");
    assert!(
        renamed["note"].to_string().contains("eth0 in the settings"),
        "{renamed}"
    );
    lvx.lvx(["backend", "add", WEB, "10.0.1.12"])?;
    until_served(&lab, "10.0.0.101")?;
    assert_eq!(vip(&lvx, WEB)?["interface"], "ext0");
    Ok(())
}

#[test]
fn vips_are_announced_from_a_new_mac() -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start(&lab)?;
    lvx.serve(WEB, "nat", "rr", ["10.0.1.11"])?;
    until_served(&lab, "10.0.0.101")?;
    let filter = "arp and ether src 02:00:00:00:77:01 and arp[24:4] = 0x0a000065";
    let heard = Capture::start(&lab.client, "eth0", Direction::In, filter, lab.directory(), "arp")?;
    lab.balancer.ip("link set eth0 address 02:00:00:00:77:01\n")?;
    wait_until("the VIP is announced", LIMIT, || {
        Ok(heard.so_far().is_ok_and(|frames| !frames.is_empty()))
    })?;
    until_served(&lab, "10.0.0.101")?;
    Ok(())
}

#[test]
fn a_link_that_somebody_detaches_is_attached_again() -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start(&lab)?;
    lvx.serve(WEB, "nat", "rr", ["10.0.1.11"])?;
    until_served(&lab, "10.0.0.101")?;
    let pin = lvx
        .pins()
        .join(format!("link_{}_native", interface(&lvx, 0)?["ifindex"]));
    let xdp = || lab.balancer.run("ip", ["-details", "link", "show", "dev", "eth0"]);
    let program = |shown: &str| shown.contains("prog/xdp");
    assert!(program(&xdp()?));
    lvx_tests::bpf::detach_link(&pin)?;
    wait_until("the program is back", LIMIT, || {
        Ok(lvx.log().contains("somebody has detached the program") && program(&xdp()?))
    })?;
    until_served(&lab, "10.0.0.101")?;
    Ok(())
}

#[test]
fn pins_that_are_removed_under_the_daemon_are_put_back_and_no_packet_notices() -> Result<()> {
    let lab = Lab::two_armed()?;
    let mut lvx = Balancer::start(&lab)?;
    lvx.serve(WEB, "nat", "rr", ["10.0.1.11"])?;
    let pins = lvx.pins().to_owned();
    let listed = || -> Result<Vec<String>> {
        let mut names = Vec::new();
        for directory in [pins.clone(), pins.join("generation_1")] {
            for entry in fs::read_dir(directory)? {
                names.push(entry?.path().display().to_string());
            }
        }
        names.sort();
        Ok(names)
    };
    until_served(&lab, "10.0.0.101")?;
    let before = listed()?;
    fs::remove_dir_all(&pins)?;
    client::requests(&lab.client, "10.0.0.101", 20)?;
    wait_until("the pins are back", LIMIT, || {
        Ok(listed().is_ok_and(|now| now == before))
    })?;
    // The next daemon takes over by them.
    lvx.kill()?;
    client::requests(&lab.client, "10.0.0.101", 20)?;
    lvx.run()?;
    assert!(lvx.log().contains("took over from the dataplane"), "{}", lvx.log());
    client::requests(&lab.client, "10.0.0.101", 20)?;
    Ok(())
}

#[test]
fn a_daemon_that_was_attached_before_waits_for_an_interface_that_is_gone() -> Result<()> {
    let lab = Lab::two_armed()?;
    let mut lvx = Balancer::start(&lab)?;
    lvx.serve(WEB, "nat", "rr", ["10.0.1.11"])?;
    lvx.kill()?;
    lab.balancer.ip("link del eth1\n")?;
    lvx.run()?;
    let gone = interface(&lvx, 1)?;
    assert!(gone["mode"].is_null() && gone["error"].is_string(), "{gone}");
    lab.plug("eth1", "br1", None)?;
    lab.balancer
        .ip(&format!("addr add {}/24 dev eth1\n", BALANCER_INSIDE.0))?;
    until_served(&lab, "10.0.0.101")?;
    Ok(())
}

#[test]
fn a_vip_stands_on_the_interface_on_whose_network_it_is() -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start(&lab)?;
    let inside6 = "tcp://[fd00:0:0:1::101]:80";
    for (service, backend) in [
        (WEB, "10.0.1.11"),
        (INSIDE.0, "10.0.1.11"),
        (inside6, "fd00:0:0:1::11"),
        ("tcp://192.0.2.1:80", "10.0.1.11"),
    ] {
        lvx.serve(service, "nat", "rr", [backend])?;
    }
    for (service, interface, address) in [
        (WEB, "eth0", "10.0.0.101"),
        (INSIDE.0, "eth1", INSIDE.1),
        (inside6, "eth1", "fd00:0:0:1::101"),
        // Of no network here: on the first interface.
        ("tcp://192.0.2.1:80", "eth0", "192.0.2.1"),
    ] {
        let told = vip(&lvx, service)?;
        assert_eq!(told["interface"], interface, "{told}");
        assert_eq!(told["state"], "present", "{told}");
        assert!(has(&lab.balancer, interface, address), "{address}");
    }
    // A host of that network finds it, over IPv6 too.
    let asks = ["-c", "1", "-W", "2", "fd00:0:0:1::101"];
    let host = &lab.backends[1].namespace;
    wait_until("it is found over IPv6", LIMIT, || Ok(host.run("ping", asks).is_ok()))?;
    // The network moves, and its VIPs with it.
    lab.balancer
        .ip("addr del 10.0.1.2/24 dev eth1\naddr add 10.0.1.2/24 dev eth0\n")?;
    until_has(&lab.balancer, "eth0", INSIDE.1)?;
    wait_until("it is gone from eth1", LIMIT, || {
        Ok(!has(&lab.balancer, "eth1", INSIDE.1))
    })?;
    Ok(())
}

#[test]
fn a_vip_that_another_host_answers_for_is_a_conflict_until_it_does_not() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    let (v4, v6) = ("10.0.0.101", "fd00::101");
    lab.client.ip(&format!(
        "addr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\n"
    ))?;
    let six = format!("tcp://[{v6}]:80");
    lvx.serve(WEB, "nat", "rr", ["10.0.0.11"])?;
    lvx.serve(&six, "nat", "rr", ["fd00::11"])?;
    lvx.serve("tcp://10.0.0.102:80", "nat", "rr", ["10.0.0.11"])?;
    for (service, address) in [(WEB, v4), (&six, v6)] {
        let told = vip(&lvx, service)?;
        assert_eq!(told["state"], "conflict", "{told}");
        assert!(told["interface"].is_null(), "{told}");
        assert!(told["reason"].to_string().contains("another host"), "{told}");
        assert!(!has(&lab.balancer, "eth0", address), "{address}");
    }
    assert_eq!(vip(&lvx, "tcp://10.0.0.102:80")?["state"], "present");
    let table = lvx.lvx(["status"])?;
    assert!(table.contains("conflict"), "{table}");
    lab.client
        .ip(&format!("addr del {v4}/32 dev eth0\naddr del {v6}/128 dev eth0\n"))?;
    for (service, address) in [(WEB, v4), (&six, v6)] {
        until_has(&lab.balancer, "eth0", address)?;
        wait_until("it is told", LIMIT, || Ok(vip(&lvx, service)?["state"] == "present"))?;
    }
    client::requests(&lab.client, v4, 5)?;
    Ok(())
}

#[test]
fn a_vip_that_cannot_be_added_is_that_services_trouble_alone() -> Result<()> {
    let lab = Lab::one_armed()?;
    let mut lvx = Balancer::start(&lab)?;
    let six = "tcp://[fd00::101]:80";
    lvx.serve(WEB, "nat", "rr", ["10.0.0.11"])?;
    lvx.serve(six, "nat", "rr", ["fd00::11"])?;
    lab.balancer.sysctl(&[("ipv6/conf/eth0/disable_ipv6", "1")])?;
    wait_until("the trouble is told", LIMIT, || {
        Ok(vip(&lvx, six)?["state"] == "missing")
    })?;
    let told = vip(&lvx, six)?;
    assert!(told["reason"].to_string().contains("disable_ipv6"), "{told}");
    lvx.lvx(["backend", "set", WEB, "10.0.0.11", "--weight", "7"])?;
    lvx.lvx(["service", "add", "tcp://[fd00::102]:80", "--forward", "nat"])?;
    client::requests(&lab.client, "10.0.0.101", 5)?;
    lvx.kill()?;
    lvx.run()?;
    lvx.lvx(["backend", "set", WEB, "10.0.0.11", "--weight", "8"])?;
    client::requests(&lab.client, "10.0.0.101", 5)?;
    lab.balancer.sysctl(&[("ipv6/conf/eth0/disable_ipv6", "0")])?;
    until_has(&lab.balancer, "eth0", "fd00::101")?;
    wait_until("it is told", LIMIT, || Ok(vip(&lvx, six)?["state"] == "present"))?;
    Ok(())
}

#[test]
fn with_lower_sizes_the_daemon_serves_what_has_room_and_tells_what_has_not() -> Result<()> {
    let lab = Lab::one_armed()?;
    let file = lab.directory().join("lvx.toml");
    let sized = |services: u32, backends: u32| {
        fs::write(&file, format!("max_services = {services}\nmax_backends = {backends}\n"))
    };
    sized(4, 8)?;
    let mut lvx = Balancer::prepare(&lab, Options::default())?;
    lvx.reconfigure(vec!["--config".into(), file.display().to_string()]);
    lvx.run()?;
    let last = "tcp://10.0.0.103:80";
    lvx.serve(WEB, "nat", "rr", ["10.0.0.11", "10.0.0.12", "10.0.0.13"])?;
    lvx.serve("tcp://10.0.0.102:80", "nat", "rr", ["10.0.0.11"])?;
    lvx.serve(last, "nat", "rr", ["10.0.0.12"])?;
    lvx.terminate()?;

    sized(2, 2)?;
    lvx.run()?;
    let status = lvx.json(["status"])?.to_string();
    assert!(status.contains("max_services"), "{status}");
    assert!(status.contains("max_backends"), "{status}");
    let answers = client::requests(&lab.client, "10.0.0.101", 20)?;
    assert_eq!(answers.len(), 2, "{answers:?}");
    // What brings more is refused, what does not goes on.
    let refused = lvx.output(["backend", "add", WEB, "10.0.0.14"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("nothing was changed: no room"),
        "{said}"
    );
    lvx.lvx(["service", "del", last])?;
    lvx.lvx(["service", "del", "tcp://10.0.0.102:80"])?;
    lvx.lvx(["backend", "del", WEB, "10.0.0.13"])?;
    wait_until("all is served", LIMIT, || {
        let status = lvx.json(["status"])?;
        Ok(!status.to_string().contains("max_"))
    })?;
    client::requests(&lab.client, "10.0.0.101", 20)?;
    Ok(())
}

#[test]
fn an_interface_without_ethernet_is_refused_with_the_reason() -> Result<()> {
    let lab = Lab::one_armed()?;
    lab.balancer
        .run("ip", ["tuntap", "add", "dev", "tun0", "mode", "tun"])?;
    for name in ["lo", "tun0"] {
        let options = Options {
            interfaces: vec![name.to_owned()],
            ..Options::default()
        };
        let lvx = Balancer::prepare(&lab, options)?;
        let output = lvx.run_in_vain(&mut lvx.run_command())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("{name} is not an Ethernet interface")), "{said}");
    }
    Ok(())
}

/// Puts a macvlan above the balancer's `eth1`, which has its address from then on.
fn macvlan_inside(lab: &Lab) -> Result<()> {
    lab.balancer.ip(&format!(
        "addr flush dev eth1\n\
         link add name mv0 link eth1 type macvlan mode bridge\n\
         link set mv0 up\n\
         addr add {}/24 dev mv0\n",
        BALANCER_INSIDE.0
    ))
}

#[test]
fn beside_an_interface_that_cannot_transmit_for_a_driver_all_are_generic() -> Result<()> {
    let lab = Lab::two_armed()?;
    macvlan_inside(&lab)?;
    let options = Options {
        interfaces: vec!["eth0".into(), "mv0".into()],
        ..Options::default()
    };
    let lvx = Balancer::start_with(&lab, options)?;
    lvx.serve(WEB, "nat", "rr", ["10.0.1.11"])?;
    until_served(&lab, "10.0.0.101")?;
    for number in [0, 1] {
        let told = interface(&lvx, number)?;
        assert_eq!(told["mode"], "generic", "{told}");
        assert!(
            told["note"].to_string().contains("mv0 (macvlan) cannot transmit"),
            "{told}"
        );
    }
    Ok(())
}

#[test]
fn a_backend_behind_what_cannot_transmit_for_a_driver_is_unreachable_and_says_why() -> Result<()> {
    let lab = Lab::two_armed()?;
    macvlan_inside(&lab)?;
    let options = Options {
        interfaces: vec!["eth0".into()],
        ..Options::default()
    };
    let mut lvx = Balancer::start_with(&lab, options)?;
    let dr = "tcp://10.0.0.100:80";
    lvx.serve(dr, "dr", "rr", ["10.0.1.11"])?;
    let backend =
        |lvx: &Balancer<'_>| -> Result<Value> { Ok(lvx.json(["status"])?["services"][0]["backends"][0].clone()) };
    wait_until("it is unreachable", LIMIT, || {
        Ok(backend(&lvx)?["reason"].to_string().contains("macvlan"))
    })?;
    let told = backend(&lvx)?;
    assert_eq!(told["state"], "unreachable", "{told}");
    assert!(told["reason"].to_string().contains("--xdp-mode generic"), "{told}");
    lvx.terminate()?;
    lvx.set_mode("generic");
    lvx.run()?;
    until_served(&lab, "10.0.0.100")?;
    assert_eq!(backend(&lvx)?["state"], "up");
    Ok(())
}

#[test]
fn somebody_elses_program_is_named_and_stays() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    lvx.serve(WEB, "nat", "rr", ["10.0.0.11"])?;
    // To a daemon with other pins the first one's program is somebody else's.
    let pins = PathBuf::from(format!("{}-other", lvx.pins().display()));
    let directory = lab.directory().join("other");
    let mut other = lab.balancer.command(lvx.program());
    other.args(["run", "--interface", "eth0", "--pin-dir"]).arg(&pins);
    other.arg("--state-dir").arg(directory.join("state"));
    other.arg("--socket").arg(directory.join("lvx.sock"));
    fs::create_dir(&directory)?;
    let output = lvx.run_in_vain(&mut other)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("another XDP program with id "), "{said}");
    assert!(!pins.exists(), "pins are left behind");
    client::requests(&lab.client, "10.0.0.101", 5)?;
    Ok(())
}
