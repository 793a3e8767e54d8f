//! Answers under NAT go back by the way that the client's packets came, and follow it where that changes while the client is silent.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lvx_tests::{Balancer, Lab, load, process::wait_until, topology::VIP_NAT};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(60);
/// The client behind the routers.
const FAR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 5);

#[test]
fn what_a_backend_pushes_finds_the_router_that_has_taken_another_s_place() -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start(&lab)?;
    let far = lab.stranger("far")?;
    let routers = [lab.attach("r1")?, lab.attach("r2")?];
    far.ip(&format!("addr add {FAR}/32 dev lo\nlink set lo up\n"))?;
    for (router, number) in routers.iter().zip(1..) {
        lab.cable(router, "far", &far, &format!("r{number}"))?;
        router.ip(&format!(
            "addr add 10.9.{number}.1/24 dev far\nroute add {FAR}/32 via 10.9.{number}.2\n"
        ))?;
        far.ip(&format!("addr add 10.9.{number}.2/24 dev r{number}\n"))?;
        router.sysctl(&[("ipv4/ip_forward", "1"), ("ipv4/conf/eth0/arp_notify", "1")])?;
    }
    routers[0].ip("addr add 10.0.0.253/24 dev eth0\n")?;
    far.ip(&format!("route add default via 10.9.1.1 src {FAR}\n"))?;
    lab.balancer.ip("route add 10.9.0.0/24 via 10.0.0.253\n")?;

    let address = SocketAddr::new(VIP_NAT.0.into(), 7000);
    let backend = lab.backends[0].v4;
    lvx.serve(&format!("tcp://{address}"), "nat", "rr", [backend.to_string().as_str()])?;
    let listener = lab.backends[0]
        .namespace
        .inside(|| TcpListener::bind((backend, 7000)))??;
    let (push, told) = mpsc::channel();
    let server = thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.read_exact(&mut [0])?;
        stream.write_all(b"!")?;
        told.recv_timeout(LIMIT)?;
        stream.write_all(b"news")?;
        Ok(())
    });
    let mut client = far.inside(|| load::connect(Some(SocketAddr::new(FAR.into(), 0)), address))??;
    client.set_read_timeout(Some(LIMIT))?;

    client.write_all(b"?")?;
    client.read_exact(&mut [0])?;
    wait_until("the client is silent", LIMIT, || {
        let conns = lvx.lvx(["conns", "-o", "json"])?;
        let conn: serde_json::Value = serde_json::from_str(conns.lines().next().context("no connection")?)?;
        Ok(conn["idle_seconds"].as_u64() >= Some(2))
    })?;

    // The client is silent while its router dies and another takes its address.
    routers[0].ip("link set eth0 down\n")?;
    far.ip(&format!("route replace default via 10.9.2.1 src {FAR}\n"))?;
    // Linux announces its addresses when an interface has got another MAC (`arp_notify`).
    routers[1].ip("addr add 10.0.0.253/24 dev eth0\nlink set eth0 address 02:00:00:00:09:09\n")?;
    push.send(())?;
    let mut news = String::new();
    client.read_to_string(&mut news)?;
    ensure!(news == "news", "{news:?}\n{}", lvx.log());
    server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    Ok(())
}
