//! The keys and values of every map: what both sides agree on.
//!
//! Configuration maps ([`Service`], [`Backend`], the endpoint tables) have two banks. Userspace writes the one that is
//! not in use and then switches [`Control::mode`] with one store: a packet sees all of a change or nothing of it.
//! Scheduling tables are blocks of [`Chunk`]s that are written where nothing points to yet. Flow tables and counters
//! are written by the packet path and read by userspace through `mmap`.
//!
//! All structs are `#[repr(C)]`, have no padding and an asserted size. Configuration maps are made anew by every daemon, so
//! their layouts may change freely. What a flow's entry is has a [`FLOW_VERSION`], and counters have a [`COUNTER_VERSION`]:
//! a daemon goes on with its predecessor's tables if these are the same, and copies what they say if not
//! ([`crate::succession`]).

mod answers;
mod backend;
mod client;
mod control;
mod counters;
mod endpoint;
mod flow;
mod fragment;
mod handover;
mod host_mac;
mod interface;
mod losses;
mod schedule;
mod seen;
mod service;
mod sizes;

pub use answers::{ANSWERS_PER_SECOND, Answers, QUOTED};
pub use backend::{Backend, Connections, Limit, Method, Timeouts, Underlay};
pub use client::{ClientId, ClientKeys};
pub use control::{Control, TailCall, UnknownFragments};
pub use counters::{BackendCounters, Verdicts};
pub use endpoint::{
    BUCKET_V4, BUCKET_V6, BucketV4, BucketV6, EndpointV4, EndpointV6, REACH, Target, any_port, port_protocol,
};
pub use flow::{BucketClients, BucketFlow, FLOWS_PER_BUCKET, FlowEntry, Hop, HopBucket};
pub use fragment::{FRAGMENTS, FragmentRoute, FragmentV4, FragmentV6};
pub use handover::Handover;
pub use host_mac::{HOST_MAC_BUCKETS, HOST_MAC_REACH, HOST_MACS_PER_BUCKET, HostMac, HostMacBucket, OWN_MACS};
pub use interface::{INTERFACE_BUCKETS, INTERFACES_PER_BUCKET, Interface, InterfaceBucket, InterfaceSlot, VIA_DEVMAP};
pub use losses::LossFilter;
pub use schedule::{
    CHUNK, CHUNKS_PER_SEGMENT, Chunk, ChunkIndex, MEMBERS_PER_CHUNK, Member, SCANNED, SEGMENTS, SLOTS_PER_CHUNK,
};
pub use seen::{Seen, longest};
pub use service::{Overload, Scheduler, Service};
pub use sizes::Sizes;

/// Version of all that a flow's entry is: its word, the units of its time, how its place is found, its next hop, and the
/// tables of fragments.
/// Dataplanes with the same one share these tables.
pub const FLOW_VERSION: u32 = if cfg!(feature = "other-flows") { u32::MAX } else { 4 };

/// Version of the layouts of counters: [`BackendCounters`], [`Verdicts`], [`Connections`], and the turns of services.
pub const COUNTER_VERSION: u32 = if cfg!(feature = "other-flows") { u32::MAX } else { 4 };

/// Banks of the configuration maps.
pub const BANKS: u32 = 2;

/// Slots for interfaces that packets may come in by or go out of. A power of two; slot 0 is nobody's.
pub const MAX_INTERFACES: u32 = 64;

/// Programs that there is room for in map `TAIL_CALLS`.
pub const TAIL_CALLS: usize = 64;

/// Counters per interface and CPU. [`crate::verdict::Verdict`] fills some of them.
pub const VERDICTS: usize = 128;

/// Sets of timeouts: the node's, which is number 0, and those of services.
pub const TIMEOUT_SETS: u32 = 256;

/// Services at most: their number is 16 bits of a backend's entry. Number 0 is not given out.
pub const MAX_SERVICES: u32 = 1 << 16;

/// Backends at most: their number is 24 bits of a scheduler's member. Number 0 is not given out.
pub const MAX_BACKENDS: u32 = 1 << 24;
