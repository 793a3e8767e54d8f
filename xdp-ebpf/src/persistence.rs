//! Persistence: a client's new connections go where its last one went, to all services of one mark.
//!
//! Where that is stands in a template, an entry of the flow table under the client's masked address and the group's number.

use xdp_common::{
    layout::{Backend, Hop, Member, Service},
    tcp_state::State,
    verdict::Verdict,
};

use crate::{
    Env, compare, count,
    family::Family,
    flow::{self, Entry, Insertion, Place},
};

/// Where a client's template is or belongs.
#[inline(always)]
fn place<F: Family>(env: &Env, service: &Service, source: F::Address) -> Option<Place<F>> {
    Place::of(F::masked(source, service.prefix), service.group as u16, env.control)
}

/// The number of the backend of this service that a client persists with, if that takes new connections.
#[inline(always)]
pub fn partner<F: Family>(env: &Env, number: u32, service: &Service, source: F::Address) -> Option<u32> {
    let place = place::<F>(env, service, source)?;
    let (found, backend) = place.template(env.bank)?;
    let is_out = backend.service == 0 || backend.flags & (Backend::QUIESCED | Backend::OVER) != 0;
    let age = found.flow.seen().age(flow::now(), env.control.tick);
    if is_out || flow::is_over(env, backend, found.flow, age) {
        return None;
    }
    if u32::from(backend.service) == number {
        return Some(place.backend(found.flow));
    }
    // Another service of the same mark began it: the same host serves here too.
    compare::at(env, service, backend.address).map(Member::number)
}

/// The client has a connection that goes on, or a new one with whom it persists with.
#[inline(always)]
pub fn renew<F: Family>(env: &Env, service: &Service, source: F::Address) {
    if let Some(place) = place::<F>(env, service, source)
        && let Some((found, backend)) = place.template(env.bank)
    {
        let now = flow::now();
        let age = found.flow.seen().age(now, env.control.tick);
        found.note(env, now, age, 0, backend, State::Template);
    }
}

/// The client persists with this backend from now on.
#[inline(always)]
pub fn begin<F: Family>(env: &Env, service: &Service, source: F::Address, number: u32, backend: &Backend) {
    let Some(place) = place::<F>(env, service, source) else {
        return;
    };
    let entry = Entry {
        over: place.template(env.bank).map_or(flow::ANY, |(found, _)| found.way),
        backend: number,
        state: State::Template,
        keep: flow::keep(env, backend, State::Template),
        hop: Hop::NONE,
    };
    // Without a place the client's next connection is scheduled anew.
    if place.put(env, &entry) == Insertion::Evicted {
        count::verdict(env, Verdict::FlowEvicted);
    }
}
