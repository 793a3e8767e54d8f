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
    BackendState, BackendStatus, FlowTables, InterfaceStatus, ServiceStatus, Status, TableUse, VipState, VipStatus,
};

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What was refused or failed, why, and what to do; one line.
    pub error: String,
}
