//! What a sweep of the flow tables counts.

use std::collections::BTreeMap;

/// What a sweep has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// By backend.
    pub backends: BTreeMap<u32, FlowCount>,
    /// IPv4 flows.
    pub v4: u64,
    /// IPv6 flows.
    pub v6: u64,
}

/// What a sweep has counted for a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCount {
    /// Established connections, and UDP flows.
    pub active: u64,
    /// All others that are not forgotten yet.
    pub inactive: u64,
    /// Those of them that are half open, which schedulers take for active.
    pub half_open: u64,
}
