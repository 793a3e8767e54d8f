//! No backend is left: who asks is told so at once, by a real kernel's word, or gets no answer, as the service says.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result};
use lvx_tests::{
    Balancer, Lab, Options, load,
    topology::{VIP_DR, VIP_NAT},
};

/// An answer that has not come by then will not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a client's kernel says of a connection to there.
fn tcp(lab: &Lab, to: SocketAddr) -> Result<String> {
    let error = load::Held::open(&lab.client, to).err().context("somebody answers")?;
    Ok(format!("{error:#}"))
}

/// What a client's kernel says of a datagram to there.
fn udp(lab: &Lab, to: SocketAddr) -> Result<ErrorKind> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = lab.client.inside(|| UdpSocket::bind((any, 0)))??;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(&[7; 900])?;
    let error = socket.recv(&mut [0; 2_000]).err().context("somebody answers")?;
    Ok(error.kind())
}

/// All services without a backend, by method and family; then one with a backend that is disabled.
fn who_asks_is_told(lab: &Lab, mode: &str) -> Result<()> {
    let options = Options {
        mode: Some(mode.to_owned()),
        ..Options::default()
    };
    let lvx = Balancer::start_with(lab, options)?;
    let vips: [(&str, IpAddr); 4] = [
        ("dr", VIP_DR.0.into()),
        ("dr", VIP_DR.1.into()),
        ("nat", VIP_NAT.0.into()),
        ("nat", VIP_NAT.1.into()),
    ];
    for (forward, vip) in vips {
        let address = SocketAddr::new(vip, 80);
        lvx.serve(&format!("tcp://{address}"), forward, "mh", [])?;
        lvx.serve(&format!("udp://{address}"), forward, "mh", [])?;
        let told = tcp(lab, address)?;
        assert!(told.contains("Connection refused"), "{forward} {told}");
        assert_eq!(udp(lab, address)?, ErrorKind::ConnectionRefused, "{address} {forward}");
    }
    let stats = lvx.lvx(["stats"])?;
    assert!(stats.contains("rejected_no_backend"), "{stats}");
    Ok(())
}

#[test]
fn who_asks_a_service_without_a_backend_is_refused_at_once() -> Result<()> {
    who_asks_is_told(&Lab::one_armed()?, "native")
}

#[test]
fn in_generic_mode_too() -> Result<()> {
    who_asks_is_told(&Lab::two_armed()?, "generic")
}

#[test]
fn where_it_is_dropped_nobody_is_told() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    let to = SocketAddr::new(VIP_DR.0.into(), 80);
    let name = format!("udp://{to}");
    lvx.serve(&name, "dr", "rr", [])?;
    lvx.lvx(["service", "set", &name, "--on-none", "drop"])?;
    assert_eq!(udp(&lab, to)?, ErrorKind::WouldBlock);
    lvx.lvx(["service", "set", &name, "--on-none", "reject"])?;
    assert_eq!(udp(&lab, to)?, ErrorKind::ConnectionRefused);
    Ok(())
}

#[test]
fn a_connection_whose_last_backend_goes_is_reset() -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start(&lab)?;
    let to = SocketAddr::new(VIP_NAT.0.into(), 80);
    let name = format!("tcp://{to}");
    lvx.serve(&name, "nat", "rr", ["10.0.1.11"])?;
    let mut held = load::Held::open(&lab.client, to)?;
    assert_eq!(held.ask()?, "b1");
    lvx.lvx(["backend", "del", &name, "10.0.1.11"])?;
    let error = held.ask().err().context("somebody answers")?;
    assert!(format!("{error:#}").contains("reset"), "{error:#}");
    Ok(())
}
