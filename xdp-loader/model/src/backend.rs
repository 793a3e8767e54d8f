//! A backend: a real server that answers for a service.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize};

use super::{
    BackendAddress, Check, Forward, HealthChange, Refusal, ServiceAddress,
    change::{or, or_default, or_none},
    check,
};

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
    /// How packets reach this backend where it differs from the service's method.
    pub forward: Option<Forward>,
    /// Whether it only keeps the connections that it has and gets no new ones.
    pub drain: bool,
    /// Whether it is out of use: it gets no new connections and is not probed.
    pub disabled: bool,
    /// Whether it serves only while its service has no quorum.
    pub sorry: bool,
    /// The number of connections at which it gets no new ones (ipvsadm's `-x`); 0 for none.
    pub upper: u32,
    /// The number of connections below which it gets new ones again (ipvsadm's `-y`); 0 for three quarters of `upper`,
    /// as in IPVS.
    pub lower: u32,
    /// Its probes in place of the service's; an empty list probes it not at all.
    pub health: Option<Vec<Check>>,
}

/// The weight of a backend for which none is given.
pub const DEFAULT_WEIGHT: u16 = 1;

impl Backend {
    /// A backend with the default weight, forwarded to as its service says.
    pub fn new(address: BackendAddress) -> Self {
        Self {
            address: address.ip,
            port: address.port,
            weight: DEFAULT_WEIGHT,
            forward: None,
            drain: false,
            disabled: false,
            sorry: false,
            upper: 0,
            lower: 0,
            health: None,
        }
    }

    /// What names this backend inside its service.
    pub fn name(&self) -> BackendAddress {
        BackendAddress {
            ip: self.address,
            port: self.port,
        }
    }

    /// The weight that the scheduler uses: 0 while draining, disabled, or waiting for the quorum to be lost.
    pub fn scheduled_weight(&self) -> u16 {
        if self.drain || self.disabled || self.sorry {
            0
        } else {
            self.weight
        }
    }

    /// Changes what `change` names and keeps the rest.
    ///
    /// # Errors
    /// When the weight is out of range, or fields of a probe are named and the backend has not exactly one of its own, or
    /// it cannot have them; the backend is then unchanged.
    pub fn change(&mut self, change: &BackendChange) -> Result<(), Refusal> {
        let weight = change
            .weight
            .map(|weight| checked_weight(weight, self.name()))
            .transpose()?;
        let health = match &change.health {
            Some(Some(health)) => {
                let own = self.health.as_deref().unwrap_or_default();
                Some(health.made_of(own, || format!("backend {}", self.name()))?)
            }
            Some(None) => None,
            None => self.health.clone(),
        };
        self.health = health;
        self.weight = weight.unwrap_or(self.weight);
        self.forward = change.forward.unwrap_or(self.forward);
        self.drain = change.drain.unwrap_or(self.drain);
        self.disabled = change.disabled.unwrap_or(self.disabled);
        self.sorry = change.sorry.unwrap_or(self.sorry);
        self.upper = change.upper.unwrap_or(self.upper);
        self.lower = change.lower.unwrap_or(self.lower);
        Ok(())
    }

    /// What a backend is sorted by inside its service.
    pub(super) fn identity(&self, service: &ServiceAddress) -> (IpAddr, u16) {
        (self.address, self.name().effective_port(service))
    }
}

/// What to change in a backend; what is absent stays, null in JSON puts a field back to its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendChange {
    /// The new weight, 0 to 65535.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "or_default_weight"
    )]
    pub weight: Option<i64>,
    /// The new forwarding method; none is the service's.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_none")]
    pub forward: Option<Option<Forward>>,
    /// Whether to drain.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub drain: Option<bool>,
    /// Whether it is out of use.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub disabled: Option<bool>,
    /// Whether it serves only when its service is in need.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub sorry: Option<bool>,
    /// The new upper threshold, connections; 0 takes it off.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub upper: Option<u32>,
    /// The new lower threshold, connections; 0 takes it off.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub lower: Option<u32>,
    /// New probes of its own, or new fields of the one that there is; none are the service's.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_none")]
    pub health: Option<Option<HealthChange>>,
}

fn or_default_weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    or(deserializer, DEFAULT_WEIGHT.into())
}

/// What a backend is told apart by: its service, its address and port.
pub type BackendKey = (ServiceAddress, IpAddr, u16);

/// A backend as it is written in documents, in the state file and in the API.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendForm {
    /// Address, with `:port` where it differs from the service's.
    pub address: BackendAddress,
    /// Accepted instead of `:port` in the address; never written.
    #[serde(default, skip_serializing)]
    pub port: Option<u16>,
    /// Its weight, not checked yet.
    #[serde(default = "default_weight")]
    pub weight: i64,
    /// How its packets reach it, if not as the service says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<Forward>,
    /// Whether it drains.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
    /// Whether it is out of use.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// Whether it is a sorry backend.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sorry: bool,
    /// Connections at which it is full; 0 for no limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub upper: u32,
    /// Connections below which it is no longer full; 0 for three quarters of `upper`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lower: u32,
    /// Its probes, in place of the service's.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "some_checks")]
    pub health: Option<Vec<Check>>,
}

fn some_checks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Check>>, D::Error> {
    check::one_or_many(deserializer).map(Some)
}

fn is_zero(number: &u32) -> bool {
    *number == 0
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
            disabled: form.disabled,
            sorry: form.sorry,
            upper: form.upper,
            lower: form.lower,
            health: form.health,
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
            disabled: backend.disabled,
            sorry: backend.sorry,
            upper: backend.upper,
            lower: backend.lower,
            health: backend.health,
        }
    }
}
