//! The lab's network: who stands where, with which addresses.
//!
//! ```text
//! one-armed                               two-armed
//!
//!  client   balancer   b1 b2 b3            client --[br0]-- balancer --[br1]-- b1 b2 b3
//!     |         |       |  |  |                      |                   |
//!  ---+---------+--[br0]+--+--+---                   +----- router ------+
//! ```
//!
//! One-armed, all hosts share one network: packets leave through the interface they came from. Two-armed, the balancer
//! has the clients on `eth0` and the backends on `eth1`, and what a backend sends in its own name of a VIP (direct
//! routing) goes back over a router beside the balancer. What it sends from its own address goes through the balancer
//! in both, as NAT needs it. The bridges live in a namespace of their own, the switch.
//!
//! Frames on these links are what they are on real ones: of at most the MTU, with full checksums. The kernel would
//! spare itself both between virtual interfaces (segmentation and checksum offload, receive merging), and an XDP
//! program would then show things that no network card delivers.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::Result;
use tempfile::TempDir;

use crate::{
    Namespace, leftovers,
    namespace::STATIC_ADDRESSES,
    nginx::{self, Nginx},
};

/// The client's addresses.
pub const CLIENT: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 0, 0, 1), v6(0, 0x1));
/// The balancer's own addresses, towards the client.
pub const BALANCER: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 0, 0, 2), v6(0, 0x2));
/// The balancer's own addresses towards the backends, when two-armed.
pub const BALANCER_INSIDE: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 0, 1, 2), v6(1, 0x2));
/// The addresses of the router beside the balancer, when two-armed: towards the client and towards the backends.
const ROUTER: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 0, 0, 254), v6(0, 0x254));
const ROUTER_INSIDE: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 0, 1, 254), v6(1, 0x254));
/// The virtual addresses that the backends have on their loopback, for direct routing.
pub const VIP_DR: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 0, 0, 100), v6(0, 0x100));
/// The virtual addresses that no backend knows, for NAT.
pub const VIP_NAT: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 0, 0, 101), v6(0, 0x101));
/// How many backends there are.
pub const BACKENDS: u8 = 3;

/// `fd00:0:0:NETWORK::HOST`
const fn v6(network: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, network, 0, 0, 0, host)
}

/// Through how many interfaces the balancer sees the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arms {
    /// Clients and backends behind `eth0`.
    One,
    /// Clients behind `eth0`, backends behind `eth1`.
    Two,
}

impl Arms {
    /// The balancer's interfaces, the clients' first.
    pub fn interfaces(self) -> &'static [&'static str] {
        match self {
            Self::One => &["eth0"],
            Self::Two => &["eth0", "eth1"],
        }
    }
}

/// A backend: its namespace with an nginx that answers with its name.
#[derive(Debug)]
pub struct Backend {
    /// `b1`, `b2`, `b3`: what nginx answers.
    pub name: String,
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its address.
    pub v6: Ipv6Addr,
    // Before the namespace: fields are dropped in this order.
    _nginx: Nginx,
    /// Where it runs.
    pub namespace: Namespace,
}

/// The whole network with its programs, without the balancer's.
#[derive(Debug)]
pub struct Lab {
    /// What the lab's names begin with.
    pub id: String,
    /// How the balancer is connected.
    pub arms: Arms,
    /// The three backends.
    pub backends: Vec<Backend>,
    /// Where requests come from.
    pub client: Namespace,
    /// Where `lvx` will run.
    pub balancer: Namespace,
    _router: Option<Namespace>,
    switch: Switch,
    directory: TempDir,
}

impl Lab {
    /// Clients and backends behind one interface of the balancer.
    pub fn one_armed() -> Result<Self> {
        Self::new(Arms::One)
    }

    /// Clients behind one interface of the balancer, backends behind another.
    pub fn two_armed() -> Result<Self> {
        Self::new(Arms::Two)
    }

    /// Builds the network and starts the backends.
    pub fn new(arms: Arms) -> Result<Self> {
        leftovers::remove()?;
        let id = leftovers::prefix();
        let directory = tempfile::Builder::new().prefix(&format!("{id}-")).tempdir()?;
        nginx::write_bodies(directory.path())?;

        let switch = Switch::new(&id, arms)?;
        let client = switch.host(&id, "client", &[("eth0", "br0")])?;
        let balancer = switch.host(
            &id,
            "lb",
            match arms {
                Arms::One => &[("eth0", "br0")],
                Arms::Two => &[("eth0", "br0"), ("eth1", "br1")],
            },
        )?;
        address(&client, "eth0", CLIENT)?;
        address(&balancer, "eth0", BALANCER)?;
        forward(&balancer)?;
        let router = match arms {
            Arms::One => None,
            Arms::Two => {
                address(&balancer, "eth1", BALANCER_INSIDE)?;
                let router = switch.host(&id, "router", &[("eth0", "br0"), ("eth1", "br1")])?;
                address(&router, "eth0", ROUTER)?;
                address(&router, "eth1", ROUTER_INSIDE)?;
                forward(&router)?;
                // So that the client reaches the backends' own addresses too.
                client.ip("route add 10.0.1.0/24 via 10.0.0.2\n\
                     route add fd00:0:0:1::/64 via fd00::2\n")?;
                Some(router)
            }
        };
        let backends = (1..=BACKENDS)
            .map(|number| backend(&switch, &id, arms, number, directory.path()))
            .collect::<Result<_>>()?;
        Ok(Self {
            id,
            arms,
            backends,
            client,
            balancer,
            _router: router,
            switch,
            directory,
        })
    }

    /// A directory for the lab's files, removed with it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The namespace with the bridges: the other end of the balancer's `eth1` is its `lb.eth1`.
    pub fn switch(&self) -> &Namespace {
        &self.switch.namespace
    }

    /// Makes another host on the clients' bridge, with `eth0` and no address.
    pub fn attach(&self, name: &str) -> Result<Namespace> {
        self.switch.host(&self.id, name, &[("eth0", "br0")])
    }

    /// Connects the balancer to a bridge again by an interface that was deleted, with this index if one is given. It has no
    /// address.
    pub fn plug(&self, interface: &str, bridge: &str, index: Option<u64>) -> Result<()> {
        self.switch.plug(&self.balancer, "lb", (interface, bridge), index)
    }

    /// Makes another host without any cable: see [`Lab::cable`].
    pub fn stranger(&self, name: &str) -> Result<Namespace> {
        self.switch.host(&self.id, name, &[])
    }

    /// Connects two hosts by a cable of their own.
    pub fn cable(&self, one: &Namespace, interface: &str, other: &Namespace, others: &str) -> Result<()> {
        one.ip(&format!(
            "link add name {interface} type veth peer name {others} netns {}\n",
            other.name()
        ))?;
        for (host, interface) in [(one, interface), (other, others)] {
            host.offload(interface, &["tx", "off"])?;
            host.ip(&format!("link set {interface} gro_max_size 1500 up\n"))?;
        }
        Ok(())
    }

    /// The bytes that a backend serves under `name` (see [`nginx`]).
    pub fn body(&self, name: &str) -> Result<Vec<u8>> {
        Ok(fs::read(nginx::bodies(self.directory()).join(name))?)
    }
}

/// The namespace with the bridges.
#[derive(Debug)]
struct Switch {
    namespace: Namespace,
}

impl Switch {
    fn new(id: &str, arms: Arms) -> Result<Self> {
        let namespace = Namespace::create(&format!("{id}-switch"))?;
        // The bridges themselves speak to nobody.
        namespace.sysctl(&[("ipv6/conf/default/disable_ipv6", "1")])?;
        let bridges: &[&str] = match arms {
            Arms::One => &["br0"],
            Arms::Two => &["br0", "br1"],
        };
        for bridge in bridges {
            namespace.ip(&format!(
                "link add name {bridge} type bridge mcast_snooping 0\n\
                 link set {bridge} up\n"
            ))?;
        }
        Ok(Self { namespace })
    }

    /// Makes a host with one cable for each of `cables`: its interface, and the bridge at the other end.
    fn host(&self, id: &str, name: &str, cables: &[(&str, &str)]) -> Result<Namespace> {
        let host = Namespace::create(&format!("{id}-{name}"))?;
        host.sysctl(&STATIC_ADDRESSES)?;
        host.sysctl(&[
            // In a balanced network a packet's path back is often another than its path in.
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
            ("ipv4/conf/all/accept_redirects", "0"),
            ("ipv4/conf/default/accept_redirects", "0"),
            ("ipv6/conf/default/accept_redirects", "0"),
        ])?;
        for cable in cables {
            self.plug(&host, name, *cable, None)?;
        }
        Ok(host)
    }

    /// Connects the host of that name by a cable: its interface, which gets this index if one is given, and the bridge.
    fn plug(&self, host: &Namespace, name: &str, (interface, bridge): (&str, &str), index: Option<u64>) -> Result<()> {
        let port = format!("{name}.{interface}");
        let index = index.map_or(String::new(), |index| format!("index {index}"));
        // What is redirected into a virtual interface needs NAPI at the other end, which receive merging brings;
        // the size limit then keeps it from merging anything. (XDP_TX would need an XDP program there, or its last
        // frames wait for the next packet: `veth_xdp_flush` in drivers/net/veth.c.)
        host.ip(&format!(
            "link add name {interface} {index} type veth peer name {port} netns {}\n",
            self.namespace.name()
        ))?;
        self.namespace
            .ip(&format!("link set {port} gro_max_size 1500 master {bridge} up\n"))?;
        self.namespace.offload(&port, &["tx", "off", "gro", "on"])?;
        host.offload(interface, &["tx", "off"])?;
        host.ip(&format!("link set {interface} gro_max_size 1500 up\n"))
    }
}

fn address(host: &Namespace, interface: &str, (v4, v6): (Ipv4Addr, Ipv6Addr)) -> Result<()> {
    host.ip(&format!(
        "addr add {v4}/24 dev {interface}\n\
         addr add {v6}/64 dev {interface} nodad\n"
    ))
}

fn forward(host: &Namespace) -> Result<()> {
    host.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])
}

fn backend(switch: &Switch, id: &str, arms: Arms, number: u8, directory: &Path) -> Result<Backend> {
    let name = format!("b{number}");
    let (network, bridge) = match arms {
        Arms::One => (0, "br0"),
        Arms::Two => (1, "br1"),
    };
    // 10.0.0.11 and fd00::11: the IPv6 address reads like the IPv4 one.
    let v4 = Ipv4Addr::new(10, 0, network, 10 + number);
    let v6 = v6(u16::from(network), 0x10 + u16::from(number));
    let namespace = switch.host(id, &name, &[("eth0", bridge)])?;
    address(&namespace, "eth0", (v4, v6))?;
    // Direct routing: the backend has the VIP, and does not say so to the network.
    namespace.sysctl(&[("ipv4/conf/all/arp_ignore", "1"), ("ipv4/conf/all/arp_announce", "2")])?;
    namespace.ip(&format!(
        "addr add {}/32 dev lo\n\
         addr add {}/128 dev lo nodad\n",
        VIP_DR.0, VIP_DR.1
    ))?;
    match arms {
        // Answers in the VIP's name go straight to the client, which is on the same network; what comes from the
        // backend's own address goes through the balancer although the client is near.
        Arms::One => {
            namespace.ip(&format!(
                "route add default via {} table 100\n\
                 rule add from {v4} to {} lookup 100\n",
                BALANCER.0, CLIENT.0
            ))?;
            namespace.ip6(&format!(
                "route add default via {} table 100\n\
                 rule add from {v6} to {} lookup 100\n",
                BALANCER.1, CLIENT.1
            ))?;
        }
        Arms::Two => {
            namespace.ip(&format!(
                "route add default via {}\n\
                 route add default via {} table 100\n\
                 rule add from {} lookup 100\n",
                BALANCER_INSIDE.0, ROUTER_INSIDE.0, VIP_DR.0
            ))?;
            namespace.ip6(&format!(
                "route add default via {}\n\
                 route add default via {} table 100\n\
                 rule add from {} lookup 100\n",
                BALANCER_INSIDE.1, ROUTER_INSIDE.1, VIP_DR.1
            ))?;
        }
    }
    let nginx = Nginx::start(&namespace, &name, directory)?;
    Ok(Backend {
        name,
        v4,
        v6,
        _nginx: nginx,
        namespace,
    })
}
