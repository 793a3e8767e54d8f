//! What is not for a service passes the balancer as if it were not there.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use lvx_tests::{
    Balancer, Lab,
    wire::{Capture, Direction},
};

/// A balancer with services in all forms.
fn serving(lab: &Lab) -> Result<Balancer<'_>> {
    let lvx = Balancer::start(lab)?;
    lvx.serve("tcp://10.0.0.100:80", "dr", "mh", ["10.0.0.11"])?;
    lvx.serve("udp://10.0.0.101:53", "nat", "mh", ["10.0.0.11"])?;
    lvx.serve("tcp://[fd00::100]:80", "dr", "mh", ["fd00::11"])?;
    lvx.serve("udp://[fd00::101]:53", "nat", "mh", ["fd00::11"])?;
    Ok(lvx)
}

#[test]
fn a_conversation_with_the_balancers_own_address_goes_on() -> Result<()> {
    const BYTES: usize = 1 << 20;
    let lab = Lab::one_armed()?;
    for (listen, connect) in [
        ("10.0.0.2:22", "10.0.0.2:22"),
        // The services' port, on an address that is none.
        ("10.0.0.2:80", "10.0.0.2:80"),
        ("[fd00::2]:22", "[fd00::2]:22"),
    ] {
        let server = lab.balancer.inside(|| TcpListener::bind(listen))??;
        let mut client = lab.client.inside(|| TcpStream::connect(connect))??;
        client.set_read_timeout(Some(Duration::from_secs(10)))?;
        let (mut served, _) = server.accept()?;
        let echo = thread::spawn(move || -> Result<()> {
            let mut buffer = vec![0; BYTES];
            for _ in 0..2 {
                served.read_exact(&mut buffer)?;
                served.write_all(&buffer)?;
            }
            Ok(())
        });
        let sent: Vec<u8> = (0..BYTES).map(|at| (at * 31) as u8).collect();
        let mut received = vec![0; BYTES];
        client.write_all(&sent)?;
        client.read_exact(&mut received)?;
        assert!(received == sent);
        // The connection began before the program came, and goes on under it.
        let lvx = serving(&lab)?;
        client.write_all(&sent)?;
        client.read_exact(&mut received)?;
        assert!(received == sent);
        assert!(echo.join().is_ok_and(|echoed| echoed.is_ok()));
        let mut later = lab.client.inside(|| TcpStream::connect(connect))??;
        later.write_all(b"hello")?;
        lvx.detach()?;
    }
    Ok(())
}

#[test]
fn arp_neighbour_discovery_and_ping_go_on() -> Result<()> {
    let lab = Lab::one_armed()?;
    let _lvx = serving(&lab)?;
    for host in [&lab.client, &lab.balancer] {
        host.ip("neigh flush dev eth0\n")?;
        host.ip6("neigh flush dev eth0\n")?;
    }
    let ping =
        |from: &lvx_tests::Namespace, address: &str| from.run("ping", ["-c", "2", "-i", "0.2", "-W", "3", address]);
    for address in ["10.0.0.2", "fd00::2"] {
        ping(&lab.client, address)?;
    }
    for address in ["10.0.0.1", "fd00::1", "10.0.0.11", "fd00::11"] {
        ping(&lab.balancer, address)?;
    }
    let neighbours = lab.balancer.run("ip", ["neigh", "show", "dev", "eth0"])?
        + &lab.balancer.run("ip", ["-6", "neigh", "show", "dev", "eth0"])?;
    for address in ["10.0.0.1 ", "fd00::1 "] {
        assert!(
            neighbours
                .lines()
                .any(|line| line.starts_with(address) && line.contains("lladdr")),
            "{neighbours}"
        );
    }
    Ok(())
}

#[test]
fn the_balancer_goes_on_speaking_in_its_own_name() -> Result<()> {
    let lab = Lab::one_armed()?;
    let _lvx = serving(&lab)?;
    // RFC 6724 would choose an IPv6 VIP for its longer prefix, unless it is deprecated.
    for (to, own) in [("10.0.0.11", "10.0.0.2"), ("fd00::11", "fd00::2")] {
        let route = lab.balancer.run("ip", ["route", "get", to])?;
        assert!(route.contains(&format!("src {own} ")), "{route}");
    }
    Ok(())
}

#[test]
fn a_datagram_that_is_for_no_service_arrives_byte_for_byte() -> Result<()> {
    const FILTER: &str = "udp";
    let lab = Lab::one_armed()?;
    let _lvx = serving(&lab)?;
    let capture =
        |namespace, direction, name| Capture::start(namespace, "eth0", direction, FILTER, lab.directory(), name);
    let sent = capture(&lab.client, Direction::Out, "sent")?;
    let received = capture(&lab.balancer, Direction::In, "received")?;
    for (any, targets) in [
        ("0.0.0.0:0", ["10.0.0.2:53", "10.0.0.101:54", "10.0.0.100:80"]),
        ("[::]:0", ["[fd00::2]:53", "[fd00::101]:54", "[fd00::100]:80"]),
    ] {
        let socket = lab.client.inside(|| UdpSocket::bind(any))??;
        for target in targets {
            // From nothing over odd and even sizes to two fragments.
            for size in [0_usize, 1, 2, 17, 18, 19, 511, 1000, 1400, 2000] {
                let bytes: Vec<u8> = (0..size).map(|at| (at * 13 + size) as u8).collect();
                socket.send_to(&bytes, target)?;
            }
        }
    }
    thread::sleep(Duration::from_millis(300));
    let (sent, received) = (sent.stop()?, received.stop()?);
    ensure!(sent.len() >= 60, "only {} frames were sent", sent.len());
    assert_eq!(sent.len(), received.len());
    for (sent, received) in sent.iter().zip(&received) {
        assert!(sent == received, "\n{sent:02x?}\n{received:02x?}");
    }
    Ok(())
}
