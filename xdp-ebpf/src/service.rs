//! Service: what a packet's two ends stand for.

use xdp_common::layout::{Service, Target, port_protocol};

use crate::{Env, family::Family, maps, parse::Tuple};

/// What a packet is, seen from the services.
pub enum Role {
    /// From a client to the service with this number.
    Inbound(u32),
    /// From a backend that answers through NAT.
    Outbound,
    /// Nothing of ours.
    Foreign,
}

/// Finds the service that a packet goes to, or the backend that it comes from.
#[inline(always)]
pub fn role<F: Family>(env: &Env, tuple: &Tuple<F>) -> Role {
    let to = F::endpoint(
        env.bank,
        tuple.destination,
        port_protocol(tuple.destination_port, tuple.protocol),
    );
    if let Some(service) = to.service() {
        return Role::Inbound(service);
    }
    if env.answers
        && F::endpoint(env.bank, tuple.source, port_protocol(tuple.source_port, tuple.protocol)) == Target::REAL
    {
        return Role::Outbound;
    }
    Role::Foreign
}

/// The service with this number.
#[inline(always)]
pub fn get(bank: u32, number: u32) -> Option<&'static Service> {
    maps::SERVICES.get(number << 1 | bank)
}
