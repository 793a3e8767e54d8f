//! How much there may be of what, whatever the node's settings.

/// How many services LVX can tell apart. A node's settings usually allow fewer.
pub const MAX_SERVICES: usize = 65_535;

/// How many backends one service may have.
pub const MAX_BACKENDS_PER_SERVICE: usize = 65_535;

/// How many probes a service or a backend may have.
pub const MAX_CHECKS: usize = 8;
