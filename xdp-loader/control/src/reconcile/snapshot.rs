//! What the reconciler has published: the inputs that it last applied, and what readers of the maps need to know. Whoever reports
//! reads this and waits for no change, nor does a change for them.

use std::sync::{Arc, PoisonError, RwLock};

use lvx_dataplane::{census::Census, tables};
use lvx_model::{Desired, health::HealthView};
use lvx_netlink::NextHops;

/// What was last applied, and how that is read.
#[derive(Clone)]
pub(super) struct Snapshot {
    /// Nothing before the first reconcile.
    pub(super) desired: Option<Arc<Desired>>,
    pub(super) hops: Arc<NextHops>,
    pub(super) health: Arc<HealthView>,
    pub(super) census: Arc<Census>,
    pub(super) tables: tables::Snapshot,
}

/// The place of the latest snapshot.
pub(super) struct Published(RwLock<Arc<Snapshot>>);

impl Published {
    /// With nothing applied yet.
    pub(super) fn new(tables: tables::Snapshot) -> Self {
        Self(RwLock::new(Arc::new(Snapshot {
            desired: None,
            hops: Arc::default(),
            health: Arc::default(),
            census: Arc::default(),
            tables,
        })))
    }

    /// The latest.
    pub(super) fn get(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Publishes one that differs from the latest in what `change` changes.
    pub(super) fn set(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut latest = self.0.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut latest));
    }
}

impl Snapshot {
    /// Decides whether a changed view of health alters the tables: where it does not, new connections are spread under it as they
    /// are now.
    pub(super) fn is_served_by(&self, view: &HealthView) -> bool {
        self.desired.as_ref().is_some_and(|desired| {
            let mut services = desired.services().values();
            services.all(|service| {
                let of = |view: &HealthView| view.0.get(&service.address).map(Arc::as_ptr);
                let down = |view: &HealthView, backend| view.is_down(service, backend);
                of(&self.health) == of(view)
                    || self.health.weights(service) == view.weights(service)
                        && service
                            .backends
                            .iter()
                            .all(|it| down(&self.health, it) == down(view, it))
            })
        })
    }

    /// Decides whether changed next hops alter the tables: where they do not, all backends are reached as they are now.
    pub(super) fn is_reached_by(&self, hops: &NextHops) -> bool {
        reached(self.desired.as_deref(), &self.hops, hops)
    }
}

/// Whether all desired backends are reached by other next hops as by those that were applied.
fn reached(desired: Option<&Desired>, applied: &NextHops, hops: &NextHops) -> bool {
    desired.is_some_and(|desired| {
        let mut backends = desired.services().values().flat_map(|service| &service.backends);
        backends.all(|backend| applied.0.get(&backend.address) == hops.0.get(&backend.address))
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use lvx_model::{Backend, Service};
    use lvx_netlink::NextHop;

    use super::*;

    fn hops(routes: &[(u8, u8)]) -> NextHops {
        let hop = |mac: u8| NextHop {
            ifindex: 2,
            source_mac: [2; 6],
            mac: [mac; 6],
            mtu: 1500,
        };
        let routes = routes.iter();
        NextHops(
            routes
                .map(|(last, mac)| ([10, 0, 0, *last].into(), Ok(hop(*mac))))
                .collect(),
        )
    }

    #[test]
    fn next_hops_concern_packets_only_if_they_are_others_for_a_desired_backend() {
        assert!(
            !reached(None, &hops(&[]), &hops(&[])),
            "nothing was applied before the first reconcile"
        );
        let mut desired = Desired::default();
        let mut service = Service::new("tcp://10.0.0.100:80".parse().unwrap());
        service.backends.push(Backend::new("10.0.0.11".parse().unwrap()));
        desired.add_service(service).unwrap();
        let applied = hops(&[(11, 1)]);
        let reached = |hops: &NextHops| reached(Some(&desired), &applied, hops);
        assert!(reached(&hops(&[(11, 1), (12, 2)])), "one that is about to come");
        assert!(!reached(&hops(&[(11, 9)])), "another machine");
        assert!(!reached(&hops(&[])), "no route any more");
    }
}
