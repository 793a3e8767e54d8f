//! The flow tables as userspace sees them: counted, swept and listed, a window at a time.
//!
//! Packets write the tables at the same time. An entry is read as packets read it (key, rest, key again) and freed by
//! replacing its key, if that still is the same, with 0.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::ControlFlow,
    sync::atomic::{AtomicU64, Ordering},
};

use xdp_common::{
    layout::{BUSY, BucketFlowV4, BucketFlowV6, FlowV4, FlowV6, Record, WAYS},
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
    /// The service's number; 0 of a template.
    pub service: u32,
    /// The backend's number and the state.
    pub record: Record,
    /// When it was last seen, jiffies.
    pub seen: u32,
}

impl Flow {
    /// Whether it is no connection, but where a client persists.
    #[must_use]
    pub fn is_template(&self) -> bool {
        self.service == 0
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
    /// Of services.
    pub services: BTreeSet<u32>,
    /// Of backends.
    pub backends: BTreeSet<u32>,
    /// Of what shares persistence.
    pub groups: BTreeSet<u32>,
}

impl Gone {
    /// Whether what a flow belongs to is gone.
    fn are(&self, flow: &Flow) -> bool {
        self.backends.contains(&flow.record.backend())
            || match flow.is_template() {
                true => self.groups.contains(&u32::from(flow.port)),
                false => self.services.contains(&flow.service),
            }
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

/// An entry of a flow table.
trait Entry: Copy {
    /// The key word.
    fn key(self) -> u64;
    /// The index of the key among the entry's words.
    const KEY: usize;
    /// The flow, if the entry holds one.
    fn flow(self) -> Option<Flow>;
}

impl Entry for FlowV4 {
    const KEY: usize = 0;

    fn key(self) -> u64 {
        self.key
    }

    fn flow(self) -> Option<Flow> {
        (self.key > BUSY).then(|| Flow {
            client: words::v4((self.key >> 32) as u32),
            port: port(self.key),
            service: FlowV4::service(self.key),
            record: self.record,
            seen: self.seen,
        })
    }
}

impl Entry for FlowV6 {
    const KEY: usize = 2;

    fn key(self) -> u64 {
        self.key
    }

    fn flow(self) -> Option<Flow> {
        (self.key > BUSY).then(|| Flow {
            client: words::v6(self.client),
            port: port(self.key),
            service: (self.key & 0xffff) as u32,
            record: self.record,
            seen: self.seen,
        })
    }
}

/// The port in a key, or the number of what shares the persistence.
fn port(key: u64) -> u16 {
    let port = (key >> 16) as u16;
    if key & 0xffff == 0 { port } else { u16::from_be(port) }
}

/// The flows of a window and the words of their keys.
fn window<'a, E: Entry>(memory: &'a Memory<[E; WAYS]>) -> impl Iterator<Item = (Flow, u64, &'a AtomicU64)> + use<'a, E>
where
    [E; WAYS]: Value,
{
    let words = size_of::<E>() / size_of::<u64>();
    (0..memory.len()).flat_map(move |bucket| {
        let entries = memory.read(bucket);
        entries.into_iter().enumerate().filter_map(move |(way, entry)| {
            let flow = entry.flow()?;
            let key = memory.word(bucket, way * words + E::KEY);
            (key.load(Ordering::Acquire) == entry.key()).then_some((flow, entry.key(), key))
        })
    })
}

/// Visits all flows of both tables, a window at a time, until the visitor breaks.
fn visit(maps: &Maps, mut visitor: impl FnMut(Flow, u64, &AtomicU64) -> ControlFlow<()>) -> Result<(), Error> {
    let sizes = maps.sizes();
    let buckets = sizes.flows_v4 as usize / WAYS;
    let step = WINDOW / size_of::<BucketFlowV4>();
    for first in (0..buckets).step_by(step) {
        for (flow, key, word) in window::<FlowV4>(&maps.flows_v4(first, step.min(buckets - first))?) {
            if visitor(flow, key, word).is_break() {
                return Ok(());
            }
        }
    }
    let buckets = sizes.flows_v6 as usize / WAYS;
    let step = WINDOW / size_of::<BucketFlowV6>();
    for first in (0..buckets).step_by(step) {
        for (flow, key, word) in window::<FlowV6>(&maps.flows_v6(first, step.min(buckets - first))?) {
            if visitor(flow, key, word).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Visits all flows.
///
/// # Errors
///
/// If the kernel does not map the tables.
pub fn list(maps: &Maps, mut visitor: impl FnMut(Flow) -> ControlFlow<()>) -> Result<(), Error> {
    visit(maps, |flow, _, _| visitor(flow))
}

/// Counts all flows, and forgets those that have been idle for too long or whose service or backend is gone. What packets have
/// counted is set right where it differs.
///
/// # Errors
///
/// If the kernel does not map the tables.
pub fn sweep(maps: &Maps, clock: &Clock, rules: &Rules, gone: &Gone) -> Result<Census, Error> {
    let loads = Loads::before(maps, rules)?;
    let mut census = Census::default();
    visit(maps, |flow, key, word| {
        let backend = flow.record.backend();
        if gone.are(&flow) || idle(flow, clock) > rules.timeout(backend, flow.record.state()) {
            loads.forget(&flow, key, word);
            return ControlFlow::Continue(());
        }
        if flow.is_template() {
            return ControlFlow::Continue(());
        }
        let load = census.backends.entry(backend).or_default();
        match flow.record.state() {
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
    visit(maps, |flow, key, word| {
        flushed += u64::from(wanted(&flow) && loads.forget(&flow, key, word));
        ControlFlow::Continue(())
    })?;
    Ok(flushed)
}

/// How long a flow has been idle, jiffies. A packet may have seen it a moment after the clock was read.
fn idle(flow: Flow, clock: &Clock) -> u32 {
    match clock.now().wrapping_sub(flow.seen) {
        ahead if ahead > u32::MAX / 2 => 0,
        idle => idle,
    }
}

/// How long a flow has been idle, seconds.
#[must_use]
pub fn idle_seconds(flow: Flow, clock: &Clock) -> u64 {
    u64::from(idle(flow, clock) / clock.hertz().max(1))
}
