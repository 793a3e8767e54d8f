//! Copy: the flows of a predecessor whose tables this dataplane cannot share. They are copied once packets come to this one:
//! no flow begins in the predecessor any more, and those that packets ask for meanwhile are looked up there and recorded
//! here. What stands here is newer, and stays.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use xdp_common::{
    layout::{BucketClients, BucketFlow, ClientId, ClientKeys, FlowEntry, Hop, HopBucket, Seen},
    succession::FlowRecord,
    tcp_state::State,
};

use super::{Clock, Error, Maps, memory::Memory, rules::Rules};

/// The numbers that what is a predecessor's has here, by those that it has there.
#[derive(Debug, Default)]
pub struct Numbering {
    /// Of backends.
    pub backends: BTreeMap<u32, u32>,
    /// Of what shares persistence.
    pub groups: BTreeMap<u32, u32>,
}

/// Takes the predecessor's flows in.
pub struct Copy<'a> {
    tables: [Table; 2],
    keys: ClientKeys,
    clock: Clock,
    rules: &'a Rules,
    /// The services of backends, by number.
    services: Vec<u16>,
    numbers: &'a Numbering,
}

/// The flow table of a family.
struct Table {
    flows: Memory<BucketFlow>,
    hops: Memory<HopBucket>,
    /// IPv6 only.
    clients: Option<Memory<BucketClients>>,
    mask: u32,
}

/// What a copy came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Flows that were written.
    pub flows: u64,
    /// Flows that found no place.
    pub lost: u64,
}

impl<'a> Copy<'a> {
    /// Into the tables of these maps, by the rules of the bank in use.
    ///
    /// # Errors
    ///
    /// If the kernel does not map a table.
    pub fn into(maps: &Maps, rules: &'a Rules, numbers: &'a Numbering, clock: Clock) -> Result<Self, Error> {
        let sizes = maps.sizes();
        let control = maps.control().read(0);
        let (backends, bank) = (maps.backends.whole()?, control.bank());
        let services = (0..=sizes.backends)
            .map(|number| backends.read((number << 1 | bank) as usize).service)
            .collect();
        Ok(Self {
            tables: [
                Table {
                    flows: maps.flows_v4.whole()?,
                    hops: maps.hops_v4.whole()?,
                    clients: None,
                    mask: sizes.buckets_v4() - 1,
                },
                Table {
                    flows: maps.flows_v6.whole()?,
                    hops: maps.hops_v6.whole()?,
                    clients: Some(maps.clients_v6.whole()?),
                    mask: sizes.buckets_v6() - 1,
                },
            ],
            keys: control.keys,
            clock,
            rules,
            services,
            numbers,
        })
    }

    /// Takes a flow in. Flows of backends that are gone are not taken, nor those that are expired.
    pub fn take(&self, is_v6: bool, record: &FlowRecord, copied: &mut Copied) {
        let state = State::from_bits(record.state);
        // A template's port is the number of its group.
        let port = match state {
            State::Template => self
                .numbers
                .groups
                .get(&u32::from(record.port.0))
                .map(|group| *group as u16),
            _ => Some(record.port.0),
        };
        let (Some(&number), Some(port)) = (self.numbers.backends.get(&record.backend), port) else {
            return;
        };
        if record.idle > u64::from(self.rules.idle_timeout(number, state)) + u64::from(self.clock.hertz()) {
            return;
        }
        let table = &self.tables[usize::from(is_v6)];
        let client = match is_v6 {
            false => ClientId::v4(record.address[0] as u32, port, &self.keys),
            true => ClientId::v6(record.address, port, &self.keys),
        };
        let entry = self.entry(table.mask, client, number, record);
        let bucket = client.bucket(table.mask) as usize;
        let words = table.flows.words(bucket);
        let same = |flow: FlowEntry| {
            let service = |number: u32| self.services.get(number as usize);
            let is_template = flow.state() == State::Template;
            flow.is_of(client, table.mask)
                && is_template == (state == State::Template)
                && (is_template || service(flow.backend(table.mask)) == service(number))
        };
        if words.iter().any(|word| same(FlowEntry(word.load(Ordering::Acquire)))) {
            return;
        }
        match self.place(words, client, record.idle) {
            Some((slot, old)) if table.put(bucket, slot, old, entry, record) => copied.flows += 1,
            _ => copied.lost += 1,
        }
    }

    /// A flow as it stands in the tables here.
    fn entry(&self, mask: u32, client: ClientId, number: u32, record: &FlowRecord) -> FlowEntry {
        let state = State::from_bits(record.state);
        let timeout = self.rules.idle_timeout(number, state);
        let last = self.clock.now().saturating_sub(record.idle);
        let mark = |told: u8, mark: u64| if record.marks & told != 0 { mark } else { 0 };
        let flow = FlowEntry::new(client, mask, number, state, Seen::at(last, self.clock.tick(), timeout));
        FlowEntry(
            flow.0
                | mark(FlowRecord::UNCONFIRMED, FlowEntry::UNCONFIRMED)
                | mark(FlowRecord::LEARNT, FlowEntry::LEARNT),
        )
    }

    /// The slot for a flow that is not there: a free one, or that of a flow which was idle for longer.
    fn place(&self, words: &[AtomicU64], client: ClientId, idle: u64) -> Option<(usize, FlowEntry)> {
        let (now, tick) = (self.clock.now(), self.clock.tick());
        (0..words.len())
            .map(|step| (client.slot() + step) % words.len())
            .map(|slot| (slot, FlowEntry(words[slot].load(Ordering::Acquire))))
            .filter(|(_, flow)| *flow != FlowEntry::BUSY)
            .map(|(slot, flow)| {
                let rank = if flow == FlowEntry::FREE {
                    u64::MAX
                } else {
                    flow.seen().idle(now, tick)
                };
                (rank, slot, flow)
            })
            // Of equals the first.
            .reduce(|best, other| if other.0 > best.0 { other } else { best })
            .filter(|(rank, ..)| *rank > idle)
            .map(|(_, slot, flow)| (slot, flow))
    }
}

impl Table {
    /// Writes an entry as packets do, if the slot still has what was there.
    fn put(&self, bucket: usize, slot: usize, old: FlowEntry, entry: FlowEntry, record: &FlowRecord) -> bool {
        let word = self.flows.word(bucket, slot);
        let held = word.compare_exchange(old.0, FlowEntry::BUSY.0, Ordering::AcqRel, Ordering::Relaxed);
        if held.is_err() {
            return false;
        }
        if let Some(clients) = &self.clients {
            let words = clients.words(bucket);
            for (half, value) in record.address.into_iter().enumerate() {
                words[2 * slot + half].store(value, Ordering::Relaxed);
            }
        }
        let hop = Hop::new(record.mac, u32::from(record.interface));
        self.hops.word(bucket, slot).store(hop.0, Ordering::Relaxed);
        word.store(entry.0, Ordering::Release);
        true
    }
}
