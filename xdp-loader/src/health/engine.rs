//! The engine: one task that starts probes when they are due, takes in their results, and publishes what follows.
//!
//! It has a thread of its own, so that neither a busy API nor a long reconcile delays a probe, and one thread is enough
//! for thousands of probes per second.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use super::{
    backend::{Asked, Watched},
    diagnosis,
    notify::{Notice, Notifier},
    persist::{Memory, Recalled},
    probe::{Outcome, Probe, Reach, Report, Target},
    quorum::{Quorum, Serving},
    report::{HealthReport, ServiceReport},
    schedule::{ProbeId, Schedule, first, pause},
    settings::HealthSettings,
    verdict::Streak,
    view::{BackendKey, HealthView},
    vip_probe::{Job, Reachable, VipProber},
};
use crate::{
    model::{Availability, Check, Desired, ServiceAddress},
    netlink::NextHops,
};

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
    /// To keep its results on disk; answered when they are.
    Save(oneshot::Sender<()>),
}

/// A service that is watched.
struct Group {
    policy: Availability,
    quorum: Quorum,
    backends: Vec<BackendKey>,
}

/// See the module.
pub(super) struct Engine {
    settings: HealthSettings,
    start: Instant,
    random: StdRng,
    schedule: Schedule,
    groups: BTreeMap<ServiceAddress, Group>,
    backends: BTreeMap<BackendKey, Watched>,
    owners: HashMap<ProbeId, BackendKey>,
    last_id: ProbeId,
    compiled: HashMap<String, Result<Arc<Probe>, String>>,
    recalled: Recalled,
    memory: Option<Memory>,
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
            memory: settings.state_dir.as_deref().map(Memory::in_directory),
            settings,
            start: now,
            random: StdRng::from_os_rng(),
            schedule: Schedule::default(),
            groups: BTreeMap::new(),
            backends: BTreeMap::new(),
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
            let due = self.schedule.next().map(|at| self.start + at);
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
                self.reachable = Arc::clone(&reachable.borrow());
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
            Command::Save(done) => {
                self.save();
                let _ = done.send(());
            }
        }
    }

    /// Watches these services and no others.
    fn watch(&mut self, desired: &Desired) {
        let now = self.now();
        self.groups
            .retain(|address, _| desired.services().contains_key(address));
        let mut keep = BTreeSet::new();
        let mut new = Vec::new();
        let mut compiled = HashMap::new();
        for (address, service) in desired.services() {
            let mut keys = Vec::with_capacity(service.backends.len());
            for backend in &service.backends {
                let key = (*address, backend.address, backend.port(service));
                keys.push(key);
                keep.insert(key);
                let kept = self.recalled.backends.remove(&key);
                let ago = self.recalled.ago;
                let watched = self
                    .backends
                    .entry(key)
                    .or_insert_with(|| Watched::new(service, backend, kept.as_ref(), ago, now));
                watched.desire(service, backend);
                let checks = if backend.disabled { &[] } else { backend.checks(service) };
                if watched.has_checks(checks) {
                    for asked in &watched.probes {
                        compiled
                            .entry(text(&asked.check))
                            .or_insert_with(|| asked.probe.clone());
                    }
                    continue;
                }
                for asked in watched.probes.drain(..) {
                    self.schedule.remove(asked.id);
                    self.owners.remove(&asked.id);
                }
                for (at, check) in checks.iter().enumerate() {
                    self.last_id += 1;
                    let name = text(check);
                    let probe = compiled
                        .entry(name)
                        .or_insert_with_key(|name| match self.compiled.get(name) {
                            Some(probe) => probe.clone(),
                            None => compile(check),
                        })
                        .clone();
                    let streak = kept.as_ref().and_then(|kept| kept.streaks.get(at)).copied();
                    let streak = streak.unwrap_or_else(|| Streak::begin(watched.begin()));
                    watched
                        .probes
                        .push(Asked::new(self.last_id, check.clone(), probe, streak));
                    self.owners.insert(self.last_id, key);
                    new.push((self.last_id, check.interval().get()));
                }
                watched.tick(now, &service.availability);
            }
            let quorum = self.recalled.quorums.remove(address).unwrap_or_default();
            let group = self.groups.entry(*address).or_insert_with(|| Group {
                policy: Availability::default(),
                quorum,
                backends: Vec::new(),
            });
            group.policy = service.availability.clone();
            group.backends = keys;
        }
        self.compiled = compiled;
        let gone: Vec<_> = self
            .backends
            .keys()
            .filter(|key| !keep.contains(key))
            .copied()
            .collect();
        for key in gone {
            for asked in self
                .backends
                .remove(&key)
                .into_iter()
                .flat_map(|watched| watched.probes)
            {
                self.schedule.remove(asked.id);
                self.owners.remove(&asked.id);
            }
        }
        self.view.backends.retain(|key, _| keep.contains(key));
        self.view.serving.retain(|address, _| self.groups.contains_key(address));
        let of = new.len();
        for (position, (probe, interval)) in new.into_iter().enumerate() {
            self.schedule.set(probe, now + first(position, of, interval));
        }
        self.dirty.extend(self.groups.keys());
        self.want_vips();
        self.publish();
    }

    /// Tells the prober of VIPs which backends there are.
    fn want_vips(&mut self) {
        let asks = |watched: &&Watched| {
            watched
                .probes
                .iter()
                .any(|asked| asked.probe.as_ref().is_ok_and(|probe| probe.asks_vip(watched.direct)))
        };
        let backends: BTreeSet<_> = self
            .backends
            .values()
            .filter(asks)
            .map(|watched| watched.key.1)
            .collect();
        if backends.is_empty() && self.vips.is_none() {
            return;
        }
        let vips = self.vips.get_or_insert_with(|| {
            VipProber::start(self.settings.probe_addresses.clone(), self.reports.clone())
                .map_err(|error| format!("VIPs cannot be probed: {error}"))
        });
        if let Ok(vips) = vips {
            let hops = self.hops.borrow();
            let known = |backend| Some((backend, *hops.0.get(&backend)?.as_ref().ok()?));
            vips.want(backends.into_iter().filter_map(known).collect());
        }
    }

    /// Starts a probe.
    fn begin(&mut self, id: ProbeId) {
        let now = self.now();
        let Some(key) = self.owners.get(&id) else { return };
        let Some(watched) = self.backends.get_mut(key) else {
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
            match (vips, self.reachable.get(&key.1)) {
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
        let (Some(watched), Some(group)) = (self.backends.get_mut(key), self.groups.get(&key.0)) else {
            return;
        };
        watched.take(id, report, now, &group.policy);
        if watched.moved(now, &group.policy) {
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
        let Some(watched) = self.backends.get_mut(key) else {
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

    fn tick(&mut self) {
        let now = self.now();
        let mut group = None;
        for watched in self.backends.values_mut() {
            let address = watched.key.0;
            // Backends are in the order of their services.
            if group.is_none_or(|(known, _)| known != address) {
                group = self.groups.get(&address).map(|group| (address, group));
            }
            if let Some((_, group)) = group {
                watched.tick(now, &group.policy);
                if watched.moved(now, &group.policy) {
                    self.dirty.insert(address);
                }
            }
        }
        if Instant::now() >= self.save_at {
            self.save();
        }
    }

    /// Decides anew who serves, where something changed, and publishes it.
    fn decide(&mut self) {
        let now = self.now();
        let mut publish = false;
        for address in std::mem::take(&mut self.dirty) {
            let Some(group) = self.groups.get_mut(&address) else {
                continue;
            };
            let candidates: Vec<_> = group
                .backends
                .iter()
                .filter_map(|key| self.backends.get(key))
                .map(Watched::candidate)
                .collect();
            let before = group.quorum;
            let takes = group.quorum.decide(&candidates, &group.policy);
            let after = group.quorum;
            if (before.serving, before.lost) != (after.serving, after.lost) && before.serving != Serving::default()
                || after.lost != before.lost
            {
                tracing::warn!(service = %address, quorum_lost = after.lost, serving = ?after.serving,
                    available = after.available, quorum = group.policy.quorum, "who serves has changed");
            }
            if self.view.serving.insert(address, after.serving) != Some(after.serving) {
                publish = true;
            }
            for (key, takes_new) in group.backends.iter().zip(takes) {
                let Some(watched) = self.backends.get_mut(key) else {
                    continue;
                };
                let changed = watched.changed(now);
                let health = watched.health(takes_new, now, &group.policy);
                publish |= self.view.backends.insert(*key, health) != Some(health);
                if let Some((from, reason)) = changed {
                    let notice = Notice {
                        unix_ms: unix_ms(),
                        service: address,
                        backend: watched.address(),
                        from,
                        to: watched.state(),
                        reason,
                        serving: after.serving,
                    };
                    tell(&notice);
                    self.notifier.tell(&notice);
                    self.save_at = self.save_at.min(Instant::now() + SAVE_AFTER_CHANGE);
                }
            }
        }
        if publish {
            self.publish();
        }
    }

    fn publish(&self) {
        self.published.send_if_modified(|current| {
            let changed = **current != self.view;
            if changed {
                *current = Arc::new(self.view.clone());
            }
            changed
        });
    }

    /// Keeps the results on disk. Takes a millisecond or two for thousands of backends.
    fn save(&mut self) {
        self.save_at = Instant::now() + SAVE;
        let Some(memory) = &self.memory else { return };
        let now = self.now();
        let backends = self.backends.values().map(|watched| watched.keep(now)).collect();
        let quorums = self
            .groups
            .iter()
            .map(|(address, group)| (*address, group.quorum))
            .collect();
        if let Err(error) = memory.save(backends, quorums) {
            tracing::warn!(%error, "the results of probes could not be kept for a restart");
        }
    }

    fn report(&self, detail: Detail) -> HealthReport {
        let now = self.now();
        let (service, whole) = match detail {
            Detail::Brief => (None, false),
            Detail::Whole(service) => (service, true),
        };
        let asked = self
            .groups
            .iter()
            .filter(|(address, _)| service.is_none_or(|service| service == **address));
        let services = asked.map(|(address, group)| ServiceReport {
            address: *address,
            serving: group.quorum.serving,
            quorum_lost: group.quorum.lost,
            quorum: group.policy.quorum,
            available: group.quorum.available,
            backends: group
                .backends
                .iter()
                .filter_map(|key| Some((self.backends.get(key)?, self.view.backends.get(key)?)))
                .map(|(watched, health)| watched.report(*health, now, whole))
                .collect(),
        });
        HealthReport {
            services: services.collect(),
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

fn compile(check: &Check) -> Result<Arc<Probe>, String> {
    Probe::new(check).map(Arc::new).map_err(|error| error.to_string())
}

/// A check as a key: equal checks share what they are compiled to.
fn text(check: &Check) -> String {
    serde_json::to_string(check).unwrap_or_default()
}

fn tell(notice: &Notice) {
    let (service, backend, to) = (notice.service, notice.backend, notice.to.name());
    let (from, reason) = (notice.from.name(), notice.reason.as_deref().unwrap_or("answers"));
    if notice.to.serves() {
        tracing::info!(%service, %backend, from, to, reason, "backend is {to}");
    } else {
        tracing::warn!(%service, %backend, from, to, reason, "backend is {to}");
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
