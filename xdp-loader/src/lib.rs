//! LVX's daemon and its parts: what is desired, where it is kept, how it is changed and how it reaches the kernel.

pub mod api;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod diff;
pub mod document;
pub mod health;
pub mod heap;
pub mod located;
pub mod metrics;
pub mod model;
pub mod netlink;
pub mod reconcile;
#[cfg(test)]
mod recording;
pub mod report;
pub mod store;
#[cfg(test)]
mod test_daemon;
