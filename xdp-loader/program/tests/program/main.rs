//! The XDP program itself, run by the kernel on single frames (`BPF_PROG_TEST_RUN`), as root, in network namespaces of
//! the tests' own. Whole frames are compared, byte for byte, with frames that the test kit builds from nothing,
//! their checksums summed in full.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod balancer;
mod changes;
mod choices;
mod conflicts;
mod copying;
mod counting;
mod datagrams;
mod flows;
mod forwarding;
mod fragments;
mod headers;
mod host;
mod hosts;
mod icmp;
mod interfaces;
mod lent;
mod loads;
mod loss;
mod losses;
mod malformed;
mod mutations;
mod network;
mod orphans;
mod persistence;
mod reference;
mod reject;
mod schedulers;
mod site;
mod spread;
mod stability;
mod succession;
mod sweeper;
mod takeover;
mod tcp;
mod thresholds;
mod timeouts;
mod transitions;
mod transparency;
