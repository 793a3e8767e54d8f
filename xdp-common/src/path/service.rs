//! Service: what a packet's two ends stand for.

use super::{Env, family::Family, parse::Tuple, platform::Platform};
use crate::layout::{Target, port_protocol};

/// What a packet is, seen from the services.
pub enum Role {
    /// From a client to the service with this number.
    Inbound(u32),
    /// From a backend that answers through NAT.
    Outbound,
    /// To the address of a backend that answers through NAT, from somebody who asks it directly.
    Direct,
    /// Nothing of ours.
    Unmatched,
}

/// Finds the service that a packet goes to, or the backend that it comes from.
#[inline(always)]
pub fn role<P: Platform, F: Family>(env: &Env<P>, tuple: &Tuple<F>) -> Role {
    let (platform, bank) = (env.platform, env.bank);
    let destination = port_protocol(tuple.destination_port, tuple.protocol);
    let to = F::endpoint(platform, bank, tuple.destination, destination);
    if let Some(service) = to.service() {
        return Role::Inbound(service);
    }
    if !env.answers() {
        return Role::Unmatched;
    }
    let source = port_protocol(tuple.source_port, tuple.protocol);
    if F::endpoint(platform, bank, tuple.source, source) == Target::REAL {
        return Role::Outbound;
    }
    if to == Target::REAL {
        Role::Direct
    } else {
        Role::Unmatched
    }
}
