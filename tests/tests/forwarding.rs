//! Requests through the balancer: all are answered, by the backends that the scheduler names, and what passes on the
//! wires is right to the last checksum.

use std::{io::ErrorKind, net::UdpSocket, time::Duration};

use anyhow::Result;
use lvx_tests::{
    Balancer, Lab, Options,
    client::{self, Answers},
    topology::{Backend, VIP_DR, VIP_NAT},
    wire::{self, Capture, Direction},
};

/// The four ways: the VIP as it stands in a URL, and how its packets are forwarded.
fn ways() -> [(String, &'static str); 4] {
    [
        (VIP_DR.0.to_string(), "dr"),
        (format!("[{}]", VIP_DR.1), "dr"),
        (VIP_NAT.0.to_string(), "nat"),
        (format!("[{}]", VIP_NAT.1), "nat"),
    ]
}

/// The backend's address of the VIP's family.
fn address(backend: &Backend, host: &str) -> String {
    if host.starts_with('[') {
        backend.v6.to_string()
    } else {
        backend.v4.to_string()
    }
}

/// Adds the service `tcp://HOST:80` with all backends.
fn serve(lab: &Lab, lvx: &Balancer<'_>, host: &str, forward: &str, scheduler: &str) -> Result<()> {
    let backends: Vec<_> = lab.backends.iter().map(|b| address(b, host)).collect();
    lvx.serve(
        &format!("tcp://{host}:80"),
        forward,
        scheduler,
        backends.iter().map(String::as_str),
    )
}

/// What part of the answers came from each of the three backends, in percent.
fn shares(answers: &Answers) -> [f64; 3] {
    let all: usize = answers.values().sum();
    ["b1", "b2", "b3"].map(|name| {
        let count = answers.get(name).copied().unwrap_or(0);
        100.0 * count as f64 / all as f64
    })
}

fn all_requests_are_answered(lab: &Lab, options: Options) -> Result<()> {
    let lvx = Balancer::start_with(lab, options)?;
    for (host, forward) in ways() {
        serve(lab, &lvx, &host, forward, "rr")?;
        let answers = client::requests(&lab.client, &host, 300)?;
        assert_eq!(
            answers.values().copied().collect::<Vec<_>>(),
            [100, 100, 100],
            "{forward} {host}: {answers:?}"
        );
    }
    Ok(())
}

#[test]
fn with_backends_behind_the_clients_interface_300_of_300_requests_are_answered() -> Result<()> {
    all_requests_are_answered(&Lab::one_armed()?, Options::default())
}

#[test]
fn with_backends_behind_another_interface_300_of_300_requests_are_answered() -> Result<()> {
    all_requests_are_answered(&Lab::two_armed()?, Options::default())
}

#[test]
fn in_generic_mode_300_of_300_requests_are_answered() -> Result<()> {
    let options = Options {
        mode: Some("generic".into()),
        ..Options::default()
    };
    all_requests_are_answered(&Lab::two_armed()?, options)
}

#[test]
fn with_wrr_each_backends_share_is_its_weight() -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start(&lab)?;
    for (host, forward) in ways() {
        serve(&lab, &lvx, &host, forward, "wrr")?;
        let service = format!("tcp://{host}:80");
        for (backend, weight) in lab.backends.iter().zip(["1", "2", "3"]) {
            let backend = address(backend, &host);
            lvx.lvx(["backend", "set", &service, &backend, "--weight", weight])?;
        }
        let answers = client::requests(&lab.client, &host, 300)?;
        for (share, weight) in shares(&answers).into_iter().zip([1.0, 2.0, 3.0]) {
            let wanted = 100.0 * weight / 6.0;
            assert!((share - wanted).abs() <= 2.0, "{forward} {host}: {answers:?}");
        }
    }
    Ok(())
}

#[test]
fn with_mh_each_of_three_equal_backends_gets_about_a_third() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    for (host, forward) in ways() {
        serve(&lab, &lvx, &host, forward, "mh")?;
        // Each request comes from another port. With 900, the limits are five standard deviations away.
        let answers = client::requests(&lab.client, &host, 900)?;
        for share in shares(&answers) {
            assert!((25.0..=42.0).contains(&share), "{forward} {host}: {answers:?}");
        }
    }
    Ok(())
}

#[test]
fn nat_reaches_a_backend_on_another_port() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    let v4 = format!("{}:8080", lab.backends[0].v4);
    let v6 = format!("[{}]:8080", lab.backends[1].v6);
    lvx.serve("tcp://10.0.0.101:80", "nat", "mh", [v4.as_str()])?;
    lvx.serve("tcp://[fd00::101]:80", "nat", "mh", [v6.as_str()])?;
    let answers = client::requests(&lab.client, "10.0.0.101", 10)?;
    assert_eq!(answers, [("b1".to_owned(), 10)].into());
    let answers = client::requests(&lab.client, "[fd00::101]", 10)?;
    assert_eq!(answers, [("b2".to_owned(), 10)].into());
    Ok(())
}

fn bodies_are_intact(lab: &Lab) -> Result<()> {
    let lvx = Balancer::start(lab)?;
    for (host, forward) in ways() {
        serve(lab, &lvx, &host, forward, "rr")?;
    }
    let mut captures = Vec::new();
    for (name, namespace) in lab
        .backends
        .iter()
        .map(|b| (b.name.as_str(), &b.namespace))
        .chain([("client", &lab.client)])
    {
        captures.push(Capture::start(
            namespace,
            "eth0",
            Direction::Both,
            "",
            lab.directory(),
            name,
        )?);
    }
    let sent = lab.body("1m.bin")?;
    for (host, forward) in ways() {
        for turn in 0..3 {
            let url = format!("http://{host}/data/1m.bin");
            let name = format!("body{turn}");
            let received = client::download(&lab.client, &url, lab.directory(), &name)?;
            assert!(received == sent, "{forward} {host}: the body has changed");
        }
    }
    for capture in captures {
        let checked = wire::check(&capture.stop()?)?;
        assert!(checked.tcp > 1000, "{checked:?}");
    }
    Ok(())
}

#[test]
fn a_body_of_1_mib_arrives_intact_and_no_checksum_is_wrong_on_any_wire_one_armed() -> Result<()> {
    bodies_are_intact(&Lab::one_armed()?)
}

#[test]
fn a_body_of_1_mib_arrives_intact_and_no_checksum_is_wrong_on_any_wire_two_armed() -> Result<()> {
    bodies_are_intact(&Lab::two_armed()?)
}

#[test]
fn datagrams_are_answered_in_the_name_of_the_vip_with_right_checksums() -> Result<()> {
    const ROUNDS: usize = 50;
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start(&lab)?;
    let backend = &lab.backends[0];
    let capture = Capture::start(&lab.client, "eth0", Direction::Both, "udp", lab.directory(), "udp")?;
    for (host, forward) in ways() {
        let listen = if forward == "dr" {
            format!("{host}:5300")
        } else if host.starts_with('[') {
            format!("[{}]:5300", backend.v6)
        } else {
            format!("{}:5300", backend.v4)
        };
        let server = backend.namespace.inside(|| UdpSocket::bind(&listen))??;
        server.set_read_timeout(Some(Duration::from_secs(10)))?;
        let service = format!("udp://{host}:5300");
        let address = address(backend, &host);
        lvx.serve(&service, forward, "mh", [address.as_str()])?;

        let any = if host.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let client = lab.client.inside(|| UdpSocket::bind(any))??;
        client.set_read_timeout(Some(Duration::from_secs(2)))?;
        // Connected: an answer from any other address does not arrive.
        client.connect(format!("{host}:5300"))?;
        let mut buffer = [0; 2000];
        for size in (0..ROUNDS).map(|round| round * 29) {
            let sent: Vec<u8> = (0..size).map(|at| (at * 7 + size) as u8).collect();
            client.send(&sent)?;
            let (length, from) = server.recv_from(&mut buffer)?;
            assert_eq!(from, client.local_addr()?, "the client's address is kept");
            server.send_to(&buffer[..length], from)?;
            let length = client.recv(&mut buffer)?;
            assert!(buffer[..length] == sent, "{forward} {host}: {size} bytes");
        }
    }
    let checked = wire::check(&capture.stop()?)?;
    assert_eq!(checked.udp, 4 * 2 * ROUNDS);
    Ok(())
}

#[test]
fn a_client_learns_that_the_backends_port_is_closed_through_nat() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    let capture = Capture::start(
        &lab.client,
        "eth0",
        Direction::In,
        "icmp or icmp6",
        lab.directory(),
        "icmp",
    )?;
    for (host, backend, any) in [
        ("10.0.0.101", lab.backends[0].v4.to_string(), "0.0.0.0:0"),
        ("[fd00::101]", lab.backends[0].v6.to_string(), "[::]:0"),
    ] {
        lvx.serve(&format!("udp://{host}:5300"), "nat", "mh", [backend.as_str()])?;
        let client = lab.client.inside(|| UdpSocket::bind(any))??;
        client.set_read_timeout(Some(Duration::from_secs(5)))?;
        client.connect(format!("{host}:5300"))?;
        client.send(b"is anybody there?")?;
        // The ICMP error quotes the packet that the client sent, or the kernel would not find its socket.
        let error = client.recv(&mut [0; 100]).expect_err("nobody can have answered");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{host}");
    }
    assert!(wire::check(&capture.stop()?)?.icmp >= 2);
    Ok(())
}
