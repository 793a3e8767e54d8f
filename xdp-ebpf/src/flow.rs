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
    parse::{Packet, Tuple},
    transmit,
};

/// Where a client's flows are.
pub struct Place<F: Family> {
    /// The client's hash.
    pub hash: u64,
    number: u32,
    bucket: *mut F::Bucket,
}

/// A flow that was found.
pub struct Found<F: Family> {
    way: usize,
    flow: *mut F::Flow,
    /// Its backend and state when it was read.
    pub record: Record,
    seen: u32,
}

/// What became of a flow that was to be recorded.
#[derive(PartialEq)]
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
        for step in 0..WAYS {
            let way = self.way(step);
            // SAFETY: the way is masked; the words belong to the entry.
            unsafe {
                let flow = F::flow(self.bucket, way);
                let (key_word, record, seen) = F::words(flow);
                if atomic::load(key_word) == key && F::is_client(flow, client) {
                    let found = Found {
                        way,
                        flow,
                        record: Record(atomic::load(record.cast::<u32>())),
                        seen: atomic::load(seen),
                    };
                    if atomic::load_last(key_word) == key {
                        return Some(found);
                    }
                }
            }
        }
        None
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
                if F::client_part(key) != client || !F::is_client(flow, tuple.destination) {
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
    pub fn known(&self, env: &Env<'_>, packet: &Packet<F>, key: u64, service: u32) -> Known {
        let Some(found) = self.inbound(key, packet.tuple.source) else {
            return Known::Not { over: None };
        };
        let now = now();
        let state = found.record.state();
        let number = found.record.backend();
        let opens = packet.flags & (SYN | ACK) == SYN;
        match family::backend(env.bank, number) {
            Some(backend)
                if backend.method != Method::None as u8
                    && u32::from(backend.service) == service
                    && !(opens && state.is_over())
                    && !found.is_expired(now, env.control) =>
            {
                let next = match packet.tuple.protocol {
                    protocol::TCP => state.next(packet.flags, From::Client),
                    _ => State::Udp,
                };
                self.touch(&found, next, now, env.control, || hop_back(env, packet, backend));
                Known::Flow(number, backend)
            }
            _ => Known::Not { over: Some(found.way) },
        }
    }

    /// Notes a backend's packet with its flow.
    #[inline(always)]
    pub fn answered(&self, env: &Env<'_>, packet: &Packet<F>, found: &Found<F>) {
        let next = match packet.tuple.protocol {
            protocol::TCP => found.record.state().next(packet.flags, From::Backend),
            _ => State::Udp,
        };
        self.touch(found, next, now(), env.control, || Hop::NONE);
    }

    /// Records a new flow, in place of `over` if that was found and is over, else of a free or the most dispensable
    /// one.
    #[inline(always)]
    pub fn insert(
        &self,
        env: &Env<'_>,
        packet: &Packet<F>,
        over: Option<usize>,
        key: u64,
        number: u32,
        backend: &Backend,
    ) -> Insertion {
        let now = now();
        let state = match packet.tuple.protocol {
            protocol::TCP => State::first(packet.flags),
            _ => State::Udp,
        };
        let record = Record::new(number, state);
        let hop = hop_back(env, packet, backend);
        let (way, evicts) = match over {
            Some(way) => (way, false),
            None => self.most_dispensable(now, env.control),
        };
        // SAFETY: the way is masked; the words belong to the entry, which is this CPU's while its key is BUSY.
        unsafe {
            let flow = F::flow(self.bucket, way & (WAYS - 1));
            let (key_word, record_word, seen_word) = F::words(flow);
            let old = atomic::load(key_word);
            if old == BUSY || !atomic::replace(key_word, old, BUSY) {
                return Insertion::Lost;
            }
            F::set_client(flow, packet.tuple.source);
            atomic::store(record_word.cast::<u32>(), record.0);
            atomic::store(seen_word, now);
            if hop != Hop::NONE {
                self.set_hop(way, hop);
            }
            atomic::publish(key_word, key);
        }
        if evicts { Insertion::Evicted } else { Insertion::Done }
    }

    /// The way to give to a new flow, and whether a flow that goes on has to be forgotten for it: a free way; else the
    /// one whose flow was idle longest, of those that have ended if there are any.
    #[inline(always)]
    fn most_dispensable(&self, now: u32, control: &Control) -> (usize, bool) {
        let (mut best, mut rank, mut goes_on) = (0, 0, true);
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
            let idle = idle(seen, now);
            let this = 1 + idle as u32 + if record.state().is_over() { ENDED } else { 0 };
            if key != BUSY && this > rank {
                rank = this;
                best = way;
                goes_on = idle <= timeout(record, control);
            }
        }
        (best, goes_on)
    }

    /// Remembers the next hop of a NAT flow's client.
    #[inline(always)]
    fn set_hop(&self, way: usize, hop: Hop) {
        if let Some(hops) = F::hops(self.number) {
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

    /// Notes a packet of a flow: its state if that changed, and from time to time when it was seen and where the
    /// client's packets come from. `hop` is asked for only then.
    #[inline(always)]
    fn touch(&self, found: &Found<F>, state: State, now: u32, control: &Control, hop: impl FnOnce() -> Hop) {
        // SAFETY: the words belong to the entry that was found.
        unsafe {
            let (_, record, seen) = F::words(found.flow);
            let next = found.record.with_state(state);
            if next != found.record {
                // If another CPU was first, its view of the flow is as good.
                let _: bool = atomic::replace(record.cast::<u32>(), found.record.0, next.0);
            }
            if now.wrapping_sub(found.seen) >= control.refresh {
                atomic::store(seen, now);
                let hop = hop();
                if hop != Hop::NONE {
                    self.set_hop(found.way, hop);
                }
            }
        }
    }
}

/// Whether a client's packet belongs to a flow.
pub enum Known {
    /// It does: the backend and its number.
    Flow(u32, &'static Backend),
    /// It does not, or its flow is over, in this way of the bucket.
    Not {
        /// The way to use again.
        over: Option<usize>,
    },
}

/// Jiffies, low word.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_jiffies64() as u32 }
}

/// The next hop that the answers of a NAT backend take.
#[inline(always)]
fn hop_back<F: Family>(env: &Env<'_>, packet: &Packet<F>, backend: &Backend) -> Hop {
    if backend.method == Method::Nat as u8 {
        transmit::hop_back(env.context, packet.frame)
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

/// How long a flow in its state may be idle, jiffies.
#[inline(always)]
fn timeout(record: Record, control: &Control) -> i32 {
    control.timeouts[record.state() as usize & (STATES - 1)] as i32
}

impl<F: Family> Found<F> {
    /// Whether the flow has been idle for longer than its state allows.
    #[inline(always)]
    fn is_expired(&self, now: u32, control: &Control) -> bool {
        idle(self.seen, now) > timeout(self.record, control)
    }
}
