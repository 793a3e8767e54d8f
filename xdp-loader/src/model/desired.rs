//! All services together, and the operations that change them.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{
    Backend, BackendAddress, BackendChange, Refusal, Service, ServiceAddress, ServiceChange,
};
use crate::document::Document;

/// How many services LVX can tell apart. A node's settings usually allow fewer.
pub const MAX_SERVICES: usize = 65_535;

/// How many backends one service may have.
pub const MAX_BACKENDS_PER_SERVICE: usize = 65_535;

/// The services that the operator asked for.
///
/// Whatever the history of operations, it is valid: see [`Refusal`] for what that means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    services: BTreeMap<ServiceAddress, Service>,
}

impl Desired {
    /// Takes over a document whole, or not at all.
    ///
    /// # Errors
    /// The first reason for which the document cannot be the desired state.
    pub fn from_document(document: Document) -> Result<Self, Refusal> {
        let mut desired = Self::default();
        for service in document.services {
            let address = service.address;
            desired
                .add_service(service)
                .map_err(|refusal| match refusal {
                    Refusal::ServiceExists(_) => Refusal::ServiceTwice(address),
                    other => other,
                })?;
        }
        Ok(desired)
    }

    /// The same as a document, services and backends in order.
    pub fn to_document(&self) -> Document {
        Document {
            services: self.services.values().cloned().collect(),
        }
    }

    /// All services by address.
    pub fn services(&self) -> &BTreeMap<ServiceAddress, Service> {
        &self.services
    }

    /// The service of that address.
    ///
    /// # Errors
    /// When there is none.
    pub fn service(&self, address: ServiceAddress) -> Result<&Service, Refusal> {
        self.services
            .get(&address)
            .ok_or(Refusal::ServiceUnknown(address))
    }

    /// Adds a service, with its backends if it has any.
    ///
    /// # Errors
    /// When it exists, when it is not valid, when there are too many.
    pub fn add_service(&mut self, mut service: Service) -> Result<(), Refusal> {
        service.normalise();
        service.validate()?;
        let full = self.services.len() >= MAX_SERVICES;
        match self.services.entry(service.address) {
            Entry::Occupied(_) => Err(Refusal::ServiceExists(service.address)),
            Entry::Vacant(_) if full => Err(Refusal::TooManyServices),
            Entry::Vacant(vacant) => {
                vacant.insert(service);
                Ok(())
            }
        }
    }

    /// Changes a service's own fields; its backends stay.
    ///
    /// # Errors
    /// When it does not exist or would not be valid.
    pub fn set_service(
        &mut self,
        address: ServiceAddress,
        change: &ServiceChange,
    ) -> Result<(), Refusal> {
        self.edit(address, |service| {
            service.change(change);
            Ok(())
        })
    }

    /// Removes a service and its backends.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn del_service(&mut self, address: ServiceAddress) -> Result<(), Refusal> {
        self.services
            .remove(&address)
            .map(drop)
            .ok_or(Refusal::ServiceUnknown(address))
    }

    /// Adds a backend to a service.
    ///
    /// # Errors
    /// When the service does not exist, the backend does, or the service would not be valid with it.
    pub fn add_backend(
        &mut self,
        service: ServiceAddress,
        backend: Backend,
    ) -> Result<(), Refusal> {
        self.edit(service, |edited| match edited.position(backend.name()) {
            Ok(_) => Err(Refusal::BackendExists {
                service,
                backend: backend.name(),
            }),
            Err(at) => {
                edited.backends.insert(at, backend);
                Ok(())
            }
        })
    }

    /// Changes a backend's weight, way of forwarding or drain.
    ///
    /// # Errors
    /// When the service or the backend does not exist, or the service would not be valid.
    pub fn set_backend(
        &mut self,
        service: ServiceAddress,
        backend: BackendAddress,
        change: &BackendChange,
    ) -> Result<(), Refusal> {
        self.edit(service, |edited| {
            let at = edited
                .position(backend)
                .map_err(|_| Refusal::BackendUnknown { service, backend })?;
            edited.backends[at].change(change)
        })
    }

    /// Stops (`true`) or resumes (`false`) giving new connections to a backend.
    ///
    /// # Errors
    /// When the service or the backend does not exist.
    pub fn drain(
        &mut self,
        service: ServiceAddress,
        backend: BackendAddress,
        drain: bool,
    ) -> Result<(), Refusal> {
        self.set_backend(
            service,
            backend,
            &BackendChange {
                drain: Some(drain),
                ..BackendChange::default()
            },
        )
    }

    /// Removes a backend from a service.
    ///
    /// # Errors
    /// When the service or the backend does not exist.
    pub fn del_backend(
        &mut self,
        service: ServiceAddress,
        backend: BackendAddress,
    ) -> Result<(), Refusal> {
        self.edit(service, |edited| {
            let at = edited
                .position(backend)
                .map_err(|_| Refusal::BackendUnknown { service, backend })?;
            edited.backends.remove(at);
            Ok(())
        })
    }

    /// Edits a copy of a service and puts it in the original's place if it is valid.
    fn edit(
        &mut self,
        address: ServiceAddress,
        edit: impl FnOnce(&mut Service) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let original = self
            .services
            .get_mut(&address)
            .ok_or(Refusal::ServiceUnknown(address))?;
        let mut edited = original.clone();
        edit(&mut edited)?;
        edited.normalise();
        edited.validate()?;
        *original = edited;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;
    use crate::model::{Forward, Scheduler};

    const WEB: &str = "tcp://10.0.0.100:80";

    fn service(text: &str) -> ServiceAddress {
        text.parse().unwrap()
    }

    fn backend(text: &str) -> BackendAddress {
        text.parse().unwrap()
    }

    fn web(forward: Forward) -> Desired {
        let mut desired = Desired::default();
        desired
            .add_service(Service {
                forward,
                ..Service::new(service(WEB))
            })
            .unwrap();
        desired
            .add_backend(service(WEB), Backend::new(backend("10.0.0.11")))
            .unwrap();
        desired
    }

    /// The message of a refusal, after checking that nothing changed.
    fn refused(
        desired: &Desired,
        change: impl FnOnce(&mut Desired) -> Result<(), Refusal>,
    ) -> String {
        let mut changed = desired.clone();
        let message = change(&mut changed).unwrap_err().to_string();
        assert_eq!(
            &changed, desired,
            "a refused change left a trace: {message}"
        );
        message
    }

    fn refused_backend(desired: &Desired, text: &str) -> String {
        refused(desired, |desired| {
            desired.add_backend(service(WEB), Backend::new(backend(text)))
        })
    }

    #[test]
    fn each_refusal_has_its_own_message_and_changes_nothing() {
        let dr = web(Forward::Dr);
        let other = service("tcp://10.0.0.101:80");
        let cases = [
            (
                refused(&dr, |desired| {
                    desired.add_service(Service::new(service(WEB)))
                }),
                "exists already",
            ),
            (
                refused(&dr, |desired| desired.del_service(other)),
                "does not exist",
            ),
            (
                refused(&dr, |desired| {
                    desired.set_service(other, &ServiceChange::default())
                }),
                "does not exist",
            ),
            (
                refused(&dr, |desired| {
                    desired.drain(other, backend("10.0.0.11"), true)
                }),
                "service tcp://10.0.0.101:80",
            ),
            (
                refused(&dr, |desired| {
                    desired.drain(service(WEB), backend("10.0.0.12"), true)
                }),
                "lvx backend list",
            ),
            (
                refused(&dr, |desired| {
                    desired.del_backend(service(WEB), backend("10.0.0.12"))
                }),
                "backend 10.0.0.12",
            ),
            (
                refused_backend(&dr, "10.0.0.11"),
                "backend 10.0.0.11 exists already",
            ),
            (refused_backend(&dr, "10.0.0.11:80"), "exists already"),
            (refused_backend(&dr, "2001:db8::2"), "one address family"),
            (
                refused_backend(&dr, "10.0.0.12:8080"),
                "use --forward nat or the service's port 80",
            ),
            (refused_backend(&dr, "10.0.0.100"), "is the VIP of service"),
            (refused_backend(&dr, "224.0.0.1"), "multicast"),
            (refused_backend(&dr, "255.255.255.255"), "broadcast"),
            (refused_backend(&dr, "0.0.0.0"), "unspecified"),
            (refused_backend(&dr, "127.0.0.1"), "loopback"),
            (refused_backend(&dr, "fe80::1"), "link-local"),
            (
                refused_backend(&dr, "::ffff:10.0.0.12"),
                "an IPv4 address written as IPv6",
            ),
            (
                refused(&dr, |desired| {
                    desired.add_service(Service::new(service("tcp://[ff02::1]:80")))
                }),
                "multicast",
            ),
        ];
        for (message, part) in cases {
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
    }

    #[test]
    fn a_weight_out_of_range_is_refused() {
        let dr = web(Forward::Dr);
        for weight in [-1, 65_536] {
            let change = BackendChange {
                weight: Some(weight),
                ..BackendChange::default()
            };
            let message = refused(&dr, |desired| {
                desired.set_backend(service(WEB), backend("10.0.0.11"), &change)
            });
            assert_eq!(
                message,
                format!(
                    "weight {weight} of backend 10.0.0.11 is out of range: it must be 0 to 65535"
                )
            );
        }
    }

    #[test]
    fn mh_slots_that_are_no_prime_or_out_of_range_are_refused() {
        for slots in [0, 250, 241, 65_536, 131_072, 131_101] {
            let change = ServiceChange {
                mh_slots: Some(slots),
                ..ServiceChange::default()
            };
            let message = refused(&web(Forward::Dr), |desired| {
                desired.set_service(service(WEB), &change)
            });
            assert!(
                message.contains("must be a prime between 251 and 131071"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_service_whose_backends_use_other_ports_cannot_be_turned_to_dr() {
        let mut nat = web(Forward::Nat);
        nat.add_backend(service(WEB), Backend::new(backend("10.0.0.12:8080")))
            .unwrap();
        let change = ServiceChange {
            forward: Some(Forward::Dr),
            ..ServiceChange::default()
        };
        let message = refused(&nat, |desired| desired.set_service(service(WEB), &change));
        assert!(message.contains("dr cannot rewrite ports"), "{message}");
    }

    #[test]
    fn a_backend_may_use_nat_and_another_port_in_a_dr_service() {
        let mut desired = web(Forward::Dr);
        let odd = Backend {
            forward: Some(Forward::Nat),
            ..Backend::new(backend("10.0.0.12:8080"))
        };
        desired.add_backend(service(WEB), odd).unwrap();
        assert_eq!(desired.service(service(WEB)).unwrap().backends.len(), 2);
    }

    #[test]
    fn backends_are_sorted_whatever_the_order_of_adding() {
        let mut desired = web(Forward::Nat);
        for name in [
            "10.0.0.9",
            "10.0.0.12",
            "10.0.0.11:8080",
            "10.0.0.11:79",
            "10.0.0.9:80",
        ] {
            let _ = desired.add_backend(service(WEB), Backend::new(backend(name)));
        }
        let names: Vec<_> = desired
            .service(service(WEB))
            .unwrap()
            .backends
            .iter()
            .map(|each| each.name().to_string())
            .collect();
        assert_eq!(
            names,
            [
                "10.0.0.9",
                "10.0.0.11:79",
                "10.0.0.11",
                "10.0.0.11:8080",
                "10.0.0.12"
            ]
        );
    }

    #[test]
    fn the_same_vip_and_port_may_be_tcp_and_udp() {
        let mut desired = web(Forward::Dr);
        desired
            .add_service(Service::new(service("udp://10.0.0.100:80")))
            .unwrap();
        assert_eq!(desired.services().len(), 2);
    }

    #[test]
    fn a_change_keeps_what_it_does_not_name() {
        let mut desired = web(Forward::Nat);
        let weight = BackendChange {
            weight: Some(7),
            ..BackendChange::default()
        };
        desired
            .set_backend(service(WEB), backend("10.0.0.11"), &weight)
            .unwrap();
        desired
            .drain(service(WEB), backend("10.0.0.11:80"), true)
            .unwrap();
        let scheduler = ServiceChange {
            scheduler: Some(Scheduler::Wrr),
            ..ServiceChange::default()
        };
        desired.set_service(service(WEB), &scheduler).unwrap();
        let now = desired.service(service(WEB)).unwrap();
        assert_eq!((now.forward, now.scheduler), (Forward::Nat, Scheduler::Wrr));
        assert_eq!((now.backends[0].weight, now.backends[0].drain), (7, true));
        assert_eq!(now.backends[0].scheduled_weight(), 0);
    }

    #[test]
    fn a_document_that_repeats_itself_is_refused() {
        let twice = Document {
            services: vec![Service::new(service(WEB)), Service::new(service(WEB))],
        };
        assert_eq!(
            Desired::from_document(twice),
            Err(Refusal::ServiceTwice(service(WEB)))
        );
        let mut repeated = Service::new(service(WEB));
        repeated.backends = vec![
            Backend::new(backend("10.0.0.11")),
            Backend::new(backend("10.0.0.11:80")),
        ];
        let refusal = Desired::from_document(Document {
            services: vec![repeated],
        })
        .unwrap_err();
        assert!(matches!(refusal, Refusal::BackendTwice { .. }), "{refusal}");
    }

    #[test]
    fn a_service_takes_65535_backends_and_no_more() {
        let mut many = Service::new(service(WEB));
        let name = |number: u32| BackendAddress {
            ip: std::net::Ipv4Addr::from(0x0a01_0000 + number).into(),
            port: None,
        };
        many.backends = (0..65_535)
            .map(|number| Backend::new(name(number)))
            .collect();
        let full = Desired::from_document(Document {
            services: vec![many],
        })
        .unwrap();
        let refusal = full
            .clone()
            .add_backend(service(WEB), Backend::new(name(65_535)))
            .unwrap_err();
        assert_eq!(
            refusal,
            Refusal::TooManyBackends {
                service: service(WEB)
            }
        );
    }
}
