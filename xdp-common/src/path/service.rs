//! Service: what a packet's two ends stand for.

use super::{Env, family::Family, parse::Tuple, platform::Platform};
use crate::layout::{Target, port_protocol};

/// What a packet is, seen from the services.
pub enum Role {
    /// From a client to the service with this number.
    Inbound(u32),
    /// From a backend that answers through NAT.
    Outbound,
    /// Nothing of ours.
    Unmatched,
}

/// Finds the service that a packet goes to, or the backend that it comes from.
#[inline(always)]
pub fn role<P: Platform, F: Family>(env: &Env<P>, tuple: &Tuple<F>) -> Role {
    let (platform, bank) = (env.platform, env.bank);
    let destination = port_protocol(tuple.destination_port, tuple.protocol);
    if let Some(service) = F::endpoint(platform, bank, tuple.destination, destination).service() {
        return Role::Inbound(service);
    }
    let source = port_protocol(tuple.source_port, tuple.protocol);
    if env.answers() && F::endpoint(platform, bank, tuple.source, source) == Target::REAL {
        return Role::Outbound;
    }
    Role::Unmatched
}
