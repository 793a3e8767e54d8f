//! VIPs: services' addresses on interfaces of this machine, added, marked as ours, announced and removed.
//!
//! An address of ours carries [`OWNER`](super::OWNER) as its protocol (`IFA_PROTO`, Linux 5.18 and later), which the kernel keeps with
//! it: whoever runs next knows them again, even after `kill -9`. Addresses without the mark are never touched.
//!
//! Before an address is added, the network is asked whether another host has it (RFC 5227, section 2.1; RFC 4862, section 5.4):
//! then it is not, and it is asked again now and then.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use thiserror::Error;
use tokio::{
    select,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tracing::{error, info, warn};

use super::{
    Event, Events, Kernel, LinkTable, NetlinkError, Places,
    address::{Present, addition, plan},
    announce::Announcer,
    claims::{self, Question},
    socket::done,
};

/// How soon an address that somebody else removed is put back; later than the burst of events in which it went.
const REPAIR_AFTER: Duration = Duration::from_millis(200);
/// How soon a VIP that could not be added is tried again, and the network asked again about one that another host has.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// How long another host may take to say that it has a VIP, each of the two times that it is asked. RFC 5227 waits for seconds;
/// a change of the services is not to.
const PATIENCE: Duration = Duration::from_millis(150);

/// How an address that is wanted came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VipState {
    /// LVX added it, now or earlier, and will remove it.
    Added {
        /// Index of the interface that has it.
        ifindex: u32,
    },
    /// It was there before, and stays when the service goes.
    AlreadyThere {
        /// Index of the interface that has it.
        ifindex: u32,
    },
}

/// Why a VIP is not on its interface.
#[derive(Debug, Error)]
pub enum VipError {
    /// The kernel's tables could not be read.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The raw socket for announcements could not be opened.
    #[error("cannot open a raw socket to announce addresses: {0}; it needs the capability CAP_NET_RAW")]
    Socket(#[source] io::Error),
    /// The kernel refused to add one address.
    #[error("cannot add {address} to {interface}: {source}{}", way_out(source, interface))]
    Add {
        /// The address.
        address: IpAddr,
        /// The interface.
        interface: String,
        /// Why.
        source: NetlinkError,
    },
    /// Another host has the address.
    #[error(
        "another host, {}, answers for {address} on {interface}: take the address off that host, or make it silent there",
        text(mac)
    )]
    Conflict {
        /// The address.
        address: IpAddr,
        /// The interface.
        interface: String,
        /// The other host's MAC address.
        mac: [u8; 6],
    },
    /// The kernel refused to remove addresses.
    #[error("these VIPs cannot be removed: {}; the log says why", .0.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", "))]
    Remaining(Vec<IpAddr>),
    /// No interface is for the address.
    #[error("no interface that LVX is attached to has a network with {0}, and the one for all other VIPs is not there")]
    NoInterface(IpAddr),
    /// The task that manages the addresses has ended.
    #[error("the manager of the VIPs has stopped; restart lvx run")]
    Stopped,
}

fn way_out(source: &NetlinkError, interface: &str) -> String {
    match source.errno() {
        Some(libc::EACCES) => {
            format!(" (is IPv6 off there? sysctl net.ipv6.conf.{interface}.disable_ipv6)")
        }
        Some(libc::EPERM) => " (it needs the capability CAP_NET_ADMIN)".to_owned(),
        Some(libc::ENODEV) => " (the interface is gone)".to_owned(),
        _ => String::new(),
    }
}

fn text(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Which addresses are wanted, and where they may stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// The addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The interfaces.
    pub places: Places,
}

/// What became of each address that was wanted.
pub type VipStates = BTreeMap<IpAddr, Result<VipState, VipError>>;

enum Command {
    Ensure {
        wish: Wish,
        reply: oneshot::Sender<Result<(), VipError>>,
    },
    Owned {
        reply: oneshot::Sender<Result<BTreeSet<IpAddr>, VipError>>,
    },
}

/// Manages the VIPs of this network namespace. It puts back what somebody else removed (the kernel itself removes an
/// interface's IPv6 addresses when it goes down), moves a VIP when the network moves, and announces again when an interface
/// comes up or has another MAC address.
///
/// Dropping it leaves the addresses where they are: forwarding goes on without the daemon.
pub struct Vips {
    commands: mpsc::Sender<Command>,
    states: watch::Receiver<Arc<VipStates>>,
    _task: JoinSet<()>,
}

impl Vips {
    /// Starts the manager, in the network namespace of the calling thread. Nothing changes before [`Self::ensure`].
    ///
    /// # Errors
    ///
    /// If the kernel's tables cannot be read or the raw socket cannot be opened.
    pub async fn start() -> Result<Self, VipError> {
        let (published, states) = watch::channel(Arc::default());
        let mut manager = Manager {
            kernel: Followed::open().await?,
            wish: None,
            ours: BTreeMap::new(),
            conflicts: BTreeMap::new(),
            states: published,
            repair_at: None,
        };
        let (commands, mut receiver) = mpsc::channel(8);
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Err(error) = manager.run(&mut receiver).await {
                error!(%error, "following the VIPs failed, starting again in a second");
                sleep(Duration::from_secs(1)).await;
                match Followed::open().await {
                    Ok(fresh) => {
                        manager.kernel = fresh;
                        manager.repair_at = Some(Instant::now());
                    }
                    Err(error) => error!(%error, "following the VIPs failed"),
                }
            }
        });
        Ok(Self {
            commands,
            states,
            _task: task,
        })
    }

    /// Makes the addresses of LVX in this namespace exactly those that are wished for, and keeps them there: adds (and
    /// announces) what is missing, removes what is ours and not wanted. An address that is there and not ours, on whatever
    /// interface, is left alone. What became of each address is one of [`Self::states`].
    ///
    /// # Errors
    ///
    /// If the kernel's tables cannot be read; it is tried again then.
    pub async fn ensure(&self, wish: Wish) -> Result<(), VipError> {
        self.call(|reply| Command::Ensure { wish, reply }).await
    }

    /// What became of each address that is wanted, as it is now.
    #[must_use]
    pub fn states(&self) -> Arc<VipStates> {
        Arc::clone(&self.states.borrow())
    }

    /// Removes all addresses of LVX in this namespace.
    ///
    /// # Errors
    ///
    /// As [`Self::ensure`], or if an address cannot be removed.
    pub async fn remove_all(&self) -> Result<(), VipError> {
        self.ensure(Wish::default()).await?;
        let remaining = self.owned().await?;
        if remaining.is_empty() {
            Ok(())
        } else {
            Err(VipError::Remaining(remaining.into_iter().collect()))
        }
    }

    /// The addresses in this namespace that LVX added, in this process or an earlier one.
    ///
    /// # Errors
    ///
    /// If the kernel's tables cannot be read.
    pub async fn owned(&self) -> Result<BTreeSet<IpAddr>, VipError> {
        self.call(|reply| Command::Owned { reply }).await
    }

    /// Waits until the manager has ended, which it does only in a panic.
    pub async fn stopped(&self) {
        self.commands.closed().await;
    }

    async fn call<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, VipError>>) -> Command,
    ) -> Result<T, VipError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| VipError::Stopped)?;
        answer.await.map_err(|_| VipError::Stopped)?
    }
}

/// What the manager follows the kernel with.
struct Followed {
    events: Events,
    links: LinkTable,
    announcer: Announcer,
}

impl Followed {
    async fn open() -> Result<Self, VipError> {
        let events = Events::subscribe(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ])?;
        Ok(Self {
            links: LinkTable::dump(&Kernel::connect()?).await?,
            events,
            announcer: Announcer::open().map_err(VipError::Socket)?,
        })
    }
}

struct Manager {
    kernel: Followed,
    /// What [`Vips::ensure`] was asked last; nothing changes before.
    wish: Option<Wish>,
    /// The addresses of LVX that are there, and the indices of their interfaces.
    ours: BTreeMap<IpAddr, u32>,
    /// The addresses that another host has, its MAC address, and when it is asked again; on which interface.
    conflicts: BTreeMap<(IpAddr, u32), ([u8; 6], Instant)>,
    states: watch::Sender<Arc<VipStates>>,
    /// When the addresses are looked at again.
    repair_at: Option<Instant>,
}

impl Manager {
    /// Runs until the commands end.
    async fn run(&mut self, commands: &mut mpsc::Receiver<Command>) -> Result<(), VipError> {
        loop {
            let idle = Instant::now() + Duration::from_secs(3600);
            let wake = [self.repair_at, self.kernel.announcer.next()]
                .into_iter()
                .flatten()
                .fold(idle, Instant::min);
            select! {
                events = self.kernel.events.next() => {
                    for event in events? {
                        self.take(&event).await?;
                    }
                }
                command = commands.recv() => match command {
                    None => return Ok(()),
                    // A caller that is no longer there needs no answer.
                    Some(Command::Owned { reply }) => drop(reply.send(owned().await)),
                    Some(Command::Ensure { wish, reply }) => {
                        let soon = Instant::now() + REPAIR_AFTER;
                        let ensured = if self.wish.as_ref() == Some(&wish) && self.repair_at.is_none_or(|at| at > soon) {
                            // What happened to them since is followed by events: the kernel need not be asked again.
                            Ok(())
                        } else {
                            self.wish = Some(wish);
                            self.ensure().await
                        };
                        if ensured.is_err() {
                            self.repair_by(Instant::now() + TRY_AGAIN);
                        }
                        drop(reply.send(ensured));
                    }
                },
                () = sleep_until(wake) => {}
            }
            let ours = self.ours.keys().copied().collect();
            self.kernel.announcer.repeat(&ours, &self.kernel.links);
            if self.repair_at.is_some_and(|at| at <= Instant::now()) {
                self.ensure().await?;
            }
        }
    }

    async fn take(&mut self, event: &Event) -> Result<(), VipError> {
        let repair_at = Instant::now() + REPAIR_AFTER;
        match event {
            Event::Changed(message) => match &**message {
                // An interface may be on another network now.
                RouteNetlinkMessage::NewAddress(message)
                    if Present::from_message(message).is_some_and(|new| !new.ours) =>
                {
                    self.repair_by(repair_at);
                }
                RouteNetlinkMessage::DelAddress(message) => {
                    let ours = |gone: &Present| self.ours.get(&gone.address) == Some(&gone.ifindex);
                    if Present::from_message(message).is_some_and(|gone| !gone.ours || ours(&gone)) {
                        self.repair_by(repair_at);
                    }
                }
                RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_) => {
                    let before = self.kernel.links.clone();
                    if self.kernel.links.apply(message) && self.announce_renewed(&before) {
                        self.repair_by(repair_at);
                    }
                }
                _ => {}
            },
            Event::NextHopObject => {}
            Event::Lost => self.repair_by(repair_at),
        }
        Ok(())
    }

    fn repair_by(&mut self, at: Instant) {
        self.repair_at = Some(self.repair_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Announces the addresses whose interface has come up, or has another MAC address. Whether there are any.
    fn announce_renewed(&mut self, before: &LinkTable) -> bool {
        let links = &self.kernel.links;
        let is_renewed = |ifindex: u32| {
            let before = before.get(ifindex).ok();
            links
                .get(ifindex)
                .is_ok_and(|link| link.up && before.is_some_and(|before| !before.up || before.mac != link.mac))
        };
        let renewed: BTreeMap<_, _> = self
            .ours
            .iter()
            .filter(|(_, ifindex)| is_renewed(**ifindex))
            .map(|(address, ifindex)| (*address, *ifindex))
            .collect();
        self.announce(&renewed);
        !renewed.is_empty()
    }

    fn announce(&mut self, addresses: &BTreeMap<IpAddr, u32>) {
        let mut by_interface: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
        for (address, ifindex) in addresses {
            by_interface.entry(*ifindex).or_default().insert(*address);
        }
        for (ifindex, addresses) in by_interface {
            if let Ok(link) = self.kernel.links.get(ifindex) {
                self.kernel.announcer.announce(addresses, link);
            }
        }
    }

    async fn ensure(&mut self) -> Result<(), VipError> {
        self.repair_at = None;
        let Some(wish) = self.wish.clone() else {
            return Ok(());
        };
        let kernel = Kernel::connect()?;
        let links = LinkTable::dump(&kernel).await?;
        let before = std::mem::replace(&mut self.kernel.links, links);
        let present = Present::dump(&kernel).await?;
        let place = |vip: IpAddr| {
            wish.places
                .of(vip, &present)
                .filter(|it| self.kernel.links.get(*it).is_ok())
        };
        let want = wish.addresses.iter().map(|vip| (*vip, place(*vip))).collect();
        let plan = plan(&want, &present);
        self.ask_for_conflicts(&plan.add).await;

        let mut states = VipStates::new();
        let mut added = BTreeMap::new();
        // Adding comes first: a VIP that moves to another interface is never without one.
        for (address, ifindex) in plan.add {
            let state = match self.conflicts.get(&(address, ifindex)) {
                Some((mac, _)) => Err(VipError::Conflict {
                    address,
                    interface: self.kernel.links.name(ifindex),
                    mac: *mac,
                }),
                None => self.add(&kernel, address, ifindex).await,
            };
            if matches!(state, Ok(VipState::Added { .. })) {
                added.insert(address, ifindex);
            }
            states.insert(address, state);
        }
        for (address, ifindex) in &plan.keep {
            states.insert(*address, Ok(VipState::Added { ifindex: *ifindex }));
        }
        for (address, ifindex) in plan.foreign {
            states.insert(address, Ok(VipState::AlreadyThere { ifindex }));
        }
        for address in plan.homeless {
            states.insert(address, Err(VipError::NoInterface(address)));
        }
        self.ours = plan.keep;
        self.announce_renewed(&before);
        self.ours.extend(&added);
        self.announce(&added);
        for there in plan.remove {
            self.remove(&kernel, there).await;
        }
        if states.values().any(Result::is_err) {
            self.repair_by(Instant::now() + TRY_AGAIN);
        }
        self.publish(states);
        Ok(())
    }

    /// Asks the network whether another host has these addresses, those but that it was asked about lately.
    async fn ask_for_conflicts(&mut self, add: &BTreeMap<IpAddr, u32>) {
        let now = Instant::now();
        self.conflicts
            .retain(|(address, ifindex), (_, again)| add.get(address) == Some(ifindex) && *again > now);
        let questions: BTreeSet<Question> = add
            .iter()
            .filter(|(address, ifindex)| !self.conflicts.contains_key(&(**address, **ifindex)))
            .filter_map(|(address, ifindex)| {
                let link = self.kernel.links.get(*ifindex).ok().filter(|link| link.up)?;
                Some(Question {
                    index: *ifindex,
                    mac: link.mac?,
                    asker: match address {
                        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                    },
                    wanted: *address,
                })
            })
            .collect();
        if questions.is_empty() {
            return;
        }
        let answers = match claims::ask(&questions, PATIENCE).await {
            Ok(answers) => answers,
            Err(error) => {
                warn!(%error, "the network could not be asked whether another host has the VIPs");
                return;
            }
        };
        // Another interface of this machine may answer for an address that moves.
        let is_own = |mac: &[u8; 6]| self.kernel.links.iter().any(|link| link.mac.as_ref() == Some(mac));
        for (address, mac) in answers.into_iter().filter(|(_, mac)| !is_own(mac)) {
            if let Some(ifindex) = add.get(&address) {
                // Later than the next look, which is then not one too early.
                let again = Instant::now() + TRY_AGAIN - REPAIR_AFTER;
                self.conflicts.insert((address, *ifindex), (mac, again));
            }
        }
    }

    /// Publishes what became of the addresses, and tells the log what is news.
    fn publish(&self, states: VipStates) {
        let before = Arc::clone(&self.states.borrow());
        for (address, state) in &states {
            let said = |state: Option<&Result<VipState, VipError>>| match state {
                Some(Err(error)) => Some(error.to_string()),
                _ => None,
            };
            if let Some(error) = said(Some(state))
                && said(before.get(address)).as_ref() != Some(&error)
            {
                warn!(%address, error, "the VIP is missing");
            }
        }
        self.states.send_replace(Arc::new(states));
    }

    async fn add(&self, kernel: &Kernel, address: IpAddr, ifindex: u32) -> Result<VipState, VipError> {
        let interface = self.kernel.links.name(ifindex);
        let mut request = kernel.requests().address().add(ifindex, address, 0);
        *request.message_mut() = addition(address, ifindex);
        match done("add the address", request.execute()).await {
            Ok(()) => {
                info!(%address, interface, "VIP added");
                Ok(VipState::Added { ifindex })
            }
            // Somebody was faster.
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(VipState::AlreadyThere { ifindex }),
            Err(source) => Err(VipError::Add {
                address,
                interface,
                source,
            }),
        }
    }

    /// Removes an address. One that cannot be removed is tried again.
    async fn remove(&mut self, kernel: &Kernel, there: Present) {
        let (address, interface) = (there.address, self.kernel.links.name(there.ifindex));
        let request = kernel.requests().address().del(there.to_message());
        match done("remove the address", request.execute()).await {
            Ok(()) => info!(%address, interface, "VIP removed"),
            // The address went by itself, or with its interface.
            Err(error) if matches!(error.errno(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => {}
            Err(error) => {
                warn!(%address, interface, %error, "the VIP cannot be removed; it is tried again");
                self.repair_by(Instant::now() + TRY_AGAIN);
            }
        }
    }
}

async fn owned() -> Result<BTreeSet<IpAddr>, VipError> {
    let present = Present::dump(&Kernel::connect()?).await?;
    Ok(present
        .iter()
        .filter(|there| there.ours)
        .map(|there| there.address)
        .collect())
}
