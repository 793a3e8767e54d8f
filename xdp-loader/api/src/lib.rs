//! The JSON of the control API, shared by those who answer and those who ask: bodies, queries and answers, with stable names.
//!
//! A field is never renamed or given another unit; new fields may appear, so readers ignore those that they do not know.
//! Counters start at 0 when the program is first attached and go on over a restart of the daemon. Services and backends themselves are
//! [`lvx_model`]'s.

mod changes;
mod conns;
pub mod health;
mod pick;
mod stats;
mod status;

use serde::{Deserialize, Serialize};

pub use changes::{Applied, ApplyQuery, DrainRequest, ExportQuery};
pub use conns::{Conn, ConnCount, ConnFilter, ConnState, FlushRequest, Flushed};
pub use pick::Picked;
pub use stats::{BackendStats, InterfaceStats, ServiceStats, Stats, Traffic, VerdictCount};
pub use status::{
    BackendState, BackendStatus, FlowTables, InterfaceStatus, Loss, ReconcileFailure, ServiceStatus, Status, TableUse,
    VipState, VipStatus,
};

/// The largest body of a request that is read, in bytes.
pub const BODY_LIMIT: usize = 16 * 1024 * 1024;

/// What is said of a body that is larger.
#[must_use]
pub fn too_large() -> String {
    format!(
        "the request is larger than the {} MiB that the daemon reads: make large changes a service at a time, with `lvx service` and \
         `lvx backend`",
        BODY_LIMIT >> 20
    )
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What was refused or failed, why, and what to do; one line.
    pub error: String,
}
