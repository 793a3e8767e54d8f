//! The flow table: what is asked of it, and what it answers.

use std::net::SocketAddr;

use lvx_model::{BackendAddress, Forward, Prefix, Protocol, ServiceAddress};
use serde::{Deserialize, Serialize};

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
