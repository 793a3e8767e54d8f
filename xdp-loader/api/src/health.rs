//! What the control API tells of health: the answer to `GET /v1/health`, with stable JSON names.

use std::net::SocketAddr;

use lvx_model::{
    CheckType, ServiceAddress,
    health::{ProbeVerdict, Serving, State},
};
use serde::{Deserialize, Serialize};

/// Query of `GET /v1/health`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthQuery {
    /// Only this service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceAddress>,
}

/// Answer to `GET /v1/health`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HealthReport {
    /// The services, in the order of their addresses.
    pub services: Vec<ServiceReport>,
}

/// The health of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// Where clients reach it.
    pub address: ServiceAddress,
    /// Who serves.
    pub serving: Serving,
    /// Whether its quorum is lost.
    pub quorum_lost: bool,
    /// The quorum that is asked for: a sum of weights.
    pub quorum: u32,
    /// The sum of the weights of its healthy backends.
    pub available: u32,
    /// Its backends, in order of address and port.
    pub backends: Vec<BackendReport>,
}

/// The health of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendReport {
    /// Its address and port.
    pub address: SocketAddr,
    /// Its state.
    pub state: State,
    /// Seconds since the state was last another; since the daemon's start at most.
    pub since_seconds: f64,
    /// Whether it takes new connections.
    pub takes_new: bool,
    /// The share of its weight that it gets, in percent.
    pub share_percent: u32,
    /// A weight that it reported in place of the configured one.
    pub reported_weight: Option<u16>,
    /// Why it is in this state.
    pub reason: Option<String>,
    /// How often it went down of late, while that counts as flapping.
    pub flaps: u32,
    /// Seconds for which it is still held out because it flaps.
    pub held_out_seconds: Option<f64>,
    /// Its probes.
    pub probes: Vec<ProbeReport>,
    /// Its last changes of state, the newest last.
    pub changes: Vec<ChangeReport>,
}

/// One probe of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// What is asked.
    #[serde(rename = "type")]
    pub kind: CheckType,
    /// Whether the VIP at this backend is asked, rather than its own address.
    pub vip: bool,
    /// For how many services it is asked at once, this one among them.
    #[serde(default)]
    pub shared_by: usize,
    /// What it says, behind rise and fall.
    pub verdict: ProbeVerdict,
    /// Results since the daemon's start.
    pub total: u64,
    /// Failures since the daemon's start.
    pub failed: u64,
    /// Results since the daemon's start that say nothing of the backend, because this node could not ask.
    #[serde(default)]
    pub unknown: u64,
    /// The time that half of the last successes took at most, in microseconds.
    pub p50_microseconds: Option<u32>,
    /// The time that 99 of 100 of the last successes took at most, in microseconds.
    pub p99_microseconds: Option<u32>,
    /// Something to know about it, such as why the VIP is not asked.
    pub note: Option<String>,
    /// The last results, the newest last.
    pub results: Vec<ResultReport>,
}

/// One result of a probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultReport {
    /// How long ago it came.
    pub seconds_ago: f64,
    /// `up`, `degraded`, `down`, `drain`, `weight`, `load`, `share` or `unknown`.
    pub outcome: String,
    /// How long the probe took.
    pub microseconds: u32,
    /// Why it is what it is.
    pub reason: Option<String>,
}

/// A change of a backend's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChangeReport {
    /// How long ago it was.
    pub seconds_ago: f64,
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// Why.
    pub reason: Option<String>,
}
