//! Who has which number in the maps.

use lvx_model::{BackendKey, Family, ServiceAddress};

use crate::IdAllocator;

/// The numbers that services and backends have in the maps.
#[derive(Debug)]
pub struct Ids {
    /// Of services.
    pub services: IdAllocator<ServiceAddress>,
    /// Of backends.
    pub backends: IdAllocator<BackendKey>,
    /// Of what shares persistence.
    pub groups: IdAllocator<Group>,
}

/// What shares persistence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// A service by itself.
    Service(ServiceAddress),
    /// All services of a family with this mark.
    Mark(u32, Family),
}

impl Group {
    /// The group of a service with this mark.
    #[must_use]
    pub fn of(service: ServiceAddress, mark: Option<u32>) -> Self {
        match mark {
            Some(mark) => Self::Mark(mark, service.family()),
            None => Self::Service(service),
        }
    }
}
