//! What a backend has of its service where it says nothing itself.

use super::{Backend, BackendKey, Check, Forward, Service};

impl Backend {
    /// The probes that tell its health; none means that it is taken for healthy.
    pub fn checks<'a>(&'a self, service: &'a Service) -> &'a [Check] {
        self.health.as_deref().unwrap_or(&service.health)
    }

    /// What it is told apart by.
    #[must_use]
    pub fn key(&self, service: &Service) -> BackendKey {
        (service.address, self.address, self.port(service))
    }

    /// The port that packets for this backend carry.
    pub fn port(&self, service: &Service) -> u16 {
        self.port.unwrap_or(service.address.port)
    }

    /// How packets reach this backend.
    pub fn forward(&self, service: &Service) -> Forward {
        self.forward.unwrap_or(service.forward)
    }
}
