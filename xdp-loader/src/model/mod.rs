//! Desired state: the services that the operator asked for, valid as a whole at every moment.
//!
//! Nothing here touches the kernel. Every operation on [`Desired`] either succeeds and leaves a valid state or returns a
//! [`Refusal`] and leaves the state as it was.

mod address;
mod backend;
mod desired;
mod refusal;
mod service;

pub use address::{BackendAddress, Family, ParseAddressError, Protocol, ServiceAddress};
pub(crate) use backend::BackendForm;
pub use backend::{Backend, BackendChange};
pub use desired::{Desired, MAX_BACKENDS_PER_SERVICE, MAX_SERVICES};
pub use refusal::{NotUnicast, Refusal};
pub use service::{
    DEFAULT_MH_SLOTS, Forward, MH_SLOTS, Scheduler, Service, ServiceChange, UnknownName,
};
