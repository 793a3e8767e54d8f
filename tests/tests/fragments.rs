//! Beyond the 5-tuple: datagrams of several fragments, and path MTUs that are learnt by ICMP errors, through direct
//! routing and NAT, over IPv4 and IPv6.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lvx_tests::{
    Arms, Balancer, Lab,
    client::Download,
    datagram::{Client, Echo},
    narrow::{self, NARROW, Narrow},
    topology::{BALANCER, CLIENT, VIP_DR, VIP_NAT},
    wire::{Capture, Direction},
};

const PATIENCE: Duration = Duration::from_secs(2);

/// The four ways: the VIP, and how its packets are forwarded.
fn ways() -> [(IpAddr, &'static str); 4] {
    [
        (VIP_DR.0.into(), "dr"),
        (VIP_DR.1.into(), "dr"),
        (VIP_NAT.0.into(), "nat"),
        (VIP_NAT.1.into(), "nat"),
    ]
}

/// The backends' addresses of the VIP's family.
fn addresses(lab: &Lab, vip: IpAddr) -> Vec<IpAddr> {
    let address = |backend: &lvx_tests::topology::Backend| -> IpAddr {
        if vip.is_ipv4() {
            backend.v4.into()
        } else {
            backend.v6.into()
        }
    };
    lab.backends.iter().map(address).collect()
}

fn a_datagram_of_3000_bytes_is_answered(arms: Arms) -> Result<()> {
    let lab = Lab::new(arms)?;
    let lvx = Balancer::start(&lab)?;
    let capture = Capture::start(
        &lab.client,
        "eth0",
        Direction::Out,
        "(ip and (ip[6:2] & 0x3fff != 0)) or (ip6 and ip6[6] == 44)",
        lab.directory(),
        "fragments",
    )?;
    let mut datagrams = 0;
    for (vip, forward) in ways() {
        let service = SocketAddr::new(vip, 5300);
        let backends = addresses(&lab, vip);
        let _servers = lab
            .backends
            .iter()
            .zip(&backends)
            .map(|(backend, address)| {
                let listen = if forward == "dr" { vip } else { *address };
                Echo::start(backend, SocketAddr::new(listen, 5300))
            })
            .collect::<Result<Vec<_>>>()?;
        let backends: Vec<_> = backends.iter().map(ToString::to_string).collect();
        lvx.serve(
            &format!("udp://{service}"),
            forward,
            "rr",
            backends.iter().map(String::as_str),
        )?;
        for size in [3000, 1473, 8000] {
            let client = Client::of(&lab.client, service)?;
            let payload: Vec<u8> = (0..size).map(|at| (at * 7) as u8).collect();
            let mut names = Vec::new();
            for _ in 0..5 {
                let name = client.ask(&payload, PATIENCE)?;
                names.push(name.with_context(|| format!("{forward} {vip}: {size} bytes were not answered"))?);
                datagrams += 1;
            }
            ensure!(
                names.windows(2).all(|pair| pair[0] == pair[1]),
                "{forward} {vip}: {names:?}"
            );
        }
    }
    let fragments = capture.stop()?.len();
    ensure!(
        fragments >= 2 * datagrams,
        "{fragments} fragments of {datagrams} datagrams"
    );
    Ok(())
}

#[test]
fn a_datagram_of_3000_bytes_goes_and_comes_in_fragments_one_armed() -> Result<()> {
    a_datagram_of_3000_bytes_is_answered(Arms::One)
}

#[test]
fn a_datagram_of_3000_bytes_goes_and_comes_in_fragments_two_armed() -> Result<()> {
    a_datagram_of_3000_bytes_is_answered(Arms::Two)
}

#[test]
fn a_backend_learns_of_a_narrow_link_before_the_client() -> Result<()> {
    let lab = Lab::one_armed()?;
    let narrow = Narrow::new(&lab)?;
    narrow.route(&lab.balancer)?;
    for backend in &lab.backends {
        narrow.route(&backend.namespace)?;
        // As NAT needs it: what comes from the backend's own address goes through the balancer.
        backend
            .namespace
            .ip(&format!("rule add from {} to 10.0.9.0/24 lookup 100\n", backend.v4))?;
        backend
            .namespace
            .ip6(&format!("rule add from {} to fd00:0:0:9::/64 lookup 100\n", backend.v6))?;
    }
    let lvx = Balancer::start(&lab)?;
    let body = lab.body("1m.bin")?;
    for (vip, forward) in ways() {
        let service = SocketAddr::new(vip, 80);
        let backend = addresses(&lab, vip)[0];
        lvx.serve(
            &format!("tcp://{service}"),
            forward,
            "mh",
            [backend.to_string().as_str()],
        )?;
        let url = format!("http://{service}/data/1m.bin");
        let download = Download::start(
            &narrow.host,
            &url,
            lab.directory(),
            &format!("{forward}-{}", vip.is_ipv4()),
        )?;
        let received = download.finish(Duration::from_secs(30));
        let received =
            received.with_context(|| format!("{forward} {vip}: {}", lvx.lvx(["stats"]).unwrap_or_default()))?;
        ensure!(received == body, "{forward} {vip}: the body has changed");
        let from = if forward == "dr" { vip } else { backend };
        let to: IpAddr = if vip.is_ipv4() {
            narrow.address.0.into()
        } else {
            narrow.address.1.into()
        };
        let mtu = narrow::learnt(&lab.backends[0].namespace, &from.to_string(), &to.to_string())?;
        assert_eq!(mtu, Some(NARROW), "{forward} {vip}: what the backend has learnt");
    }
    Ok(())
}

/// Sends 1 MiB to `service`, whose server sends the number of bytes back.
fn upload(lab: &Lab, service: SocketAddr) -> Result<u64> {
    const SIZE: usize = 1 << 20;
    lab.client.inside(|| -> Result<u64> {
        let mut stream = TcpStream::connect_timeout(&service, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(&vec![7; SIZE]).context("sending")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).context("the count")?;
        Ok(u64::from_be_bytes(answer))
    })?
}

#[test]
fn a_client_learns_of_a_narrow_link_behind_nat() -> Result<()> {
    let lab = Lab::one_armed()?;
    let narrow = Narrow::new(&lab)?;
    narrow.route(&lab.balancer)?;
    // What the router and the host say to the client goes through the balancer, as NAT needs it.
    narrow.onward(&format!("{}/32", CLIENT.0), &BALANCER.0.to_string())?;
    narrow.onward(&format!("{}/128", CLIENT.1), &BALANCER.1.to_string())?;
    let lvx = Balancer::start(&lab)?;
    for (vip, host) in [
        (IpAddr::from(VIP_NAT.0), IpAddr::from(narrow.address.0)),
        (VIP_NAT.1.into(), narrow.address.1.into()),
    ] {
        let service = SocketAddr::new(vip, 7000);
        let listener = narrow
            .host
            .inside(|| TcpListener::bind(SocketAddr::new(host, 7000)))??;
        lvx.serve(&format!("tcp://{service}"), "nat", "mh", [host.to_string().as_str()])?;
        let server = thread::spawn(move || -> Result<()> {
            let (mut stream, _) = listener.accept()?;
            let count = std::io::copy(&mut stream, &mut std::io::sink())?;
            Ok(stream.write_all(&count.to_be_bytes())?)
        });
        let received = upload(&lab, service);
        let received = received.with_context(|| format!("{vip}: {}", lvx.lvx(["stats"]).unwrap_or_default()))?;
        assert_eq!(received, 1 << 20, "{vip}");
        let from: IpAddr = if vip.is_ipv4() {
            CLIENT.0.into()
        } else {
            CLIENT.1.into()
        };
        let mtu = narrow::learnt(&lab.client, &from.to_string(), &vip.to_string())?;
        assert_eq!(mtu, Some(NARROW), "{vip}: what the client has learnt");
        server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    }
    Ok(())
}
