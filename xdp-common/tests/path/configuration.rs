//! What a dataplane is configured with: services and their backends, as tests say them.

use std::net::SocketAddr;

use xdp_common::{
    layout::{self, Limit, Method, Overload, Scheduler},
    load::Measure,
};

/// Jiffies per second.
pub const HERTZ: u32 = 1000;

/// A virtual service.
#[derive(Clone)]
pub struct Service {
    pub protocol: u8,
    pub vip: SocketAddr,
    pub scheduler: Scheduler,
    pub measure: Measure,
    /// Bits of a client's address that it persists by, if it does.
    pub persistence: Option<u8>,
    /// The number under which its clients persist; 0 for the service's own.
    pub group: u32,
    pub one_packet: bool,
    pub overload: Overload,
    /// The place of the sorry backend in the list.
    pub sorry: Option<usize>,
    /// Idle timeouts by state, seconds.
    pub timeouts: [u32; 8],
    pub backends: Vec<Backend>,
}

/// A backend of a service.
#[derive(Clone)]
pub struct Backend {
    pub address: SocketAddr,
    pub method: Method,
    pub weight: u16,
    pub limit: Limit,
    /// [`layout::Backend::ENDED`] or [`layout::Backend::DROPPING`].
    pub flags: u16,
    /// Whether its next hop is known.
    pub is_reached: bool,
}

impl Service {
    /// A service as in `tcp://10.9.9.9:80`, and its backends, each as in `10.0.1.11:8080`, in turn.
    pub fn new(name: &str, method: Method, backends: &[&str]) -> Self {
        let (protocol, vip) = name.split_once("://").unwrap();
        let vip: SocketAddr = vip.parse().unwrap();
        let mut timeouts = xdp_common::tcp_state::TIMEOUTS;
        timeouts[7] = 300;
        let backend = |name: &&str| Backend {
            address: name.parse().unwrap(),
            method,
            weight: 1,
            limit: Limit::default(),
            flags: 0,
            is_reached: true,
        };
        Self {
            protocol: if protocol == "tcp" { 6 } else { 17 },
            vip,
            scheduler: Scheduler::Turn,
            measure: Measure::NONE,
            persistence: None,
            group: 0,
            one_packet: false,
            overload: Overload::Next,
            sorry: None,
            timeouts,
            backends: backends.iter().map(backend).collect(),
        }
    }

    pub fn nat(name: &str, backends: &[&str]) -> Self {
        Self::new(name, Method::NAT, backends)
    }

    pub fn dr(name: &str, backends: &[&str]) -> Self {
        Self::new(name, Method::DR, backends)
    }

    pub fn scheduled(mut self, scheduler: Scheduler) -> Self {
        self.scheduler = scheduler;
        self
    }

    /// The members are compared by this.
    pub fn compared(mut self, measure: Measure) -> Self {
        self.scheduler = Scheduler::Compare;
        self.measure = measure;
        self
    }

    pub fn persistent(mut self, prefix: u8) -> Self {
        self.persistence = Some(prefix);
        self
    }

    pub fn weights(mut self, weights: &[u16]) -> Self {
        for (backend, weight) in self.backends.iter_mut().zip(weights) {
            backend.weight = *weight;
        }
        self
    }

    /// Each backend has these thresholds.
    pub fn limited(mut self, upper: u32, lower: u32) -> Self {
        for backend in &mut self.backends {
            backend.limit = Limit { upper, lower };
        }
        self
    }

    /// Whether packets count the connections of its backends.
    pub fn counts(&self) -> bool {
        self.measure.counts() || self.backends.iter().any(|backend| backend.limit.upper > 0)
    }

    /// The seed of its hashes.
    pub fn seed(&self) -> u64 {
        0x5eed_0000 + u64::from(self.vip.port())
    }

    /// The slots of its ring, as indices into the backends: a hash has [`Self::SLOTS`] of them, a turn one each.
    pub fn ring(&self) -> Vec<u16> {
        let usable: Vec<u16> = (0..)
            .zip(&self.backends)
            .filter(|(_, backend)| backend.takes_new())
            .map(|(index, _)| index)
            .collect();
        match self.scheduler {
            Scheduler::SourcePort | Scheduler::Source | Scheduler::Destination if !usable.is_empty() => {
                usable.iter().copied().cycle().take(Self::SLOTS).collect()
            }
            _ => usable,
        }
    }

    /// Slots of a ring that a hash indexes.
    pub const SLOTS: usize = 251;
}

impl Backend {
    /// Whether it gets new connections.
    pub fn takes_new(&self) -> bool {
        self.weight > 0 && self.is_reached && self.flags & layout::Backend::UNUSABLE == 0
    }
}
