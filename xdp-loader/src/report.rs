//! What the control API answers: the shape of the daemon's reports, with stable JSON names.
//!
//! A field is never renamed or given another unit; new fields may appear, so readers ignore those that they do not know.
//! Counters start at 0 when the program is first attached and go on over a restart of the daemon.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::health::quorum::Serving;
use crate::model::{BackendAddress, Forward, Prefix, Protocol, Scheduler, ServiceAddress};

/// Answer to `GET /v1/status`: what is attached and healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// The interfaces that the program is attached to.
    pub interfaces: Vec<InterfaceStatus>,
    /// The interface that VIPs are added to; null when LVX adds none.
    pub vip_interface: Option<String>,
    /// The services, in the order of their addresses.
    pub services: Vec<ServiceStatus>,
    /// How full the flow tables are.
    pub flows: FlowTables,
}

/// An interface that the program is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Its index in the kernel.
    pub ifindex: u32,
    /// How the program is attached.
    pub mode: AttachMode,
    /// Something that the operator should know about it, such as why the mode is generic.
    pub note: Option<String>,
    /// Whether it is up and has a carrier.
    pub link_up: bool,
}

/// Where in the receive path the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// In the kernel's stack, after the driver: slower.
    Generic,
}

impl AttachMode {
    /// The name as it stands in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// A service and how it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Where its VIP is on this node; null when it is on no interface.
    pub vip: Option<VipStatus>,
    /// Its backends, in order of address and port.
    pub backends: Vec<BackendStatus>,
}

/// A VIP on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipStatus {
    /// The address.
    pub address: IpAddr,
    /// The interface that has it.
    pub interface: String,
    /// Whether LVX added it and will remove it; false if it was there before.
    pub added_by_lvx: bool,
}

/// A backend and how it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Its address and effective port.
    pub address: SocketAddr,
    /// Its weight, 0 to 65535.
    pub weight: u16,
    /// How packets reach it.
    pub forward: Forward,
    /// Whether it gets new connections.
    pub state: BackendState,
    /// Why, when the state is not `up`.
    pub reason: Option<String>,
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

/// Answer to `GET /v1/stats`: what was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Per interface, what became of packets.
    pub interfaces: Vec<InterfaceStats>,
    /// Per service, what was balanced, in the order of their addresses.
    pub services: Vec<ServiceStats>,
}

/// What became of the packets that an interface received.
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

/// One line of `GET /v1/conns`: an entry of the flow table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conn {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The service that it talks to.
    pub service: ServiceAddress,
    /// The address and port of the backend that answers.
    pub backend: SocketAddr,
    /// How far the connection is.
    pub state: ConnState,
    /// How its packets reach the backend.
    pub forward: Forward,
    /// Seconds since its last packet.
    pub idle_seconds: u64,
}

/// How far a connection is, as seen from the packets that pass the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnState {
    /// TCP: a SYN was seen.
    Opening,
    /// TCP: data or acknowledgements flow.
    Established,
    /// TCP: a FIN or a RST was seen.
    Closing,
    /// UDP: packets flow.
    Udp,
}

impl ConnState {
    /// Every one there is.
    pub const ALL: [Self; 4] = [Self::Opening, Self::Established, Self::Closing, Self::Udp];

    /// The name as it stands in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Udp => "udp",
        }
    }
}

/// Which entries of the flow table to report; what is absent restricts nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnFilter {
    /// Only this service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceAddress>,
    /// Only this backend's; without a port, on any port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendAddress>,
    /// Only those that are so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<ConnState>,
    /// Only those of this client, or of the clients of this network, on any port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Prefix>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl ConnFilter {
    /// Whether it restricts nothing.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an entry is asked for. The limit is the caller's to count.
    pub fn admits(&self, conn: &Conn) -> bool {
        self.service.is_none_or(|service| service == conn.service)
            && self.state.is_none_or(|state| state == conn.state)
            && self.client.is_none_or(|client| client.contains(conn.client.ip()))
            && self.backend.is_none_or(|backend| {
                backend.ip == conn.backend.ip() && backend.port.is_none_or(|port| port == conn.backend.port())
            })
    }
}

/// Answer to `GET /v1/conns/count`: entries of the flow table, counted at that moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnCount {
    /// All.
    pub total: u64,
    /// TCP: a SYN was seen.
    pub opening: u64,
    /// TCP: data or acknowledgements flow.
    pub established: u64,
    /// TCP: a FIN or a RST was seen.
    pub closing: u64,
    /// UDP: packets flow.
    pub udp: u64,
    /// Those that a backend still has to do with: all but those that both sides have closed, that were reset, or that one
    /// side has closed and that were idle for more than a second or two.
    pub remaining: u64,
}

impl ConnCount {
    /// Counts one more; `is_over` if its backend has no more to do with it.
    pub fn add(&mut self, conn: &Conn, is_over: bool) {
        self.total += 1;
        match conn.state {
            ConnState::Opening => self.opening += 1,
            ConnState::Established => self.established += 1,
            ConnState::Closing => self.closing += 1,
            ConnState::Udp => self.udp += 1,
        }
        self.remaining += u64::from(!is_over);
    }
}

/// Body of `POST /v1/conns/flush`: which entries of the flow table to forget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlushRequest {
    /// Which.
    #[serde(default)]
    pub filter: ConnFilter,
    /// Must be true to forget every entry, which is what a filter that restricts nothing would do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// Answer to `POST /v1/conns/flush`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// How many entries were forgotten.
    pub flushed: u64,
}
