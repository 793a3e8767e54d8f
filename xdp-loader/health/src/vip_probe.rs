//! Probing what clients of a `dr` service reach: the VIP, at one backend chosen by its MAC address.
//!
//! The balancer owns the VIP itself, so its own stack would never send such a packet. A network namespace of its own
//! does: with a macvlan on the backends' interface, one routing table per backend, and marks on sockets that choose
//! the table. It has no name and ends with the daemon. The probes' packets leave through the interface below the
//! macvlan and their answers come back to the macvlan's own MAC address: neither is ever for a service's XDP path.

mod namespace;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use self::namespace::Namespace;
use super::{
    probe::{Probe, Report, Target},
    schedule::ProbeId,
};
use lvx_model::settings::ProbeAddress;
use lvx_netlink::{NextHop, claims};

/// How often it is asked who answers ARP for the VIPs.
const ASK: Duration = Duration::from_secs(5);
/// How long an answer to that is waited for.
const PATIENCE: Duration = Duration::from_millis(300);

/// A probe to run.
pub struct Job {
    /// Which one.
    pub id: ProbeId,
    /// What is asked.
    pub probe: Arc<Probe>,
    /// Of whom.
    pub target: Target,
}

/// How backends are reached: by a mark, or why not.
type Routes = BTreeMap<IpAddr, Result<u32, String>>;

/// The backends of `dr` services, as the probes' namespace sees them.
#[derive(Clone, Debug, Default)]
pub struct Reachable {
    /// How they are reached: by a mark, or why not.
    pub routes: Routes,
    /// VIPs, and the backends that answer ARP or neighbour discovery for them.
    pub claims: BTreeSet<(IpAddr, IpAddr)>,
}

/// A backend that is to be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Where it is.
    pub hop: NextHop,
    /// The VIPs that it serves.
    pub vips: BTreeSet<IpAddr>,
}

/// The backends that are to be reached.
pub type Wanted = BTreeMap<IpAddr, Wish>;

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
        let (jobs, queue) = mpsc::unbounded_channel::<Job>();
        let (wanted, wishes) = watch::channel(Arc::new(Wanted::new()));
        let (published, reachable) = watch::channel(Arc::default());
        thread::Builder::new().name("lvx-vip-probe".into()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return tracing::error!(%error, "VIPs cannot be probed"),
            };
            runtime.block_on(run(addresses, queue, wishes, published, reports));
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

/// The thread: makes backends reachable, runs probes, asks who answers for VIPs.
async fn run(
    addresses: Vec<ProbeAddress>,
    mut queue: mpsc::UnboundedReceiver<Job>,
    mut wishes: watch::Receiver<Arc<Wanted>>,
    published: watch::Sender<Arc<Reachable>>,
    reports: mpsc::UnboundedSender<(ProbeId, Report)>,
) {
    let mut namespace = Namespace::open(addresses.clone());
    let mut asks = interval(ASK);
    asks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (heard, mut answers) = mpsc::unbounded_channel();
    loop {
        tokio::select! {
            changed = wishes.changed() => {
                if changed.is_err() {
                    return;
                }
                let wanted = Arc::clone(&wishes.borrow_and_update());
                publish_routes(&published, make(&mut namespace, &wanted).await);
                asks.reset_immediately();
            }
            job = queue.recv() => {
                let Some(Job { id, probe, target }) = job else { return };
                let reports = reports.clone();
                tokio::spawn(async move {
                    // The engine that is gone needs no report.
                    let _ = reports.send((id, probe.run(&target).await));
                });
            }
            _ = asks.tick() => {
                if published.borrow().routes.values().any(Result::is_err) {
                    // What this node lacked may be there by now.
                    if namespace.is_err() {
                        namespace = Namespace::open(addresses.clone());
                    }
                    let wanted = Arc::clone(&wishes.borrow());
                    publish_routes(&published, make(&mut namespace, &wanted).await);
                }
                let questions = match &namespace {
                    Ok(namespace) => namespace.questions(&wishes.borrow()),
                    Err(_) => continue,
                };
                let heard = heard.clone();
                tokio::spawn(async move {
                    let _ = heard.send(claims::ask(&questions, PATIENCE).await);
                });
            }
            Some(answers) = answers.recv() => match answers {
                Ok(answers) => {
                    let claims = claims_of(&answers, &wishes.borrow());
                    published.send_if_modified(|reachable| {
                        let changed = reachable.claims != claims;
                        if changed {
                            Arc::make_mut(reachable).claims = claims;
                        }
                        changed
                    });
                }
                Err(error) => tracing::debug!(%error, "it cannot be asked who answers ARP for VIPs"),
            },
        }
    }
}

/// Makes exactly these backends reachable, or says why not.
async fn make(namespace: &mut Result<Namespace, String>, wanted: &Wanted) -> Routes {
    match namespace {
        Ok(namespace) => namespace.make(wanted).await,
        Err(error) => wanted.keys().map(|backend| (*backend, Err(error.clone()))).collect(),
    }
}

fn publish_routes(published: &watch::Sender<Arc<Reachable>>, routes: Routes) {
    published.send_if_modified(|reachable| {
        let changed = reachable.routes != routes;
        if changed {
            Arc::make_mut(reachable).routes = routes;
        }
        changed
    });
}

/// Which backends answered for which of their VIPs.
fn claims_of(answers: &claims::Answers, wanted: &Wanted) -> BTreeSet<(IpAddr, IpAddr)> {
    let of = |(backend, wish): (&IpAddr, &Wish)| {
        let claimed = wish.vips.iter().filter(|vip| answers.contains(&(**vip, wish.hop.mac)));
        claimed.map(|vip| (*vip, *backend)).collect::<Vec<_>>()
    };
    wanted.iter().flat_map(of).collect()
}
