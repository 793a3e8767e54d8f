//! Fragment: only the first one of a datagram has the ports; the others go where it went.

use super::{
    Env, Outcome, addressee, count, deliver::Ip, handover, parse::Header, platform::Platform, rewrite, scheduler,
    transmit,
};
use crate::{
    layout::{FragmentRoute, Hop, Method, TailCall, UnknownFragments, any_port},
    verdict::Verdict,
};

/// Sends another fragment after the first one.
#[inline(always)]
pub fn later<P: Platform, F: Ip>(env: &Env<P>, header: &Header<F>, identification: u64) -> Result<Outcome, Outcome> {
    let unknown = Outcome::Pass(Verdict::PassedFragment);
    // SAFETY: the header's view was checked when it was followed.
    let (source, destination, bytes) = unsafe { F::addresses(header.ip) };
    let route = match F::route(env.platform, header, identification) {
        Some(route) => route,
        // A predecessor may have seen the first fragment.
        None if env.is_succeeding() => return Err(handover::tail_call(env, TailCall::Predecessor)),
        None => orphan::<P, F>(env, source, destination, header.protocol)?,
    };
    let Some(backend) = env.backend(route.backend) else {
        return Err(unknown);
    };
    // The number may be another backend's by now, or nobody's.
    let still = match route.inbound {
        0 => source == F::of_backend(&backend.address) && backend.method.has(Method::SEES_ANSWERS),
        _ => destination == F::of_backend(&backend.vip) && backend.method != Method::NONE,
    };
    if !still {
        return Err(unknown);
    }
    addressee::is_this_host(env)?;
    if route.inbound == 0 {
        rewrite::fragment_outbound(header, backend)?;
        count::outbound(env, route.backend, bytes);
        return Ok(transmit::to_client(env, route.hop));
    }
    if backend.ifindex == 0 {
        return Err(Outcome::Drop(Verdict::DroppedNoNextHop));
    }
    rewrite::fragment_inbound(header, backend)?;
    count::inbound(env, route.backend, bytes, false);
    Ok(transmit::to_backend(env, backend))
}

/// Where a fragment goes whose first fragment was not seen, if the operator wants more than to pass it. The tables then have
/// an endpoint of any port for each address and protocol of a service.
#[inline(always)]
fn orphan<P: Platform, F: Ip>(
    env: &Env<P>,
    source: F::Address,
    destination: F::Address,
    protocol: u8,
) -> Result<FragmentRoute, Outcome> {
    // SAFETY: the word is a table's.
    let wish = unsafe { env.platform.load(&raw const (*env.control()).unknown_fragments) };
    if wish == UnknownFragments::Pass as u64 {
        return Err(Outcome::Pass(Verdict::PassedFragment));
    }
    let Some(number) = F::endpoint(env.platform, env.bank, destination, any_port(protocol)).service() else {
        return Err(Outcome::Pass(Verdict::PassedFragment));
    };
    if wish != UnknownFragments::Addresses as u64 {
        return Err(Outcome::Drop(Verdict::DroppedFragment));
    }
    let chosen = scheduler::choose_by_address::<P, F>(env, number, source);
    match chosen {
        Some(backend) => Ok(FragmentRoute {
            backend,
            inbound: 1,
            hop: Hop::NONE,
        }),
        None => Err(Outcome::Drop(Verdict::DroppedNoBackend)),
    }
}
