//! Health against real servers, in network namespaces of its own. Needs root, nginx, unbound and openssl.
//!
//! Figures are printed, not asserted: `cargo test -p lvx-health --test health -- --nocapture`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod behaviour;
mod hostile;
mod kinds;
mod lab;
mod own_trouble;
mod server;
mod vip;
