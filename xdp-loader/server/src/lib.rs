//! What the daemon serves over HTTP: the control API on its Unix socket, metrics, picks.

pub mod api;
pub mod daemon;
pub mod end;
mod error;
mod listener;
mod listeners;
pub mod metrics;
pub mod pick;
mod reload;
pub mod signals;
#[cfg(any(test, feature = "test-daemon"))]
pub mod test_daemon;
mod watchdog;
