//! Service: what a packet's two ends stand for.

use super::{Env, Outcome, family::Family, ingress, parse::Tuple, platform::Platform};
use crate::{
    layout::{Target, port_protocol},
    verdict::Verdict,
};

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
///
/// # Errors
///
/// The outcome for a packet of ours in a frame for another host, or for nobody: who sees such frames (a hub, a switch that
/// floods, another node on the same network) leaves them alone, as the kernel does.
#[inline(always)]
pub fn role<P: Platform, F: Family>(env: &Env<P>, tuple: &Tuple<F>) -> Result<Role, Outcome> {
    let (platform, bank) = (env.platform, env.bank);
    let destination = port_protocol(tuple.destination_port, tuple.protocol);
    let to = F::endpoint(platform, bank, tuple.destination, destination);
    let role = if let Some(service) = to.service() {
        Role::Inbound(service)
    } else if !env.answers() {
        return Ok(Role::Unmatched);
    } else if F::endpoint(
        platform,
        bank,
        tuple.source,
        port_protocol(tuple.source_port, tuple.protocol),
    ) == Target::REAL
    {
        Role::Outbound
    } else if to == Target::REAL {
        return Ok(Role::Direct);
    } else {
        return Ok(Role::Unmatched);
    };
    match ingress::is_for_this_host(env) {
        true => Ok(role),
        false => Err(Outcome::Pass(Verdict::PassedOtherHost)),
    }
}
