//! Persistence: a client's new connections go where its last one went, to all services of one mark.
//!
//! Where that is stands in a template, an entry of the flow table under the client's masked address and the group's number.

use super::{
    Env, compare, count,
    family::Family,
    flow::{self, Entry, Insertion, Place},
    platform::Platform,
};
use crate::{
    layout::{Backend, Hop, Member, Service},
    tcp_state::State,
    verdict::Verdict,
};

/// Where a client's template is or belongs.
#[inline(always)]
fn place<P: Platform, F: Family>(env: &Env<P>, service: &Service, source: F::Address) -> Option<Place<F>> {
    Place::of(env, F::masked(source, service.prefix), service.group as u16)
}

/// The number of the backend of this service that a client persists with, if that takes new connections.
#[inline(always)]
pub fn backend<P: Platform, F: Family>(
    env: &Env<P>,
    number: u32,
    service: &Service,
    source: F::Address,
) -> Option<u32> {
    let place = place::<P, F>(env, service, source)?;
    let (found, backend) = place.template(env)?;
    let is_out = backend.service == 0 || backend.flags & (Backend::QUIESCED | Backend::UNUSABLE) != 0;
    let age = found.flow.seen().age(env.platform.jiffies(), env.tick());
    if is_out || flow::is_expired(env, backend, found.flow, age) {
        return None;
    }
    if u32::from(backend.service) == number {
        return Some(place.backend(env, found.flow));
    }
    // Another service of the same mark began it: the same host serves here too.
    compare::at(env, service, backend.address).map(Member::number)
}

/// The client has a connection that goes on, or a new one with its persistent backend.
#[inline(always)]
pub fn renew<P: Platform, F: Family>(env: &Env<P>, service: &Service, source: F::Address) {
    if let Some(place) = place::<P, F>(env, service, source)
        && let Some((found, backend)) = place.template(env)
    {
        let now = env.platform.jiffies();
        let age = found.flow.seen().age(now, env.tick());
        found.note(env, now, age, 0, backend, State::Template);
    }
}

/// The client persists with this backend from now on.
#[inline(always)]
pub fn begin<P: Platform, F: Family>(
    env: &Env<P>,
    service: &Service,
    source: F::Address,
    number: u32,
    backend: &Backend,
) {
    let Some(place) = place::<P, F>(env, service, source) else {
        return;
    };
    let entry = Entry {
        reuse: place.template(env).map_or(flow::ANY, |(found, _)| found.slot),
        backend: number,
        state: State::Template,
        idle_timeout: flow::idle_timeout(env, backend, State::Template),
        hop: Hop::NONE,
    };
    // Without a slot the client's next connection is scheduled anew.
    if place.put(env.platform, env.context, env.mode, &entry) == Insertion::Evicted {
        count::verdict(env, Verdict::FlowEvicted);
    }
}
