//! Clients and backends on the balancer itself: what does not work says so at once, and what the book advises instead works.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lvx_tests::{
    Balancer, Lab, Namespace, Options,
    client::requests,
    nginx::Nginx,
    process::wait_until,
    topology::{BALANCER, VIP_DR, VIP_NAT},
};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);
/// An address that moves from a backend to the balancer.
const MOVING: &str = "10.0.0.77";
/// A network namespace on the balancer, as a container has it.
const INNER: &str = "10.0.2.2";

/// A network namespace on the balancer, reached by `veth0` there.
fn inner(lab: &Lab) -> Result<Namespace> {
    let inner = lab.stranger("inner")?;
    lab.cable(&lab.balancer, "veth0", &inner, "eth0")?;
    inner.offload("eth0", &["gro", "on"])?;
    lab.balancer.ip("addr add 10.0.2.1/24 dev veth0\n")?;
    inner.ip(&format!(
        "link set lo up\naddr add {INNER}/24 dev eth0\nroute add default via 10.0.2.1\n"
    ))?;
    // The others know how to answer it.
    for host in lab
        .backends
        .iter()
        .map(|backend| &backend.namespace)
        .chain([&lab.client])
    {
        host.ip(&format!("route add 10.0.2.0/24 via {}\n", BALANCER.0))?;
    }
    Ok(inner)
}

/// With the program on the namespace's interface too.
fn start<'lab>(lab: &'lab Lab) -> Result<Balancer<'lab>> {
    let interfaces = ["eth0", "veth0"].map(str::to_owned).to_vec();
    Balancer::start_with(
        lab,
        Options {
            interfaces,
            ..Options::default()
        },
    )
}

/// State and reason of the first service's backend at this address and port.
fn told(lvx: &Balancer<'_>, backend: &str) -> Result<(String, String)> {
    let status = lvx.json(["status"])?;
    let backends = status["services"][0]["backends"].as_array().context("no backends")?;
    let it = backends
        .iter()
        .find(|it| it["address"] == backend)
        .context("no backend")?;
    let text = |field: &str| it[field].as_str().unwrap_or_default().to_owned();
    Ok((text("state"), text("reason")))
}

fn wait_for(lvx: &Balancer<'_>, backend: &str, state: &str) -> Result<()> {
    wait_until(&format!("{backend} is {state}"), LIMIT, || {
        Ok(told(lvx, backend)?.0 == state)
    })
}

#[test]
fn a_client_on_the_balancer_itself_is_refused_at_once_and_one_in_a_namespace_there_is_served_under_nat() -> Result<()> {
    let lab = Lab::one_armed()?;
    let inner = inner(&lab)?;
    let lvx = start(&lab)?;
    let (tcp, udp) = (
        SocketAddr::new(VIP_NAT.0.into(), 80),
        SocketAddr::new(VIP_NAT.0.into(), 53),
    );
    let backends: Vec<_> = lab.backends.iter().map(|backend| backend.v4.to_string()).collect();
    lvx.serve(
        &format!("tcp://{tcp}"),
        "nat",
        "rr",
        backends.iter().map(String::as_str),
    )?;
    lvx.serve(
        &format!("udp://{udp}"),
        "nat",
        "rr",
        backends.iter().map(String::as_str),
    )?;
    for backend in &backends {
        wait_for(&lvx, &format!("{backend}:80"), "up")?;
    }
    assert_eq!(requests(&lab.client, &VIP_NAT.0.to_string(), 6)?.len(), 3);

    // The balancer's own packets stay on its loopback, where nobody listens.
    let said = lab.balancer.inside(|| TcpStream::connect_timeout(&tcp, LIMIT))?;
    assert_eq!(
        said.map_err(|error| error.kind()).err(),
        Some(ErrorKind::ConnectionRefused)
    );
    let said = lab.balancer.inside(|| -> std::io::Result<usize> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.connect(udp)?;
        socket.send(b"?")?;
        socket.recv(&mut [0])
    })?;
    assert_eq!(
        said.map_err(|error| error.kind()).err(),
        Some(ErrorKind::ConnectionRefused)
    );
    let own = requests(&lab.balancer, &backends[0], 1)?;
    assert!(own.contains_key("b1"), "a backend itself can be asked: {own:?}");

    let answers = requests(&inner, &VIP_NAT.0.to_string(), 6)?;
    assert_eq!(answers.len(), 3, "{answers:?}");
    Ok(())
}

#[test]
fn a_backend_that_is_the_balancer_is_unreachable_with_the_reason_and_one_in_a_namespace_there_serves_under_nat()
-> Result<()> {
    let lab = Lab::one_armed()?;
    let inner = inner(&lab)?;
    let _nginx = Nginx::start(&inner, "inner", lab.directory())?;
    let lvx = start(&lab)?;
    let (vip, own) = (VIP_NAT.0.to_string(), BALANCER.0.to_string());
    let first = lab.backends[0].v4.to_string();
    lvx.serve(
        &format!("tcp://{vip}:80"),
        "nat",
        "rr",
        [own.as_str(), first.as_str(), INNER],
    )?;
    wait_for(&lvx, &format!("{first}:80"), "up")?;
    wait_for(&lvx, &format!("{INNER}:80"), "up")?;
    let (state, reason) = told(&lvx, &format!("{own}:80"))?;
    assert_eq!(state, "unreachable");
    assert_eq!(
        reason,
        format!(
            "{own} is an address of this machine, and LVX only sends out of interfaces; put the server on another machine, or, \
             under nat, in a network namespace of this one"
        )
    );
    let answers = requests(&lab.client, &vip, 6)?;
    assert_eq!(answers, [("b1".to_owned(), 3), ("inner".to_owned(), 3)].into());
    Ok(())
}

#[test]
fn a_backend_whose_address_the_balancer_gets_is_unreachable_until_it_has_it_no_longer() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    let second = &lab.backends[1].namespace;
    second.ip(&format!("addr add {MOVING}/24 dev eth0\n"))?;
    let (vip, first) = (VIP_DR.0.to_string(), lab.backends[0].v4.to_string());
    lvx.serve(&format!("tcp://{vip}:80"), "dr", "rr", [first.as_str(), MOVING])?;
    let both = [("b1".to_owned(), 3), ("b2".to_owned(), 3)].into();
    let moving = format!("{MOVING}:80");
    wait_for(&lvx, &moving, "up")?;
    assert_eq!(requests(&lab.client, &vip, 6)?, both);

    lab.balancer.ip(&format!("addr add {MOVING}/32 dev lo\n"))?;
    wait_for(&lvx, &moving, "unreachable")?;
    ensure!(told(&lvx, &moving)?.1.contains("is an address of this machine"));
    assert_eq!(requests(&lab.client, &vip, 6)?, [("b1".to_owned(), 6)].into());

    lab.balancer.ip(&format!("addr del {MOVING}/32 dev lo\n"))?;
    wait_for(&lvx, &moving, "up")?;
    assert_eq!(requests(&lab.client, &vip, 6)?, both);
    Ok(())
}
