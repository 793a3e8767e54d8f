//! What follows from results: who serves, who is told, what is kept for a restart, what users see.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::{Detail, Engine, SAVE, SAVE_AFTER_CHANGE};
use crate::{backend::Watched, notify::Notice, quorum::Quorum};
use lvx_api::health::{HealthReport, ServiceReport};
use lvx_model::{
    ServiceAddress,
    health::{ServiceHealth, Serving},
};

impl Engine {
    /// Decides anew who serves, where something changed, and publishes it.
    pub(super) fn decide(&mut self) {
        let now = self.now();
        let mut publish = false;
        for address in std::mem::take(&mut self.dirty) {
            let Some(group) = self.groups.get_mut(&address) else {
                continue;
            };
            let policy = &group.service.availability;
            let candidates: Vec<_> = group.backends.iter().map(Watched::candidate).collect();
            let before = group.quorum;
            let takes = group.quorum.decide(&candidates, policy);
            let after = group.quorum;
            if (before.serving, before.lost) != (after.serving, after.lost) {
                tell_service(&address, after, policy.quorum, candidates.is_empty());
            }
            let mut healths = ServiceHealth::new();
            for (watched, takes_new) in group.backends.iter_mut().zip(takes) {
                let changed = watched.changed(now);
                let (_, backend, port) = watched.key;
                healths.insert((backend, port), watched.health(takes_new, now, policy));
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
            if self.view.0.get(&address).is_none_or(|known| **known != healths) {
                self.view.0.insert(address, Arc::new(healths));
                publish = true;
            }
        }
        if publish {
            self.publish();
        }
    }

    pub(super) fn publish(&self) {
        self.published.send_if_modified(|current| {
            let changed = **current != self.view;
            if changed {
                *current = Arc::new(self.view.clone());
            }
            changed
        });
    }

    /// Keeps the results on disk. Takes a millisecond or two for thousands of backends.
    pub(super) fn save(&mut self) {
        self.save_at = Instant::now() + SAVE;
        let Some(memory) = &self.memory else { return };
        let now = self.now();
        let watched = self.groups.values().flat_map(|group| &group.backends);
        let backends = watched.map(|watched| watched.keep(now)).collect();
        let quorums = self
            .groups
            .iter()
            .map(|(address, group)| (*address, group.quorum))
            .collect();
        if let Err(error) = memory.save(backends, quorums) {
            tracing::warn!(%error, "the results of probes could not be kept for a restart");
        }
    }

    pub(super) fn report(&self, detail: Detail) -> HealthReport {
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
            quorum: group.service.availability.quorum,
            available: group.quorum.available,
            backends: group
                .backends
                .iter()
                .filter_map(|watched| {
                    let (_, backend, port) = watched.key;
                    let health = self.view.0.get(address)?.get(&(backend, port))?;
                    Some(watched.report(*health, now, whole, |probe| self.shares.count(probe)))
                })
                .collect(),
        });
        HealthReport {
            services: services.collect(),
        }
    }
}

/// Tells the log who serves now.
fn tell_service(service: &ServiceAddress, quorum: Quorum, needed: u32, is_empty: bool) {
    let Quorum { available, serving, .. } = quorum;
    match (serving, quorum.lost) {
        // It just began, or its last backend was deleted.
        _ if is_empty => tracing::info!(%service, "the service has no backends"),
        // So it is with every service that has no probes, or whose probes were not answered yet.
        (Serving::Healthy | Serving::Unproven, false) => {
            tracing::info!(%service, ?serving, available, needed, "quorum of the service is there");
        }
        (serving, true) => {
            tracing::warn!(%service, ?serving, available, needed, "the service has lost its quorum");
        }
        (serving, false) => {
            tracing::warn!(%service, ?serving, available, needed, "who serves has changed");
        }
    }
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
