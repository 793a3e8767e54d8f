//! The lab: a client, the balancer, a switch and three backends, each in a network namespace of its own, with real
//! programs in them (nginx, curl, iperf3, tcpdump) and the built `lvx` in the middle.
//!
//! It is the frame of the end-to-end tests under `tests/`, and what `cargo xtask run` shows. Every lab has its own
//! names, so that several run side by side; inside, all use the same addresses (see [`topology`]). Whatever a lab
//! starts or makes ends with it, on a panic too; what a killed lab left behind, the next one removes.

pub mod balancer;
pub mod bpf;
pub mod client;
pub mod datagram;
pub mod frame;
pub mod load;
pub mod narrow;
pub mod nginx;
pub mod page;
pub mod topology;
pub mod wire;

pub use balancer::{Balancer, Options};
pub use lvx_test_kit::{Namespace, leftovers, namespace, netns, process};
pub use topology::{Arms, Lab};
