//! The reconciler: whatever changes (what is desired, what the network says), the maps and VIPs are made to follow, by
//! one function and one writer.

use std::{
    panic::resume_unwind,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

use aya_log::EbpfLogger;
use futures::future::BoxFuture;
use tokio::{
    sync::{Mutex, OwnedMutexGuard, mpsc, watch},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use self::{
    heartbeat::{BEAT, Heartbeat},
    interfaces::Interfaces,
    losses::Losses,
    retry::Retry,
    snapshot::Published,
};
use crate::{
    Dataplane, DataplaneError,
    announce::Announcer,
    offer::{Withdraw, offered},
    tasks::{TaskDied, Tasks},
};
use lvx_api::{Conn, ConnCount, ConnFilter, Stats, Status, health::HealthReport};
use lvx_dataplane::{
    Error, Maps, Node, Sizes, Tables, attach,
    claim::Claim,
    error::chain,
    flows,
    image::{LeftOut, Room, World},
};
use lvx_health::{Health, HealthError};
use lvx_model::{
    Desired, ServiceAddress,
    health::HealthView,
    settings::{Settings, XdpMode},
};
use lvx_netlink::{
    Link, LinkError, LinkTable, Links, Move, NetlinkError, NextHopTracker, VipError, transmit::XdpFeatures,
};

mod conns;
mod egress;
mod heartbeat;
mod interfaces;
mod losses;
mod offloads;
mod packet_log;
mod report;
mod retry;
mod snapshot;
mod sweep;
mod take_down;

pub use self::{interfaces::Unsuitable, take_down::detach};

/// Why the dataplane could not be brought up or taken down.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An interface does not exist.
    #[error(transparent)]
    Interface(#[from] LinkError),
    /// The program cannot be on an interface.
    #[error(transparent)]
    Unsuitable(#[from] Unsuitable),
    /// The kernel could not be asked.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// VIPs cannot be managed.
    #[error(transparent)]
    Vip(#[from] VipError),
    /// The program or its maps.
    #[error(transparent)]
    Dataplane(#[from] Error),
    /// Health cannot be watched.
    #[error(transparent)]
    Health(#[from] HealthError),
    /// What is desired cannot be done.
    #[error("the desired state could not be put in place: {0}")]
    Desired(#[from] DataplaneError),
    /// A task of the daemon died.
    #[error("the daemon could not start: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// The dataplane of this node, kept as desired until it is dropped. The packets go on without it.
pub struct Reconciler {
    shared: Arc<Shared>,
    tasks: Mutex<Tasks>,
}

/// What the reconciler's tasks share.
struct Shared {
    tables: Arc<Mutex<Tables>>,
    maps: Arc<Maps>,
    links: Links,
    tracker: NextHopTracker,
    health: Health,
    announcer: Announcer,
    pins: PathBuf,
    /// No other daemon has the pins.
    claim: Mutex<Claim>,
    /// Whether nothing was pinned before this daemon started.
    is_first: bool,
    interfaces: Interfaces,
    /// What drivers can do, as the kernel said last.
    features: RwLock<Arc<XdpFeatures>>,
    /// What was last asked for, whether it could be put in place or not; locked while it is.
    wanted: Mutex<Option<Arc<Desired>>>,
    retry: Retry,
    losses: Losses,
    heartbeat: Heartbeat,
    published: Published,
    started: Instant,
}

impl Reconciler {
    /// Loads the program from its `object` file, makes a dataplane that does what is desired, and has it take over from the one
    /// that an earlier daemon left, if there is one. VIPs are not put in place yet.
    ///
    /// # Errors
    ///
    /// If an interface does not exist or does not take the program, or the kernel refuses something. Then nothing has
    /// changed for packets.
    pub async fn start(object: &'static [u8], settings: &Settings, desired: &Arc<Desired>) -> Result<Self, StartError> {
        let claim = Claim::take(&settings.pin_dir)?;
        let begun = Self::begin(object, settings, desired, claim).await;
        if begun.is_err()
            // Claimed again, so that a directory that another daemon has just made is left alone.
            && let Ok(Some(_claim)) = Claim::of(&settings.pin_dir)
        {
            // Where nothing was pinned before, nothing is left; elsewhere the directory is not empty.
            let _ = std::fs::remove_dir(&settings.pin_dir);
        }
        begun
    }

    async fn begin(
        object: &'static [u8],
        settings: &Settings,
        desired: &Arc<Desired>,
        claim: Claim,
    ) -> Result<Self, StartError> {
        let links = Links::follow().await?;
        let interfaces = present(settings, &links.table())?;
        let features = spawn_blocking(XdpFeatures::ask).await?;
        let (mode, note) = egress::mode(settings.xdp_mode, &interfaces, &features);
        if let Some(note) = &note {
            warn!("{note}");
        }
        // The ways to backends are looked up while the programs load.
        let tracker = NextHopTracker::start().await?;
        tracker.set_targets(desired.backend_addresses());
        let announcer = Announcer::start(settings.vip_interface.clone()).await?;
        let mut tables = open(object, settings, &interfaces).await?;
        // Before this dataplane takes over: no loss is to go uncounted.
        let (mut tables, uncounted) = spawn_blocking(move || {
            let uncounted = tables.count_losses().err();
            (tables, uncounted)
        })
        .await?;
        if let Some(reason) = &uncounted {
            warn!("what the kernel fails to transmit is not, or not all, counted: {reason}");
        }
        let mut tasks = Tasks::default();
        let unseen = |error: &dyn std::fmt::Display| warn!(%error, "what the packet path logs will not be seen");
        match EbpfLogger::init(tables.ebpf()).map(packet_log::open) {
            Ok(Ok(log)) => tasks.spawn("packet log", packet_log::follow(log)),
            Ok(Err(error)) => unseen(&error),
            Err(error) => unseen(&error),
        }
        let is_first = tables.predecessor().is_none();
        let published = Published::new(tables.snapshot());
        let shared = Arc::new(Shared {
            maps: Arc::clone(tables.maps()),
            tables: Arc::new(Mutex::new(tables)),
            links,
            health: Health::start(settings.health.clone(), tracker.subscribe())?,
            tracker,
            announcer,
            pins: settings.pin_dir.clone(),
            claim: Mutex::new(claim),
            is_first,
            interfaces: Interfaces::new(&settings.interfaces, (mode, note), settings.pin_dir.clone()),
            features: RwLock::new(Arc::new(features)),
            wanted: Mutex::default(),
            retry: Retry::default(),
            losses: Losses::new(uncounted),
            heartbeat: Heartbeat::default(),
            published,
            started: Instant::now(),
        });
        // The configuration is whole before a packet comes to it.
        shared.desire(desired, Room::LeaveOut).await?;
        shared.take_over(interfaces, mode).await?;
        tasks.spawn("reconciler", Arc::clone(&shared).follow());
        tasks.spawn("sweep", Arc::clone(&shared).sweep());
        tasks.spawn("offloads", Arc::clone(&shared).look_at_offloads());
        Ok(Self {
            shared,
            tasks: Mutex::new(tasks),
        })
    }
}

/// What the settings say of connections.
fn node(settings: &Settings) -> Node {
    Node {
        timeouts: settings.timeouts,
        unknown_fragments: settings.unknown_fragments,
    }
}

/// The interfaces of the settings that are there. Where LVX was attached before, those that are not there are waited for.
fn present(settings: &Settings, links: &LinkTable) -> Result<Vec<Link>, StartError> {
    let was_attached = attach::is_attached(&settings.pin_dir);
    let mut present = Vec::new();
    for name in &settings.interfaces {
        match links.find(name) {
            Ok(link) => {
                interfaces::check(link)?;
                present.push(link.clone());
            }
            Err(error) if was_attached => warn!(%error, "an interface is waited for"),
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(name) = settings.vip_interface.as_ref().filter(|_| !was_attached) {
        links.find(name)?;
    }
    Ok(present)
}

/// Loads the program with maps of its own, in which these interfaces have slots.
async fn open(object: &'static [u8], settings: &Settings, interfaces: &[Link]) -> Result<Tables, StartError> {
    let sizes = Sizes::new(
        settings.max_services,
        settings.max_backends,
        settings.flows_v4,
        settings.flows_v6,
    );
    let node = node(settings);
    let pins = settings.pin_dir.clone();
    let indices: Vec<u32> = interfaces.iter().map(|link| link.index).collect();
    let tables = spawn_blocking(move || -> Result<_, Error> {
        let mut tables = Tables::open(object, Some(&pins), sizes, node)?;
        for index in indices {
            tables.interface(index)?;
        }
        Ok(tables)
    });
    Ok(tables.await??)
}

impl Shared {
    /// Has this dataplane take over, on these interfaces.
    async fn take_over(&self, interfaces: Vec<Link>, mode: XdpMode) -> Result<(), StartError> {
        let mut tables = Arc::clone(&self.tables).lock_owned().await;
        let pins = self.pins.clone();
        let attachments = spawn_blocking(move || {
            let succeeds = tables.predecessor().is_some();
            let attachments = tables.take_over(&pins, &interfaces, mode);
            if attachments.is_ok() && succeeds {
                info!(
                    shared = tables.shared().len(),
                    "took over from the dataplane of an earlier daemon"
                );
            }
            attachments
        });
        self.interfaces.attached(&attachments.await??, &self.links.table());
        Ok(())
    }

    /// Makes the maps as desired, once it is known how its backends are reached and how they are.
    async fn desire(&self, desired: &Arc<Desired>, room: Room) -> Result<(), DataplaneError> {
        let targets = desired.backend_addresses();
        // Those that go are followed until they are gone: packets are not to notice one before the other.
        let before = self
            .published
            .get()
            .desired
            .as_ref()
            .map(|before| before.backend_addresses());
        self.tracker.set_targets(&targets | &before.unwrap_or_default());
        let watched = self.health.set_targets(Arc::clone(desired));
        tokio::join!(self.tracker.ready(), watched);
        let tables = Arc::clone(&self.tables).lock_owned().await;
        self.make_in(tables, Some(Arc::clone(desired)), room).await?;
        self.tracker.set_targets(targets);
        Ok(())
    }

    /// What becomes of services and backends that have no room. A change that brings them is refused. Where there are some
    /// already, as after a start with lower sizes, changes that bring no more go on.
    fn room_for(&self, desired: &Desired) -> Room {
        let published = self.published.get();
        let size = |desired: &Desired| {
            let services = desired.services().values();
            (
                services.len(),
                services.map(|service| service.backends.len()).sum::<usize>(),
            )
        };
        let before = published.desired.as_deref().map(size).unwrap_or_default();
        let after = size(desired);
        if *published.tables.left_out != LeftOut::default() && after.0 <= before.0 && after.1 <= before.1 {
            Room::LeaveOut
        } else {
            Room::Demand
        }
    }

    /// Makes the maps follow the network. Its state is looked up once the tables are ours, so that whoever comes last writes
    /// what holds last.
    async fn make(&self) -> Result<(), DataplaneError> {
        let tables = Arc::clone(&self.tables).lock_owned().await;
        self.make_in(tables, None, Room::LeaveOut).await
    }

    /// Makes the maps follow health. A change that no packet would notice, such as why a backend is down, costs no new
    /// tables; whether it is one is only known while nobody else makes any.
    async fn make_healthy(&self) -> Result<(), DataplaneError> {
        let tables = Arc::clone(&self.tables).lock_owned().await;
        let view = Arc::clone(&self.health.subscribe().borrow());
        if self.published.get().is_served_by(&view) {
            self.published.set(|snapshot| snapshot.health = view);
            return Ok(());
        }
        self.make_in(tables, None, Room::LeaveOut).await
    }

    /// Makes the maps follow next hops, as [`Self::make_healthy`] health: those of a backend that is about to come, or has
    /// just gone, concern no packet.
    async fn make_reachable(&self) -> Result<(), DataplaneError> {
        let tables = Arc::clone(&self.tables).lock_owned().await;
        let hops = Arc::clone(&self.tracker.subscribe().borrow());
        if self.published.get().is_reached_by(&hops) {
            self.published.set(|snapshot| snapshot.hops = hops);
            return Ok(());
        }
        self.make_in(tables, None, Room::LeaveOut).await
    }

    /// Makes the maps follow: `desired`, or what was last desired if that is `None`.
    async fn make_in(
        &self,
        mut tables: OwnedMutexGuard<Tables>,
        desired: Option<Arc<Desired>>,
        room: Room,
    ) -> Result<(), DataplaneError> {
        let Some(desired) = desired.or_else(|| self.published.get().desired.clone()) else {
            return Ok(());
        };
        let hops = Arc::clone(&self.tracker.subscribe().borrow());
        let links = self.links.table();
        let health = Arc::clone(&self.health.subscribe().borrow());
        let blocked = egress::blocked(&hops, &links, &self.features(), &self.interfaces.get());
        let (wanted, seen, healthy) = (Arc::clone(&desired), Arc::clone(&hops), Arc::clone(&health));
        // The tables come back with the answer: nobody else has them before what was applied is published.
        let (mut tables, made) = spawn_blocking(move || {
            let made = tables.apply_world(&World {
                desired: &wanted,
                hops: &seen,
                health: &healthy,
                links: &links,
                blocked: &blocked,
                room,
            });
            (tables, made)
        })
        .await
        .map_err(|error| match error.try_into_panic() {
            // Nobody knows what it left half done: this task is not to go on either.
            Ok(panic) => resume_unwind(panic),
            Err(error) => DataplaneError::Kernel(error.to_string()),
        })?;
        made?;
        let read = tables.snapshot();
        self.published.set(|snapshot| {
            snapshot.desired = Some(desired);
            snapshot.hops = hops;
            snapshot.health = health;
            snapshot.tables = read;
        });
        // Waiting for packets under way takes the kernel some milliseconds: the next change need not.
        spawn_blocking(move || tables.settle());
        Ok(())
    }

    /// What drivers can do, as the kernel said last.
    fn features(&self) -> Arc<XdpFeatures> {
        Arc::clone(&self.features.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks the kernel again what drivers can do, which nobody announces. Whether it is news.
    async fn ask_features(&self) -> bool {
        let Ok(features) = spawn_blocking(XdpFeatures::ask).await else {
            return false;
        };
        let is_news = *self.features() != features;
        if is_news {
            *self.features.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(features);
        }
        is_news
    }

    /// Has the VIPs announced that this node offers. One that cannot be is told in status and tried again: nothing else waits for
    /// it.
    async fn offer(&self, desired: &Desired) {
        let left_out = Arc::clone(&self.published.get().tables.left_out);
        let offered = offered(
            desired,
            |service| left_out.services.contains_key(service),
            &Withdraw::Never,
            self.announcer.role(),
        );
        let vip_interface = self.announcer.interface();
        let places = vip_interface.map(|name| self.interfaces.places(name, &self.links.table()));
        if let Err(error) = self.announcer.announce(offered, places.unwrap_or_default()).await {
            warn!(%error, "the VIPs could not be looked after; it is tried again");
        }
    }

    /// Puts all in place: maps, then VIPs.
    async fn put_in_place(&self, desired: &Arc<Desired>) -> Result<(), DataplaneError> {
        match self.desire(desired, self.room_for(desired)).await {
            Ok(()) => {
                self.offer(desired).await;
                self.retry.succeeded();
                Ok(())
            }
            Err(error) => {
                self.retry.failed(&error);
                Err(error)
            }
        }
    }

    /// Tries again what has failed, unless something newer has succeeded meanwhile.
    async fn try_again(&self) {
        let wanted = self.wanted.lock().await;
        if let Some(wanted) = wanted.as_ref().filter(|_| self.retry.is_failing()) {
            // What went wrong is told by `retry`.
            let _ = self.put_in_place(wanted).await;
        }
    }

    /// Follows health and the network: next hops and interfaces.
    async fn follow(self: Arc<Self>) {
        let mut hops = self.tracker.subscribe();
        let mut links = self.links.subscribe();
        let mut health = self.health.subscribe();
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = interval(interfaces::LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let followed = tokio::select! {
                _ = beat.tick() => {
                    self.heartbeat.beat(&self.tables).await;
                    continue;
                }
                () = self.retry.due() => {
                    self.try_again().await;
                    continue;
                }
                moved = self.tracker.moved() => {
                    self.repoint(moved).await;
                    continue;
                }
                changed = health.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.make_healthy().await
                }
                changed = hops.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.make_reachable().await
                }
                changed = links.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow_links(true).await
                }
                _ = look.tick() => self.follow_links(false).await,
            };
            if let Err(error) = followed {
                self.retry.failed(&error);
            }
        }
    }

    /// Has the answers of NAT flows, whose next hop is where the client's last packet came from, follow a neighbour that has moved: a
    /// router may have taken another's place while the client was silent.
    async fn repoint(&self, Move { ifindex, from, to }: Move) {
        let Some(slot) = self.published.get().tables.interfaces.get(&ifindex).copied() else {
            return;
        };
        let maps = Arc::clone(&self.maps);
        let interface = self.links.table().name(ifindex);
        match spawn_blocking(move || flows::repoint(&maps, slot, from, to)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(flows)) => info!(
                interface,
                flows, "a neighbour has another MAC: the answers to clients behind it go there"
            ),
            Ok(Err(error)) => warn!(interface, %error, "answers could not follow a neighbour that has another MAC"),
            Err(error) => warn!(interface, %error, "answers could not follow a neighbour that has another MAC"),
        }
    }

    /// Makes maps, programs and VIPs follow the interfaces, of which something was announced or not. What fails keeps nothing else
    /// from being done.
    async fn follow_links(&self, is_announced: bool) -> Result<(), DataplaneError> {
        let mut made = Ok(());
        if self.ask_features().await || is_announced {
            made = self.make().await;
        }
        let is_attached = self.keep_attached().await;
        if is_attached {
            // Other ways out may be open, or blocked, now.
            made = self.make().await;
        }
        if (is_attached || is_announced)
            && let Some(desired) = self.published.get().desired.clone()
        {
            self.offer(&desired).await;
        }
        made
    }

    /// Takes in the node's settings that can be changed while the daemon runs.
    async fn configure(&self, settings: &Settings) -> Result<(), DataplaneError> {
        self.health.set_hooks(settings.health.notify.clone());
        let mut tables = Arc::clone(&self.tables).lock_owned().await;
        tables.set_node(node(settings));
        self.make_in(tables, None, Room::LeaveOut)
            .await
            .inspect_err(|error| self.retry.failed(error))
    }
}

impl From<Error> for DataplaneError {
    fn from(error: Error) -> Self {
        match error {
            Error::Full { what, limit, setting } => Self::Full { what, limit, setting },
            other => Self::Kernel(chain(&other)),
        }
    }
}

impl Dataplane for Reconciler {
    fn reconcile(&self, desired: Arc<Desired>) -> BoxFuture<'_, Result<(), DataplaneError>> {
        Box::pin(async move {
            let mut wanted = self.shared.wanted.lock().await;
            self.shared.put_in_place(wanted.insert(desired)).await
        })
    }

    fn configure<'a>(&'a self, settings: &'a Settings) -> BoxFuture<'a, Result<(), DataplaneError>> {
        Box::pin(self.shared.configure(settings))
    }

    fn died(&self) -> BoxFuture<'_, TaskDied> {
        Box::pin(async {
            let mut tasks = self.tasks.lock().await;
            tokio::select! {
                died = tasks.died() => died,
                () = self.shared.announcer.stopped() => TaskDied::returned("VIPs"),
            }
        })
    }

    fn heartbeat(&self) -> watch::Receiver<()> {
        self.shared.heartbeat.subscribe()
    }

    fn detach(&self) -> BoxFuture<'_, Result<(), DataplaneError>> {
        Box::pin(async {
            self.shared.interfaces.let_go().await;
            Ok(take_down::take_down(self.shared.announcer.withdraw_all(), &self.shared.pins).await?)
        })
    }

    fn take_back(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if !self.shared.is_first {
                return info!("the dataplane that was there before goes on, as this start left it");
            }
            let vips = self.shared.announcer.withdraw_all();
            if let Err(error) = take_down::take_down(vips, &self.shared.pins).await {
                warn!(%error, "something stays of a start that failed: `lvx detach` takes it down");
            }
        })
    }

    fn status(&self) -> BoxFuture<'_, Status> {
        Box::pin(report::status(&self.shared))
    }

    fn health(&self, service: Option<ServiceAddress>) -> BoxFuture<'_, HealthReport> {
        Box::pin(self.shared.health.report(service))
    }

    fn health_view(&self) -> watch::Receiver<Arc<HealthView>> {
        self.shared.health.subscribe()
    }

    fn stats(&self) -> BoxFuture<'_, Stats> {
        Box::pin(async { report::stats(&self.shared) })
    }

    fn conns(&self, filter: ConnFilter) -> mpsc::Receiver<Conn> {
        conns::list(Arc::clone(&self.shared), filter)
    }

    fn count(&self, filter: ConnFilter) -> BoxFuture<'_, Result<ConnCount, DataplaneError>> {
        Box::pin(conns::count(Arc::clone(&self.shared), filter))
    }

    fn flush(&self, filter: ConnFilter) -> BoxFuture<'_, Result<u64, DataplaneError>> {
        Box::pin(conns::flush(Arc::clone(&self.shared), filter))
    }
}
