//! The engine: one task that starts probes when they are due, takes in their results, and publishes what follows.
//!
//! It has a thread of its own, so that neither a busy API nor a long reconcile delays a probe, and one thread is enough
//! for thousands of probes per second.

mod decisions;
mod targets;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use super::{
    backend::Watched,
    diagnosis,
    notify::Notifier,
    persist::{Recalled, ResultsFile},
    probe::{Outcome, Probe, Reach, Report, Target},
    quorum::Quorum,
    schedule::{ProbeId, Schedule, pause},
    vip_probe::{Job, Reachable, VipProber},
};
use lvx_api::health::HealthReport;
use lvx_model::{
    BackendKey, Desired, Service, ServiceAddress,
    health::HealthView,
    settings::{HealthSettings, Hook},
};
use lvx_netlink::NextHops;

/// How often time is let pass for hold-outs and slow starts.
const TICK: Duration = Duration::from_millis(200);
/// How soon after a change the results are kept on disk, and how often without one.
const SAVE_AFTER_CHANGE: Duration = Duration::from_secs(1);
const SAVE: Duration = Duration::from_secs(30);
/// How long a probe waits for the way to its VIP before it asks the backend's own address.
const WAY_WITHIN: Duration = Duration::from_secs(2);
/// How often a failing probe of a VIP is looked into.
const DIAGNOSE: Duration = Duration::from_secs(5);

/// How much is to be told.
pub(super) enum Detail {
    /// Of all services, without probes and history.
    Brief,
    /// Everything of a service, or of all.
    Whole(Option<ServiceAddress>),
}

/// What the engine is asked.
pub(super) enum Command {
    /// To watch these; answered when the view is published.
    Targets(Arc<Desired>, oneshot::Sender<()>),
    /// What it knows.
    Report(Detail, oneshot::Sender<HealthReport>),
    /// To tell these of changes from now on.
    Hooks(Vec<Hook>),
    /// To keep its results on disk; answered when they are.
    Save(oneshot::Sender<()>),
}

/// A service that is watched.
struct Group {
    service: Arc<Service>,
    quorum: Quorum,
    /// In the order of the service's.
    backends: Vec<Watched>,
}

impl Group {
    /// The backend of an address and port.
    fn backend_mut(&mut self, (_, address, port): BackendKey) -> Option<&mut Watched> {
        let wanted = (address, port);
        let at = self.backends.binary_search_by_key(&wanted, |it| (it.key.1, it.key.2));
        self.backends.get_mut(at.ok()?)
    }
}

/// See the module.
pub(super) struct Engine {
    settings: HealthSettings,
    start: Instant,
    random: StdRng,
    schedule: Schedule,
    groups: BTreeMap<ServiceAddress, Group>,
    owners: HashMap<ProbeId, BackendKey>,
    last_id: ProbeId,
    compiled: HashMap<String, Result<Arc<Probe>, String>>,
    recalled: Recalled,
    memory: Option<ResultsFile>,
    save_at: Instant,
    hops: watch::Receiver<Arc<NextHops>>,
    vips: Option<Result<VipProber, String>>,
    reachable: Arc<Reachable>,
    reports: mpsc::UnboundedSender<(ProbeId, Report)>,
    diagnoses: mpsc::UnboundedSender<(ProbeId, String)>,
    dirty: BTreeSet<ServiceAddress>,
    view: HealthView,
    published: watch::Sender<Arc<HealthView>>,
    notifier: Notifier,
}

/// Results on their way to the engine.
pub(super) struct Inbox {
    reports: mpsc::UnboundedReceiver<(ProbeId, Report)>,
    diagnoses: mpsc::UnboundedReceiver<(ProbeId, String)>,
}

impl Engine {
    /// With what was known before a restart. To be called on the engine's runtime.
    pub(super) fn new(
        settings: HealthSettings,
        recalled: Recalled,
        hops: watch::Receiver<Arc<NextHops>>,
        published: watch::Sender<Arc<HealthView>>,
    ) -> (Self, Inbox) {
        let (report_sender, reports) = mpsc::unbounded_channel();
        let (diagnosis_sender, diagnoses) = mpsc::unbounded_channel();
        let now = Instant::now();
        let engine = Self {
            notifier: Notifier::start(settings.notify.clone()),
            memory: settings.state_dir.as_deref().map(ResultsFile::in_directory),
            settings,
            start: now,
            random: StdRng::from_os_rng(),
            schedule: Schedule::default(),
            groups: BTreeMap::new(),
            owners: HashMap::new(),
            last_id: 0,
            compiled: HashMap::new(),
            recalled,
            save_at: now + SAVE,
            hops,
            vips: None,
            reachable: Arc::default(),
            reports: report_sender,
            diagnoses: diagnosis_sender,
            dirty: BTreeSet::new(),
            view: HealthView::default(),
            published,
        };
        (engine, Inbox { reports, diagnoses })
    }

    /// Runs until nobody can ask any more, and keeps what it knows.
    pub(super) async fn run(mut self, mut inbox: Inbox, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut batch = Vec::with_capacity(256);
        let mut tick_at = self.start + TICK;
        let mut hops = self.hops.clone();
        loop {
            let due = self.schedule.next_due().map(|at| self.start + at);
            let wake = due.map_or(tick_at, |due| due.min(tick_at));
            let mut reachable = self
                .vips
                .as_ref()
                .and_then(|vips| vips.as_ref().ok())
                .map(VipProber::reachable);
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => break,
                },
                _ = inbox.reports.recv_many(&mut batch, 256) => {
                    for (probe, report) in batch.drain(..) {
                        self.take(probe, &report);
                    }
                }
                Some((probe, words)) = inbox.diagnoses.recv() => self.diagnosed(probe, words),
                Ok(()) = hops.changed() => self.want_vips(),
                Some(()) = changed(&mut reachable, &self.reachable) => {}
                () = sleep_until(wake) => {}
            }
            if let Some(reachable) = &reachable {
                let now = Arc::clone(&reachable.borrow());
                if !Arc::ptr_eq(&now, &self.reachable) {
                    self.reach(now);
                }
            }
            let now = Instant::now();
            if now >= tick_at {
                tick_at = now + TICK;
                self.tick();
            }
            while let Some(probe) = self.schedule.pop(now - self.start) {
                self.begin(probe);
            }
            self.decide();
        }
        self.save();
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn obey(&mut self, command: Command) {
        // Whoever asked may be gone.
        match command {
            Command::Targets(desired, done) => {
                self.watch(&desired);
                self.decide();
                let _ = done.send(());
            }
            Command::Report(detail, answer) => {
                let _ = answer.send(self.report(detail));
            }
            // The old hooks are still told what was on its way to them.
            Command::Hooks(hooks) => self.notifier = Notifier::start(hooks),
            Command::Save(done) => {
                self.save();
                let _ = done.send(());
            }
        }
    }

    /// Starts a probe.
    fn begin(&mut self, id: ProbeId) {
        let now = self.now();
        let Some(key) = self.owners.get(&id) else { return };
        let Some(watched) = self.groups.get_mut(&key.0).and_then(|group| group.backend_mut(*key)) else {
            return;
        };
        let direct = watched.direct;
        let Some(asked) = watched.probes.iter_mut().find(|asked| asked.id == id) else {
            return;
        };
        asked.began = now;
        let probe = match &asked.probe {
            Ok(probe) => Arc::clone(probe),
            Err(reason) => {
                let report = Report {
                    outcome: Outcome::Down,
                    latency: Duration::ZERO,
                    reason: Some(format!("cannot be asked: {reason}").into()),
                };
                let _ = self.reports.send((id, report));
                return;
            }
        };
        let mut target = Target {
            service: key.0,
            backend: key.1,
            port: key.2,
            reach: Reach::Address,
        };
        asked.vip = false;
        asked.note = None;
        if let (true, Some(vips)) = (probe.asks_vip(direct), &self.vips) {
            match (vips, self.reachable.routes.get(&key.1)) {
                (Err(reason), _) => asked.note = Some(reason.clone()),
                (Ok(_), Some(Err(reason))) => asked.note = Some(reason.clone()),
                (Ok(vips), Some(Ok(mark))) => {
                    asked.vip = true;
                    asked.waits = None;
                    target.reach = Reach::Vip { mark: *mark };
                    vips.run(Job { id, probe, target });
                    return;
                }
                (Ok(_), None) => {
                    if now < *asked.waits.get_or_insert(now) + WAY_WITHIN {
                        self.schedule.set(id, now + Duration::from_millis(20));
                        return;
                    }
                    asked.note = Some("its next hop is not known, so its own address is asked".into());
                }
            }
        }
        let reports = self.reports.clone();
        tokio::spawn(async move {
            // The engine that is gone needs no report.
            let _ = reports.send((id, probe.run(&target).await));
        });
    }

    /// Takes in a result.
    fn take(&mut self, id: ProbeId, report: &Report) {
        let now = self.now();
        // It may have been removed meanwhile.
        let Some(key) = self.owners.get(&id) else { return };
        let Some(group) = self.groups.get_mut(&key.0) else {
            return;
        };
        let service = Arc::clone(&group.service);
        let Some(watched) = group.backend_mut(*key) else { return };
        watched.take(id, report, now, &service.availability);
        if watched.moved(now, &service.availability) {
            self.dirty.insert(key.0);
        }
        let Some(asked) = watched.probes.iter_mut().find(|asked| asked.id == id) else {
            return;
        };
        let failed = report.outcome == Outcome::Down;
        let next = asked.began + pause(&asked.check, failed, &mut self.random);
        self.schedule.set(id, next.max(now));
        let again = asked.diagnosed.is_none_or(|at| now >= at + DIAGNOSE);
        if let (true, true, true, Ok(probe)) = (failed, asked.vip, again, &asked.probe) {
            asked.diagnosed = Some(now);
            let target = Target {
                service: key.0,
                backend: key.1,
                port: key.2,
                reach: Reach::Address,
            };
            let (probe, diagnoses, report) = (Arc::clone(probe), self.diagnoses.clone(), report.clone());
            tokio::spawn(async move {
                if let Some(words) = diagnosis::of_vip(&probe, &target, &report).await {
                    let _ = diagnoses.send((id, words));
                }
            });
        }
    }

    /// Takes in what a failure means.
    fn diagnosed(&mut self, id: ProbeId, words: String) {
        let Some(key) = self.owners.get(&id) else { return };
        let Some(watched) = self.groups.get_mut(&key.0).and_then(|group| group.backend_mut(*key)) else {
            return;
        };
        let Some(asked) = watched.probes.iter_mut().find(|asked| asked.id == id) else {
            return;
        };
        let failing = asked
            .history
            .entries()
            .next_back()
            .is_some_and(|entry| entry.outcome == Outcome::Down);
        if failing && asked.diagnosis.as_ref() != Some(&words) {
            tracing::warn!(service = %key.0, backend = %watched.address(), "{words}");
            if let Some(asked) = watched.probes.iter_mut().find(|asked| asked.id == id) {
                asked.diagnosis = Some(words);
            }
            self.dirty.insert(key.0);
        }
    }

    /// Takes in how backends are reached, and which of them answer ARP for their VIPs.
    fn reach(&mut self, reachable: Arc<Reachable>) {
        self.reachable = reachable;
        for watched in self.groups.values_mut().flat_map(|group| &mut group.backends) {
            let (service, backend, _) = watched.key;
            let claims = self.reachable.claims.contains(&(service.ip, backend));
            if watched.claims_vip(claims) {
                self.dirty.insert(service);
            }
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        for (address, Group { service, backends, .. }) in &mut self.groups {
            for watched in backends {
                watched.tick(now, &service.availability);
                if watched.moved(now, &service.availability) {
                    self.dirty.insert(*address);
                }
            }
        }
        if Instant::now() >= self.save_at {
            self.save();
        }
    }
}

/// Waits until what is reachable is another; for ever where nothing is probed.
async fn changed(reachable: &mut Option<watch::Receiver<Arc<Reachable>>>, known: &Arc<Reachable>) -> Option<()> {
    match reachable {
        Some(reachable) => reachable.wait_for(|now| !Arc::ptr_eq(now, known)).await.ok().map(drop),
        None => std::future::pending().await,
    }
}
