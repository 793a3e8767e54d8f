//! What was counted.

use std::net::SocketAddr;

use lvx_model::ServiceAddress;
use serde::{Deserialize, Serialize};

/// Answer to `GET /v1/stats`: what was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Per interface, what became of packets.
    pub interfaces: Vec<InterfaceStats>,
    /// Per service, what was balanced, in the order of their addresses.
    pub services: Vec<ServiceStats>,
}

/// What became of the packets that an interface received, and of those that were to leave by it and could not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStats {
    /// The interface's name.
    pub name: String,
    /// One entry per verdict.
    pub verdicts: Vec<VerdictCount>,
}

/// How many packets met one end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictCount {
    /// What became of them and why, in words with underscores.
    pub verdict: String,
    /// Packets.
    pub packets: u64,
}

/// Traffic of a service or a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients, IP headers included, Ethernet's not.
    pub bytes_in: u64,
    /// Packets to clients that came back through the balancer; 0 under direct routing.
    pub packets_out: u64,
    /// Bytes to clients that came back through the balancer; 0 under direct routing.
    pub bytes_out: u64,
    /// Connections (TCP) or flows (UDP) begun.
    pub connections: u64,
    /// Connections or flows in the flow table now.
    pub active_flows: u64,
}

/// What a service did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStats {
    /// Where clients reach it.
    pub address: ServiceAddress,
    /// All its traffic.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// The same by backend, in order of address and port.
    pub backends: Vec<BackendStats>,
}

/// What a backend did for one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStats {
    /// Its address and effective port.
    pub address: SocketAddr,
    /// Its traffic.
    #[serde(flatten)]
    pub traffic: Traffic,
}
