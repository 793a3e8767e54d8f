//! The flow tables as userspace sees them: counted, swept and listed, a window at a time.
//!
//! Packets write the tables at the same time. An entry is read as packets read it (word, rest, word again) and freed by
//! replacing its word, if that still is the same, with 0.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    ops::ControlFlow,
    sync::atomic::{AtomicU64, Ordering},
};

use xdp_common::{
    layout::{self, BucketClients, BucketFlow, ClientId, ClientKeys, Hop},
    tcp_state::State,
};

use crate::{
    Clock, Error, Maps, census::Census, connections::ConnectionCounts, flow::Flow, memory::Memory, rules::Rules, words,
};

/// Buckets of a flow table that are mapped at a time: 4 MiB of flows. Windows begin where pages do.
const WINDOW: usize = (4 << 20) / size_of::<BucketFlow>();

/// Has the answers of all flows that went to a neighbour behind an interface go to another; how many flows these were.
///
/// # Errors
///
/// If the kernel does not map a table.
pub fn repoint(maps: &Maps, slot: u32, from: [u8; 6], to: [u8; 6]) -> Result<u64, Error> {
    let [from, to] = [from, to].map(|mac| Hop::new(words::mac(mac), slot).0);
    let mut repointed = 0;
    for hops in [maps.hops_v4.whole()?, maps.hops_v6.whole()?] {
        for bucket in 0..hops.len() {
            for hop in hops.words(bucket) {
                // A packet may write a newer one at the same moment: that holds.
                let is_it = hop.load(Ordering::Relaxed) == from
                    && hop
                        .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed)
                        .is_ok();
                repointed += u64::from(is_it);
            }
        }
    }
    Ok(repointed)
}

/// Numbers that were taken from their owners: flows that know them are forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// Of services, which flows know by their backends.
    pub services: BTreeSet<u32>,
    /// Of backends.
    pub backends: BTreeSet<u32>,
    /// Of what shares persistence.
    pub groups: BTreeSet<u32>,
}

impl Gone {
    /// Whether what a flow belongs to is gone.
    fn are(&self, flow: &Flow) -> bool {
        self.backends.contains(&flow.backend) || flow.is_template() && self.groups.contains(&u32::from(flow.port))
    }
}

/// The flow table of a family, as far as it is mapped.
trait Table {
    /// Address and port, as on the wire, of the client in a slot of a mapped bucket.
    fn client(&self, bucket: usize, slot: usize, client: ClientId, keys: &ClientKeys) -> (IpAddr, u16);
}

/// IPv4: the client's number tells all.
struct V4;

impl Table for V4 {
    fn client(&self, _bucket: usize, _slot: usize, client: ClientId, keys: &ClientKeys) -> (IpAddr, u16) {
        let (address, port) = client.ends_v4(keys);
        (words::v4(address), port)
    }
}

/// IPv6: the clients' addresses stand in a table of their own.
struct V6(Memory<BucketClients>);

impl Table for V6 {
    fn client(&self, bucket: usize, slot: usize, client: ClientId, keys: &ClientKeys) -> (IpAddr, u16) {
        let address = self.0.read(bucket).addresses[slot];
        (words::v6(address), client.port_v6(address, keys))
    }
}

/// A flow, its entry's word as it was read, and where that stands.
type Read<'a> = (Flow, layout::FlowEntry, &'a AtomicU64);

/// Some buckets of a table, and what their flows are read by.
struct Window<T> {
    flows: Memory<BucketFlow>,
    table: T,
    first: u32,
    mask: u32,
    keys: ClientKeys,
}

impl<T: Table> Window<T> {
    /// Its flows.
    fn flows(&self) -> impl Iterator<Item = Read<'_>> {
        (0..self.flows.len()).flat_map(move |place| {
            let bucket = self.flows.read(place);
            bucket.into_iter().enumerate().filter_map(move |(slot, entry)| {
                let backend = entry.backend(self.mask);
                if backend == 0 {
                    return None;
                }
                let client = entry.client(self.first + place as u32, self.mask);
                let (client, port) = self.table.client(place, slot, client, &self.keys);
                let state = entry.state();
                let flow = Flow {
                    client,
                    port: if state == State::Template {
                        port
                    } else {
                        u16::from_be(port)
                    },
                    backend,
                    state,
                    seen: entry.seen(),
                };
                let word = self.flows.word(place, slot);
                (word.load(Ordering::Acquire) == entry.0).then_some((flow, entry, word))
            })
        })
    }
}

/// Visits all flows of a table of so many buckets, a window at a time, until the visitor breaks.
fn visit_table<T: Table>(
    buckets: u32,
    keys: ClientKeys,
    window: impl Fn(usize, usize) -> Result<(Memory<BucketFlow>, T), Error>,
    visitor: &mut impl FnMut(Read<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Error> {
    let buckets = buckets as usize;
    for first in (0..buckets).step_by(WINDOW) {
        let (flows, table) = window(first, WINDOW.min(buckets - first))?;
        let window = Window {
            flows,
            table,
            first: first as u32,
            mask: buckets as u32 - 1,
            keys,
        };
        if window.flows().try_for_each(&mut *visitor).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Visits all flows of both tables.
fn visit(maps: &Maps, mut visitor: impl FnMut(Read<'_>) -> ControlFlow<()>) -> Result<(), Error> {
    let (sizes, keys) = (maps.sizes(), maps.control().read(0).keys);
    let v4 = |first, length| Ok((maps.flows_v4.window(first, length)?, V4));
    let v6 = |first, length| {
        let clients = maps.clients_v6.window(first, length)?;
        Ok((maps.flows_v6.window(first, length)?, V6(clients)))
    };
    if visit_table(sizes.buckets_v4(), keys, v4, &mut visitor)?.is_continue() {
        let _ = visit_table(sizes.buckets_v6(), keys, v6, &mut visitor)?;
    }
    Ok(())
}

/// Visits all flows.
///
/// # Errors
///
/// If the kernel does not map the tables.
pub fn list(maps: &Maps, mut visitor: impl FnMut(Flow) -> ControlFlow<()>) -> Result<(), Error> {
    visit(maps, |(flow, ..)| visitor(flow))
}

/// Counts all flows, and forgets those that have been idle for too long at `now`, jiffies, or whose backend is gone. What
/// packets have counted is set right where it differs.
///
/// # Errors
///
/// If the kernel does not map the tables.
pub fn sweep(maps: &Maps, now: u64, rules: &Rules, gone: &Gone) -> Result<Census, Error> {
    let counts = ConnectionCounts::before(maps, rules)?;
    let mut census = Census::default();
    visit(maps, |(flow, entry, word)| {
        if gone.are(&flow) || rules.is_expired(&flow, now) {
            counts.forget(&flow, entry, word);
            return ControlFlow::Continue(());
        }
        if let Some(seen) = rules.restamp(&flow, now) {
            // A packet that is faster has noted it so itself.
            let _ = word.compare_exchange(
                entry.0,
                entry.with(flow.state, seen).0,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
        }
        if flow.is_template() {
            return ControlFlow::Continue(());
        }
        let load = census.backends.entry(flow.backend).or_default();
        match flow.state {
            State::SynReceived => {
                load.inactive += 1;
                load.half_open += 1;
            }
            state if state.is_active() => load.active += 1,
            _ => load.inactive += 1,
        }
        match flow.client {
            IpAddr::V4(_) => census.v4 += 1,
            IpAddr::V6(_) => census.v6 += 1,
        }
        ControlFlow::Continue(())
    })?;
    counts.set_right(&census);
    Ok(census)
}

/// Forgets the flows that are wanted gone, and says how many they were. A flow that a packet replaces at that moment is
/// another one, and stays.
///
/// # Errors
///
/// If the kernel does not map the tables; some of the flows may be forgotten then.
pub fn flush(maps: &Maps, rules: &Rules, wanted: impl Fn(&Flow) -> bool) -> Result<u64, Error> {
    let counts = ConnectionCounts::before(maps, rules)?;
    let mut flushed = 0;
    visit(maps, |(flow, entry, word)| {
        flushed += u64::from(wanted(&flow) && counts.forget(&flow, entry, word));
        ControlFlow::Continue(())
    })?;
    Ok(flushed)
}

/// How long a flow has been idle, seconds, as far as its entry tells.
#[must_use]
pub fn idle_seconds(flow: Flow, clock: &Clock) -> u64 {
    flow.seen.idle(clock.now(), clock.tick()) / u64::from(clock.hertz().max(1))
}
