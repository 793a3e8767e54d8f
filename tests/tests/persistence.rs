//! Persistence: a client is sent to one backend, over several services by mark; and thresholds, over which it is not.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lvx_tests::{
    Balancer, Lab,
    load::{self, Held},
    process::wait_until,
    topology::{CLIENT, VIP_DR, VIP_NAT},
};

/// How long the counts of connections may take until they are right.
const COUNTED: Duration = Duration::from_millis(1200);

/// The backends' addresses of the VIP's family.
fn backends(lab: &Lab, vip: IpAddr) -> Vec<String> {
    lab.backends
        .iter()
        .map(|backend| {
            if vip.is_ipv4() {
                backend.v4.to_string()
            } else {
                backend.v6.to_string()
            }
        })
        .collect()
}

fn serve(lab: &Lab, lvx: &Balancer<'_>, address: SocketAddr, forward: &str, options: &[&str]) -> Result<String> {
    let service = format!("tcp://{address}");
    let all = backends(lab, address.ip());
    lvx.serve(&service, forward, "rr", all.iter().map(String::as_str))?;
    if !options.is_empty() {
        lvx.lvx([&["service", "set", &service], options].concat())?;
    }
    Ok(service)
}

/// Gives the client a second address, of the same network of 24 (64) bits or of another, that backends answer through the
/// balancer under NAT.
fn second_client(lab: &Lab, vip: IpAddr) -> Result<IpAddr> {
    let (address, length) = if vip.is_ipv4() {
        ("10.0.0.200", 24)
    } else {
        ("fd00::200", 64)
    };
    let nodad = if length == 64 { "nodad" } else { "" };
    lab.client
        .ip(&format!("addr add {address}/{length} dev eth0 {nodad}\n"))?;
    for backend in &lab.backends {
        if vip.is_ipv4() {
            backend
                .namespace
                .ip(&format!("rule add from {} to {address} lookup 100\n", backend.v4))?;
        } else {
            backend
                .namespace
                .ip6(&format!("rule add from {} to {address} lookup 100\n", backend.v6))?;
        }
    }
    Ok(address.parse()?)
}

fn two_ports_with_one_mark_meet_one_backend(vip: IpAddr, forward: &str) -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    let marked = ["--persistence", "300s", "--mark", "7"];
    let web = SocketAddr::new(vip, 80);
    let secure = SocketAddr::new(vip, 8080);
    let web_service = serve(&lab, &lvx, web, forward, &marked)?;
    let secure_service = serve(&lab, &lvx, secure, forward, &marked)?;
    let mut held = Held::open_many(&lab.client, web, 9)?;
    held.append(&mut Held::open_many(&lab.client, secure, 9)?);
    let spread = load::spread(&held);
    assert_eq!(spread.len(), 1, "{forward} {vip}: {spread:?}");
    let first = held[0].backend.clone();

    // Its backend drains: the client is released at once, and both ports go to another one backend.
    let number = lab
        .backends
        .iter()
        .position(|backend| backend.name == first)
        .context("who?")?;
    let own = &backends(&lab, vip)[number];
    for service in [&web_service, &secure_service] {
        lvx.lvx(["backend", "drain", service, own])?;
    }
    let mut after = Held::open_many(&lab.client, web, 5)?;
    after.append(&mut Held::open_many(&lab.client, secure, 5)?);
    let spread = load::spread(&after);
    ensure!(
        spread.len() == 1 && !spread.contains_key(first.as_str()),
        "{forward} {vip}: {spread:?}"
    );
    for each in &mut held {
        assert_eq!(each.ask()?, first, "the old connections go on");
    }
    Ok(())
}

#[test]
fn a_clients_connections_to_two_ports_with_one_mark_meet_one_backend_under_dr() -> Result<()> {
    two_ports_with_one_mark_meet_one_backend(VIP_DR.0.into(), "dr")
}

#[test]
fn a_clients_connections_to_two_ports_with_one_mark_meet_one_backend_under_nat() -> Result<()> {
    two_ports_with_one_mark_meet_one_backend(VIP_NAT.0.into(), "nat")
}

#[test]
fn a_clients_connections_to_two_ports_with_one_mark_meet_one_backend_over_ipv6() -> Result<()> {
    two_ports_with_one_mark_meet_one_backend(VIP_NAT.1.into(), "nat")
}

fn a_netmask_makes_neighbours_one_client(vip: IpAddr, full: &str, network: &str) -> Result<()> {
    let lab = Lab::one_armed()?;
    let other = second_client(&lab, vip)?;
    let own: IpAddr = if vip.is_ipv4() {
        CLIENT.0.into()
    } else {
        CLIENT.1.into()
    };
    let lvx = Balancer::start(&lab)?;
    let web = SocketAddr::new(vip, 80);
    let service = serve(&lab, &lvx, web, "nat", &["--persistence", "60s", "--netmask", full])?;
    let open = |from: IpAddr, count: usize| -> Result<Vec<Held>> {
        (0..count).map(|_| Held::open_from(&lab.client, from, web)).collect()
    };
    // Round robin gives the second client another backend than the first.
    let (first, second) = (open(own, 4)?, open(other, 4)?);
    assert_eq!((load::spread(&first).len(), load::spread(&second).len()), (1, 1));
    assert_ne!(first[0].backend, second[0].backend, "{vip} {full}");

    lvx.lvx(["service", "set", &service, "--persistence", "0s"])?;
    lvx.lvx(["service", "set", &service, "--persistence", "60s", "--netmask", network])?;
    let (first, second) = (open(own, 4)?, open(other, 4)?);
    assert_eq!((load::spread(&first).len(), load::spread(&second).len()), (1, 1));
    assert_eq!(first[0].backend, second[0].backend, "{vip} {network}");
    Ok(())
}

#[test]
fn clients_of_one_network_are_one_client_to_persistence_if_the_netmask_says_so() -> Result<()> {
    a_netmask_makes_neighbours_one_client(VIP_NAT.0.into(), "255.255.255.255", "255.255.255.0")
}

#[test]
fn clients_of_one_network_are_one_client_to_persistence_over_ipv6_too() -> Result<()> {
    a_netmask_makes_neighbours_one_client(VIP_NAT.1.into(), "128", "64")
}

#[test]
fn persistence_ends_so_long_after_the_last_connection() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    let web = SocketAddr::new(VIP_NAT.0.into(), 80);
    let options = ["--persistence", "2s", "--timeout", "fin=1s", "--timeout", "closed=1s"];
    serve(&lab, &lvx, web, "nat", &options)?;
    let mut first = Held::open_many(&lab.client, web, 4)?;
    assert_eq!(load::spread(&first).len(), 1);
    let name = first[0].backend.clone();
    // It lasts while packets of its connections pass.
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(400));
        first[3].ask()?;
    }
    let during = Held::open(&lab.client, web)?;
    assert_eq!(during.backend, name);
    drop((first, during));
    // Round robin: after at most three such pauses the client has met another.
    let mut others = 0;
    for _ in 0..3 {
        thread::sleep(Duration::from_secs(5));
        others += usize::from(Held::open(&lab.client, web)?.backend != name);
    }
    ensure!(others > 0, "always {name}");
    Ok(())
}

#[test]
fn a_flush_forgets_where_clients_persist() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    let web = SocketAddr::new(VIP_NAT.0.into(), 80);
    let service = serve(&lab, &lvx, web, "nat", &["--persistence", "300s", "--netmask", "24"])?;
    let open = || Ok::<_, anyhow::Error>(Held::open_many(&lab.client, web, 3)?.remove(0).backend);
    let first = open()?;
    // One client's connections end; the others of its network persist, and so does it.
    assert_eq!(lvx.json(["conns", "flush", "--client", "10.0.0.1"])?["flushed"], 3);
    assert_eq!(open()?, first);
    for filter in [["--service", &service], ["--client", "10.0.0.0/24"]] {
        let mut met = std::collections::BTreeSet::new();
        for _ in 0..6 {
            lvx.lvx([&["conns", "flush"], filter.as_slice()].concat())?;
            met.insert(open()?);
        }
        assert_eq!(met.len(), 3, "{filter:?}: round robin is asked anew: {met:?}");
    }
    Ok(())
}

/// Opens connections so slowly that each is counted before the next comes.
fn open_slowly(lab: &Lab, address: SocketAddr, count: usize) -> Result<Vec<Held>> {
    (0..count)
        .map(|_| {
            let held = Held::open(&lab.client, address)?;
            thread::sleep(COUNTED);
            Ok(held)
        })
        .collect()
}

fn a_full_backend_rests_until_it_has_fewer(vip: IpAddr, forward: &str) -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    let web = SocketAddr::new(vip, 80);
    let service = serve(
        &lab,
        &lvx,
        web,
        forward,
        &["--scheduler", "fo", "--timeout", "fin=1s", "--timeout", "closed=1s"],
    )?;
    let all = backends(&lab, vip);
    lvx.lvx([
        "backend", "set", &service, &all[0], "--weight", "9", "-x", "4", "-y", "2",
    ])?;
    lvx.lvx(["backend", "set", &service, &all[1], "--weight", "5"])?;
    let mut held = open_slowly(&lab, web, 6)?;
    assert_eq!(
        load::spread(&held),
        [("b1", 4), ("b2", 2)].into(),
        "{forward} {vip}: the upper threshold"
    );
    let status = lvx.json(["status"])?;
    assert_eq!(status["services"][0]["backends"][0]["state"], "full", "{status}");
    // Two of four: not yet below the lower threshold.
    let close_one = |held: &mut Vec<Held>| {
        let at = held.iter().position(|each| each.backend == "b1");
        at.map(|at| held.remove(at));
    };
    close_one(&mut held);
    close_one(&mut held);
    thread::sleep(Duration::from_secs(4));
    assert_eq!(
        Held::open(&lab.client, web)?.backend,
        "b2",
        "{forward} {vip}: two are not fewer than two"
    );
    close_one(&mut held);
    wait_until("b1 is given connections again", Duration::from_secs(10), || {
        Ok(Held::open(&lab.client, web)?.backend == "b1")
    })
}

#[test]
fn a_backend_at_its_upper_threshold_rests_until_it_is_below_the_lower_under_dr() -> Result<()> {
    a_full_backend_rests_until_it_has_fewer(VIP_DR.0.into(), "dr")
}

#[test]
fn a_backend_at_its_upper_threshold_rests_until_it_is_below_the_lower_under_nat() -> Result<()> {
    a_full_backend_rests_until_it_has_fewer(VIP_NAT.0.into(), "nat")
}

/// How many packets met a verdict.
fn verdict(lvx: &Balancer<'_>, name: &str) -> Result<u64> {
    let stats = lvx.json(["stats"])?;
    let verdicts = stats["interfaces"][0]["verdicts"].as_array().context("no verdicts")?;
    let found = verdicts.iter().find(|each| each["verdict"] == name);
    Ok(found.and_then(|found| found["packets"].as_u64()).unwrap_or(0))
}

#[test]
fn with_all_backends_full_the_sorry_backend_serves_or_connections_are_dropped_and_counted() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    let web = SocketAddr::new(VIP_NAT.0.into(), 80);
    let service = serve(&lab, &lvx, web, "nat", &["--overload", "sorry"])?;
    let all = backends(&lab, web.ip());
    for full in &all[..2] {
        lvx.lvx(["backend", "set", &service, full, "-x", "1"])?;
    }
    lvx.lvx(["backend", "set", &service, &all[2], "--sorry"])?;
    let held = open_slowly(&lab, web, 4)?;
    let spread = load::spread(&held);
    ensure!(
        spread.get("b1") == Some(&1) && spread.get("b2") == Some(&1),
        "{spread:?}"
    );
    assert_eq!(spread.get("b3"), Some(&2), "{spread:?}");

    lvx.lvx(["service", "set", &service, "--overload", "drop"])?;
    let before = verdict(&lvx, "dropped_overloaded")?;
    let refused = lab
        .client
        .inside(|| std::net::TcpStream::connect_timeout(&web, Duration::from_millis(700)))?;
    ensure!(refused.is_err(), "a connection was made although all are full");
    ensure!(
        verdict(&lvx, "dropped_overloaded")? > before,
        "what was dropped is counted"
    );
    Ok(())
}
