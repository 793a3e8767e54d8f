//! What LVX's XDP program and its loader share.
//!
//! - [`layout`]: the keys and values of every map, each `#[repr(C)]` without holes and of an asserted size;
//! - [`wire`]: views of packet headers, as they stand in a frame;
//! - [`maps`]: the list of all maps, from which both sides have what they need of them;
//! - [`path`]: the packet path, from the frame to the XDP action, over a small trait of tables, atomics and clock;
//! - [`succession`]: what a dataplane tells the one that comes after it, whatever their layouts;
//! - [`checksum`], [`hash`], [`load`], [`tcp_state`]: pure packet logic;
//! - [`verdict`]: the reasons under which packets are counted;
//! - [`mod@bench`]: what the measuring programs share.
//!
//! In the kernel the crate is `no_std`, and everywhere it depends on nothing. On the host it has a module more, `host`: the
//! tables in plain memory, over which the packet path runs unchanged.
#![no_std]

#[cfg(not(target_arch = "bpf"))]
extern crate std;

pub mod bench;
pub mod checksum;
pub mod hash;
#[cfg(not(target_arch = "bpf"))]
pub mod host;
pub mod layout;
pub mod load;
pub mod maps;
pub mod path;
pub mod succession;
pub mod tcp_state;
pub mod verdict;
pub mod wire;
