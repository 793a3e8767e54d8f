use super::ChunkIndex;
use crate::load::Measure;

/// How a service spreads its new connections: what its backends are compared by is a [`Measure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Scheduler {
    /// The ring is indexed by a hash of the client's address and port.
    SourcePort = 0,
    /// The ring is indexed by a hash of the client's address.
    Source = 1,
    /// The ring is indexed by a hash of the service's address.
    Destination = 2,
    /// The ring is indexed by a counter.
    Turn = 3,
    /// The better of two random slots of the ring.
    Two = 4,
    /// The members are compared.
    Compare = 5,
}

impl Scheduler {
    /// The scheduler with this number; numbers that none has read as the last.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::SourcePort,
            1 => Self::Source,
            2 => Self::Destination,
            3 => Self::Turn,
            4 => Self::Two,
            _ => Self::Compare,
        }
    }
}

/// What becomes of a new connection whose backend has reached its upper threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Overload {
    /// It goes to the backend with the fewest connections by weight of those that have not.
    Next = 0,
    /// It goes to the sorry backend.
    Sorry = 1,
    /// It is dropped.
    Drop = 2,
}

/// A service, read when a new flow needs a backend: 64 bytes, one cache line.
///
/// Its scheduling table is one block of chunks: first the [`super::Member`]s, then the ring, whose slots are indices into the
/// members.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Service {
    /// [`Scheduler`].
    pub scheduler: u8,
    /// [`Service::ONE_PACKET`], [`Service::PERSISTENT`], [`Service::SHARED`], [`Service::REJECTS`].
    pub flags: u8,
    /// [`Overload`].
    pub overload: u8,
    /// Bits of a client's address that persistence goes by.
    pub prefix: u8,
    /// Slots of the ring; 0 if no backend takes new connections.
    pub slots: u32,
    /// First chunk of the members.
    pub members: ChunkIndex,
    /// First chunk of the ring.
    pub ring: ChunkIndex,
    /// Seed of this service's client hash: from its address, so the same on every node.
    pub seed: u64,
    /// Fingerprint of what the ring was built from: for userspace, which keeps a ring that need not change.
    pub fingerprint: u64,
    /// How many members there are.
    pub members_length: u32,
    /// The number under which its clients persist; services with one mark share it.
    pub group: u32,
    /// Its mark; 0 if it has none.
    pub mark: u32,
    /// The sorry backend's number; 0 if there is none.
    pub sorry: u32,
    /// How members are compared.
    pub measure: Measure,
    /// Zero.
    pub room: [u64; ROOM],
}

/// Words that are left in a service's entry.
const ROOM: usize = if cfg!(feature = "other-configuration") { 9 } else { 1 };

impl Service {
    /// In `flags`: each packet is scheduled by itself.
    pub const ONE_PACKET: u8 = 1;
    /// In `flags`: a client's connections go where its last one went.
    pub const PERSISTENT: u8 = 1 << 1;
    /// In `flags`: some of its backends answer for other services too ([`super::Backend::SHARED`]).
    pub const SHARED: u8 = 1 << 2;
    /// In `flags`: who asks while no backend takes connections is told so.
    pub const REJECTS: u8 = 1 << 3;
}

const _: () = assert!(size_of::<Service>() == 56 + 8 * ROOM);
