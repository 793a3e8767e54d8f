//! What the engine watches: which backends, with which probes, and by which way the VIPs of theirs are reached.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use super::{Engine, Group, shares::Question};
use crate::{
    backend::{Asked, Watched},
    probe::Probe,
    schedule::{ProbeId, first},
    verdict::Streak,
    vip_probe::{VipProber, Wanted, Wish},
};
use lvx_model::{BackendKey, Check, CheckType, Desired, Service};

impl Engine {
    /// Watches these services and no others. What is watched of a service that is the same as before goes on as it is.
    pub(super) fn watch(&mut self, desired: &Desired) {
        let now = self.now();
        self.granted.clone_from(desired.granted());
        let gone: Vec<_> = self
            .groups
            .extract_if(.., |address, _| !desired.services().contains_key(address))
            .collect();
        for (address, group) in gone {
            group
                .backends
                .into_iter()
                .for_each(|watched| self.forget(watched.probes));
            self.view.0.remove(&address);
        }
        let mut new = Vec::new();
        for service in desired.services().values() {
            let watched = self.groups.get(&service.address);
            if watched.is_none_or(|group| !Arc::ptr_eq(&group.service, service)) {
                self.watch_service(service, now, &mut new);
            }
        }
        // What no probe shares any more is not asked for again, or is made again.
        self.compiled
            .retain(|_, probe| probe.as_ref().is_ok_and(|probe| Arc::strong_count(probe) > 1));
        let of = new.len();
        for (position, (probe, interval)) in new.into_iter().enumerate() {
            self.schedule.set(probe, now + first(position, of, interval));
        }
        self.want_vips();
        self.publish();
    }

    /// Watches a service that is new or another than before. Probes that begin are added to `new`.
    fn watch_service(&mut self, service: &Arc<Service>, now: Duration, new: &mut Vec<(ProbeId, Duration)>) {
        let address = service.address;
        let (quorum, before) = match self.groups.remove(&address) {
            Some(group) => (group.quorum, group.backends),
            None => (self.recalled.quorums.remove(&address).unwrap_or_default(), Vec::new()),
        };
        let mut before: BTreeMap<BackendKey, Watched> = before.into_iter().map(|it| (it.key, it)).collect();
        let mut backends = Vec::with_capacity(service.backends.len());
        for backend in &service.backends {
            let key = (address, backend.address, backend.port(service));
            let kept = self.recalled.backends.remove(&key);
            let mut watched = match before.remove(&key) {
                Some(watched) => watched,
                None => Watched::new(key, kept.as_ref(), self.recalled.ago, now),
            };
            watched.desire(service, backend);
            let checks = if backend.disabled { &[] } else { backend.checks(service) };
            let newer_than = self.last_id;
            if !watched.has_checks(checks) {
                self.forget(std::mem::take(&mut watched.probes));
                for (at, check) in checks.iter().enumerate() {
                    self.last_id += 1;
                    let probe = self.compiled.entry(text(check)).or_insert_with(|| compile(check));
                    let streak = kept.as_ref().and_then(|kept| kept.streaks.get(at)).copied();
                    let streak = streak.unwrap_or_else(|| Streak::begin(watched.begin()));
                    let asked = Asked::new(self.last_id, check.clone(), probe.clone(), streak);
                    watched.probes.push(asked);
                    self.owners.insert(self.last_id, key);
                }
            }
            self.share(&watched, newer_than, now, new);
            // One that is new and has no probes is healthy at once.
            watched.tick(now, &service.availability);
            backends.push(watched);
        }
        before.into_values().for_each(|watched| self.forget(watched.probes));
        let group = Group {
            service: Arc::clone(service),
            quorum,
            backends,
        };
        self.groups.insert(address, group);
        self.dirty.insert(address);
    }

    /// Has a backend's probes share what they ask with those that ask the same. Those that begin, newer than that one, and ask by
    /// themselves are added to `new`.
    fn share(&mut self, watched: &Watched, newer_than: ProbeId, now: Duration, new: &mut Vec<(ProbeId, Duration)>) {
        for asked in &watched.probes {
            let (id, is_new) = (asked.id, asked.id > newer_than);
            let question = question(watched, asked);
            if !is_new && self.shares.question(id) == question.as_ref() {
                continue;
            }
            self.leave(id, now);
            match question.map_or(id, |question| self.shares.join(id, question)) {
                asks if asks == id && is_new => new.push((id, asked.check.interval().get())),
                asks if asks == id => self.schedule.set(id, now),
                asks => {
                    self.schedule.remove(id);
                    // This one waits for an answer too.
                    self.schedule.hasten(asks, now);
                }
            }
        }
    }

    /// Has a probe share nothing; another one asks what it asked.
    fn leave(&mut self, id: ProbeId, now: Duration) {
        if let Some(next) = self.shares.leave(id) {
            self.schedule.set(next, now);
        }
    }

    /// Ends probes.
    fn forget(&mut self, probes: Vec<Asked>) {
        let now = self.now();
        for asked in probes {
            self.leave(asked.id, now);
            self.schedule.remove(asked.id);
            self.owners.remove(&asked.id);
        }
    }

    /// Tells the prober of VIPs which backends there are.
    pub(super) fn want_vips(&mut self) {
        let asks = |watched: &&Watched| {
            watched
                .probes
                .iter()
                .any(|asked| asked.probe.as_ref().is_ok_and(|probe| probe.asks_vip(watched.direct)))
        };
        let mut backends: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
        let watched = self.groups.values().flat_map(|group| &group.backends);
        for watched in watched.filter(asks) {
            let (service, backend, _) = watched.key;
            backends.entry(backend).or_default().insert(service.ip);
        }
        if backends.is_empty() && self.vips.is_none() {
            return;
        }
        let vips = self.vips.get_or_insert_with(|| {
            VipProber::start(self.settings.probe_addresses.clone(), self.reports.clone())
                .map_err(|error| format!("VIPs cannot be probed: {error}"))
        });
        if let Ok(vips) = vips {
            let hops = self.hops.borrow();
            let known = |(backend, vips)| {
                let hop = *hops.0.get(&backend)?.as_ref().ok()?;
                Some((backend, Wish { hop, vips }))
            };
            vips.want(backends.into_iter().filter_map(known).collect::<Wanted>());
        }
    }
}

pub(super) fn compile(check: &Check) -> Result<Arc<Probe>, String> {
    Probe::new(check).map(Arc::new).map_err(|error| error.to_string())
}

/// What a probe asks, if it shares that.
fn question(watched: &Watched, asked: &Asked) -> Option<Question> {
    let (service, backend, port) = watched.key;
    let probe = asked.probe.as_ref().ok().filter(|_| asked.check.shares())?;
    Some(Question {
        check: text(&asked.check),
        backend,
        port: match asked.check.kind() {
            CheckType::Icmp => 0,
            _ => asked.check.port().unwrap_or(port),
        },
        vip: probe.asks_vip(watched.direct).then_some(service.ip),
    })
}

/// A check as a key: equal checks share what they are compiled to.
fn text(check: &Check) -> String {
    serde_json::to_string(check).unwrap_or_default()
}
