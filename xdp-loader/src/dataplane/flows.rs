//! The flow tables as userspace sees them: counted, swept and listed, a window at a time.
//!
//! Packets write the tables at the same time. An entry is read as packets read it (word, rest, word again) and freed by
//! replacing its word, if that still is the same, with 0.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::ControlFlow,
    sync::atomic::{AtomicU64, Ordering},
};

use xdp_common::{
    layout::{self, BucketFlowV4, BucketFlowV6, Client, Seen, WAYS},
    tcp_state::State,
};

use super::{
    Clock, Error, Maps,
    loads::Loads,
    memory::{Memory, Value},
    rules::Rules,
    words,
};

/// Bytes of a flow table that are mapped at a time.
const WINDOW: usize = 4 << 20;

/// A flow that was found in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The client's address.
    pub client: IpAddr,
    /// The client's port; of a template, the number of what shares the persistence.
    pub port: u16,
    /// The backend's number.
    pub backend: u32,
    /// The state.
    pub state: State,
    /// When it was last seen.
    pub seen: Seen,
}

impl Flow {
    /// Whether it is no connection, but where a client persists.
    #[must_use]
    pub fn is_template(&self) -> bool {
        self.state == State::Template
    }
}

/// What a sweep has counted for a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Established connections, and UDP flows.
    pub active: u64,
    /// All others that are not forgotten yet.
    pub inactive: u64,
    /// Those of them that are half open, which schedulers take for active.
    pub half_open: u64,
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

/// What a sweep has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// By backend.
    pub backends: BTreeMap<u32, Load>,
    /// IPv4 flows.
    pub v4: u64,
    /// IPv6 flows.
    pub v6: u64,
}

/// A bucket of a flow table.
trait Bucket: Value {
    /// The words of its flows.
    fn flows(&self) -> [layout::Flow; WAYS];

    /// Address and port, as on the wire, of the client in a way.
    fn client(&self, way: usize, client: Client, seed: u64) -> (IpAddr, u16);
}

impl Bucket for BucketFlowV4 {
    fn flows(&self) -> [layout::Flow; WAYS] {
        *self
    }

    fn client(&self, _way: usize, client: Client, seed: u64) -> (IpAddr, u16) {
        let (address, port) = client.ends_v4(seed);
        (words::v4(address), port)
    }
}

impl Bucket for BucketFlowV6 {
    fn flows(&self) -> [layout::Flow; WAYS] {
        self.flows
    }

    fn client(&self, way: usize, client: Client, seed: u64) -> (IpAddr, u16) {
        let address = self.clients[way];
        (words::v6(address), client.port_v6(address, seed))
    }
}

/// A flow, its entry's word as it was read, and where that stands.
type Read<'a> = (Flow, layout::Flow, &'a AtomicU64);

/// Some buckets of a table, and what their flows are read by.
struct Window<B: Value> {
    memory: Memory<B>,
    first: u32,
    mask: u32,
    seed: u64,
}

impl<B: Bucket> Window<B> {
    /// Its flows.
    fn flows(&self) -> impl Iterator<Item = Read<'_>> {
        (0..self.memory.len()).flat_map(move |place| {
            let bucket = self.memory.read(place);
            bucket.flows().into_iter().enumerate().filter_map(move |(way, entry)| {
                let backend = entry.backend(self.mask);
                if backend == 0 {
                    return None;
                }
                let client = entry.client(self.first + place as u32, self.mask);
                let (client, port) = bucket.client(way, client, self.seed);
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
                let word = self.memory.word(place, way);
                (word.load(Ordering::Acquire) == entry.0).then_some((flow, entry, word))
            })
        })
    }
}

/// Visits all flows of a table of so many buckets, a window at a time, until the visitor breaks.
fn visit_table<B: Bucket>(
    buckets: usize,
    seed: u64,
    window: impl Fn(usize, usize) -> Result<Memory<B>, Error>,
    visitor: &mut impl FnMut(Read<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Error> {
    // Windows begin where pages do.
    let step = (WINDOW / size_of::<B>()).next_power_of_two();
    for first in (0..buckets).step_by(step) {
        let window = Window {
            memory: window(first, step.min(buckets - first))?,
            first: first as u32,
            mask: buckets as u32 - 1,
            seed,
        };
        if window.flows().try_for_each(&mut *visitor).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Visits all flows of both tables.
fn visit(maps: &Maps, mut visitor: impl FnMut(Read<'_>) -> ControlFlow<()>) -> Result<(), Error> {
    let (sizes, seed) = (maps.sizes(), maps.control().read(0).seed);
    let buckets = |places: u32| places as usize / WAYS;
    let v4 = |first, length| maps.flows_v4(first, length);
    let v6 = |first, length| maps.flows_v6(first, length);
    if visit_table::<BucketFlowV4>(buckets(sizes.flows_v4), seed, v4, &mut visitor)?.is_continue() {
        let _ = visit_table::<BucketFlowV6>(buckets(sizes.flows_v6), seed, v6, &mut visitor)?;
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
    let loads = Loads::before(maps, rules)?;
    let mut census = Census::default();
    visit(maps, |(flow, entry, word)| {
        if gone.are(&flow) || rules.is_over(&flow, now) {
            loads.forget(&flow, entry, word);
            return ControlFlow::Continue(());
        }
        if let Some(seen) = rules.noted_anew(&flow, now) {
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
    loads.set_right(&census);
    Ok(census)
}

/// Forgets the flows that are wanted gone, and says how many they were. A flow that a packet replaces at that moment is
/// another one, and stays.
///
/// # Errors
///
/// If the kernel does not map the tables; some of the flows may be forgotten then.
pub fn flush(maps: &Maps, rules: &Rules, wanted: impl Fn(&Flow) -> bool) -> Result<u64, Error> {
    let loads = Loads::before(maps, rules)?;
    let mut flushed = 0;
    visit(maps, |(flow, entry, word)| {
        flushed += u64::from(wanted(&flow) && loads.forget(&flow, entry, word));
        ControlFlow::Continue(())
    })?;
    Ok(flushed)
}

/// How long a flow has been idle, seconds, as far as its entry tells.
#[must_use]
pub fn idle_seconds(flow: Flow, clock: &Clock) -> u64 {
    flow.seen.idle(clock.now(), clock.tick()) / u64::from(clock.hertz().max(1))
}
