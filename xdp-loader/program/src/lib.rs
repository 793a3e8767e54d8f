//! The XDP program, as the object file that the build script made of `xdp-ebpf`.
//!
//! This is the one crate that takes an eBPF toolchain to build. Whoever loads the program is handed its bytes.

use aya::include_bytes_aligned;

/// The program and its companions, with its maps.
pub static LVX: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lvx-xdp"));

/// The programs that measure it.
pub static BENCH: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lvx-bench"));
