//! Health: whether backends can serve, found out by asking them.
//!
//! A result's way: [`probe`] asks, [`verdict`] waits for rise or fall, [`combine`] makes one verdict of several probes,
//! [`state`] decides whether that changes anything, [`quorum`] who serves, [`load`] with what share of its weight; what
//! follows is published as a [`view::HealthView`], from which the reconciler makes the scheduler's tables.

pub mod combine;
pub mod history;
pub mod load;
pub mod probe;
pub mod quorum;
pub mod state;
pub mod verdict;
