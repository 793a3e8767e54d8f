//! All services together, and the operations that change them.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use super::{Backend, BackendAddress, BackendChange, Refusal, Service, ServiceAddress, ServiceChange};
use crate::{document::Document, limits::MAX_SERVICES};

/// The services that the operator asked for.
///
/// Whatever the history of operations, it is valid: see [`Refusal`] for what that means. A change replaces the services that
/// it changes; all others are those of before, in the same memory. So a copy costs little, and what is the same is
/// known by its pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    services: BTreeMap<ServiceAddress, Arc<Service>>,
    /// Commands of `exec` probes that root gave: see [`crate::exec`].
    pub(crate) granted: BTreeSet<Vec<String>>,
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
            desired.insert(service).map_err(|refusal| match refusal {
                Refusal::ServiceExists(_) => Refusal::ServiceTwice(address),
                other => other,
            })?;
        }
        desired.validate_marks()?;
        Ok(desired)
    }

    /// The same as a document, services and backends in order.
    pub fn to_document(&self) -> Document {
        Document {
            services: self.services.values().map(|service| (**service).clone()).collect(),
        }
    }

    /// Has the services that are equal to another's in that one's memory.
    pub fn share(&mut self, other: &Self) {
        for (address, service) in &mut self.services {
            if let Some(same) = other.services.get(address).filter(|it| *it == service) {
                *service = Arc::clone(same);
            }
        }
    }

    /// The addresses of all backends.
    #[must_use]
    pub fn backend_addresses(&self) -> BTreeSet<IpAddr> {
        let backends = self.services.values().flat_map(|service| &service.backends);
        backends.map(|backend| backend.address).collect()
    }

    /// All services by address.
    pub fn services(&self) -> &BTreeMap<ServiceAddress, Arc<Service>> {
        &self.services
    }

    /// The service of that address.
    ///
    /// # Errors
    /// When there is none.
    pub fn service(&self, address: ServiceAddress) -> Result<&Service, Refusal> {
        let service = self.services.get(&address).ok_or(Refusal::ServiceUnknown(address))?;
        Ok(service)
    }

    /// Adds a service, with its backends if it has any.
    ///
    /// # Errors
    /// When it exists, when it is not valid, when there are too many.
    pub fn add_service(&mut self, service: Service) -> Result<(), Refusal> {
        self.validate_mark(&service)?;
        self.insert(service)
    }

    /// Adds a service that was not compared with the others.
    fn insert(&mut self, mut service: Service) -> Result<(), Refusal> {
        service.normalise();
        service.validate()?;
        let full = self.services.len() >= MAX_SERVICES;
        match self.services.entry(service.address) {
            Entry::Occupied(_) => Err(Refusal::ServiceExists(service.address)),
            Entry::Vacant(_) if full => Err(Refusal::TooManyServices),
            Entry::Vacant(vacant) => {
                vacant.insert(Arc::new(service));
                Ok(())
            }
        }
    }

    /// Changes a service's own fields; its backends stay.
    ///
    /// # Errors
    /// When it does not exist or would not be valid.
    pub fn set_service(&mut self, address: ServiceAddress, change: &ServiceChange) -> Result<(), Refusal> {
        self.edit(address, |service| service.change(change))
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
    pub fn add_backend(&mut self, service: ServiceAddress, backend: Backend) -> Result<(), Refusal> {
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

    /// Changes a backend's fields.
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
    pub fn drain(&mut self, service: ServiceAddress, backend: BackendAddress, drain: bool) -> Result<(), Refusal> {
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
    pub fn del_backend(&mut self, service: ServiceAddress, backend: BackendAddress) -> Result<(), Refusal> {
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
        let mut edited = self.service(address)?.clone();
        edit(&mut edited)?;
        edited.normalise();
        edited.validate()?;
        self.validate_mark(&edited)?;
        self.services.insert(address, Arc::new(edited));
        Ok(())
    }

    /// Checks a service against those that share its mark.
    fn validate_mark(&self, service: &Service) -> Result<(), Refusal> {
        let Some(mark) = service.mark else { return Ok(()) };
        let mut others = self.services.values();
        match others.find(|other| other.mark == Some(mark) && other.address != service.address) {
            Some(other) => agree(mark, service, other),
            None => Ok(()),
        }
    }

    /// Checks all services that share a mark.
    fn validate_marks(&self) -> Result<(), Refusal> {
        let mut first = BTreeMap::new();
        for service in self.services.values() {
            if let Some(mark) = service.mark {
                agree(mark, service, first.entry(mark).or_insert(service))?;
            }
        }
        Ok(())
    }
}

/// Checks that two services can share their persistence.
fn agree(mark: u32, service: &Service, other: &Service) -> Result<(), Refusal> {
    let what = if service.address.family() != other.address.family() {
        "address family"
    } else if service.persistence != other.persistence {
        "persistence"
    } else if service.netmask() != other.netmask() {
        "netmask"
    } else {
        return Ok(());
    };
    Err(Refusal::MarkApart {
        service: service.address,
        other: other.address,
        mark,
        what,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;

    fn two() -> Desired {
        let mut desired = Desired::default();
        for address in ["tcp://10.0.0.100:80", "tcp://10.0.0.101:80"] {
            desired.add_service(Service::new(address.parse().unwrap())).unwrap();
        }
        desired
    }

    /// Which of the services of two states are in the same memory.
    fn same(one: &Desired, other: &Desired) -> Vec<bool> {
        let pairs = one.services().values().zip(other.services().values());
        pairs.map(|(one, other)| Arc::ptr_eq(one, other)).collect()
    }

    #[test]
    fn a_change_leaves_all_other_services_in_the_same_memory() {
        let before = two();
        let mut after = before.clone();
        let backend = Backend::new("10.0.0.11".parse().unwrap());
        after
            .add_backend("tcp://10.0.0.101:80".parse().unwrap(), backend)
            .unwrap();
        assert_eq!(same(&before, &after), [true, false]);
    }

    #[test]
    fn what_is_applied_shares_the_services_that_are_the_same_and_no_others() {
        let before = two();
        let mut document = before.to_document();
        document.services[0].mh_slots = 251;
        let mut applied = Desired::from_document(document).unwrap();
        assert_eq!(same(&before, &applied), [false, false]);
        let alone = applied.clone();
        applied.share(&before);
        assert_eq!(same(&before, &applied), [false, true]);
        assert_eq!(applied, alone);
    }
}
