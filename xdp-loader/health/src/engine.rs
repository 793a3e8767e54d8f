//! The engine: one task that starts probes when they are due, takes in their results, and publishes what follows.
//!
//! It has a thread of its own, so that neither a busy API nor a long reconcile delays a probe, and one thread is enough
//! for thousands of probes per second.

mod decisions;
mod shares;
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

use self::{shares::Shares, targets::compile};
use super::{
    backend::Watched,
    diagnosis,
    notify::Notifier,
    persist::{Recalled, ResultsFile},
    probe::{Outcome, Probe, Reach, Report, Target},
    quorum::Quorum,
    schedule::{ProbeId, Schedule, pause},
    troubles::Troubles,
    vip_probe::{Job, Reachable, VipProber},
};
use lvx_api::health::HealthReport;
use lvx_model::{
    BackendKey, Desired, Service, ServiceAddress, exec,
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
    /// Where the backend of an address and port is.
    fn position(&self, (_, address, port): BackendKey) -> Option<usize> {
        let wanted = (address, port);
        self.backends
            .binary_search_by_key(&wanted, |it| (it.key.1, it.key.2))
            .ok()
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
    shares: Shares,
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
    troubles: Troubles,
    /// Commands of exec probes that root gave.
    granted: BTreeSet<exec::Command>,
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
            shares: Shares::default(),
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
            troubles: Troubles::default(),
            granted: BTreeSet::new(),
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
                Some((probe, words)) = inbox.diagnoses.recv() => self.diagnosed(probe, &words),
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
        let Some(group) = self.groups.get_mut(&key.0) else {
            return;
        };
        let Some(at) = group.position(*key) else { return };
        let watched = &mut group.backends[at];
        let direct = watched.direct;
        let Some(asked) = watched.asked_mut(id) else { return };
        asked.began = now;
        if let Some(command) = &asked.check.form().command
            && !exec::is_named(command, &self.settings.exec_allow)
            && !self.granted.contains(command)
        {
            let _ = self.reports.send((id, Report::unasked(exec::not_allowed(command))));
            return;
        }
        if asked.probe.is_err() {
            // What was missing may be there by now.
            asked.probe = compile(&asked.check);
        }
        let probe = match &asked.probe {
            Ok(probe) => Arc::clone(probe),
            Err(reason) => {
                let _ = self.reports.send((id, Report::unasked(reason)));
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

    /// A probe's service, backend and place.
    fn find(&mut self, id: ProbeId) -> Option<(&Arc<Service>, &mut Watched)> {
        // It may have been removed meanwhile.
        let key = *self.owners.get(&id)?;
        let group = self.groups.get_mut(&key.0)?;
        let at = group.position(key)?;
        Some((&group.service, &mut group.backends[at]))
    }

    /// Takes in a result, for all probes that share the question.
    fn take(&mut self, id: ProbeId, report: &Report) {
        let now = self.now();
        let Some((_, watched)) = self.find(id) else { return };
        let (key, address) = (watched.key, watched.address());
        let Some(asker) = watched.asked_mut(id) else { return };
        let (began, vip, note) = (asker.began, asker.vip, asker.note.clone());
        let answered = self.shares.answered_by(id);
        if answered.is_empty() {
            return;
        }
        if let (Outcome::Unknown, Some(reason)) = (report.outcome, &report.reason)
            && self.troubles.meet(reason, now)
        {
            tracing::warn!(service = %key.0, backend = %address, %reason,
                "a probe could not be asked from this node; the backend's state is kept. Further ones of this reason are not logged");
        }
        for probe in answered {
            let Some((service, watched)) = self.find(probe) else {
                continue;
            };
            let availability = &service.availability;
            if let Some(asked) = watched.asked_mut(probe) {
                (asked.began, asked.vip) = (began, vip);
                asked.note.clone_from(&note);
            }
            watched.take(probe, report, now, availability);
            if watched.moved(now, availability) {
                let service = watched.key.0;
                self.dirty.insert(service);
            }
        }
        self.follow(id, report, now);
    }

    /// What follows for the probe that asked: when it asks again, and what its failure means.
    fn follow(&mut self, id: ProbeId, report: &Report, now: Duration) {
        let Some((_, watched)) = self.find(id) else { return };
        let key = watched.key;
        let Some(asked) = watched.asked_mut(id) else { return };
        let failed = report.outcome == Outcome::Down;
        let (began, check) = (asked.began, asked.check.clone());
        let again = asked.diagnosed.is_none_or(|at| now >= at + DIAGNOSE);
        if let (true, true, true, Ok(probe)) = (failed, asked.vip, again, &asked.probe) {
            let target = Target {
                service: key.0,
                backend: key.1,
                port: key.2,
                reach: Reach::Address,
            };
            let (probe, report) = (Arc::clone(probe), report.clone());
            asked.diagnosed = Some(now);
            let diagnoses = self.diagnoses.clone();
            tokio::spawn(async move {
                if let Some(words) = diagnosis::of_vip(&probe, &target, &report).await {
                    let _ = diagnoses.send((id, words));
                }
            });
        }
        let next = began + pause(&check, failed, &mut self.random);
        self.schedule.set(id, next.max(now));
    }

    /// Takes in what a failure means, for all probes that share the question.
    fn diagnosed(&mut self, id: ProbeId, words: &str) {
        for probe in self.shares.answered_by(id) {
            let Some((_, watched)) = self.find(probe) else { continue };
            let (service, backend) = (watched.key.0, watched.address());
            let Some(asked) = watched.asked_mut(probe) else {
                continue;
            };
            let last = asked.history.entries().next_back();
            let failing = last.is_some_and(|entry| entry.outcome == Outcome::Down);
            if failing && asked.diagnosis.as_deref() != Some(words) {
                tracing::warn!(%service, %backend, "{words}");
                asked.diagnosis = Some(words.to_owned());
                self.dirty.insert(service);
            }
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
        for reason in self.troubles.over(now) {
            tracing::info!(%reason, "what kept probes from being asked did not come again");
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
