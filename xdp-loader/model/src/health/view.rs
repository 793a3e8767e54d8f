//! What the dataplane is told: for every backend whether it takes new connections, and with what weight.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::State;
use crate::{Backend, Service, ServiceAddress};

/// How a backend is, as far as its share of new connections goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendHealth {
    /// Whether it takes new connections. Quorum, sorry backends and failing open are in this already.
    pub takes_new: bool,
    /// The share of its weight that it gets, in percent, 1 to 100.
    pub share: u32,
    /// A weight that it reported, in place of the configured one.
    pub weight: Option<u16>,
    /// Its state.
    pub state: State,
}

/// Health of a service's backends, by address and port. One that is not here was not yet heard of.
pub type ServiceHealth = BTreeMap<(IpAddr, u16), BackendHealth>;

/// Health of all backends of all services. What did not change from one view to the next is in the same memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthView(pub BTreeMap<ServiceAddress, Arc<ServiceHealth>>);

/// A share is given in so many parts of a weight.
const PARTS: u32 = 20;

impl HealthView {
    /// The health of a backend.
    pub fn of(&self, service: &Service, backend: &Backend) -> Option<&BackendHealth> {
        let of_service = self.0.get(&service.address)?;
        of_service.get(&(backend.address, backend.port(service)))
    }

    /// Whether a backend is down, and its flows are lost.
    pub fn is_down(&self, service: &Service, backend: &Backend) -> bool {
        self.of(service, backend)
            .is_some_and(|health| health.state == State::Down && !health.takes_new)
    }

    /// The weights in effect, in the units of the configured ones: less than these where a backend gets a part of its share only.
    pub fn effective_weights(&self, service: &Service) -> Vec<f64> {
        let parts = self.parts(service).into_iter();
        let weight = |(weight, share): (u16, u32)| f64::from(weight) * f64::from(share.min(100)) / 100.0;
        parts.map(weight).collect()
    }

    /// The weight of each backend, and how many percent of it it gets.
    fn parts(&self, service: &Service) -> Vec<(u16, u32)> {
        const NOTHING: (u16, u32) = (0, 100);
        let of_service = self.0.get(&service.address);
        let of = |backend: &Backend| of_service?.get(&(backend.address, backend.port(service)));
        let healths: Vec<_> = service.backends.iter().map(|backend| (backend, of(backend))).collect();
        let served = healths
            .iter()
            .any(|(backend, health)| health.is_some_and(|health| health.takes_new && backend.weight > 0));
        let part = |(backend, health): &(&Backend, Option<&BackendHealth>)| -> (u16, u32) {
            if backend.drain || backend.disabled {
                return NOTHING;
            }
            match health {
                Some(health) if !health.takes_new => NOTHING,
                Some(health) => (health.weight.unwrap_or(backend.weight), health.share),
                None if backend.sorry => NOTHING,
                // Probed, and not heard of yet: it waits, unless nobody else serves.
                None if served && !backend.checks(service).is_empty() => NOTHING,
                None => (backend.weight, 100),
            }
        };
        healths.iter().map(part).collect()
    }

    /// The weights that new connections are to be spread by, in the order of the service's backends.
    ///
    /// The configured ones where every backend has its full share; else all are multiplied, so that small weights can
    /// be divided too.
    pub fn weights(&self, service: &Service) -> Vec<u16> {
        let parts = self.parts(service);
        let whole = parts.iter().all(|(_, share)| *share >= 100);
        let weight = |(weight, share): &(u16, u32)| match (u32::from(*weight), whole) {
            (weight, true) => weight,
            (0, false) => 0,
            (weight, false) => (weight * PARTS * share.min(&100)).div_ceil(100).max(1),
        };
        let weights: Vec<u32> = parts.iter().map(weight).collect();
        let divisor = weights
            .iter()
            .max()
            .map_or(1, |max| max.div_ceil(u32::from(u16::MAX)).max(1));
        let fit = |weight: &u32| u16::try_from(weight.div_ceil(divisor)).unwrap_or(u16::MAX);
        weights.iter().map(fit).collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;
    use crate::{
        Desired,
        document::{Document, Format},
    };

    fn service(backends: &str) -> Service {
        let text = format!(
            "[[service]]\naddress = \"tcp://10.0.0.100:80\"\nhealth = [{{ type = \"tcp\" }}]\nbackend = [{backends}]"
        );
        let document = Document::parse(&text, Format::Toml, "test").unwrap();
        let desired = Desired::from_document(document).unwrap();
        Service::clone(desired.services().values().next().unwrap())
    }

    fn view(service: &Service, healths: &[Option<BackendHealth>]) -> HealthView {
        let backends = service.backends.iter();
        let keys = backends.map(|backend| (backend.address, backend.port(service)));
        let healths = keys.zip(healths).filter_map(|(key, health)| Some((key, (*health)?)));
        HealthView([(service.address, Arc::new(healths.collect()))].into())
    }

    const UP: Option<BackendHealth> = Some(BackendHealth {
        takes_new: true,
        share: 100,
        weight: None,
        state: State::Up,
    });
    const DOWN: Option<BackendHealth> = Some(BackendHealth {
        takes_new: false,
        share: 100,
        weight: None,
        state: State::Down,
    });

    fn share(share: u32) -> Option<BackendHealth> {
        UP.map(|health| BackendHealth { share, ..health })
    }

    const TWO: &str = "{ address = \"10.0.0.11\" }, { address = \"10.0.0.12\", weight = 3 }";

    #[test]
    fn healthy_backends_have_their_configured_weights() {
        let service = service(TWO);
        assert_eq!(view(&service, &[UP, UP]).weights(&service), [1, 3]);
        assert_eq!(view(&service, &[UP, DOWN]).weights(&service), [1, 0]);
    }

    #[test]
    fn a_share_divides_even_a_weight_of_one() {
        let service = service(TWO);
        assert_eq!(view(&service, &[share(10), UP]).weights(&service), [2, 60]);
        assert_eq!(view(&service, &[share(1), UP]).weights(&service), [1, 60]);
        assert_eq!(view(&service, &[share(50), DOWN]).weights(&service), [10, 0]);
        let in_effect = view(&service, &[share(50), share(50)]).effective_weights(&service);
        assert_eq!(in_effect, [0.5, 1.5]);
        assert_eq!(view(&service, &[UP, DOWN]).effective_weights(&service), [1.0, 0.0]);
    }

    #[test]
    fn the_largest_weights_still_fit() {
        let service = service("{ address = \"10.0.0.11\", weight = 65535 }, { address = \"10.0.0.12\" }");
        let weights = view(&service, &[UP, share(50)]).weights(&service);
        assert_eq!(weights, [65_535, 1]);
    }

    #[test]
    fn a_reported_weight_takes_the_place_of_the_configured_one() {
        let service = service(TWO);
        let reported = UP.map(|health| BackendHealth {
            weight: Some(9),
            ..health
        });
        assert_eq!(view(&service, &[reported, UP]).weights(&service), [9, 3]);
    }

    #[test]
    fn a_backend_not_heard_of_waits_unless_nobody_else_serves() {
        let service = service(TWO);
        assert_eq!(view(&service, &[UP, None]).weights(&service), [1, 0]);
        assert_eq!(view(&service, &[None, None]).weights(&service), [1, 3]);
        assert_eq!(view(&service, &[DOWN, None]).weights(&service), [0, 3]);
    }

    #[test]
    fn what_the_operator_withdrew_gets_nothing_whatever_its_health() {
        let service = service(
            "{ address = \"10.0.0.11\", drain = true }, { address = \"10.0.0.12\", disabled = true }, \
             { address = \"10.0.0.13\", sorry = true }, { address = \"10.0.0.14\" }",
        );
        assert_eq!(view(&service, &[UP, UP, None, UP]).weights(&service), [0, 0, 0, 1]);
    }
}
