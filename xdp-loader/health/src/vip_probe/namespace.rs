//! The network namespace that VIPs are probed from: macvlans, and a route to each backend.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    net::IpAddr,
    os::fd::AsRawFd as _,
};

use futures::TryStreamExt as _;
use netlink_packet_route::{
    address::AddressHeaderFlags,
    link::{LinkAttribute, MacVlanMode},
    neighbour::NeighbourState,
    route::RouteMessage,
    rule::{RuleAction, RuleMessage},
};
use rtnetlink::{LinkMacVlan, LinkUnspec, RouteMessageBuilder};

use super::Wanted;
use lvx_model::settings::ProbeAddress;
use lvx_netlink::{
    Kernel, NetlinkError, NextHop, announce::announcement, claims::Question, frame_socket::FrameSocket, socket::done,
};

/// See the module.
pub(super) struct Namespace {
    /// Asks in the namespace of the interfaces.
    outside: Kernel,
    inside: Kernel,
    own: File,
    addresses: Vec<ProbeAddress>,
    routes: BTreeMap<IpAddr, Route>,
    /// How often an address was announced on a macvlan, which has another MAC after each start.
    announced: BTreeMap<(u32, IpAddr), u32>,
    sender: FrameSocket,
    /// What a backend is not reached by any more, to be used again.
    last_mark: u32,
}

/// An interface of the namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Macvlan {
    index: u32,
    mac: [u8; 6],
}

/// How one backend is reached.
struct Route {
    mark: u32,
    hop: NextHop,
    /// The macvlan: another one when the interface below was made anew.
    macvlan: Macvlan,
    /// The address that probes come from; for IPv6 there need not be one.
    source: Option<ProbeAddress>,
    rule: RuleMessage,
    route: RouteMessage,
}

/// How often a probe address is announced at most: with the first backends that are probed from it.
const ANNOUNCED: u32 = 3;

impl Namespace {
    /// Moves the calling thread into a network namespace of its own. To be called where nothing else runs on it.
    pub(super) fn open(addresses: Vec<ProbeAddress>) -> Result<Self, String> {
        let refuse = |error: &dyn std::fmt::Display| format!("no network namespace for probes: {error}");
        let outside = Kernel::connect().map_err(|error| refuse(&error))?;
        // SAFETY: only the network namespace is unshared; file descriptors and memory stay as they are.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            .map_err(|error| refuse(&error))?;
        let own = File::open("/proc/thread-self/ns/net").map_err(|error| refuse(&error))?;
        let inside = Kernel::connect().map_err(|error| refuse(&error))?;
        let sender = FrameSocket::sending().map_err(|error| refuse(&error))?;
        // Before there is any interface: answers come from addresses that no route leads to, and interfaces listen to
        // nobody. `/proc/sys/net` is that of the thread that opens it.
        for (name, value) in [
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/default/arp_announce", "2"),
            ("ipv6/conf/default/accept_ra", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/dad_transmits", "0"),
            ("ipv6/conf/default/disable_ipv6", "0"),
        ] {
            if let Err(error) = fs::write(format!("/proc/sys/net/{name}"), value) {
                tracing::debug!(name, %error, "a setting of the probes' namespace stays as it is");
            }
        }
        Ok(Self {
            outside,
            inside,
            own,
            addresses,
            routes: BTreeMap::new(),
            announced: BTreeMap::new(),
            sender,
            last_mark: 0,
        })
    }

    /// Makes exactly these backends reachable.
    pub(super) async fn make(&mut self, wanted: &Wanted) -> BTreeMap<IpAddr, Result<u32, String>> {
        let gone: Vec<_> = self
            .routes
            .keys()
            .filter(|backend| !wanted.contains_key(backend))
            .copied()
            .collect();
        for backend in gone {
            self.unmake(backend).await;
        }
        let mut routes = BTreeMap::new();
        let mut interfaces = BTreeMap::new();
        for (backend, wish) in wanted {
            let below = wish.hop.ifindex;
            let macvlan = match interfaces.get(&below) {
                Some(macvlan) => Result::clone(macvlan),
                None => {
                    let macvlan = self.interface(below).await;
                    interfaces.insert(below, macvlan.clone());
                    macvlan
                }
            };
            let made = match macvlan {
                Ok(macvlan) => self.route_to(*backend, wish.hop, macvlan).await,
                Err(reason) => Err(reason),
            };
            routes.insert(*backend, made);
        }
        routes
    }

    /// What to ask to find out which backends answer for the VIPs that they serve.
    pub(super) fn questions(&self, wanted: &Wanted) -> BTreeSet<Question> {
        let of = |(backend, route): (&IpAddr, &Route)| {
            let vips = wanted.get(backend).map(|wish| wish.vips.clone()).unwrap_or_default();
            let asker = route.source.map_or(*backend, |source| source.ip());
            let Macvlan { index, mac } = route.macvlan;
            vips.into_iter().map(move |wanted| Question {
                index,
                mac,
                asker,
                wanted,
            })
        };
        self.routes.iter().flat_map(of).collect()
    }

    /// The macvlan on an interface, made where it is missing.
    async fn interface(&self, below: u32) -> Result<Macvlan, String> {
        let name = format!("lvxp{below}");
        if let Some(macvlan) = self.find(&name).await {
            return Ok(macvlan);
        }
        let refuse = |error: NetlinkError| {
            let hint = match error.errno() {
                Some(libc::EBUSY) => " (the interface is part of a bridge or has a passthru macvlan)",
                Some(libc::EOPNOTSUPP) => " (this kernel has no macvlan)",
                _ => "",
            };
            format!("{error}{hint}")
        };
        let message = LinkMacVlan::new(&name, below, MacVlanMode::Private)
            .setns_by_fd(self.own.as_raw_fd())
            .build();
        let what = format!("put a macvlan on {}", self.name_outside(below).await);
        done(&what, self.outside.requests().link().add(message).execute())
            .await
            .map_err(refuse)?;
        let macvlan = self
            .find(&name)
            .await
            .ok_or_else(|| format!("{name} is not where it was made"))?;
        let up = LinkUnspec::new_with_index(macvlan.index).up().build();
        done("set the macvlan up", self.inside.requests().link().set(up).execute())
            .await
            .map_err(refuse)?;
        Ok(macvlan)
    }

    /// The name of an interface outside, as people know it.
    async fn name_outside(&self, index: u32) -> String {
        let mut links = self.outside.requests().link().get().match_index(index).execute();
        let link = links.try_next().await.ok().flatten();
        let attributes = link.into_iter().flat_map(|link| link.attributes);
        let mut names = attributes.filter_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        });
        names.next().unwrap_or_else(|| format!("interface {index}"))
    }

    async fn find(&self, name: &str) -> Option<Macvlan> {
        let mut links = self
            .inside
            .requests()
            .link()
            .get()
            .match_name(name.to_owned())
            .execute();
        let link = links.try_next().await.ok()??;
        let mac = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(mac) => mac.as_slice().try_into().ok(),
            _ => None,
        })?;
        Some(Macvlan {
            index: link.header.index,
            mac,
        })
    }

    /// The mark that leads to a backend.
    async fn route_to(&mut self, backend: IpAddr, hop: NextHop, macvlan: Macvlan) -> Result<u32, String> {
        if let Some(route) = self.routes.get(&backend) {
            if route.hop.mac == hop.mac && route.macvlan == macvlan {
                return Ok(route.mark);
            }
            self.unmake(backend).await;
        }
        let index = macvlan.index;
        let source = self.addresses.iter().find(|address| address.reaches(backend)).copied();
        if source.is_none() && backend.is_ipv4() {
            return Err(format!(
                "its own address is asked in place of the VIP: give probe_addresses under [health] in lvx.toml an \
                 unused address of {backend}'s network"
            ));
        }
        let refuse = |error: NetlinkError| error.to_string();
        if let Some(source) = source {
            let mut added = self
                .inside
                .requests()
                .address()
                .add(index, source.ip(), source.prefix_len())
                .replace();
            // While an IPv6 address is tentative, no route may prefer it as its source.
            added.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            done("give the macvlan its address", added.execute())
                .await
                .map_err(refuse)?;
            self.announce(source.ip(), macvlan);
        }
        let neighbour = self
            .inside
            .requests()
            .neighbours()
            .add(index, backend)
            .link_layer_address(&hop.mac)
            .state(NeighbourState::Permanent)
            .replace();
        done("set a neighbour of the probes' namespace", neighbour.execute())
            .await
            .map_err(refuse)?;
        self.last_mark += 1;
        let mark = self.last_mark;
        let table = 1_000 + mark;
        let route = route(backend, source, index, table);
        let added = self.inside.requests().route().add(route.clone()).replace();
        done("add a route of the probes' namespace", added.execute())
            .await
            .map_err(refuse)?;
        let add = self
            .inside
            .requests()
            .rule()
            .add()
            .fw_mark(mark)
            .table_id(table)
            .priority(100)
            .action(RuleAction::ToTable);
        let (rule, added) = match backend {
            IpAddr::V4(_) => {
                let mut add = add.v4();
                (add.message_mut().clone(), done("add a rule", add.execute()).await)
            }
            IpAddr::V6(_) => {
                let mut add = add.v6();
                (add.message_mut().clone(), done("add a rule", add.execute()).await)
            }
        };
        added.map_err(refuse)?;
        let route = Route {
            mark,
            hop,
            macvlan,
            source,
            rule,
            route,
        };
        self.routes.insert(backend, route);
        Ok(mark)
    }

    /// Tells backends which MAC a probe address is at now: those that were probed before a restart would go on to answer the old
    /// one, for as long as they take their neighbour entry for good.
    fn announce(&mut self, address: IpAddr, macvlan: Macvlan) {
        let times = self.announced.entry((macvlan.index, address)).or_default();
        if *times == ANNOUNCED {
            return;
        }
        *times += 1;
        let frame = announcement(macvlan.mac, address, false);
        if let Err(error) = self.sender.send(macvlan.index, &frame) {
            tracing::debug!(%address, %error, "a probe address could not be announced");
        }
    }

    /// Forgets the route to a backend. What cannot be removed is gone already, with its interface.
    async fn unmake(&mut self, backend: IpAddr) {
        let Some(route) = self.routes.remove(&backend) else {
            return;
        };
        let requests = self.inside.requests();
        let _ = done("remove a rule", requests.rule().del(route.rule).execute()).await;
        let _ = done("remove a route", requests.route().del(route.route).execute()).await;
    }
}

/// Everything goes to the backend.
fn route(backend: IpAddr, source: Option<ProbeAddress>, index: u32, table: u32) -> RouteMessage {
    match backend {
        IpAddr::V4(backend) => {
            let mut route = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .gateway(backend)
                .output_interface(index)
                .table_id(table)
                .onlink();
            if let Some(IpAddr::V4(source)) = source.map(|source| source.ip()) {
                route = route.pref_source(source);
            }
            route.build()
        }
        IpAddr::V6(backend) => {
            let mut route = RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .gateway(backend)
                .output_interface(index)
                .table_id(table)
                .onlink();
            if let Some(IpAddr::V6(source)) = source.map(|source| source.ip()) {
                route = route.pref_source(source);
            }
            route.build()
        }
    }
}
