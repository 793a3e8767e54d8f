use super::VERDICTS;

/// What a CPU has counted for a backend: 64 bytes, one cache line. Place `cpu * backends + backend`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BackendCounters {
    /// Packets from clients.
    pub packets_in: u64,
    /// Their bytes, from the IP header on.
    pub bytes_in: u64,
    /// Packets to clients (NAT only).
    pub packets_out: u64,
    /// Their bytes, from the IP header on.
    pub bytes_out: u64,
    /// Flows begun.
    pub connections: u64,
    /// Zero.
    pub room: [u64; ROOM],
}

/// Words that are left in the counters of a backend.
const ROOM: usize = if cfg!(feature = "other-flows") { 11 } else { 3 };

/// What a CPU has counted on an interface, by [`crate::verdict::Verdict`]. Place `cpu * MAX_INTERFACES + slot`.
pub type Verdicts = [u64; VERDICTS];

const _: () = assert!(size_of::<BackendCounters>() == 40 + 8 * ROOM && size_of::<Verdicts>() == 1024);
