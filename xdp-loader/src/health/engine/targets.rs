//! What the engine watches: which backends, with which probes, and by which way the VIPs of theirs are reached.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{Engine, Group};
use crate::{
    health::{
        backend::{Asked, Watched},
        probe::Probe,
        schedule::first,
        verdict::Streak,
        vip_probe::{VipProber, Wanted, Wish},
    },
    model::{Availability, Check, Desired},
};

impl Engine {
    /// Watches these services and no others.
    pub(super) fn watch(&mut self, desired: &Desired) {
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
                    // One that is new and has no probes is healthy at once.
                    watched.tick(now, &service.availability);
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
    pub(super) fn want_vips(&mut self) {
        let asks = |watched: &&Watched| {
            watched
                .probes
                .iter()
                .any(|asked| asked.probe.as_ref().is_ok_and(|probe| probe.asks_vip(watched.direct)))
        };
        let mut backends: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
        for watched in self.backends.values().filter(asks) {
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

fn compile(check: &Check) -> Result<Arc<Probe>, String> {
    Probe::new(check).map(Arc::new).map_err(|error| error.to_string())
}

/// A check as a key: equal checks share what they are compiled to.
fn text(check: &Check) -> String {
    serde_json::to_string(check).unwrap_or_default()
}
