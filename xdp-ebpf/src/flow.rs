//! Flow: the connection that a packet belongs to.
//!
//! See [`xdp_common::layout`] for how an entry is found, published and replaced without a lock.

use aya_ebpf::helpers::bpf_jiffies64;
use xdp_common::{
    layout::{BUSY, Backend, Control, Hop, Method, Record, WAYS},
    tcp_state::{ACK, From, STATES, SYN, State},
    wire::protocol,
};

use crate::{
    Env, atomic,
    family::{self, Family},
    load, maps,
    parse::{Packet, Tuple},
    transmit,
};

/// Any way of a bucket.
pub const ANY: usize = WAYS;

/// Where a client's flows are.
pub struct Place<F: Family> {
    /// The client's hash.
    pub hash: u64,
    number: u32,
    bucket: *mut F::Bucket,
}

/// A flow that was found.
pub struct Found<F: Family> {
    /// Where in the bucket it is.
    pub way: usize,
    flow: *mut F::Flow,
    /// Its backend and state when it was read.
    pub record: Record,
    /// When it was last seen, jiffies.
    pub seen: u32,
}

/// What is to be recorded.
pub struct Entry<F: Family> {
    /// In which way of the bucket: one whose flow is over; for [`ANY`] a free or the most dispensable one.
    pub over: usize,
    /// Its key.
    pub key: u64,
    /// Whose it is.
    pub client: F::Address,
    /// Backend and state.
    pub record: Record,
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
        let hash = F::client_hash(address, port, control.seed);
        let number = F::bucket_number(hash);
        Some(Self {
            hash,
            number,
            bucket: F::bucket(number)?,
        })
    }

    /// The way at which this place's flows are looked for after `step` others: each client begins at its own, so that
    /// the first look is most often the last.
    #[inline(always)]
    fn way(&self, step: usize) -> usize {
        ((self.hash >> 56) as usize + step) & (WAYS - 1)
    }

    /// The flow with this key.
    #[inline(always)]
    pub fn inbound(&self, key: u64, client: F::Address) -> Option<Found<F>> {
        let mut place = None;
        for step in 0..WAYS {
            let way = self.way(step);
            // SAFETY: the way is masked; the word belongs to the entry.
            unsafe {
                let flow = F::flow(self.bucket, way);
                if atomic::load(F::words(flow).0) == key && F::is_client(flow, client) {
                    place = Some(way);
                    break;
                }
            }
        }
        self.found(place?, key)
    }

    /// The flow in a way of the bucket, unless it is another by now.
    #[inline(always)]
    fn found(&self, way: usize, key: u64) -> Option<Found<F>> {
        // SAFETY: the way is masked; the words belong to the entry.
        unsafe {
            let flow = F::flow(self.bucket, way & (WAYS - 1));
            let (key_word, record, seen) = F::words(flow);
            let found = Found {
                way,
                flow,
                record: Record(atomic::load(record.cast::<u32>())),
                seen: atomic::load(seen),
            };
            (atomic::load_last(key_word) == key).then_some(found)
        }
    }

    /// The flow of this place's client whose backend is at the source, and that backend.
    #[inline(always)]
    pub fn outbound(&self, bank: u32, tuple: &Tuple<F>) -> Option<(Found<F>, &'static Backend)> {
        let client = F::client_part(F::key(tuple.destination, tuple.destination_port, self.hash, 0));
        for step in 0..WAYS {
            let way = self.way(step);
            // SAFETY: the way is masked; the words belong to the entry.
            unsafe {
                let flow = F::flow(self.bucket, way);
                let (key_word, record, seen) = F::words(flow);
                let key = atomic::load(key_word);
                if F::client_part(key) != client || F::is_template(key) || !F::is_client(flow, tuple.destination) {
                    continue;
                }
                let record = Record(atomic::load(record.cast::<u32>()));
                let seen = atomic::load(seen);
                if atomic::load_last(key_word) != key {
                    continue;
                }
                if let Some(backend) = family::backend(bank, record.backend())
                    && F::of_backend(&backend.address) == tuple.source
                    && backend.port.0 == tuple.source_port
                    && backend.protocol == tuple.protocol
                    && backend.method == Method::Nat as u8
                {
                    return Some((
                        Found {
                            way,
                            flow,
                            record,
                            seen,
                        },
                        backend,
                    ));
                }
            }
        }
        None
    }

    /// The flow of a client's packet, if it is known and goes on; the packet is noted with it.
    #[inline(always)]
    pub fn known(&self, env: &Env, packet: &Packet<F>, service: u32) -> Known {
        let key = F::key(packet.tuple.source, packet.tuple.source_port, self.hash, service);
        let Some(found) = self.inbound(key, packet.tuple.source) else {
            return Known::Not { over: ANY };
        };
        let over = Known::Not { over: found.way };
        let state = found.record.state();
        let number = found.record.backend();
        let Some(backend) = family::backend(env.bank, number) else {
            return over;
        };
        let opens = packet.flags & (SYN | ACK) == SYN;
        if !backend.goes_on(service) {
            let drops = u32::from(backend.service) == service && backend.flags & Backend::DROPPING != 0;
            return if drops && !opens { Known::Lost } else { over };
        }
        if opens && state.is_over() {
            return over;
        }
        let now = now();
        let is_due = now.wrapping_sub(found.seen) >= env.control.refresh;
        if is_due && is_expired(env, backend, found.record, found.seen, now) {
            return over;
        }
        let next = match packet.tuple.protocol {
            protocol::TCP => state.next(packet.flags, From::Client),
            _ => State::Udp,
        };
        found.turn(env, number, backend, next);
        if is_due {
            found.see(now);
            self.set_hop(found.way, hop_back(env, backend));
        }
        Known::Flow {
            number,
            backend,
            is_due,
        }
    }

    /// Notes a backend's packet with its flow.
    #[inline(always)]
    pub fn answered(&self, env: &Env, packet: &Packet<F>, found: &Found<F>, backend: &Backend) {
        let next = match packet.tuple.protocol {
            protocol::TCP => found.record.state().next(packet.flags, From::Backend),
            _ => State::Udp,
        };
        found.turn(env, found.record.backend(), backend, next);
        let now = now();
        if now.wrapping_sub(found.seen) >= env.control.refresh {
            found.see(now);
        }
    }

    /// Records a new flow; `over` as in [`Entry`].
    #[inline(always)]
    pub fn insert(
        &self,
        env: &Env,
        packet: &Packet<F>,
        over: usize,
        service: u32,
        number: u32,
        backend: &Backend,
    ) -> Insertion {
        let key = F::key(packet.tuple.source, packet.tuple.source_port, self.hash, service);
        let state = match packet.tuple.protocol {
            protocol::TCP => State::first(packet.flags),
            _ => State::Udp,
        };
        let hop = hop_back(env, backend);
        let entry = Entry {
            over,
            key,
            client: packet.tuple.source,
            record: Record::new(number, state),
            hop,
        };
        let insertion = self.put(env, &entry);
        if insertion != Insertion::Lost {
            load::begin(env, number, backend, state);
        }
        insertion
    }

    /// Puts an entry into the bucket. A function with a stack of its own.
    #[inline(never)]
    pub fn put(&self, env: &Env, entry: &Entry<F>) -> Insertion {
        let now = now();
        let (way, evicts) = match entry.over {
            ANY => self.most_dispensable(env, now),
            way => (way, false),
        };
        // SAFETY: the way is masked; the words belong to the entry, which is this CPU's while its key is BUSY.
        unsafe {
            let flow = F::flow(self.bucket, way & (WAYS - 1));
            let (key_word, record_word, seen_word) = F::words(flow);
            let old = atomic::load(key_word);
            if old == BUSY || !atomic::replace(key_word, old, BUSY) {
                return Insertion::Lost;
            }
            if old != 0 {
                let old = Record(atomic::load(record_word.cast::<u32>()));
                if let Some(backend) = family::backend(env.bank, old.backend()) {
                    load::end(env, old.backend(), backend, old.state());
                }
            }
            F::set_client(flow, entry.client);
            atomic::store(record_word.cast::<u32>(), entry.record.0);
            atomic::store(seen_word, now);
            self.set_hop(way, entry.hop);
            atomic::publish(key_word, entry.key);
        }
        if evicts { Insertion::Evicted } else { Insertion::Done }
    }

    /// The way to give to a new flow, and whether a flow that goes on has to be forgotten for it: a free way; else the
    /// one whose flow was idle longest, of those that have ended if there are any.
    #[inline(always)]
    fn most_dispensable(&self, env: &Env, now: u32) -> (usize, bool) {
        let (mut best, mut rank) = (0, 0);
        let mut of_best = (Record(0), now);
        for step in 0..WAYS {
            let way = self.way(step);
            // SAFETY: the way is masked; the words belong to the entry.
            let (key, record, seen) = unsafe {
                let (key, record, seen) = F::words(F::flow(self.bucket, way));
                (
                    atomic::load(key),
                    Record(atomic::load(record.cast::<u32>())),
                    atomic::load(seen),
                )
            };
            if key == 0 {
                return (way, false);
            }
            let this = 1 + idle(seen, now) as u32 + if record.state().is_over() { ENDED } else { 0 };
            if key != BUSY && this > rank {
                rank = this;
                best = way;
                of_best = (record, seen);
            }
        }
        let (record, seen) = of_best;
        let goes_on =
            family::backend(env.bank, record.backend()).is_none_or(|it| !is_expired(env, it, record, seen, now));
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
    pub fn hop(&self, found: &Found<F>) -> Hop {
        match F::hops(self.number) {
            // SAFETY: the way is masked; a hop is one aligned word.
            Some(hops) => Hop(unsafe { atomic::load(hops.cast::<u64>().add(found.way & (WAYS - 1))) }),
            None => Hop::NONE,
        }
    }
}

impl<F: Family> Found<F> {
    /// The flow's state after a packet, if that is another.
    #[inline(always)]
    fn turn(&self, env: &Env, number: u32, backend: &Backend, state: State) {
        let next = self.record.with_state(state);
        if next == self.record {
            return;
        }
        // SAFETY: the words belong to the entry that was found.
        let (_, record, _) = unsafe { F::words(self.flow) };
        // If another CPU was first, its view of the flow is as good.
        // SAFETY: as above.
        if unsafe { atomic::replace(record.cast::<u32>(), self.record.0, next.0) } {
            load::change(env, number, backend, self.record.state(), state);
        }
    }

    /// When the flow was last seen: now.
    #[inline(always)]
    pub fn see(&self, now: u32) {
        // SAFETY: the words belong to the entry that was found.
        unsafe {
            let (_, _, seen) = F::words(self.flow);
            atomic::store(seen, now);
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

/// Jiffies, low word.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_jiffies64() as u32 }
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
const ENDED: u32 = 1 << 30;

/// How long a flow last seen then has been idle, jiffies. Another CPU may have seen it a moment after `now` was read.
#[inline(always)]
fn idle(seen: u32, now: u32) -> i32 {
    let idle = now.wrapping_sub(seen) as i32;
    if idle < 0 { 0 } else { idle }
}

/// Whether a backend's flow has been idle for longer than its state allows.
#[inline(always)]
pub fn is_expired(env: &Env, backend: &Backend, record: Record, seen: u32, now: u32) -> bool {
    match maps::TIMEOUTS.get(u32::from(backend.timeouts()) << 1 | env.bank) {
        Some(timeouts) => idle(seen, now) > timeouts[record.0 as usize & (STATES - 1)] as i32,
        None => false,
    }
}
