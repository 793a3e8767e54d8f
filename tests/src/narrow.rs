//! Networks behind a narrow link: two routers with a link of a smaller MTU between them, and a host behind the second.
//!
//! ```text
//! lab's br0 --(1500)-- near ==(NARROW)== far --(1500)-- host
//! ```
//!
//! Neither end of a connection sees the small MTU on an interface of its own: it is learnt by the ICMP errors of the
//! routers (RFC 1191, RFC 8201), or not at all.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::{Lab, Namespace};

/// The small MTU. Not below the 1280 that IPv6 asks of every link.
pub const NARROW: u32 = 1300;

/// A host behind a narrow link.
#[derive(Debug)]
pub struct Narrow {
    /// The host.
    pub host: Namespace,
    /// Its addresses.
    pub address: (Ipv4Addr, Ipv6Addr),
    /// The addresses of the router that the lab sees.
    pub router: (Ipv4Addr, Ipv6Addr),
    _far: Namespace,
    _near: Namespace,
}

/// The network of the host.
const NETWORK: (&str, &str) = ("10.0.9.0/24", "fd00:0:0:9::/64");

impl Narrow {
    /// Makes one on the lab's first bridge, where the client is. Only the lab's balancer and backends know the way to it:
    /// see [`Narrow::route`].
    pub fn new(lab: &Lab) -> Result<Self> {
        let near = lab.attach("near")?;
        near.ip("addr add 10.0.0.253/24 dev eth0\n\
             addr add fd00::253/64 dev eth0 nodad\n")?;
        let far = lab.stranger("far")?;
        let host = lab.stranger("host")?;
        lab.cable(&near, "eth1", &far, "eth0")?;
        lab.cable(&far, "eth1", &host, "eth0")?;
        near.ip(&format!(
            "link set eth1 mtu {NARROW}\n\
             addr add 10.0.8.1/24 dev eth1\n\
             addr add fd00:0:0:8::1/64 dev eth1 nodad\n\
             route add {} via 10.0.8.2\n\
             route add {} via fd00:0:0:8::2\n",
            NETWORK.0, NETWORK.1
        ))?;
        far.ip(&format!(
            "link set eth0 mtu {NARROW}\n\
             addr add 10.0.8.2/24 dev eth0\n\
             addr add fd00:0:0:8::2/64 dev eth0 nodad\n\
             addr add 10.0.9.1/24 dev eth1\n\
             addr add fd00:0:0:9::1/64 dev eth1 nodad\n\
             route add default via 10.0.8.1\n"
        ))?;
        far.ip6("route add default via fd00:0:0:8::1\n")?;
        host.ip("addr add 10.0.9.2/24 dev eth0\n\
             addr add fd00:0:0:9::2/64 dev eth0 nodad\n\
             route add default via 10.0.9.1\n")?;
        host.ip6("route add default via fd00:0:0:9::1\n")?;
        for router in [&near, &far] {
            router.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        }
        Ok(Self {
            host,
            address: (Ipv4Addr::new(10, 0, 9, 2), Ipv6Addr::new(0xfd00, 0, 0, 9, 0, 0, 0, 2)),
            router: (
                Ipv4Addr::new(10, 0, 0, 253),
                Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x253),
            ),
            _far: far,
            _near: near,
        })
    }

    /// Teaches a host on the lab's first bridge the way to the host behind the narrow link.
    pub fn route(&self, host: &Namespace) -> Result<()> {
        host.ip(&format!(
            "route add {} via {}\n\
             route add {} via {}\n",
            NETWORK.0, self.router.0, NETWORK.1, self.router.1
        ))
    }

    /// The way on to elsewhere, for the router that the lab sees.
    pub fn onward(&self, network: &str, via: &str) -> Result<()> {
        self._near.ip(&format!("route add {network} via {via}\n"))
    }
}

/// The MTU that a host has learnt for the way from one of its addresses to another host; none if it is the interface's.
pub fn learnt(host: &Namespace, from: &str, to: &str) -> Result<Option<u32>> {
    let route = host.run("ip", ["route", "get", to, "from", from])?;
    let mut words = route.split_whitespace();
    Ok(words
        .by_ref()
        .find(|word| *word == "mtu")
        .and_then(|_| words.next())
        .and_then(|mtu| mtu.parse().ok()))
}
