//! Probing what clients of a `dr` service reach: the VIP, at one backend chosen by its MAC address.
//!
//! The balancer owns the VIP itself, so its own stack would never send such a packet. A network namespace of its own
//! does: with a macvlan on the backends' interface, one routing table per backend, and marks on sockets that choose
//! the table. It has no name and ends with the daemon. The probes' packets leave through the interface below the
//! macvlan and their answers come back to the macvlan's own MAC address: neither is ever for a service's XDP path.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    net::IpAddr,
    os::fd::AsRawFd as _,
    sync::Arc,
    thread,
};

use futures::TryStreamExt as _;
use netlink_packet_route::{
    link::MacVlanMode,
    neighbour::NeighbourState,
    route::RouteMessage,
    rule::{RuleAction, RuleMessage},
};
use rtnetlink::{LinkMacVlan, LinkUnspec, RouteMessageBuilder};
use tokio::sync::{mpsc, watch};

use super::{
    probe::{Probe, Report, Target},
    schedule::ProbeId,
    settings::ProbeAddress,
};
use crate::netlink::{Kernel, NetlinkError, NextHop, socket::done};

/// A probe to run.
pub struct Job {
    /// Which one.
    pub id: ProbeId,
    /// What is asked.
    pub probe: Arc<Probe>,
    /// Of whom.
    pub target: Target,
}

/// How the backends of `dr` services are reached: by a mark, or why not.
pub type Reachable = BTreeMap<IpAddr, Result<u32, String>>;

/// Where backends are: their next hops.
pub type Wanted = BTreeMap<IpAddr, NextHop>;

/// The thread whose namespace VIPs are probed from; ends when this is dropped.
#[derive(Debug)]
pub struct VipProber {
    jobs: mpsc::UnboundedSender<Job>,
    wanted: watch::Sender<Arc<Wanted>>,
    reachable: watch::Receiver<Arc<Reachable>>,
}

impl VipProber {
    /// Starts the thread in the network namespace of the calling one; results go to `reports`.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(addresses: Vec<ProbeAddress>, reports: mpsc::UnboundedSender<(ProbeId, Report)>) -> io::Result<Self> {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let (wanted, mut wishes) = watch::channel(Arc::new(Wanted::new()));
        let (published, reachable) = watch::channel(Arc::new(Reachable::new()));
        thread::Builder::new().name("lvx-vip-probe".into()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return tracing::error!(%error, "VIPs cannot be probed"),
            };
            runtime.block_on(async {
                let mut namespace = Namespace::open(addresses);
                loop {
                    tokio::select! {
                        changed = wishes.changed() => {
                            if changed.is_err() {
                                return;
                            }
                            let wanted = Arc::clone(&wishes.borrow_and_update());
                            let reachable = match &mut namespace {
                                Ok(namespace) => namespace.make(&wanted).await,
                                Err(error) => wanted.keys().map(|backend| (*backend, Err(error.clone()))).collect(),
                            };
                            published.send_replace(Arc::new(reachable));
                        }
                        job = queue.recv() => {
                            let Some(Job { id, probe, target }) = job else { return };
                            let reports = reports.clone();
                            tokio::spawn(async move {
                                // The engine that is gone needs no report.
                                let _ = reports.send((id, probe.run(&target).await));
                            });
                        }
                    }
                }
            });
        })?;
        Ok(Self {
            jobs,
            wanted,
            reachable,
        })
    }

    /// Runs a probe and reports.
    pub fn run(&self, job: Job) {
        let _ = self.jobs.send(job);
    }

    /// Says which backends' VIPs are to be probed, and where they are.
    pub fn want(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|current| {
            let changed = **current != wanted;
            if changed {
                *current = Arc::new(wanted);
            }
            changed
        });
    }

    /// How backends are reached; one that is missing is being made reachable.
    pub fn reachable(&self) -> watch::Receiver<Arc<Reachable>> {
        self.reachable.clone()
    }
}

/// Inside the namespace.
struct Namespace {
    /// Asks in the namespace of the interfaces.
    outside: Kernel,
    inside: Kernel,
    own: File,
    addresses: Vec<ProbeAddress>,
    ways: BTreeMap<IpAddr, Way>,
    /// What a backend is not reached by any more, to be used again.
    last_mark: u32,
}

/// How one backend is reached.
struct Way {
    mark: u32,
    hop: NextHop,
    /// The macvlan's index: another one when the interface below was made anew.
    index: u32,
    rule: RuleMessage,
    route: RouteMessage,
}

impl Namespace {
    /// Moves the calling thread into a network namespace of its own. To be called where nothing else runs on it.
    fn open(addresses: Vec<ProbeAddress>) -> Result<Self, String> {
        let refuse = |error: &dyn std::fmt::Display| format!("no network namespace for probes: {error}");
        let outside = Kernel::connect().map_err(|error| refuse(&error))?;
        // SAFETY: only the network namespace is unshared; file descriptors and memory stay as they are.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            .map_err(|error| refuse(&error))?;
        let own = File::open("/proc/thread-self/ns/net").map_err(|error| refuse(&error))?;
        let inside = Kernel::connect().map_err(|error| refuse(&error))?;
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
            ways: BTreeMap::new(),
            last_mark: 0,
        })
    }

    /// Makes exactly these backends reachable.
    async fn make(&mut self, wanted: &Wanted) -> Reachable {
        let gone: Vec<_> = self
            .ways
            .keys()
            .filter(|backend| !wanted.contains_key(backend))
            .copied()
            .collect();
        for backend in gone {
            self.unmake(backend).await;
        }
        let mut reachable = Reachable::new();
        let mut interfaces = BTreeMap::new();
        for (backend, hop) in wanted {
            let index = match interfaces.get(&hop.ifindex) {
                Some(index) => Result::clone(index),
                None => {
                    let index = self.interface(hop.ifindex).await;
                    interfaces.insert(hop.ifindex, index.clone());
                    index
                }
            };
            let made = match index {
                Ok(index) => self.way(*backend, *hop, index).await,
                Err(reason) => Err(reason),
            };
            reachable.insert(*backend, made);
        }
        reachable
    }

    /// The index of the macvlan on an interface, made where it is missing.
    async fn interface(&self, below: u32) -> Result<u32, String> {
        let name = format!("lvxp{below}");
        if let Some(index) = self.find(&name).await {
            return Ok(index);
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
        let what = format!("put a macvlan on interface {below}");
        done(&what, self.outside.requests().link().add(message).execute())
            .await
            .map_err(refuse)?;
        let index = self
            .find(&name)
            .await
            .ok_or_else(|| format!("{name} is not where it was made"))?;
        let up = LinkUnspec::new_with_index(index).up().build();
        done("set the macvlan up", self.inside.requests().link().set(up).execute())
            .await
            .map_err(refuse)?;
        Ok(index)
    }

    async fn find(&self, name: &str) -> Option<u32> {
        let mut links = self
            .inside
            .requests()
            .link()
            .get()
            .match_name(name.to_owned())
            .execute();
        let link = links.try_next().await.ok()??;
        Some(link.header.index)
    }

    /// The mark that leads to a backend.
    async fn way(&mut self, backend: IpAddr, hop: NextHop, index: u32) -> Result<u32, String> {
        if let Some(way) = self.ways.get(&backend) {
            if way.hop.mac == hop.mac && way.index == index {
                return Ok(way.mark);
            }
            self.unmake(backend).await;
        }
        let source = self.addresses.iter().find(|address| address.reaches(backend)).copied();
        if source.is_none() && backend.is_ipv4() {
            return Err(format!(
                "its own address is asked in place of the VIP: give probe_addresses under [health] in lvx.toml an \
                 unused address of {backend}'s network"
            ));
        }
        let refuse = |error: NetlinkError| error.to_string();
        if let Some(source) = source {
            let added = self
                .inside
                .requests()
                .address()
                .add(index, source.ip, source.prefix)
                .replace();
            done("give the macvlan its address", added.execute())
                .await
                .map_err(refuse)?;
        }
        let neighbour = self
            .inside
            .requests()
            .neighbours()
            .add(index, backend)
            .link_local_address(&hop.mac)
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
        let way = Way {
            mark,
            hop,
            index,
            rule,
            route,
        };
        self.ways.insert(backend, way);
        Ok(mark)
    }

    /// Forgets the way to a backend. What cannot be removed is gone already, with its interface.
    async fn unmake(&mut self, backend: IpAddr) {
        let Some(way) = self.ways.remove(&backend) else { return };
        let requests = self.inside.requests();
        let _ = done("remove a rule", requests.rule().del(way.rule).execute()).await;
        let _ = done("remove a route", requests.route().del(way.route).execute()).await;
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
            if let Some(IpAddr::V4(source)) = source.map(|source| source.ip) {
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
            if let Some(IpAddr::V6(source)) = source.map(|source| source.ip) {
                route = route.pref_source(source);
            }
            route.build()
        }
    }
}
