use super::ChunkIndex;

/// How a service spreads its new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Scheduler {
    /// The ring is indexed by a hash of the client.
    Hash = 0,
    /// The ring is indexed by a counter.
    Turn = 1,
}

/// A service, read when a new flow needs a backend: 64 bytes.
///
/// Its scheduling table is one block of chunks: first `members`, the numbers of its backends, then the ring, whose
/// slots are indices into the members.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Service {
    /// [`Scheduler`].
    pub scheduler: u8,
    /// Zero; room for persistence, limits, one-packet scheduling.
    pub flags: u8,
    /// Zero.
    pub reserved: u16,
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
    /// Zero; room for thresholds and timeouts of its own.
    pub room: [u32; 5],
    /// Zero.
    pub more_room: u64,
}

const _: () = assert!(size_of::<Service>() == 64);
