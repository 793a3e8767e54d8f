//! NAT services that share a backend: each is answered in its own name, whatever ports clients use again.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lvx_tests::{
    Balancer, Lab,
    datagram::Echo,
    load::{self, End, Held},
    topology::{CLIENT, VIP_NAT},
};

/// Ports that the client uses for each service in turn.
const PORTS: u16 = 100;
/// A datagram's answer that has not come by then will not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// The addresses of one family: the client's, those of two services, the backend's.
struct Addresses {
    client: IpAddr,
    vips: [IpAddr; 2],
    backend: IpAddr,
}

fn families(lab: &Lab) -> [Addresses; 2] {
    let backend = &lab.backends[0];
    let second = (VIP_NAT.0.octets(), VIP_NAT.1.segments());
    let (mut v4, mut v6) = second;
    v4[3] += 1;
    v6[7] += 1;
    [
        Addresses {
            client: CLIENT.0.into(),
            vips: [VIP_NAT.0.into(), v4.into()],
            backend: backend.v4.into(),
        },
        Addresses {
            client: CLIENT.1.into(),
            vips: [VIP_NAT.1.into(), v6.into()],
            backend: backend.v6.into(),
        },
    ]
}

/// Adds both services under NAT, with the same backends in turn; their addresses.
fn serve(
    lvx: &Balancer<'_>,
    protocol: &str,
    vips: [IpAddr; 2],
    port: u16,
    backends: &[IpAddr],
) -> Result<[SocketAddr; 2]> {
    let services = vips.map(|vip| SocketAddr::new(vip, port));
    let backends: Vec<String> = backends.iter().map(ToString::to_string).collect();
    for service in services {
        let name = format!("{protocol}://{service}");
        lvx.serve(&name, "nat", "rr", backends.iter().map(String::as_str))?;
    }
    Ok(services)
}

#[test]
fn connections_from_one_port_to_two_services_are_all_answered() -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start(&lab)?;
    for addresses in families(&lab) {
        let services = serve(&lvx, "tcp", addresses.vips, 80, &[addresses.backend])?;
        for port in 0..PORTS {
            for service in services.iter().cycle().take(6) {
                let from = SocketAddr::new(addresses.client, 41_000 + port);
                let (backend, _) = load::from_port(&lab.client, from, *service, End::Orderly)
                    .with_context(|| format!("{service} from {from}"))?;
                assert_eq!(backend, "b1");
            }
        }
    }
    Ok(())
}

#[test]
fn datagrams_from_one_port_to_two_services_are_answered_by_the_service_that_was_asked() -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start(&lab)?;
    for addresses in families(&lab) {
        let services = serve(&lvx, "udp", addresses.vips, 7, &[addresses.backend])?;
        let _echo = Echo::start(&lab.backends[0], SocketAddr::new(addresses.backend, 7))?;
        let socket = lab
            .client
            .inside(|| UdpSocket::bind(SocketAddr::new(addresses.client, 41_000)))??;
        socket.set_read_timeout(Some(PATIENCE))?;
        for number in 0..60 {
            let service = services[number % 2];
            let asked = format!("{number}");
            socket.send_to(asked.as_bytes(), service)?;
            let mut buffer = [0; 64];
            let (length, from) = socket.recv_from(&mut buffer)?;
            assert_eq!((&buffer[..length], from), (format!("b1 {asked}").as_bytes(), service));
        }
    }
    Ok(())
}

#[test]
fn two_connections_from_one_port_that_live_at_once_meet_two_backends() -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start(&lab)?;
    for addresses in families(&lab) {
        let both: Vec<IpAddr> = lab.backends[..2]
            .iter()
            .map(|backend| match addresses.client {
                IpAddr::V4(_) => backend.v4.into(),
                IpAddr::V6(_) => backend.v6.into(),
            })
            .collect();
        let services = serve(&lvx, "tcp", addresses.vips, 80, &both)?;
        for port in 0..20 {
            let from = SocketAddr::new(addresses.client, 42_000 + port);
            let mut held = Vec::new();
            for service in services {
                held.push(Held::open_at(&lab.client, from, service)?);
            }
            ensure!(held[0].backend != held[1].backend, "both at {}", held[0].backend);
            for each in &mut held {
                let before = each.backend.clone();
                assert_eq!(each.ask()?, before);
            }
        }
    }
    Ok(())
}
