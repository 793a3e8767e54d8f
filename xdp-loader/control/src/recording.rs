//! A dataplane for tests: remembers what it was asked for and has room for a given number of services.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures::future::{self, BoxFuture};
use tokio::sync::{mpsc, watch};

use crate::{Dataplane, DataplaneError, tasks::TaskDied};
use lvx_api::{
    BackendState, BackendStats, BackendStatus, Conn, ConnCount, ConnFilter, ConnState, FlowTables, InterfaceStats,
    InterfaceStatus, ServiceStats, ServiceStatus, Stats, Status, TableUse, Traffic, VerdictCount, VipState, VipStatus,
    health::{BackendReport, ChangeReport, HealthReport, ProbeReport, ResultReport, ServiceReport},
};
use lvx_model::{
    CheckType, Desired, Service, ServiceAddress,
    health::{HealthView, ProbeVerdict, Serving, State},
    settings::{AttachMode, Settings},
};

/// A dataplane that only records.
pub struct Recording {
    limit: AtomicUsize,
    seen: Mutex<Vec<Arc<Desired>>>,
    /// Backends whose connection was flushed.
    flushed: Mutex<Vec<SocketAddr>>,
    /// The settings that it was given.
    settings: watch::Sender<Vec<Settings>>,
    died: watch::Sender<Option<TaskDied>>,
    heartbeat: watch::Sender<()>,
    taken_back: AtomicBool,
}

impl Recording {
    /// One that has room for so many services.
    pub fn with_room_for(limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            seen: Mutex::default(),
            flushed: Mutex::default(),
            settings: watch::Sender::default(),
            died: watch::Sender::default(),
            heartbeat: watch::Sender::default(),
            taken_back: AtomicBool::default(),
        }
    }

    /// Has room for so many services from now on, however many it has.
    pub fn shrink_to(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Whether it was told to undo a start that failed.
    pub fn is_taken_back(&self) -> bool {
        self.taken_back.load(Ordering::SeqCst)
    }

    /// The settings that it was given, one after the other.
    pub fn settings(&self) -> watch::Receiver<Vec<Settings>> {
        self.settings.subscribe()
    }

    /// One of its tasks dies.
    pub fn die(&self, task: &'static str) {
        self.died.send_replace(Some(TaskDied::returned(task)));
    }

    /// What it was last made equal to.
    pub fn last(&self) -> Arc<Desired> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.last().cloned().unwrap_or_default()
    }

    /// How often it was asked, refusals not counted.
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn sockets(service: &Service) -> Vec<SocketAddr> {
        service
            .backends
            .iter()
            .map(|backend| SocketAddr::new(backend.address, backend.port(service)))
            .collect()
    }
}

fn backend_report(address: SocketAddr) -> BackendReport {
    let reason = Some("tcp: connection refused".to_owned());
    BackendReport {
        address,
        state: State::Down,
        since_seconds: 12.5,
        takes_new: false,
        share_percent: 100,
        reported_weight: None,
        reason: reason.clone(),
        flaps: 1,
        held_out_seconds: None,
        probes: vec![ProbeReport {
            kind: CheckType::Tcp,
            vip: false,
            shared_by: 1,
            verdict: ProbeVerdict::Down,
            total: 40,
            failed: 3,
            unknown: 0,
            p50_microseconds: Some(180),
            p99_microseconds: Some(2_400),
            note: None,
            results: vec![ResultReport {
                seconds_ago: 0.5,
                outcome: "down".into(),
                microseconds: 90,
                reason: Some("connection refused".into()),
            }],
        }],
        changes: vec![ChangeReport {
            seconds_ago: 12.5,
            from: State::Up,
            to: State::Down,
            reason,
        }],
    }
}

impl Dataplane for Recording {
    fn configure<'a>(&'a self, settings: &'a Settings) -> BoxFuture<'a, Result<(), DataplaneError>> {
        self.settings.send_modify(|given| given.push(settings.clone()));
        Box::pin(future::ready(Ok(())))
    }

    fn died(&self) -> BoxFuture<'_, TaskDied> {
        let mut died = self.died.subscribe();
        Box::pin(async move {
            match died.wait_for(Option::is_some).await.ok().and_then(|died| died.clone()) {
                Some(died) => died,
                None => future::pending().await,
            }
        })
    }

    fn heartbeat(&self) -> watch::Receiver<()> {
        self.heartbeat.subscribe()
    }

    fn detach(&self) -> BoxFuture<'_, Result<(), DataplaneError>> {
        Box::pin(future::ready(Ok(())))
    }

    fn take_back(&self) -> BoxFuture<'_, ()> {
        self.taken_back.store(true, Ordering::SeqCst);
        Box::pin(future::ready(()))
    }

    fn reconcile(&self, desired: Arc<Desired>) -> BoxFuture<'_, Result<(), DataplaneError>> {
        let limit = self.limit.load(Ordering::Relaxed);
        if desired.services().len() > limit {
            let limit = u32::try_from(limit).unwrap_or(u32::MAX);
            let full = DataplaneError::Full {
                what: "services",
                limit,
                setting: "max_services",
            };
            return Box::pin(future::ready(Err(full)));
        }
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(desired);
        Box::pin(future::ready(Ok(())))
    }

    fn status(&self) -> BoxFuture<'_, Status> {
        let last = self.last();
        let services = last.services().values().map(|service| ServiceStatus {
            address: service.address,
            forward: service.forward,
            scheduler: service.scheduler,
            serving: Serving::Healthy,
            quorum_lost: false,
            vip: Some(VipStatus {
                address: service.address.ip,
                interface: Some("lan0".into()),
                added_by_lvx: true,
                state: VipState::Present,
                reason: None,
            }),
            error: None,
            backends: service
                .backends
                .iter()
                .map(|backend| BackendStatus {
                    address: SocketAddr::new(backend.address, backend.port(service)),
                    weight: backend.weight,
                    effective_weight: if backend.drain { 0.0 } else { f64::from(backend.weight) },
                    forward: backend.forward(service),
                    state: if backend.drain {
                        BackendState::Drained
                    } else {
                        BackendState::Up
                    },
                    reason: backend.drain.then(|| "asked to drain".to_owned()),
                    unseen: backend
                        .forward(service)
                        .unseen()
                        .filter(|_| backend.drain)
                        .map(str::to_owned),
                    active_flows: Some(3),
                    active_connections: Some(2),
                    inactive_connections: Some(1),
                })
                .collect(),
        });
        let status = Status {
            version: "0.0.0".into(),
            pid: 7,
            uptime_seconds: 3_700,
            interfaces: vec![InterfaceStatus {
                name: "lan0".into(),
                ifindex: Some(2),
                mode: Some(AttachMode::Generic),
                error: None,
                note: Some("the driver has no XDP".into()),
                link_up: true,
            }],
            losses: Vec::new(),
            losses_uncounted: None,
            reconcile_failure: None,
            vip_interface: Some("lan0".into()),
            services: services.collect(),
            flows: FlowTables {
                v4: TableUse { capacity: 100, used: 3 },
                v6: TableUse { capacity: 50, used: 0 },
            },
        };
        Box::pin(future::ready(status))
    }

    fn health(&self, service: Option<ServiceAddress>) -> BoxFuture<'_, HealthReport> {
        let last = self.last();
        let asked = last
            .services()
            .values()
            .filter(|known| service.is_none_or(|service| service == known.address));
        let services = asked.map(|service| ServiceReport {
            address: service.address,
            serving: Serving::Healthy,
            quorum_lost: false,
            quorum: service.availability.quorum,
            available: 3,
            backends: Self::sockets(service).into_iter().map(backend_report).collect(),
        });
        let report = HealthReport {
            services: services.collect(),
        };
        Box::pin(future::ready(report))
    }

    fn health_view(&self) -> watch::Receiver<Arc<HealthView>> {
        watch::Sender::default().subscribe()
    }

    fn stats(&self) -> BoxFuture<'_, Stats> {
        let traffic = Traffic {
            packets_in: 12,
            bytes_in: 3_456,
            connections: 2,
            ..Traffic::default()
        };
        let last = self.last();
        let services = last.services().values().map(|service| ServiceStats {
            address: service.address,
            traffic,
            backends: Self::sockets(service)
                .into_iter()
                .map(|address| BackendStats { address, traffic })
                .collect(),
        });
        let stats = Stats {
            interfaces: vec![InterfaceStats {
                name: "lan0".into(),
                verdicts: vec![VerdictCount {
                    verdict: "not_for_a_service".into(),
                    packets: 5,
                }],
            }],
            services: services.collect(),
        };
        Box::pin(future::ready(stats))
    }

    fn conns(&self, filter: ConnFilter) -> mpsc::Receiver<Conn> {
        let conns = self.connections(filter);
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            for conn in conns {
                if sender.send(conn).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }

    fn count(&self, filter: ConnFilter) -> BoxFuture<'_, Result<ConnCount, DataplaneError>> {
        let mut count = ConnCount::default();
        self.connections(filter).iter().for_each(|conn| count.add(conn, false));
        Box::pin(future::ready(Ok(count)))
    }

    fn flush(&self, filter: ConnFilter) -> BoxFuture<'_, Result<u64, DataplaneError>> {
        let mut flushed = self.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        let conns = self.connections_but(&flushed, filter);
        let count = conns.len() as u64;
        flushed.extend(conns.iter().map(|conn| conn.backend));
        Box::pin(future::ready(Ok(count)))
    }
}

impl Recording {
    /// One connection to every backend, but those that were flushed.
    fn connections(&self, filter: ConnFilter) -> Vec<Conn> {
        let flushed = self.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        self.connections_but(&flushed, filter)
    }

    fn connections_but(&self, flushed: &[SocketAddr], filter: ConnFilter) -> Vec<Conn> {
        self.last()
            .services()
            .values()
            .flat_map(|service| {
                Self::sockets(service)
                    .into_iter()
                    .map(|backend| (service.clone(), backend))
            })
            .map(|(service, backend)| Conn {
                protocol: service.address.protocol,
                client: SocketAddr::from(([192, 0, 2, 1], 40_000)),
                service: service.address,
                backend,
                state: ConnState::Established,
                forward: service.forward,
                idle_seconds: 4,
            })
            .filter(|conn| !flushed.contains(&conn.backend) && filter.admits(conn))
            .take(filter.limit.unwrap_or(usize::MAX))
            .collect()
    }
}
