//! What becomes of flows whose backend is deleted: the next packet reaches another, or is dropped, as the service says.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lvx_tests::{
    Balancer, Lab, Options,
    datagram::{Client, Echo},
    load::Held,
    topology::{VIP_DR, VIP_NAT},
};

const PORT: u16 = 5300;
/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_millis(500);

/// Adds `udp://VIP:5300` with all backends, each with a server.
fn serve(lab: &Lab, lvx: &Balancer<'_>, vip: IpAddr, forward: &str) -> Result<(SocketAddr, Vec<Echo>)> {
    let service = SocketAddr::new(vip, PORT);
    let address = |backend: &lvx_tests::topology::Backend| -> IpAddr {
        if vip.is_ipv4() {
            backend.v4.into()
        } else {
            backend.v6.into()
        }
    };
    let servers = lab
        .backends
        .iter()
        .map(|backend| {
            let listen = if forward == "dr" { vip } else { address(backend) };
            Echo::start(backend, SocketAddr::new(listen, PORT))
        })
        .collect::<Result<_>>()?;
    let backends: Vec<_> = lab
        .backends
        .iter()
        .map(|backend| address(backend).to_string())
        .collect();
    let name = format!("udp://{service}");
    lvx.serve(&name, forward, "rr", backends.iter().map(String::as_str))?;
    Ok((service, servers))
}

/// The address of the backend of that name, of the service's family.
fn address(lab: &Lab, service: SocketAddr, name: &str) -> Result<String> {
    let backend = lab.backends.iter().find(|backend| backend.name == name);
    let backend = backend.with_context(|| format!("no backend {name}"))?;
    Ok(if service.is_ipv4() {
        backend.v4.to_string()
    } else {
        backend.v6.to_string()
    })
}

fn the_next_datagram_reaches_another(vip: IpAddr, forward: &str) -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    let (service, servers) = serve(&lab, &lvx, vip, forward)?;
    let client = Client::of(&lab.client, service)?;
    let first = client.ask(b"one", PATIENCE)?.context("no answer")?;
    for _ in 0..10 {
        assert_eq!(
            client.ask(b"more", PATIENCE)?.as_deref(),
            Some(first.as_str()),
            "a flow stays"
        );
    }
    lvx.lvx([
        "backend",
        "del",
        &format!("udp://{service}"),
        &address(&lab, service, &first)?,
    ])?;
    let next = client
        .ask(b"next", PATIENCE)?
        .context("the first datagram after the deletion was lost")?;
    assert_ne!(next, first);
    for _ in 0..10 {
        assert_eq!(
            client.ask(b"more", PATIENCE)?.as_deref(),
            Some(next.as_str()),
            "a flow stays"
        );
    }
    drop(servers);
    Ok(())
}

#[test]
fn a_clients_next_datagram_reaches_another_backend_when_its_own_is_deleted_under_dr() -> Result<()> {
    the_next_datagram_reaches_another(VIP_DR.0.into(), "dr")
}

#[test]
fn a_clients_next_datagram_reaches_another_backend_when_its_own_is_deleted_under_nat() -> Result<()> {
    the_next_datagram_reaches_another(VIP_NAT.0.into(), "nat")
}

#[test]
fn a_clients_next_datagram_reaches_another_backend_when_its_own_is_deleted_over_ipv6() -> Result<()> {
    the_next_datagram_reaches_another(VIP_NAT.1.into(), "nat")
}

#[test]
fn with_on_loss_drop_datagrams_of_a_deleted_backend_reach_nobody() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    let (service, servers) = serve(&lab, &lvx, VIP_NAT.0.into(), "nat")?;
    let name = format!("udp://{service}");
    lvx.lvx(["service", "set", &name, "--on-loss", "drop"])?;
    let client = Client::of(&lab.client, service)?;
    let first = client.ask(b"one", PATIENCE)?.context("no answer")?;
    let heard = |servers: &[Echo]| servers.iter().map(Echo::heard).sum::<usize>();
    let before = heard(&servers);
    lvx.lvx(["backend", "del", &name, &address(&lab, service, &first)?])?;
    for _ in 0..5 {
        assert_eq!(client.ask(b"anybody?", Duration::from_millis(100))?, None);
    }
    assert_eq!(heard(&servers), before, "somebody has heard a datagram");
    // Others are served.
    let other = Client::of(&lab.client, service)?;
    assert!(other.ask(b"me?", PATIENCE)?.is_some());
    Ok(())
}

#[test]
fn a_backend_that_health_marks_down_loses_its_datagrams_to_another() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start_with(&lab, Options::default())?;
    let (service, mut servers) = serve(&lab, &lvx, VIP_NAT.0.into(), "nat")?;
    // nginx answers the probes: port 80 of the same backends.
    let text = format!(
        "[[service]]\naddress = \"udp://{service}\"\nforward = \"nat\"\nscheduler = \"rr\"\n\
         [[service.health]]\ntype = \"tcp\"\nport = 80\ninterval = \"200ms\"\ntimeout = \"150ms\"\nrise = 2\nfall = 3\n{}",
        lab.backends
            .iter()
            .map(|backend| format!("[[service.backend]]\naddress = \"{}\"\n", backend.v4))
            .collect::<String>()
    );
    let file = lab.directory().join("services.toml");
    std::fs::write(&file, text)?;
    lvx.lvx(["apply", file.to_str().context("a path in UTF-8")?])?;
    let client = Client::of(&lab.client, service)?;
    let mut first = None;
    lvx_tests::process::wait_until("somebody answers", Duration::from_secs(10), || {
        first = client.ask(b"one", PATIENCE)?;
        Ok(first.is_some())
    })?;
    let first = first.context("nobody answers")?;
    let number = lab
        .backends
        .iter()
        .position(|backend| backend.name == first)
        .context("who?")?;
    // It dies whole: nobody listens any more, on any port.
    let down = &lab.backends[number].namespace;
    down.ip("link set eth0 down\n")?;
    let begin = Instant::now();
    let mut next = None;
    lvx_tests::process::wait_until("another answers", Duration::from_secs(10), || {
        next = client.ask(b"next", Duration::from_millis(100))?;
        Ok(next.is_some())
    })?;
    println!("another backend answered {:?} after the death", begin.elapsed());
    assert_ne!(next.as_deref(), Some(first.as_str()));
    servers.clear();
    Ok(())
}

fn each_datagram_is_scheduled_by_itself(vip: IpAddr, forward: &str, flows: &str) -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    let (service, _servers) = serve(&lab, &lvx, vip, forward)?;
    let name = format!("udp://{service}");
    lvx.lvx(["service", "set", &name, "--one-packet"])?;
    let client = Client::of(&lab.client, service)?;
    let mut names = BTreeSet::new();
    for _ in 0..9 {
        names.insert(client.ask(b"one", PATIENCE)?.context("no answer")?);
    }
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(lvx.lvx(["conns", "--count", "--service", &name])?, flows,);
    Ok(())
}

#[test]
fn with_one_packet_scheduling_each_datagram_of_a_client_is_scheduled_by_itself() -> Result<()> {
    each_datagram_is_scheduled_by_itself(VIP_DR.0.into(), "dr", "0\n")
}

#[test]
fn with_one_packet_scheduling_under_nat_every_answer_comes_from_the_service() -> Result<()> {
    each_datagram_is_scheduled_by_itself(VIP_NAT.1.into(), "nat", "3\n")
}

#[test]
fn a_connection_whose_backend_is_deleted_ends_at_once_and_not_by_a_timeout() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    let address: SocketAddr = format!("{}:80", VIP_NAT.0).parse()?;
    let service = format!("tcp://{address}");
    let backends: Vec<_> = lab.backends.iter().map(|backend| backend.v4.to_string()).collect();
    lvx.serve(&service, "nat", "rr", backends.iter().map(String::as_str))?;
    let mut held = Held::open(&lab.client, address)?;
    lvx.lvx([
        "backend",
        "del",
        &service,
        &self::address(&lab, address, &held.backend)?,
    ])?;
    let begin = Instant::now();
    // Another backend knows nothing of it and says so (RST), and the client can begin anew.
    ensure!(held.ask().is_err(), "the connection went on");
    ensure!(
        begin.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        begin.elapsed()
    );
    let again = Held::open(&lab.client, address)?;
    assert_ne!(again.backend, held.backend);
    Ok(())
}

/// What QUIC asks of a balancer that does not look into it (RFC 9000, section 9): a client behind a NAT that forgets gets
/// another port, and stays with its backend.
#[test]
fn a_client_that_changes_its_port_stays_with_its_backend_if_only_its_address_is_hashed() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    for (vip, forward) in [
        (IpAddr::from(VIP_DR.0), "dr"),
        (VIP_NAT.0.into(), "nat"),
        (VIP_NAT.1.into(), "nat"),
    ] {
        let (service, _servers) = serve(&lab, &lvx, vip, forward)?;
        let name = format!("udp://{service}");
        for options in [
            ["--scheduler", "sh"].as_slice(),
            &["--scheduler", "mh", "--hash", "source"],
        ] {
            lvx.lvx([&["service", "set", &name], options].concat())?;
            let mut names = BTreeSet::new();
            for _ in 0..12 {
                let client = Client::of(&lab.client, service)?;
                names.insert(client.ask(b"migrating", PATIENCE)?.context("no answer")?);
            }
            assert_eq!(names.len(), 1, "{vip} {options:?}: {names:?}");
        }
    }
    Ok(())
}
