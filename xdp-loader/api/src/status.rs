//! What is attached and healthy.

use std::net::{IpAddr, SocketAddr};

use lvx_model::{Forward, Scheduler, ServiceAddress, health::Serving, settings::AttachMode};
use serde::{Deserialize, Serialize};

/// Answer to `GET /v1/status`: what is attached and healthy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// Why what is desired is not in place, and since when; null when it is.
    #[serde(default)]
    pub reconcile_failure: Option<ReconcileFailure>,
    /// The interfaces that the program is, or is to be, attached to.
    pub interfaces: Vec<InterfaceStatus>,
    /// Packets of the last five minutes that were forwarded and that the kernel could not transmit, by interface and reason.
    #[serde(default)]
    pub losses: Vec<Loss>,
    /// What of such packets is not counted, and why; null when all are.
    #[serde(default)]
    pub losses_uncounted: Option<String>,
    /// The interface for VIPs of no attached interface's network; null when LVX adds none.
    pub vip_interface: Option<String>,
    /// The services, in the order of their addresses.
    pub services: Vec<ServiceStatus>,
    /// How full the flow tables are.
    pub flows: FlowTables,
}

/// What is desired could not be put in place, and is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReconcileFailure {
    /// Why the last try failed.
    pub error: String,
    /// Seconds since the first try that failed.
    pub since_seconds: u64,
    /// How many tries have failed in a row.
    pub failures: u32,
    /// Seconds until the next try.
    pub retry_seconds: f64,
}

/// An interface that the program is, or is to be, attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Its index in the kernel; null while the program is not attached.
    pub ifindex: Option<u32>,
    /// How the program is attached; null while it is not.
    pub mode: Option<AttachMode>,
    /// Why the program is not attached; null while it is.
    #[serde(default)]
    pub error: Option<String>,
    /// Something that the operator should know about it, such as why the mode is generic.
    pub note: Option<String>,
    /// Whether it is up and has a carrier.
    pub link_up: bool,
}

/// Packets that were forwarded and that the kernel could not transmit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The interface that they were to leave by.
    pub interface: String,
    /// The verdict that they are counted under, in words with underscores.
    pub verdict: String,
    /// Packets of the last five minutes.
    pub packets: u64,
    /// Seconds since the last one.
    pub last_seconds: u64,
    /// Why, and the way out.
    pub reason: String,
}

/// A service and how it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Where clients reach it.
    pub address: ServiceAddress,
    /// How packets reach its backends, unless a backend says otherwise.
    pub forward: Forward,
    /// How new connections are spread.
    pub scheduler: Scheduler,
    /// Who takes its new connections.
    #[serde(default)]
    pub serving: Serving,
    /// Whether its healthy backends are fewer than its quorum asks for.
    #[serde(default)]
    pub quorum_lost: bool,
    /// Where its VIP is on this node; null when LVX adds none.
    pub vip: Option<VipStatus>,
    /// Why the service is not served; null while it is.
    #[serde(default)]
    pub error: Option<String>,
    /// Its backends, in order of address and port.
    pub backends: Vec<BackendStatus>,
}

/// A VIP on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipStatus {
    /// The address.
    pub address: IpAddr,
    /// The interface that has it; null when none has.
    pub interface: Option<String>,
    /// Whether LVX added it and will remove it; false if it was there before, or is not there.
    pub added_by_lvx: bool,
    /// Whether it is there.
    #[serde(default)]
    pub state: VipState,
    /// Why it is not there.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Whether a VIP is on an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VipState {
    /// It is, and announced.
    #[default]
    Present,
    /// It is not: another host has it.
    Conflict,
    /// It is not: the kernel refuses it, or its interface is not there or has lost the program.
    Missing,
}

/// A backend and how it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Its address and effective port.
    pub address: SocketAddr,
    /// Its weight, 0 to 65535.
    pub weight: u16,
    /// The weight in effect, in the same units: 0 where it gets no new connections, less than `weight` where it gets a part of its
    /// share, and another one where it reports its own.
    #[serde(default)]
    pub effective_weight: f64,
    /// How packets reach it.
    pub forward: Forward,
    /// Whether it gets new connections.
    pub state: BackendState,
    /// Why, when the state is not `up`.
    pub reason: Option<String>,
    /// What is not seen of the end of its connections, when the state is `drained` and its forwarding method shows one direction
    /// only; null otherwise.
    #[serde(default)]
    pub unseen: Option<String>,
    /// Flows in the flow table that lead to it; null when they were not counted.
    pub active_flows: Option<u64>,
    /// Of these, established TCP connections and UDP flows, as ipvsadm counts `ActiveConn`; null when they were not
    /// counted.
    #[serde(default)]
    pub active_connections: Option<u64>,
    /// Of these, all others: half open, closing or closed and not yet forgotten, as ipvsadm counts `InActConn`.
    #[serde(default)]
    pub inactive_connections: Option<u64>,
}

/// Whether a backend gets new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// It does, by its weight.
    Up,
    /// It does, and something is not as it should be: a probe fails now and then, or it is loaded.
    Degraded,
    /// Not enough probes were answered, or failed, to tell. It does if no other backend is known to be healthy.
    Unknown,
    /// It does not: its probes fail, or it is held out because it flaps.
    Down,
    /// It does not: the operator took it out of use.
    Disabled,
    /// It does not: it is a sorry backend, and the service has its quorum.
    Standby,
    /// It does not: it has reached its upper threshold of connections, and not yet come below the lower one.
    Full,
    /// It does not: the kernel has no route to it, or nobody answers for its MAC address.
    Unreachable,
    /// It does not, because it was asked to drain, or asks for that itself; connections that it has go on.
    Drained,
}

impl BackendState {
    /// The name as it stands in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Unknown => "unknown",
            Self::Down => "down",
            Self::Disabled => "disabled",
            Self::Standby => "standby",
            Self::Full => "full",
            Self::Unreachable => "unreachable",
            Self::Drained => "drained",
        }
    }
}

/// How full the flow tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTables {
    /// IPv4's.
    pub v4: TableUse,
    /// IPv6's.
    pub v6: TableUse,
}

/// How full a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableUse {
    /// Entries that fit.
    pub capacity: u64,
    /// Entries that are there.
    pub used: u64,
}
