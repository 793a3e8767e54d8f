//! The owner of the desired state, its store, and the reconciler that makes the kernel and the network follow.

mod announce;
mod controller;
pub mod offer;
pub mod reconcile;
#[cfg(any(test, feature = "recording"))]
pub mod recording;
pub mod store;
pub mod tasks;

pub use controller::{ChangeError, Controller, Dataplane, DataplaneError};
