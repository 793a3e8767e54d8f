//! Flow tables: set-associative, in arrays, without locks.
//!
//! A connection has one entry, and both directions find it, because its bucket is chosen by the client's address and
//! port alone: the way in matches client and service, the way back matches client and the backend's own address. An
//! entry is published by its key: a writer puts [`BUSY`] there, writes the rest, then the key; a reader that has read
//! the rest reads the key again and takes the entry for absent if it changed.
//!
//! A template, which is where a client persists, has an entry too: its port is the number of the persistence group, and its
//! service is number 0, which no service has.

use crate::{tcp_state::State, wire::Be16};

/// Entries in a bucket. A power of two.
pub const WAYS: usize = 8;

/// The key of an entry that is being written. Not the key of any flow: no client has the address 0.0.0.0 (IPv4), and
/// the key of an IPv6 entry has its highest bit set.
pub const BUSY: u64 = 1;

/// The backend and state of a flow in one word, so that they are read and replaced as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Record(pub u32);

impl Record {
    /// The flow of this backend (24 bits) in this state.
    #[inline(always)]
    #[must_use]
    pub const fn new(backend: u32, state: State) -> Self {
        Self(backend << 8 | state as u32)
    }

    /// The backend's number.
    #[inline(always)]
    #[must_use]
    pub const fn backend(self) -> u32 {
        self.0 >> 8
    }

    /// The flow's state.
    #[inline(always)]
    #[must_use]
    pub const fn state(self) -> State {
        State::from_bits(self.0 as u8)
    }

    /// The same flow in another state.
    #[inline(always)]
    #[must_use]
    pub const fn with_state(self, state: State) -> Self {
        Self(self.0 & !0xff | state as u32)
    }
}

/// An IPv4 flow: 16 bytes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FlowV4 {
    /// Client address, client port (both as on the wire) and the service's number; 0 where the place is free.
    pub key: u64,
    /// Backend and state.
    pub record: Record,
    /// When a packet of it was last seen, jiffies, low word.
    pub seen: u32,
}

impl FlowV4 {
    /// The key of a client's flow to a service.
    #[inline(always)]
    #[must_use]
    pub const fn key(client: u32, port: u16, service: u32) -> u64 {
        (client as u64) << 32 | (port as u64) << 16 | service as u64
    }

    /// The number of the service in a key.
    #[inline(always)]
    #[must_use]
    pub const fn service(key: u64) -> u32 {
        (key & 0xffff) as u32
    }
}

/// An IPv6 flow: 32 bytes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FlowV6 {
    /// Client address, as two words in the order of the wire.
    pub client: [u64; 2],
    /// The highest 31 bits of the client's hash below a set bit, client port (as on the wire), the service's number; 0 where the
    /// place is free.
    pub key: u64,
    /// Backend and state.
    pub record: Record,
    /// When a packet of it was last seen, jiffies, low word.
    pub seen: u32,
}

impl FlowV6 {
    /// The key of a flow from this client port and hash to a service.
    #[inline(always)]
    #[must_use]
    pub const fn key(hash: u64, port: u16, service: u32) -> u64 {
        1 << 63 | (hash >> 33) << 32 | (port as u64) << 16 | service as u64
    }
}

/// Where the answers of a NAT flow go: the client's next hop, learnt from the client's own packets (48 bits of MAC, 16
/// of port). The balancer answers by the way it was asked, as routers' "auto last hop" does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Hop(pub u64);

impl Hop {
    /// Nothing was learnt.
    pub const NONE: Self = Self(0);

    /// The neighbour with this MAC (in the order of the wire) behind this port.
    #[inline(always)]
    #[must_use]
    pub const fn new(mac: [Be16; 3], port: u32) -> Self {
        Self(mac[0].0 as u64 | (mac[1].0 as u64) << 16 | (mac[2].0 as u64) << 32 | (port as u64) << 48)
    }

    /// The neighbour's MAC, in the order of the wire.
    #[inline(always)]
    #[must_use]
    pub const fn mac(self) -> [Be16; 3] {
        [
            Be16(self.0 as u16),
            Be16((self.0 >> 16) as u16),
            Be16((self.0 >> 32) as u16),
        ]
    }

    /// The place of its interface in map `PORTS`.
    #[inline(always)]
    #[must_use]
    pub const fn port(self) -> u32 {
        (self.0 >> 48) as u32
    }
}

/// A bucket of IPv4 flows: two cache lines.
pub type BucketFlowV4 = [FlowV4; WAYS];
/// A bucket of IPv6 flows: four cache lines.
pub type BucketFlowV6 = [FlowV6; WAYS];
/// The next hops of the flows of a bucket.
pub type HopBucket = [Hop; WAYS];

const _: () = assert!(size_of::<BucketFlowV4>() == 128 && size_of::<BucketFlowV6>() == 256);
const _: () = assert!(WAYS.is_power_of_two());
