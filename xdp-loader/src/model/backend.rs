//! A backend: a real server that answers for a service.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{BackendAddress, Forward, Refusal, Service, ServiceAddress};

/// A real server of one service.
///
/// Inside a service a backend is identified by its address and [effective port](Backend::port).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BackendForm", into = "BackendForm")]
pub struct Backend {
    /// The backend's own address, of the service's family.
    pub address: IpAddr,
    /// The backend's port where it differs from the service's, 1 to 65535.
    pub port: Option<u16>,
    /// Its share of new connections relative to the others'; 0 gets none (as in IPVS).
    pub weight: u16,
    /// How packets reach this backend where it differs from the service's way.
    pub forward: Option<Forward>,
    /// Whether it only keeps the connections that it has and gets no new ones.
    pub drain: bool,
}

/// The weight of a backend for which none is given.
const DEFAULT_WEIGHT: u16 = 1;

impl Backend {
    /// A backend with the default weight, forwarded to as its service says.
    pub fn new(address: BackendAddress) -> Self {
        Self {
            address: address.ip,
            port: address.port,
            weight: DEFAULT_WEIGHT,
            forward: None,
            drain: false,
        }
    }

    /// What names this backend inside its service.
    pub fn name(&self) -> BackendAddress {
        BackendAddress {
            ip: self.address,
            port: self.port,
        }
    }

    /// The port that packets for this backend carry.
    pub fn port(&self, service: &Service) -> u16 {
        self.port.unwrap_or(service.address.port)
    }

    /// How packets reach this backend.
    pub fn forward(&self, service: &Service) -> Forward {
        self.forward.unwrap_or(service.forward)
    }

    /// The weight that the scheduler uses: 0 while draining.
    pub fn scheduled_weight(&self) -> u16 {
        if self.drain { 0 } else { self.weight }
    }

    /// Changes what `change` names and keeps the rest.
    ///
    /// # Errors
    /// When the weight is out of range; the backend is then unchanged.
    pub fn change(&mut self, change: &BackendChange) -> Result<(), Refusal> {
        let weight = change
            .weight
            .map(|weight| checked_weight(weight, self.name()))
            .transpose()?;
        self.weight = weight.unwrap_or(self.weight);
        self.forward = change.forward.or(self.forward);
        self.drain = change.drain.unwrap_or(self.drain);
        Ok(())
    }

    /// What a backend is sorted by inside its service.
    pub(super) fn identity(&self, service: &ServiceAddress) -> (IpAddr, u16) {
        (self.address, self.name().effective_port(service))
    }
}

/// What to change in a backend; what is absent stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendChange {
    /// The new weight, 0 to 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
    /// The new way of forwarding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<Forward>,
    /// Whether to drain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<bool>,
}

/// A backend as it is written in documents, in the state file and in the API.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackendForm {
    /// Address, with `:port` where it differs from the service's.
    pub(crate) address: BackendAddress,
    /// Accepted instead of `:port` in the address; never written.
    #[serde(default, skip_serializing)]
    pub(crate) port: Option<u16>,
    #[serde(default = "default_weight")]
    pub(crate) weight: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) forward: Option<Forward>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) drain: bool,
}

fn default_weight() -> i64 {
    DEFAULT_WEIGHT.into()
}

fn checked_weight(weight: i64, backend: BackendAddress) -> Result<u16, Refusal> {
    u16::try_from(weight).map_err(|_| Refusal::WeightOutOfRange { backend, weight })
}

impl TryFrom<BackendForm> for Backend {
    type Error = Refusal;

    fn try_from(form: BackendForm) -> Result<Self, Refusal> {
        let mut name = form.address;
        match (name.port, form.port) {
            (_, Some(0)) => return Err(Refusal::PortZero { backend: name }),
            (Some(first), Some(second)) if first != second => {
                return Err(Refusal::TwoPorts {
                    backend: name,
                    port: second,
                });
            }
            (None, Some(port)) => name.port = Some(port),
            _ => {}
        }
        let weight = checked_weight(form.weight, name)?;
        Ok(Self {
            address: name.ip,
            port: name.port,
            weight,
            forward: form.forward,
            drain: form.drain,
        })
    }
}

impl From<Backend> for BackendForm {
    fn from(backend: Backend) -> Self {
        Self {
            address: backend.name(),
            port: None,
            weight: backend.weight.into(),
            forward: backend.forward,
            drain: backend.drain,
        }
    }
}
