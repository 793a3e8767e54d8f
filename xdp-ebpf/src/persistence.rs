//! Persistence: a client's new connections go where its last one went, to all services of one mark.
//!
//! Where that is stands in a template, an entry of the flow table under the client's masked address and the group's number.

use xdp_common::{
    layout::{Backend, Hop, Member, Record, Service},
    tcp_state::State,
    verdict::Verdict,
};

use crate::{
    Env, compare, count,
    family::{self, Family},
    flow::{self, Entry, Found, Insertion, Place},
};

/// Where a client's template is or belongs.
struct Template<F: Family> {
    place: Place<F>,
    key: u64,
    client: F::Address,
}

impl<F: Family> Template<F> {
    #[inline(always)]
    fn of(env: &Env, service: &Service, source: F::Address) -> Option<Self> {
        let client = F::masked(source, service.prefix);
        let group = service.group as u16;
        let place = Place::<F>::of(client, group, env.control)?;
        let key = F::key(client, group, place.hash, 0);
        Some(Self { place, key, client })
    }

    #[inline(always)]
    fn found(&self) -> Option<Found<F>> {
        self.place.inbound(self.key, self.client)
    }
}

/// The number of the backend of this service that a client persists with, if that takes new connections.
#[inline(always)]
pub fn partner<F: Family>(env: &Env, number: u32, service: &Service, source: F::Address) -> Option<u32> {
    let found = Template::<F>::of(env, service, source)?.found()?;
    let backend = family::backend(env.bank, found.record.backend())?;
    let is_out = backend.service == 0 || backend.flags & (Backend::QUIESCED | Backend::OVER) != 0;
    if is_out || flow::is_expired(env, backend, found.record, found.seen, flow::now()) {
        return None;
    }
    if u32::from(backend.service) == number {
        return Some(found.record.backend());
    }
    // Another service of the same mark began it: the same host serves here too.
    compare::at(env, service, backend.address).map(Member::number)
}

/// The client has a connection that goes on, or a new one with whom it persists with.
#[inline(always)]
pub fn renew<F: Family>(env: &Env, service: &Service, source: F::Address) {
    if let Some(template) = Template::<F>::of(env, service, source)
        && let Some(found) = template.found()
    {
        found.see(flow::now());
    }
}

/// The client persists with this backend from now on.
#[inline(always)]
pub fn begin<F: Family>(env: &Env, service: &Service, source: F::Address, number: u32) {
    let Some(template) = Template::<F>::of(env, service, source) else {
        return;
    };
    let entry = Entry {
        over: template.found().map_or(flow::ANY, |found| found.way),
        key: template.key,
        client: template.client,
        record: Record::new(number, State::Template),
        hop: Hop::NONE,
    };
    // Without a place the client's next connection is scheduled anew.
    if template.place.put(env, &entry) == Insertion::Evicted {
        count::verdict(env, Verdict::FlowEvicted);
    }
}
