//! Keeping the next hops of all backends up to date.
//!
//! The kernel's links and neighbours are held as tables, from one dump and the events since. Routes are asked for, one
//! lookup per target, and again only when an event may have changed the answer. What follows from them
//! ([`resolve_first`]) is published when it differs from what was published before.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use tokio::{
    select,
    sync::{Mutex, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, error};

use super::{
    Event, Events, Kernel, LinkTable, NetlinkError, NextHopError, NextHops,
    freshness::Freshness,
    neighbour::{Move, Neighbour, NeighbourTable},
    nexthop::{neighbour, resolve_first},
    route::{Route, RouteError, concerned, lookup},
    socket::AT_ONCE,
};

/// Events within this time are taken in together.
const COALESCE: Duration = Duration::from_millis(30);
/// How often all routes are looked up without an event, for what has none (a learned path MTU that expires).
const LOOK_UP_ALL: Duration = Duration::from_secs(60);
/// Not more than one dump in this time, however many messages get lost.
const BETWEEN_DUMPS: Duration = Duration::from_secs(1);
/// Of the time that looking up routes took, this many times as long is left free before the next time, so that a busy
/// routing daemon costs at most a fifth of a core.
const REST: u32 = 4;
/// How soon a lookup that the kernel did not answer is repeated.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(1);
/// How long [`NextHopTracker::ready`] waits for neighbours that do not answer.
const READY_WITHIN: Duration = Duration::from_secs(1);

const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Nexthop,
];

/// A set of targets and its number, counted from 1.
type Wanted = (u64, BTreeSet<IpAddr>);

/// Follows the next hops of a set of addresses until it is dropped.
pub struct NextHopTracker {
    wanted: watch::Sender<Wanted>,
    settled: watch::Receiver<u64>,
    hops: watch::Receiver<Arc<NextHops>>,
    moves: Mutex<mpsc::UnboundedReceiver<Move>>,
    _task: JoinSet<()>,
}

impl NextHopTracker {
    /// Reads the kernel's tables and starts following them, in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// If the kernel's tables cannot be read.
    pub async fn start() -> Result<Self, NetlinkError> {
        let (wanted, mut requests) = watch::channel((0, BTreeSet::new()));
        let (published, hops) = watch::channel(Arc::default());
        let (settled_sender, settled) = watch::channel(0);
        let (told, moves) = mpsc::unbounded_channel();
        let mut tracker = Tracker::open().await?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                match tracker.run(&mut requests, &published, &settled_sender, &told).await {
                    // The handle was dropped.
                    Ok(()) => return,
                    Err(error) => error!(%error, "following the next hops failed, starting again in a second"),
                }
                tracker = loop {
                    sleep(Duration::from_secs(1)).await;
                    match Tracker::open().await {
                        Ok(tracker) => break tracker,
                        Err(error) => error!(%error, "following the next hops failed, trying again in a second"),
                    }
                };
            }
        });
        Ok(Self {
            wanted,
            settled,
            hops,
            moves: Mutex::new(moves),
            _task: task,
        })
    }

    /// Follows these addresses from now on, and no others. Takes effect shortly; see [`Self::ready`].
    pub fn set_targets(&self, targets: BTreeSet<IpAddr>) {
        self.wanted.send_if_modified(|(number, current)| {
            let changed = *current != targets;
            if changed {
                *number += 1;
                *current = targets;
            }
            changed
        });
    }

    /// The next hops of all targets, with a new value whenever one of them changes. Empty until the first targets
    /// were looked up.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<NextHops>> {
        self.hops.clone()
    }

    /// Waits until a neighbour, of a target or not, has another Ethernet address; for ever once nobody follows them any more.
    pub async fn moved(&self) -> Move {
        match self.moves.lock().await.recv().await {
            Some(moved) => moved,
            None => std::future::pending().await,
        }
    }

    /// Waits until the next hops of the targets set last are published: every one found, or known to be missing;
    /// at most one second, in which case neighbours that have not answered are published as such.
    pub async fn ready(&self) {
        let number = self.wanted.borrow().0;
        let mut settled = self.settled.clone();
        // Neither the timeout nor a tracker that is going down needs the caller to do anything else.
        let _ = timeout(READY_WITHIN, settled.wait_for(|settled| *settled >= number)).await;
    }
}

struct Tracker {
    kernel: Kernel,
    events: Events,
    links: LinkTable,
    neighbours: NeighbourTable,
    number: u64,
    targets: BTreeSet<IpAddr>,
    /// The routes to each target, the kernel's choice first.
    routes: BTreeMap<IpAddr, Result<Vec<Route>, RouteError>>,
    fresh: Freshness,
    /// Targets whose route must be looked up.
    outdated: BTreeSet<IpAddr>,
    lost: bool,
    last_dump: Instant,
    look_up_at: Option<Instant>,
    look_up_not_before: Instant,
    look_up_all_at: Instant,
    publish_at: Option<Instant>,
}

impl Tracker {
    async fn open() -> Result<Self, NetlinkError> {
        // Listening first: what changes during the dump is then heard.
        let events = Events::subscribe(&GROUPS)?;
        let kernel = Kernel::connect()?;
        let now = Instant::now();
        let links = LinkTable::dump(&kernel).await?;
        let mut neighbours = NeighbourTable::default();
        neighbours.dump(&kernel, now).await?;
        Ok(Self {
            kernel,
            events,
            links,
            neighbours,
            number: 0,
            targets: BTreeSet::new(),
            routes: BTreeMap::new(),
            fresh: Freshness::default(),
            outdated: BTreeSet::new(),
            lost: false,
            last_dump: now,
            look_up_at: None,
            look_up_not_before: now,
            look_up_all_at: now + LOOK_UP_ALL,
            publish_at: None,
        })
    }

    /// Runs until the requests end.
    async fn run(
        &mut self,
        requests: &mut watch::Receiver<Wanted>,
        published: &watch::Sender<Arc<NextHops>>,
        settled: &watch::Sender<u64>,
        told: &mpsc::UnboundedSender<Move>,
    ) -> Result<(), NetlinkError> {
        self.take_targets(&requests.borrow_and_update().clone());
        loop {
            let wake = self.wake();
            select! {
                events = self.events.next() => {
                    let now = Instant::now();
                    for event in events? {
                        self.take(&event, now);
                    }
                }
                changed = requests.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.take_targets(&requests.borrow_and_update().clone());
                }
                () = sleep_until(wake) => {}
            }
            if due(self.look_up_at) {
                self.look_up().await?;
            }
            for moved in self.neighbours.take_moves() {
                // Where nobody is told any more, everything is about to end.
                let _ = told.send(moved);
            }
            self.ask_due().await?;
            if Instant::now() >= self.look_up_all_at {
                self.all_outdated();
            }
            if due(self.publish_at) {
                self.publish(published, settled);
            }
        }
    }

    fn wake(&self) -> Instant {
        [self.look_up_at, self.publish_at]
            .into_iter()
            .flatten()
            .chain(self.fresh.next())
            .fold(self.look_up_all_at, Instant::min)
    }

    fn take_targets(&mut self, (number, targets): &Wanted) {
        self.number = *number;
        self.outdated.extend(targets.difference(&self.targets));
        self.targets.clone_from(targets);
        self.look_up_at = Some(Instant::now().max(self.look_up_not_before));
    }

    fn take(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Lost => {
                self.lost = true;
                self.look_up_from((self.last_dump + BETWEEN_DUMPS).max(now + COALESCE));
            }
            Event::NextHopObject => self.all_outdated(),
            Event::Changed(message) => match &**message {
                RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_) => {
                    let changed = self.links.apply(message);
                    if changed {
                        self.all_outdated();
                        self.publish_from(now + COALESCE);
                    }
                }
                RouteNetlinkMessage::NewNeighbour(_) | RouteNetlinkMessage::DelNeighbour(_) => {
                    if let Some(neighbour) = self.neighbours.apply(message, now) {
                        let known = self.neighbours.is_known(neighbour);
                        if self.fresh.changed(neighbour, known, now) {
                            self.publish_from(now + COALESCE);
                        }
                    }
                }
                RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                    let concerned = concerned(&self.targets, route);
                    if !concerned.is_empty() {
                        self.outdated.extend(concerned);
                        self.look_up_from(now + COALESCE);
                    }
                }
                RouteNetlinkMessage::NewAddress(_)
                | RouteNetlinkMessage::DelAddress(_)
                | RouteNetlinkMessage::NewRule(_)
                | RouteNetlinkMessage::DelRule(_) => self.all_outdated(),
                _ => {}
            },
        }
    }

    fn all_outdated(&mut self) {
        let now = Instant::now();
        self.look_up_all_at = now + LOOK_UP_ALL;
        self.outdated.extend(&self.targets);
        self.look_up_from(now + COALESCE);
    }

    fn look_up_from(&mut self, at: Instant) {
        let at = at.max(self.look_up_not_before);
        self.look_up_at = Some(self.look_up_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn publish_from(&mut self, at: Instant) {
        self.publish_at = Some(self.publish_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Looks up what is outdated, and finds out which neighbours are needed.
    async fn look_up(&mut self) -> Result<(), NetlinkError> {
        self.look_up_at = None;
        let started = Instant::now();
        if self.lost && started >= self.last_dump + BETWEEN_DUMPS {
            debug!("netlink messages were lost, reading the kernel's tables anew");
            self.links = LinkTable::dump(&self.kernel).await?;
            self.neighbours.dump(&self.kernel, started).await?;
            self.outdated.extend(&self.targets);
            self.lost = false;
            self.last_dump = started;
        }
        let outdated = std::mem::take(&mut self.outdated);
        let kernel = &self.kernel;
        let found: Vec<_> = stream::iter(outdated.intersection(&self.targets).copied())
            .map(async |target| (target, lookup(kernel, target).await))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let now = Instant::now();
        self.look_up_not_before = now + REST * (now - started);
        if self.lost {
            self.look_up_from(self.last_dump + BETWEEN_DUMPS);
        }
        for (target, route) in found {
            if matches!(route, Err(RouteError::Unanswered(_))) {
                self.outdated.insert(target);
            }
            self.routes.insert(target, route);
        }
        self.routes.retain(|target, _| self.targets.contains(target));
        if !self.outdated.is_empty() {
            self.kernel = Kernel::connect()?;
            self.look_up_from(now + LOOK_UP_AGAIN);
        }

        let needed = self
            .routes
            .iter()
            .flat_map(|(target, routes)| self.neighbours_to(*target, routes))
            .collect();
        let unknown = self.fresh.need(&needed, &self.neighbours, now);
        // A neighbour asked for just now usually answers within this time: nothing is reported missing before.
        self.publish_from(if unknown { now + COALESCE } else { now });
        Ok(())
    }

    /// Has the kernel ask the neighbours whose turn it is.
    async fn ask_due(&mut self) -> Result<(), NetlinkError> {
        let outcome = self.fresh.ask_due(&self.kernel, &self.neighbours).await;
        if outcome.unanswered {
            self.kernel = Kernel::connect()?;
        }
        if outcome.changed {
            self.publish_from(Instant::now() + COALESCE);
        }
        Ok(())
    }

    /// The neighbours that are asked for on the routes to a target.
    fn neighbours_to(&self, target: IpAddr, routes: &Result<Vec<Route>, RouteError>) -> Vec<Neighbour> {
        let routes = routes.as_deref().unwrap_or_default();
        routes
            .iter()
            .filter_map(|route| neighbour(target, route, &self.links))
            .collect()
    }

    fn publish(&mut self, published: &watch::Sender<Arc<NextHops>>, settled: &watch::Sender<u64>) {
        let now = Instant::now();
        self.publish_at = None;
        let mut hops = BTreeMap::new();
        let mut all_settled = self.targets.iter().eq(self.routes.keys());
        for (target, route) in &self.routes {
            let refused = |neighbour| self.fresh.refused(neighbour);
            let hop = resolve_first(*target, route, &self.links, &self.neighbours, refused, now);
            for neighbour in self.neighbours_to(*target, route) {
                if matches!(hop, Err(NextHopError::Unresolved { .. })) && !self.neighbours.has_failed(neighbour) {
                    all_settled = false;
                }
                if let Some(ends) = self.neighbours.grace_ends(neighbour, now) {
                    let earlier = self.publish_at.unwrap_or(ends);
                    self.publish_at = Some(ends.min(earlier));
                }
            }
            hops.insert(*target, hop);
        }
        let hops = NextHops(hops);
        published.send_if_modified(|current| {
            let changed = **current != hops;
            if changed {
                *current = Arc::new(hops);
            }
            changed
        });
        if all_settled {
            settled.send_replace(self.number);
        }
    }
}

fn due(at: Option<Instant>) -> bool {
    at.is_some_and(|at| at <= Instant::now())
}
