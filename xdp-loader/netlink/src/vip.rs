//! VIPs: services' addresses on an interface of this machine, added, marked as ours, announced and removed.
//!
//! An address of ours carries [`OWNER`](super::OWNER) as its protocol (`IFA_PROTO`, Linux 5.18 and later), which the kernel keeps with
//! it: whoever runs next knows them again, even after `kill -9`. Addresses without the mark are never touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    time::Duration,
};

use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use thiserror::Error;
use tokio::{
    select,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tracing::{error, info, warn};

use super::{
    Event, Events, Kernel, LinkTable, NetlinkError,
    address::{Present, addition, plan},
    announce::Announcer,
    socket::done,
};

/// How soon an address that somebody else removed is put back; later than the burst of events in which it went.
const REPAIR_AFTER: Duration = Duration::from_millis(200);

/// How an address that is wanted came to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VipState {
    /// LVX added it, now or earlier, and will remove it.
    Added,
    /// It was there before, and stays when the service goes.
    AlreadyThere {
        /// The interface that has it.
        interface: String,
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
    /// The kernel refused to remove one address.
    #[error("cannot remove {address} from {interface}: {source}")]
    Remove {
        /// The address.
        address: IpAddr,
        /// The interface.
        interface: String,
        /// Why.
        source: NetlinkError,
    },
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

/// What became of each address that was wanted.
pub type VipStates = BTreeMap<IpAddr, Result<VipState, VipError>>;

enum Command {
    Ensure {
        want: BTreeSet<IpAddr>,
        ifindex: u32,
        reply: oneshot::Sender<Result<VipStates, VipError>>,
    },
    Owned {
        reply: oneshot::Sender<Result<BTreeSet<IpAddr>, VipError>>,
    },
}

/// Manages the VIPs of this network namespace. It puts back what somebody else removed (the kernel itself removes an
/// interface's IPv6 addresses when it goes down) and announces again when the interface comes up.
///
/// Dropping it leaves the addresses where they are: forwarding goes on without the daemon.
pub struct Vips {
    commands: mpsc::Sender<Command>,
    _task: JoinSet<()>,
}

impl Vips {
    /// Starts the manager, in the network namespace of the calling thread. Nothing changes before [`Self::ensure`].
    ///
    /// # Errors
    ///
    /// If the kernel's tables cannot be read or the raw socket cannot be opened.
    pub async fn start() -> Result<Self, VipError> {
        let mut manager = Manager::open().await?;
        let (commands, mut receiver) = mpsc::channel(8);
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Err(error) = manager.run(&mut receiver).await {
                error!(%error, "following the VIPs failed, starting again in a second");
                sleep(Duration::from_secs(1)).await;
                match Manager::open().await {
                    Ok(fresh) => {
                        manager = Manager {
                            wanted: manager.wanted,
                            repair_at: Some(Instant::now()),
                            ..fresh
                        }
                    }
                    Err(error) => error!(%error, "following the VIPs failed"),
                }
            }
        });
        Ok(Self { commands, _task: task })
    }

    /// Makes the addresses of LVX in this namespace exactly `want`, on the interface of that index, and keeps them there:
    /// adds (and announces) what is missing, removes what is ours and not wanted. An address that is there and not
    /// ours, on whatever interface, is left alone.
    ///
    /// # Errors
    ///
    /// If the kernel's tables cannot be read, or an address of ours cannot be removed; then nothing or only a part was
    /// done and it can be called again. An address that cannot be added is an error of its own in the answer.
    pub async fn ensure(&self, want: BTreeSet<IpAddr>, ifindex: u32) -> Result<VipStates, VipError> {
        self.call(|reply| Command::Ensure { want, ifindex, reply }).await
    }

    /// Removes all addresses of LVX in this namespace.
    ///
    /// # Errors
    ///
    /// As [`Self::ensure`].
    pub async fn remove_all(&self) -> Result<(), VipError> {
        self.ensure(BTreeSet::new(), 0).await.map(drop)
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

struct Manager {
    events: Events,
    links: LinkTable,
    announcer: Announcer,
    wanted: Wanted,
    repair_at: Option<Instant>,
}

/// What [`Vips::ensure`] was asked last, and what it found.
#[derive(Default)]
struct Wanted {
    addresses: BTreeSet<IpAddr>,
    ifindex: u32,
    ours: BTreeSet<IpAddr>,
    /// How each address came to be there, once all are.
    settled: Option<BTreeMap<IpAddr, VipState>>,
    /// Whether the interface was up when it was last looked at.
    up: bool,
}

impl Manager {
    async fn open() -> Result<Self, VipError> {
        let events = Events::subscribe(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ])?;
        let kernel = Kernel::connect()?;
        Ok(Self {
            links: LinkTable::dump(&kernel).await?,
            events,
            announcer: Announcer::open().map_err(VipError::Socket)?,
            wanted: Wanted::default(),
            repair_at: None,
        })
    }

    /// Runs until the commands end.
    async fn run(&mut self, commands: &mut mpsc::Receiver<Command>) -> Result<(), VipError> {
        loop {
            let idle = Instant::now() + Duration::from_secs(3600);
            let wake = [self.repair_at, self.announcer.next()]
                .into_iter()
                .flatten()
                .fold(idle, Instant::min);
            select! {
                events = self.events.next() => {
                    for event in events? {
                        self.take(&event).await?;
                    }
                }
                command = commands.recv() => match command {
                    None => return Ok(()),
                    // A caller that is no longer there needs no answer.
                    Some(Command::Owned { reply }) => drop(reply.send(owned().await)),
                    Some(Command::Ensure { want, ifindex, reply }) => {
                        let same = self.wanted.ifindex == ifindex && self.wanted.addresses == want;
                        // What happened to them since is followed by events: the kernel need not be asked again.
                        let known = self.wanted.settled.as_ref().filter(|_| same && self.repair_at.is_none());
                        let states = match known {
                            Some(known) => Ok(known.iter().map(|(address, state)| (*address, Ok(state.clone()))).collect()),
                            None => {
                                // Taken to be up: what is added is announced, what is kept is not.
                                self.wanted = Wanted { addresses: want, ifindex, up: true, ..Wanted::default() };
                                self.ensure().await
                            }
                        };
                        drop(reply.send(states));
                    }
                },
                () = sleep_until(wake) => {}
            }
            self.announcer.repeat(&self.wanted.ours, &self.links);
            if self.repair_at.is_some_and(|at| at <= Instant::now()) {
                self.repair().await?;
            }
        }
    }

    async fn take(&mut self, event: &Event) -> Result<(), VipError> {
        let repair_at = Instant::now() + REPAIR_AFTER;
        match event {
            Event::Changed(message) => match &**message {
                RouteNetlinkMessage::DelAddress(message) => {
                    let wanted = &self.wanted.addresses;
                    if Present::from_message(message).is_some_and(|gone| wanted.contains(&gone.address)) {
                        self.repair_at = Some(repair_at);
                    }
                }
                RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_) => {
                    self.links.apply(message);
                    if self.came_up() {
                        self.repair_at = Some(repair_at);
                        self.announce(self.wanted.ours.clone());
                    }
                }
                _ => {}
            },
            Event::NextHopObject => {}
            Event::Lost => {
                self.links = LinkTable::dump(&Kernel::connect()?).await?;
                self.repair_at = Some(repair_at);
            }
        }
        Ok(())
    }

    /// Whether the wanted interface is up and was not when this was asked before.
    fn came_up(&mut self) -> bool {
        let before = self.wanted.up;
        self.wanted.up = self.links.get(self.wanted.ifindex).is_ok_and(|link| link.up);
        self.wanted.up && !before
    }

    fn announce(&mut self, addresses: BTreeSet<IpAddr>) {
        if let Ok(link) = self.links.get(self.wanted.ifindex) {
            self.announcer.announce(addresses, link);
        }
    }

    async fn repair(&mut self) -> Result<(), VipError> {
        self.repair_at = None;
        for (address, state) in self.ensure().await? {
            if let Err(error) = state {
                warn!(%address, %error, "the VIP is missing");
            }
        }
        Ok(())
    }

    async fn ensure(&mut self) -> Result<VipStates, VipError> {
        self.wanted.settled = None;
        let ifindex = self.wanted.ifindex;
        let kernel = Kernel::connect()?;
        self.links = LinkTable::dump(&kernel).await?;
        let came_up = self.came_up();
        let plan = plan(&self.wanted.addresses, ifindex, &Present::dump(&kernel).await?);
        let mut states = VipStates::new();
        let mut added = BTreeSet::new();
        // Adding comes first: a VIP that moves to another interface is never without one.
        for address in plan.add {
            let state = self.add(&kernel, address, ifindex).await;
            if matches!(state, Ok(VipState::Added)) {
                added.insert(address);
            }
            states.insert(address, state);
        }
        states.extend(plan.keep.iter().map(|address| (*address, Ok(VipState::Added))));
        for (address, index) in plan.foreign {
            states.insert(
                address,
                Ok(VipState::AlreadyThere {
                    interface: self.links.name(index),
                }),
            );
        }
        self.wanted.ours = &added | &plan.keep;
        self.announce(if came_up { self.wanted.ours.clone() } else { added });
        let mut failed = None;
        for there in plan.remove {
            if let Err(error) = self.remove(&kernel, there).await {
                failed.get_or_insert(error);
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let settled = states
            .iter()
            .map(|(address, state)| Some((*address, state.as_ref().ok()?.clone())));
        self.wanted.settled = settled.collect();
        Ok(states)
    }

    async fn add(&self, kernel: &Kernel, address: IpAddr, ifindex: u32) -> Result<VipState, VipError> {
        let interface = self.links.name(ifindex);
        let mut request = kernel.requests().address().add(ifindex, address, 0);
        *request.message_mut() = addition(address, ifindex);
        match done("add the address", request.execute()).await {
            Ok(()) => {
                info!(%address, interface, "VIP added");
                Ok(VipState::Added)
            }
            // Somebody was faster.
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(VipState::AlreadyThere { interface }),
            Err(source) => Err(VipError::Add {
                address,
                interface,
                source,
            }),
        }
    }

    async fn remove(&self, kernel: &Kernel, there: Present) -> Result<(), VipError> {
        let (address, interface) = (there.address, self.links.name(there.ifindex));
        let request = kernel.requests().address().del(there.to_message());
        match done("remove the address", request.execute()).await {
            Ok(()) => {
                info!(%address, interface, "VIP removed");
                Ok(())
            }
            // The address went by itself, or with its interface.
            Err(error) if matches!(error.errno(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
            Err(source) => Err(VipError::Remove {
                address,
                interface,
                source,
            }),
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
