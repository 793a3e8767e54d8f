//! What the tests of all crates are made of.
//!
//! Tests between network namespaces take [`namespace`] and [`process`]; what those that were killed left behind,
//! [`leftovers`] removes. Tests of single frames take [`frame`], [`fragments`], [`icmp`] and [`random`], over the
//! interfaces of [`network`].
//!
//! It depends on none of LVX's crates, and takes no eBPF toolchain to build. The end-to-end tests judge frames by code
//! of their own (`tests/src/frame.rs`), which shares nothing with what builds them here.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub mod fragments;
pub mod frame;
pub mod icmp;
pub mod leftovers;
pub mod namespace;
pub mod netns;
pub mod network;
pub mod process;
pub mod random;

pub use namespace::Namespace;
