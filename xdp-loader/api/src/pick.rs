//! One healthy backend, for clients that connect directly.

use std::net::SocketAddr;

use lvx_model::ServiceAddress;
use serde::{Deserialize, Serialize};

/// Answer to a pick.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picked {
    /// The service.
    pub service: ServiceAddress,
    /// The address and port of a backend that takes new connections.
    pub address: SocketAddr,
}
