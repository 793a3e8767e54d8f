//! What the reconciler last made so, and whether what is news to others is any to packets.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use lvx_dataplane::flows::Census;
use lvx_model::{Desired, health::HealthView};
use lvx_netlink::{NextHops, VipState};

/// What was last made so.
#[derive(Clone, Default)]
pub(super) struct Known {
    /// Nothing before the first reconcile.
    pub(super) desired: Option<Arc<Desired>>,
    pub(super) hops: Arc<NextHops>,
    pub(super) health: Arc<HealthView>,
    pub(super) vips: BTreeMap<IpAddr, VipState>,
    /// The index of the interface that the VIPs are on.
    pub(super) vip_index: Option<u32>,
    pub(super) census: Arc<Census>,
}

impl Known {
    /// Whether new connections are spread under another view of health as they are now.
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

    /// Whether all backends are reached in the same way by other next hops as they are now.
    pub(super) fn is_reached_by(&self, hops: &NextHops) -> bool {
        self.desired.as_ref().is_some_and(|desired| {
            let mut backends = desired.services().values().flat_map(|service| &service.backends);
            backends.all(|backend| self.hops.0.get(&backend.address) == hops.0.get(&backend.address))
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;
    use lvx_model::{Backend, Service};
    use lvx_netlink::NextHop;

    fn hops(ways: &[(u8, u8)]) -> NextHops {
        let hop = |mac: u8| NextHop {
            ifindex: 2,
            source_mac: [2; 6],
            mac: [mac; 6],
            mtu: 1500,
        };
        let ways = ways.iter();
        NextHops(
            ways.map(|(last, mac)| ([10, 0, 0, *last].into(), Ok(hop(*mac))))
                .collect(),
        )
    }

    #[test]
    fn next_hops_concern_packets_only_if_they_are_others_for_a_desired_backend() {
        assert!(
            !Known::default().is_reached_by(&hops(&[])),
            "nothing was made so before the first reconcile"
        );
        let mut desired = Desired::default();
        let mut service = Service::new("tcp://10.0.0.100:80".parse().unwrap());
        service.backends.push(Backend::new("10.0.0.11".parse().unwrap()));
        desired.add_service(service).unwrap();
        let known = Known {
            desired: Some(Arc::new(desired)),
            hops: Arc::new(hops(&[(11, 1)])),
            ..Known::default()
        };
        assert!(
            known.is_reached_by(&hops(&[(11, 1), (12, 2)])),
            "one that is about to come"
        );
        assert!(!known.is_reached_by(&hops(&[(11, 9)])), "another machine");
        assert!(!known.is_reached_by(&hops(&[])), "no way any more");
    }
}
