//! The keys and values of every map: what both sides agree on.
//!
//! Configuration maps ([`Service`], [`Backend`], the endpoint tables) have two banks. Userspace writes the one that is
//! not in use and then switches [`Control::bank`] with one store: a packet sees all of a change or nothing of it.
//! Scheduling tables are blocks of [`Chunk`]s that are written where nothing points to yet. Flow tables and counters
//! are written by the packet path and read by userspace through `mmap`.
//!
//! All structs are `#[repr(C)]`, have no padding and an asserted size. A change of any of them is a new [`VERSION`]:
//! a daemon that finds pinned maps of another version does not take them over.

mod backend;
mod client;
mod control;
mod counters;
mod endpoint;
mod flow;
mod fragment;
mod handover;
mod port;
mod schedule;
mod seen;
mod service;

pub use backend::{Backend, Limit, Load, Method, Timeouts};
pub use client::Client;
pub use control::{Control, Further, UnknownFragments};
pub use counters::{BackendCounters, Verdicts};
pub use endpoint::{
    BUCKET_V4, BUCKET_V6, BucketV4, BucketV6, EndpointV4, EndpointV6, REACH, Target, any_port, port_protocol,
};
pub use flow::{BucketFlowV4, BucketFlowV6, Flow, Hop, HopBucket, WAYS};
pub use fragment::{FRAGMENTS, FragmentV4, FragmentV6, FragmentWay};
pub use handover::Handover;
pub use port::{Port, PortOf, VIA_DEVMAP};
pub use schedule::{
    CHUNK, CHUNKS_PER_SEGMENT, Chunk, ChunkIndex, MEMBERS_PER_CHUNK, Member, SCANNED, SEGMENTS, SLOTS_PER_CHUNK,
};
pub use seen::{Seen, longest};
pub use service::{Overload, Scheduler, Service};

/// Version of all layouts together, written into [`Control::version`].
pub const VERSION: u64 = 3;

/// Banks of the configuration maps.
pub const BANKS: u32 = 2;

/// Interfaces that packets may come in by or go out of. A power of two.
pub const PORTS: u32 = 64;

/// Slots of the table that finds an interface's port by its index. A power of two.
pub const PORT_SLOTS: u32 = 1024;

/// Counters per interface and CPU. [`crate::verdict::Verdict`] fills some of them.
pub const VERDICTS: usize = 32;

/// Sets of timeouts: the node's, which is number 0, and those of services.
pub const TIMEOUT_SETS: u32 = 256;

/// Services at most: their number is 16 bits of a backend's entry. Number 0 is not given out.
pub const MAX_SERVICES: u32 = 1 << 16;

/// Backends at most: their number is 24 bits of a scheduler's member. Number 0 is not given out.
pub const MAX_BACKENDS: u32 = 1 << 24;
