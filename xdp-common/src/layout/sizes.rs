use super::{FLOWS_PER_BUCKET, MAX_SERVICES};

/// How much there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Services.
    pub services: u32,
    /// Backends, of all services together.
    pub backends: u32,
    /// Slots for IPv4 flows: twice as many as are promised, so that buckets seldom fill; a power of two.
    pub flows_v4: u32,
    /// Slots for IPv6 flows, likewise.
    pub flows_v6: u32,
}

impl Sizes {
    /// Room for so many services, backends and flows at least. A flow table has at least four times as many buckets as there
    /// can be numbers of backends ([`super::FlowEntry`]).
    #[must_use]
    pub fn new(services: u32, backends: u32, flows_v4: u32, flows_v6: u32) -> Self {
        let backends = backends.clamp(1, (1 << 20) - 1);
        let slots = |flows: u32| {
            let buckets = (backends + 1).next_power_of_two().max(16) * 4;
            let slots = flows.next_power_of_two().saturating_mul(2);
            slots.max(buckets * FLOWS_PER_BUCKET as u32).min(1 << 28)
        };
        Self {
            services: services.clamp(1, MAX_SERVICES - 1),
            backends,
            flows_v4: slots(flows_v4),
            flows_v6: slots(flows_v6),
        }
    }

    /// Buckets of an endpoint table: one per endpoint there can be, so that a bucket of four seldom fills.
    #[must_use]
    pub fn endpoint_buckets(&self) -> u32 {
        (self.services + self.backends).next_power_of_two().max(64)
    }

    /// Buckets of the IPv4 flow table.
    #[must_use]
    pub const fn buckets_v4(&self) -> u32 {
        self.flows_v4 / FLOWS_PER_BUCKET as u32
    }

    /// Buckets of the IPv6 flow table.
    #[must_use]
    pub const fn buckets_v6(&self) -> u32 {
        self.flows_v6 / FLOWS_PER_BUCKET as u32
    }
}
