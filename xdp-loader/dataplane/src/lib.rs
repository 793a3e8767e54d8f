//! The dataplane: the XDP program and its maps, seen from userspace.
//!
//! A change's way: [`image`] works out what the maps must say; [`schedules`] and [`endpoints`] lay tables out aside;
//! [`tables`] writes all into the bank that no packet uses and switches with one store.

pub mod attach;
pub mod blocks;
mod btf;
pub mod census;
pub mod claim;
pub mod clock;
mod connections;
mod copy;
pub mod counters;
pub mod endpoints;
pub mod error;
pub mod flow;
pub mod flows;
pub mod generation;
mod host_macs;
pub mod id_allocator;
pub mod ids;
pub mod image;
pub mod interfaces;
mod losses;
pub mod maglev;
pub mod maps;
pub mod memory;
pub mod open;
mod pin;
mod pins;
pub mod predecessor;
mod program;
mod recovery;
mod repair;
pub mod ring;
pub mod rules;
pub mod schedules;
pub mod succession;
pub mod tables;
pub mod timeouts;
pub mod words;

pub use self::{clock::Clock, error::Error, id_allocator::IdAllocator, image::Node, maps::Maps, tables::Tables};
pub use xdp_common::layout::Sizes;
