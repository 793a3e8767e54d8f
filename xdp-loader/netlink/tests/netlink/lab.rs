//! A balancer and two backends, each a network namespace, removed when dropped.

use std::{net::IpAddr, time::Duration};

use lvx_test_kit::{Namespace, namespace::STATIC_ADDRESSES, process::wait_until};

/// The balancer's interfaces, and the backends'.
pub const BALANCER: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 0], [2, 0, 0, 0, 1, 1]];
pub const BACKEND: [[u8; 6]; 2] = [[2, 0, 0, 0, 2, 0], [2, 0, 0, 0, 2, 1]];
/// Longer than anything here may take; the kernel gives up on a neighbour after three seconds.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn host(role: &str) -> Namespace {
    let host = Namespace::unique(role).unwrap();
    host.sysctl(&STATIC_ADDRESSES).unwrap();
    host
}

/// A balancer with two interfaces, and behind each a backend: `10.0.N.11` and `2001:db8:N::11`.
pub struct Net {
    pub balancer: Namespace,
    pub backends: [Namespace; 2],
}

pub fn net() -> Net {
    let net = Net {
        balancer: host("lb"),
        backends: [host("b0"), host("b1")],
    };
    for (number, backend) in net.backends.iter().enumerate() {
        net.balancer
            .ip(&format!(
                "link add eth{number} address {} type veth peer name eth0 address {} netns {}",
                text(BALANCER[number]),
                text(BACKEND[number]),
                backend.name()
            ))
            .unwrap();
        for (namespace, interface, host) in [
            (&net.balancer, format!("eth{number}"), 1),
            (backend, "eth0".to_owned(), 11),
        ] {
            namespace
                .ip(&format!(
                    "addr add 10.0.{number}.{host}/24 dev {interface}\n\
                     addr add 2001:db8:{number}::{host}/64 dev {interface} nodad\n\
                     link set {interface} up\n"
                ))
                .unwrap();
        }
        backend.ip(&format!("route add default via 10.0.{number}.1")).unwrap();
    }
    // A new veth is without a carrier, and its IPv6 addresses tentative, for up to a second.
    wait_until("the interfaces are up", PATIENCE, || {
        for host in [&net.balancer].into_iter().chain(&net.backends) {
            if !host.run("ip", ["-o", "link", "show", "up"])?.contains("state UP")
                || host.run("ip", ["-o", "link", "show"])?.contains("NO-CARRIER")
                || !host.run("ip", ["-6", "-o", "addr", "show", "tentative"])?.is_empty()
            {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .unwrap();
    net
}
