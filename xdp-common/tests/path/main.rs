//! The packet path, run on the host over tables in plain memory: without root and without an eBPF toolchain. Whole frames are
//! compared, byte for byte, with frames that the test kit builds from nothing, their checksums summed in full.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod adoption;
mod balancer;
mod concurrency;
mod configuration;
mod counting;
mod flows;
mod forwarding;
mod fragments;
mod icmp;
mod image;
mod loss;
mod malformed;
mod mutations;
mod persistence;
mod schedulers;
mod thresholds;
mod timeouts;
