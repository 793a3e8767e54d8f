//! Flow: the connection that a packet belongs to.
//!
//! See [`crate::layout`] for how an entry is found, published and replaced without a lock.

use super::{
    Env, connections, count,
    family::Family,
    ingress,
    parse::{Packet, Tuple},
    platform::Platform,
};
use crate::{
    layout::{Backend, BucketFlow, ClientId, FLOWS_PER_BUCKET, FlowEntry, Hop, Method, Seen},
    tcp_state::{FIN, From, RST, STATES, SYN, State, opens},
    wire::protocol,
};

/// Any slot of a bucket.
pub const ANY: usize = FLOWS_PER_BUCKET;

/// What a closed flow is idle for longer than any that goes on, jiffies.
const CLOSED: u64 = 1 << 40;

/// Where a client's flows are.
pub struct Place<F: Family> {
    address: F::Address,
    /// The client's number.
    pub client: ClientId,
    number: u32,
    bucket: *mut BucketFlow,
}

/// A flow that was found.
pub struct Found {
    /// The slot of the bucket that it is in.
    pub slot: usize,
    /// What it was when it was read.
    pub flow: FlowEntry,
    word: *mut u64,
}

/// What is to be recorded.
pub struct Entry {
    /// The slot of the bucket to use again, in which a flow of the client is expired or closed; for [`ANY`] a free slot or
    /// the eviction victim's.
    pub reuse: usize,
    /// The number of its backend.
    pub backend: u32,
    /// Its state.
    pub state: State,
    /// How long it may be idle, jiffies.
    pub idle_timeout: u32,
    /// Where answers go.
    pub hop: Hop,
}

/// What became of a flow that was to be recorded.
#[derive(PartialEq)]
#[repr(u32)]
pub enum Insertion {
    /// It took a free slot, or one whose flow was expired.
    Done,
    /// The flow that had been idle longest was forgotten for it.
    Evicted,
    /// Another CPU took the slot at the same moment: the flow has no record.
    Lost,
}

/// Whether a client's packet belongs to a flow.
pub enum Lookup<'a> {
    /// It does.
    Flow {
        /// The number of its backend.
        number: u32,
        /// Its backend.
        backend: &'a Backend,
        /// Whether it is time to note what need not be noted with each packet.
        is_due: bool,
    },
    /// It does, but the backend is gone, and the flow is not to have another.
    Lost,
    /// It does not, or its flow is expired or closed.
    Miss {
        /// The slot to use again, or [`ANY`].
        reuse: usize,
    },
}

impl<F: Family> Place<F> {
    /// The place of the client at this address and port.
    #[inline(always)]
    pub fn of<P: Platform>(env: &Env<P>, address: F::Address, port: u16) -> Option<Self> {
        Self::at(env, address, F::client(address, port, env.keys()))
    }

    /// The place of the client with this address and number.
    #[inline(always)]
    pub fn at<P: Platform>(env: &Env<P>, address: F::Address, client: ClientId) -> Option<Self> {
        let number = client.bucket(F::mask(env.platform));
        Some(Self {
            address,
            client,
            number,
            bucket: F::bucket(env.platform, number)?,
        })
    }

    /// The slot in which this place's flows are looked for after `step` others: each client begins at its own, so that
    /// the first look is most often the last.
    #[inline(always)]
    const fn slot(&self, step: usize) -> usize {
        (self.client.slot() + step) & (FLOWS_PER_BUCKET - 1)
    }

    /// The word of the flow in a slot.
    #[inline(always)]
    const fn word(&self, slot: usize) -> *mut u64 {
        // SAFETY: the slot is masked to the bucket.
        unsafe { self.bucket.cast::<u64>().add(slot & (FLOWS_PER_BUCKET - 1)) }
    }

    /// The number of a flow's backend.
    #[inline(always)]
    pub fn backend<P: Platform>(&self, env: &Env<P>, flow: FlowEntry) -> u32 {
        flow.backend(F::mask(env.platform))
    }

    /// The client's flow that is wanted, and its backend: most often it is where it was first looked for when it began.
    #[inline(always)]
    fn find<'a, P: Platform>(
        &self,
        env: &'a Env<P>,
        wanted: impl Fn(FlowEntry, &Backend) -> bool,
    ) -> Option<(Found, &'a Backend)> {
        let own = self.there(env, self.client.slot(), &wanted);
        if own.is_some() {
            return own;
        }
        for slot in 0..FLOWS_PER_BUCKET {
            let found = self.there(env, slot, &wanted);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// The flow in a slot of the bucket, if it is the client's and wanted.
    #[inline(always)]
    fn there<'a, P: Platform>(
        &self,
        env: &'a Env<P>,
        slot: usize,
        wanted: &impl Fn(FlowEntry, &Backend) -> bool,
    ) -> Option<(Found, &'a Backend)> {
        let word = self.word(slot);
        // SAFETY: the word is the flow table's.
        let flow = FlowEntry(unsafe { env.platform.load(word) });
        if !flow.is_of(self.client, F::mask(env.platform)) {
            return None;
        }
        match env.backend(self.backend(env, flow)) {
            Some(backend) if wanted(flow, backend) => Some((Found { slot, flow, word }, backend)),
            _ => None,
        }
    }

    /// The client's flow to a service.
    #[inline(always)]
    pub fn inbound<'a, P: Platform>(&self, env: &'a Env<P>, service: u32) -> Option<(Found, &'a Backend)> {
        self.find(env, |flow, backend| {
            u32::from(backend.service) == service && flow.state() != State::Template
        })
    }

    /// The client's flow whose backend is at the source.
    #[inline(always)]
    pub fn with_backend_at<'a, P: Platform>(&self, env: &'a Env<P>, tuple: &Tuple<F>) -> Option<(Found, &'a Backend)> {
        self.find(env, |flow, backend| {
            F::of_backend(&backend.address) == tuple.source
                && backend.port.0 == tuple.source_port
                && backend.protocol == tuple.protocol
                && backend.method.has(Method::SEES_ANSWERS)
                && flow.state() != State::Template
        })
    }

    /// The client's flow through another service whose answers could not be told from those of one with this backend.
    #[inline(always)]
    pub fn rival<'a, P: Platform>(&self, env: &'a Env<P>, backend: &Backend) -> Option<(Found, &'a Backend)> {
        self.find(env, |flow, other| {
            are_rivals(backend, other) && flow.state() != State::Template
        })
    }

    /// Whether a flow is no longer alive: both ends have ended it, or it has been idle for too long.
    #[inline(always)]
    pub fn is_over<P: Platform>(&self, env: &Env<P>, found: &Found, backend: &Backend) -> bool {
        let state = found.flow.state();
        let age = found.flow.seen().age(env.platform.jiffies(), env.tick());
        state.is_over()
            || is_expired(env, backend, found.flow, age)
            || state.is_closed() && is_quiet(env, backend, found.flow, age)
    }

    /// Forgets a flow.
    #[inline(always)]
    pub fn end<P: Platform>(&self, env: &Env<P>, found: &Found, backend: &Backend) {
        // SAFETY: the word is that of the entry that was found.
        if unsafe { env.platform.replace(found.word, found.flow.0, FlowEntry::FREE.0) } {
            connections::end(env, self.backend(env, found.flow), backend, found.flow.state());
        }
    }

    /// The client's template.
    #[inline(always)]
    pub fn template<'a, P: Platform>(&self, env: &'a Env<P>) -> Option<(Found, &'a Backend)> {
        self.find(env, |flow, _| flow.state() == State::Template)
    }

    /// The flow of a client's packet, if it is known and goes on; the packet is noted with it.
    #[inline(always)]
    pub fn known<'a, P: Platform>(&self, env: &'a Env<P>, packet: &Packet<F>, service: u32) -> Lookup<'a> {
        let Some((found, backend)) = self.inbound(env, service) else {
            return Lookup::Miss { reuse: ANY };
        };
        let reuse = Lookup::Miss { reuse: found.slot };
        let mut state = found.flow.state();
        let number = self.backend(env, found.flow);
        let opens = opens(packet.flags);
        if backend.flags & Backend::UNUSABLE != 0 {
            let drops = backend.flags & Backend::DROPPING != 0;
            return if drops && !opens { Lookup::Lost } else { reuse };
        }
        let now = env.platform.jiffies();
        let age = found.flow.seen().age(now, env.tick());
        if age != 0 && is_expired(env, backend, found.flow, age) {
            return reuse;
        }
        if state.is_closed() {
            let is_quiet = || is_quiet(env, backend, found.flow, age);
            match go_on_after_close(env, packet, number, backend, state, is_quiet) {
                Some(now) => state = now,
                None => return reuse,
            }
        }
        let next = match packet.tuple.protocol {
            protocol::TCP => state.next(packet.flags, From::Client),
            _ => State::Udp,
        };
        found.note(env, now, age, number, backend, next);
        if age != 0 {
            self.set_hop(env, found.slot, hop_back(env, backend));
        }
        Lookup::Flow {
            number,
            backend,
            is_due: age != 0,
        }
    }

    /// Notes a backend's packet with its flow.
    #[inline(always)]
    pub fn answered<P: Platform>(&self, env: &Env<P>, packet: &Packet<F>, found: &Found, backend: &Backend) {
        let next = match packet.tuple.protocol {
            protocol::TCP => found.flow.state().next(packet.flags, From::Backend),
            _ => State::Udp,
        };
        let now = env.platform.jiffies();
        let age = found.flow.seen().age(now, env.tick());
        found.note(env, now, age, self.backend(env, found.flow), backend, next);
    }

    /// Whether a flow has to begin with a packet that was scheduled by itself: it has one only for the answers, and with each backend
    /// that it has met. One that is there is noted.
    #[inline(always)]
    pub fn has_to_begin<P: Platform>(&self, env: &Env<P>, number: u32, backend: &Backend) -> bool {
        backend.method.has(Method::SEES_ANSWERS)
            && !self.renewed(env.platform, env.context, env.mode, number, ingress::hop_back(env))
    }

    /// Notes a datagram with the client's flow to a backend, if there is one. A function as [`Self::put`].
    #[inline(never)]
    fn renewed<P: Platform>(&self, platform: P, context: P::Context, mode: u64, number: u32, hop: Hop) -> bool {
        let Some(env) = &Env::with(platform, context, mode) else {
            return true;
        };
        let is_its = |flow: FlowEntry, _: &Backend| flow.state() == State::Udp && self.backend(env, flow) == number;
        let Some((found, backend)) = self.find(env, is_its) else {
            return false;
        };
        let now = env.platform.jiffies();
        let age = found.flow.seen().age(now, env.tick());
        found.note(env, now, age, number, backend, State::Udp);
        if age != 0 {
            self.set_hop(env, found.slot, hop);
        }
        true
    }

    /// Records a new flow in this state; `reuse` as in [`Entry`].
    #[inline(always)]
    pub fn insert<P: Platform>(
        &self,
        env: &Env<P>,
        state: State,
        reuse: usize,
        number: u32,
        backend: &Backend,
    ) -> Insertion {
        let entry = Entry {
            reuse,
            backend: number,
            state,
            idle_timeout: idle_timeout(env, backend, state),
            hop: hop_back(env, backend),
        };
        let insertion = self.put(env.platform, env.context, env.mode, &entry);
        if insertion != Insertion::Lost {
            connections::begin(env, number, backend, state);
        }
        insertion
    }

    /// Puts an entry into the bucket. A function with a stack of its own, that makes its [`Env`] anew: the caller has no room to keep
    /// one in memory.
    #[inline(never)]
    pub fn put<P: Platform>(&self, platform: P, context: P::Context, mode: u64, entry: &Entry) -> Insertion {
        let Some(env) = &Env::with(platform, context, mode) else {
            return Insertion::Lost;
        };
        let mask = F::mask(env.platform);
        let now = env.platform.jiffies();
        // What was there may have made room for another client's flow meanwhile.
        let reuse = env.platform.bounded::<15>(entry.reuse, entry.idle_timeout as usize);
        let is_reused = reuse < FLOWS_PER_BUCKET
            // SAFETY: the word is the flow table's.
            && FlowEntry(unsafe { env.platform.load(self.word(reuse)) }).is_of(self.client, mask);
        let (slot, evicts) = match is_reused {
            true => (reuse & (FLOWS_PER_BUCKET - 1), false),
            false => self.eviction_victim(env, now),
        };
        let seen = Seen::at(now, env.tick(), entry.idle_timeout);
        let new = FlowEntry::new(self.client, mask, entry.backend, entry.state, seen);
        let word = self.word(slot);
        // An entry that is more than its word is this CPU's while that is BUSY.
        let is_more = F::IS_V6 || entry.hop != Hop::NONE;
        // SAFETY: the word is the flow table's.
        unsafe {
            let old = FlowEntry(env.platform.load(word));
            let first = if is_more { FlowEntry::BUSY } else { new };
            if old == FlowEntry::BUSY || !env.platform.replace(word, old.0, first.0) {
                return Insertion::Lost;
            }
            if is_more {
                F::set_client(env.platform, self.number, slot, self.address);
                self.set_hop(env, slot, entry.hop);
                env.platform.publish(word, new.0);
            }
            if old != FlowEntry::FREE
                && let Some(backend) = env.backend(self.backend(env, old))
            {
                connections::end(env, self.backend(env, old), backend, old.state());
            }
        }
        if evicts { Insertion::Evicted } else { Insertion::Done }
    }

    /// The slot to give to a new flow, and whether a flow that goes on has to be forgotten for it: a free slot; else the
    /// one whose flow was idle longest, of those that are closed if there are any.
    #[inline(always)]
    fn eviction_victim<P: Platform>(&self, env: &Env<P>, now: u64) -> (usize, bool) {
        let tick = env.tick();
        let (mut best, mut rank) = (0, 0);
        let mut of_best = FlowEntry::FREE;
        for step in 0..FLOWS_PER_BUCKET {
            let slot = self.slot(step);
            // SAFETY: the word is the flow table's.
            let flow = FlowEntry(unsafe { env.platform.load(self.word(slot)) });
            if flow == FlowEntry::FREE {
                return (slot, false);
            }
            let closed = if flow.state().is_closed() { CLOSED } else { 0 };
            let this = 1 + flow.seen().idle(now, tick) + closed;
            if flow != FlowEntry::BUSY && this > rank {
                rank = this;
                best = slot;
                of_best = flow;
            }
        }
        let age = of_best.seen().age(now, tick);
        let backend = env.backend(self.backend(env, of_best));
        let goes_on = backend.is_none_or(|it| !is_expired(env, it, of_best, age));
        (best, goes_on)
    }

    /// Remembers the next hop of a flow's client.
    #[inline(always)]
    fn set_hop<P: Platform>(&self, env: &Env<P>, slot: usize, hop: Hop) {
        if hop != Hop::NONE
            && let Some(hops) = F::hops(env.platform, self.number)
        {
            // SAFETY: the slot is masked; a hop is one aligned word.
            unsafe {
                let word = hops.cast::<u64>().add(slot & (FLOWS_PER_BUCKET - 1));
                env.platform.store(word, hop.0);
            }
        }
    }

    /// The next hop of a flow's client.
    #[inline(always)]
    pub fn hop<P: Platform>(&self, env: &Env<P>, found: &Found) -> Hop {
        match F::hops(env.platform, self.number) {
            // SAFETY: the slot is masked; a hop is one aligned word.
            Some(hops) => unsafe {
                let word = hops.cast::<u64>().add(found.slot & (FLOWS_PER_BUCKET - 1));
                Hop(env.platform.load(word))
            },
            None => Hop::NONE,
        }
    }
}

impl Found {
    /// Notes a packet: the state after it, and that it was seen, where they differ from what the entry says. `age` is that
    /// of the entry.
    #[inline(always)]
    pub fn note<P: Platform>(&self, env: &Env<P>, now: u64, age: u32, number: u32, backend: &Backend, next: State) {
        let state = self.flow.state();
        if age == 0 && next == state {
            return;
        }
        let seen = Seen::at(now, env.tick(), idle_timeout(env, backend, next));
        let noted = self.flow.with(next, seen);
        // If another CPU was first, its view of the flow is as good.
        // SAFETY: the word is that of the entry that was found.
        if unsafe { env.platform.replace(self.word, self.flow.0, noted.0) } && next != state {
            connections::change(env, number, backend, state, next);
        }
    }
}

/// The next hop of answers, if the balancer sees those of this backend.
#[inline(always)]
fn hop_back<P: Platform>(env: &Env<P>, backend: &Backend) -> Hop {
    if backend.method.has(Method::SEES_ANSWERS) {
        ingress::hop_back(env)
    } else {
        Hop::NONE
    }
}

/// How long a flow of this backend may be idle in this state, jiffies.
#[inline(always)]
pub fn idle_timeout<P: Platform>(env: &Env<P>, backend: &Backend, state: State) -> u32 {
    // The compiler knows how many states there are, and would leave the mask out that the verifier wants to see.
    let state = env
        .platform
        .bounded::<{ STATES - 1 }>(state as usize, usize::from(backend.flags));
    match env.platform.timeouts(u32::from(backend.timeouts()) << 1 | env.bank) {
        // SAFETY: a bank is not written while packets may read it; the place is masked.
        Some(timeouts) => unsafe { (*timeouts)[state] },
        None => 0,
    }
}

/// In which state a closed flow, of the backend of this number, meets its client's next packet; `None` if the packet begins
/// another one.
#[inline(always)]
pub fn go_on_after_close<P: Platform, F: Family>(
    env: &Env<P>,
    packet: &Packet<F>,
    number: u32,
    backend: &Backend,
    state: State,
    is_quiet: impl FnOnce() -> bool,
) -> Option<State> {
    if opens(packet.flags) {
        // A SYN may be anybody's, as may the FIN or RST before it: while only one end has closed the flow, its backend is
        // asked, which knows. A backend that drains is not to have new connections.
        let is_new = state == State::TimeWait || backend.flags & Backend::QUIESCED != 0;
        if is_new || is_quiet() {
            return None;
        }
        count::connection(env, number);
    } else if packet.flags & (FIN | SYN | RST) == 0 && packet.has_data(env) {
        // To the verifier the flow goes on here as in any state: it has walked that already.
        let revived = env
            .platform
            .bounded::<{ STATES - 1 }>(state.revived() as usize, number as usize);
        return Some(State::from_bits(revived as u8));
    }
    Some(state)
}

/// Whether a flow of this age has been idle for longer than a closed one is remembered.
#[inline(always)]
pub fn is_quiet<P: Platform>(env: &Env<P>, backend: &Backend, flow: FlowEntry, age: u32) -> bool {
    let set = u32::from(backend.timeouts()) << 1 | env.bank;
    is_idle_as_closed(env.platform, set, flow.seen(), age, env.tick())
}

/// The same in a function of its own, as few packets need it: of plain numbers, so that nothing else is put on the stack.
#[inline(never)]
fn is_idle_as_closed<P: Platform>(platform: P, set: u32, seen: Seen, age: u32, tick: u32) -> bool {
    match platform.timeouts(set) {
        // SAFETY: a bank is not written while packets may read it.
        Some(timeouts) => seen.is_expired(age, tick, unsafe { (*timeouts)[State::Closed as usize] }),
        None => true,
    }
}

/// Whether the answers of two backends of different services look the same until their flow is known.
#[inline(always)]
pub fn are_rivals(one: &Backend, other: &Backend) -> bool {
    one.service != other.service
        && one.address == other.address
        && one.port.0 == other.port.0
        && one.protocol == other.protocol
        && one.method.has(Method::SEES_ANSWERS)
        && other.method.has(Method::SEES_ANSWERS)
}

/// Whether a backend's flow of this age has been idle for longer than its state allows.
#[inline(always)]
pub fn is_expired<P: Platform>(env: &Env<P>, backend: &Backend, flow: FlowEntry, age: u32) -> bool {
    let timeout = idle_timeout(env, backend, flow.state());
    flow.seen().is_expired(age, env.tick(), timeout)
}
