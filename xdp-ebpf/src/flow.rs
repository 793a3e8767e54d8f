//! Flow: the connection that a packet belongs to.
//!
//! See [`xdp_common::layout`] for how an entry is found, published and replaced without a lock.

use aya_ebpf::helpers::bpf_jiffies64;
use xdp_common::{
    layout::{Backend, Client, Control, Flow, Hop, Method, Seen, WAYS},
    tcp_state::{ACK, From, STATES, SYN, State},
    wire::protocol,
};

use crate::{
    Env, atomic,
    family::{self, Family},
    forget, load, maps,
    parse::{Packet, Tuple},
    transmit,
};

/// Any way of a bucket.
pub const ANY: usize = WAYS;

/// Where a client's flows are.
pub struct Place<F: Family> {
    address: F::Address,
    /// The client's number.
    pub client: Client,
    number: u32,
    bucket: *mut F::Bucket,
}

/// A flow that was found.
pub struct Found {
    /// Where in the bucket it is.
    pub way: usize,
    /// What it was when it was read.
    pub flow: Flow,
    word: *mut u64,
}

/// What is to be recorded.
pub struct Entry {
    /// In which way of the bucket: one in which a flow of the client is over; for [`ANY`] a free or the most dispensable one.
    pub over: usize,
    /// The number of its backend.
    pub backend: u32,
    /// Its state.
    pub state: State,
    /// How long it may be idle, jiffies.
    pub keep: u32,
    /// Where answers go.
    pub hop: Hop,
}

/// What became of a flow that was to be recorded.
#[derive(PartialEq)]
#[repr(u32)]
pub enum Insertion {
    /// It took a free place, or one whose flow was over.
    Done,
    /// The flow that had been idle longest was forgotten for it.
    Evicted,
    /// Another CPU took the place at the same moment: the flow has no record.
    Lost,
}

impl<F: Family> Place<F> {
    /// The place of the client at this address and port.
    #[inline(always)]
    pub fn of(address: F::Address, port: u16, control: &Control) -> Option<Self> {
        Self::at(address, F::client(address, port, control.seed))
    }

    /// The place of the client with this address and number.
    #[inline(always)]
    pub fn at(address: F::Address, client: Client) -> Option<Self> {
        let number = client.bucket(F::mask());
        Some(Self {
            address,
            client,
            number,
            bucket: F::bucket(number)?,
        })
    }

    /// The way at which this place's flows are looked for after `step` others: each client begins at its own, so that
    /// the first look is most often the last.
    #[inline(always)]
    fn way(&self, step: usize) -> usize {
        (self.client.way() + step) & (WAYS - 1)
    }

    /// The word of the flow in a way.
    #[inline(always)]
    fn word(&self, way: usize) -> *mut u64 {
        // SAFETY: the way is masked, and the words come first in a bucket.
        unsafe { self.bucket.cast::<u64>().add(way & (WAYS - 1)) }
    }

    /// The number of a flow's backend.
    #[inline(always)]
    pub fn backend(&self, flow: Flow) -> u32 {
        flow.backend(F::mask())
    }

    /// The client's flow that is wanted, and its backend: most often it is where it was first looked for when it began.
    #[inline(always)]
    fn find(&self, bank: u32, wanted: impl Fn(Flow, &Backend) -> bool) -> Option<(Found, &'static Backend)> {
        let own = self.there(bank, self.client.way(), &wanted);
        if own.is_some() {
            return own;
        }
        for way in 0..WAYS {
            let found = self.there(bank, way, &wanted);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// The flow in a way of the bucket, if it is the client's and wanted.
    #[inline(always)]
    fn there(
        &self,
        bank: u32,
        way: usize,
        wanted: &impl Fn(Flow, &Backend) -> bool,
    ) -> Option<(Found, &'static Backend)> {
        let word = self.word(way);
        // SAFETY: the word is the flow table's; the way is below its end.
        let flow = unsafe {
            let flow = Flow(atomic::load(word));
            if !flow.is_of(self.client, F::mask()) || !F::is_client(self.bucket, way, flow, self.address) {
                return None;
            }
            flow
        };
        match family::backend(bank, self.backend(flow)) {
            Some(backend) if wanted(flow, backend) => Some((Found { way, flow, word }, backend)),
            _ => None,
        }
    }

    /// The client's flow to a service.
    #[inline(always)]
    pub fn inbound(&self, bank: u32, service: u32) -> Option<(Found, &'static Backend)> {
        self.find(bank, |flow, backend| {
            u32::from(backend.service) == service && flow.state() != State::Template
        })
    }

    /// The client's flow whose backend is at the source.
    #[inline(always)]
    pub fn outbound(&self, bank: u32, tuple: &Tuple<F>) -> Option<(Found, &'static Backend)> {
        self.find(bank, |flow, backend| {
            F::of_backend(&backend.address) == tuple.source
                && backend.port.0 == tuple.source_port
                && backend.protocol == tuple.protocol
                && backend.method == Method::Nat as u8
                && flow.state() != State::Template
        })
    }

    /// The client's template.
    #[inline(always)]
    pub fn template(&self, bank: u32) -> Option<(Found, &'static Backend)> {
        self.find(bank, |flow, _| flow.state() == State::Template)
    }

    /// The flow of a client's packet, if it is known and goes on; the packet is noted with it.
    #[inline(always)]
    pub fn known(&self, env: &Env, packet: &Packet<F>, service: u32) -> Known {
        let Some((found, backend)) = self.inbound(env.bank, service) else {
            return Known::Not { over: ANY };
        };
        let over = Known::Not { over: found.way };
        let state = found.flow.state();
        let number = self.backend(found.flow);
        let opens = packet.flags & (SYN | ACK) == SYN;
        if backend.flags & Backend::OVER != 0 {
            let drops = backend.flags & Backend::DROPPING != 0;
            return if drops && !opens { Known::Lost } else { over };
        }
        if opens && state.is_over() {
            return over;
        }
        let now = now();
        let age = found.flow.seen().age(now, env.control.tick);
        if age != 0 && is_over(env, backend, found.flow, age) {
            return over;
        }
        let next = match packet.tuple.protocol {
            protocol::TCP => state.next(packet.flags, From::Client),
            _ => State::Udp,
        };
        found.note(env, now, age, number, backend, next);
        if age != 0 {
            self.set_hop(found.way, hop_back(env, backend));
        }
        Known::Flow {
            number,
            backend,
            is_due: age != 0,
        }
    }

    /// Notes a backend's packet with its flow.
    #[inline(always)]
    pub fn answered(&self, env: &Env, packet: &Packet<F>, found: &Found, backend: &Backend) {
        let next = match packet.tuple.protocol {
            protocol::TCP => found.flow.state().next(packet.flags, From::Backend),
            _ => State::Udp,
        };
        let now = now();
        let age = found.flow.seen().age(now, env.control.tick);
        found.note(env, now, age, self.backend(found.flow), backend, next);
    }

    /// Records a new flow; `over` as in [`Entry`].
    #[inline(always)]
    pub fn insert(&self, env: &Env, packet: &Packet<F>, over: usize, number: u32, backend: &Backend) -> Insertion {
        let state = match packet.tuple.protocol {
            protocol::TCP => State::first(packet.flags),
            _ => State::Udp,
        };
        let entry = Entry {
            over,
            backend: number,
            state,
            keep: keep(env, backend, state),
            hop: hop_back(env, backend),
        };
        let insertion = self.put(env, &entry);
        if insertion != Insertion::Lost {
            load::begin(env, number, backend, state);
        }
        insertion
    }

    /// Puts an entry into the bucket. A function with a stack of its own.
    #[inline(never)]
    pub fn put(&self, env: &Env, entry: &Entry) -> Insertion {
        let now = now();
        // What was over may have made room for another client's flow meanwhile.
        let over = forget::below::<15>(entry.over, entry.keep as usize);
        // SAFETY: the word is the flow table's.
        let is_over = over < WAYS && Flow(unsafe { atomic::load(self.word(over)) }).is_of(self.client, F::mask());
        let (way, evicts) = match is_over {
            true => (over & (WAYS - 1), false),
            false => self.most_dispensable(env, now),
        };
        let seen = Seen::at(now, env.control.tick, entry.keep);
        let new = Flow::new(self.client, F::mask(), entry.backend, entry.state, seen);
        let word = self.word(way);
        // An entry that is more than its word is this CPU's while that is BUSY.
        let is_more = F::IS_V6 || entry.hop != Hop::NONE;
        // SAFETY: the word is the flow table's; the way is masked.
        unsafe {
            let old = Flow(atomic::load(word));
            let first = if is_more { Flow::BUSY } else { new };
            if old == Flow::BUSY || !atomic::replace(word, old.0, first.0) {
                return Insertion::Lost;
            }
            if is_more {
                F::set_client(self.bucket, way, self.address);
                self.set_hop(way, entry.hop);
                atomic::publish(word, new.0);
            }
            if old != Flow::FREE
                && let Some(backend) = family::backend(env.bank, self.backend(old))
            {
                load::end(env, self.backend(old), backend, old.state());
            }
        }
        if evicts { Insertion::Evicted } else { Insertion::Done }
    }

    /// The way to give to a new flow, and whether a flow that goes on has to be forgotten for it: a free way; else the
    /// one whose flow was idle longest, of those that have ended if there are any.
    #[inline(always)]
    fn most_dispensable(&self, env: &Env, now: u64) -> (usize, bool) {
        let (mut best, mut rank) = (0, 0);
        let mut of_best = Flow::FREE;
        for step in 0..WAYS {
            let way = self.way(step);
            // SAFETY: the word is the flow table's.
            let flow = Flow(unsafe { atomic::load(self.word(way)) });
            if flow == Flow::FREE {
                return (way, false);
            }
            let ended = if flow.state().is_over() { ENDED } else { 0 };
            let this = 1 + flow.seen().idle(now, env.control.tick) + ended;
            if flow != Flow::BUSY && this > rank {
                rank = this;
                best = way;
                of_best = flow;
            }
        }
        let age = of_best.seen().age(now, env.control.tick);
        let goes_on = family::backend(env.bank, self.backend(of_best)).is_none_or(|it| !is_over(env, it, of_best, age));
        (best, goes_on)
    }

    /// Remembers the next hop of a NAT flow's client.
    #[inline(always)]
    fn set_hop(&self, way: usize, hop: Hop) {
        if hop != Hop::NONE
            && let Some(hops) = F::hops(self.number)
        {
            // SAFETY: the way is masked; a hop is one aligned word.
            unsafe {
                atomic::store(hops.cast::<u64>().add(way & (WAYS - 1)), hop.0);
            }
        }
    }

    /// The next hop of a NAT flow's client.
    #[inline(always)]
    pub fn hop(&self, found: &Found) -> Hop {
        match F::hops(self.number) {
            // SAFETY: the way is masked; a hop is one aligned word.
            Some(hops) => Hop(unsafe { atomic::load(hops.cast::<u64>().add(found.way & (WAYS - 1))) }),
            None => Hop::NONE,
        }
    }
}

impl Found {
    /// Notes a packet: the state after it, and that it was seen, where they differ from what the entry says. `age` is that
    /// of the entry.
    #[inline(always)]
    pub fn note(&self, env: &Env, now: u64, age: u32, number: u32, backend: &Backend, next: State) {
        let state = self.flow.state();
        if age == 0 && next == state {
            return;
        }
        let seen = Seen::at(now, env.control.tick, keep(env, backend, next));
        let noted = self.flow.with(next, seen);
        // If another CPU was first, its view of the flow is as good.
        // SAFETY: the word is that of the entry that was found.
        if unsafe { atomic::replace(self.word, self.flow.0, noted.0) } && next != state {
            load::change(env, number, backend, state, next);
        }
    }
}

/// Whether a client's packet belongs to a flow.
pub enum Known {
    /// It does.
    Flow {
        /// The number of its backend.
        number: u32,
        /// Its backend.
        backend: &'static Backend,
        /// Whether it is time to note what need not be noted with each packet.
        is_due: bool,
    },
    /// It does, but the backend is gone, and the flow is not to have another.
    Lost,
    /// It does not, or its flow is over, in this way of the bucket.
    Not {
        /// The way to use again, or [`ANY`].
        over: usize,
    },
}

/// Jiffies.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_jiffies64() }
}

/// The next hop that the answers of a NAT backend take.
#[inline(always)]
fn hop_back(env: &Env, backend: &Backend) -> Hop {
    if backend.method == Method::Nat as u8 {
        transmit::hop_back(env)
    } else {
        Hop::NONE
    }
}

/// What a flow that has ended is idle for longer than any that goes on, jiffies.
const ENDED: u64 = 1 << 40;

/// How long a flow of this backend may be idle in this state, jiffies.
#[inline(always)]
pub fn keep(env: &Env, backend: &Backend, state: State) -> u32 {
    match maps::TIMEOUTS.get(u32::from(backend.timeouts()) << 1 | env.bank) {
        Some(timeouts) => timeouts[state as usize & (STATES - 1)],
        None => 0,
    }
}

/// Whether a backend's flow of this age has been idle for longer than its state allows.
#[inline(always)]
pub fn is_over(env: &Env, backend: &Backend, flow: Flow, age: u32) -> bool {
    let keep = keep(env, backend, flow.state());
    flow.seen().is_over(age, env.control.tick, keep)
}
