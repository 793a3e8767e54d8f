//! What operators write and read: services and backends, documents, the node's settings, and the words of health.
//!
//! Nothing here touches the kernel. [`Desired`] is valid as a whole at every moment: every operation on it either succeeds and
//! leaves a valid state, or returns a [`Refusal`] and leaves the state as it was.

mod address;
mod backend;
mod change;
pub mod check;
mod desired;
pub mod diff;
pub mod document;
pub mod exec;
mod forward;
pub mod health;
mod inherited;
mod limits;
pub mod located;
mod names;
mod netmask;
mod prefix;
mod refusal;
mod scheduler;
mod service;
pub mod settings;
mod timeouts;

pub use address::{BackendAddress, Family, ParseAddressError, Protocol, ServiceAddress};
pub use backend::{Backend, BackendChange, BackendForm, BackendKey, DEFAULT_WEIGHT};
pub use check::{
    Availability, AvailabilityChange, Check, CheckChange, CheckForm, CheckType, Combine, HealthChange, Period,
};
pub use desired::Desired;
pub use forward::Forward;
pub use limits::{MAX_BACKENDS_PER_SERVICE, MAX_CHECKS, MAX_SERVICES};
pub use names::UnknownName;
pub use netmask::{Netmask, NoNetmask};
pub use prefix::{NoPrefix, Prefix};
pub use refusal::{NotUnicast, Refusal};
pub use scheduler::{DEFAULT_MH_SLOTS, HashBy, MH_SLOTS, OnLoss, OnNone, Overload, Scheduler};
pub use service::{Service, ServiceChange};
pub use timeouts::{KEPT, NoTimeout, TimeoutChange, TimeoutOf, Timeouts, TimeoutsChange};

#[cfg(test)]
mod tests;
