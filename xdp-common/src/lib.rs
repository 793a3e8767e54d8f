//! What LVX's XDP program and its loader share.
//!
//! - [`layout`]: the keys and values of every map, each `#[repr(C)]` without holes and of an asserted size;
//! - [`wire`]: views of packet headers, as they stand in a frame;
//! - [`checksum`], [`hash`], [`tcp_state`]: pure packet logic, tested on the host;
//! - [`verdict`]: the reasons under which packets are counted;
//! - [`mod@bench`]: what the measuring programs share.
//!
//! The crate is `no_std`, allocates nothing and depends on nothing.
#![no_std]

pub mod bench;
pub mod checksum;
pub mod hash;
pub mod layout;
pub mod load;
pub mod tcp_state;
pub mod verdict;
pub mod wire;
