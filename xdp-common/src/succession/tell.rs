//! Tell: answers a successor's questions.

use super::{
    ABI, BackendRecord, CounterRecord, Facts, FlowRecord, InterfaceRecord, Question, RECORD, RECORDS, ServiceRecord,
    Topic, VerdictRecord,
};
use crate::{
    layout::{
        Backend, COUNTER_VERSION, FLOW_VERSION, FLOWS_PER_BUCKET, FlowEntry, Hop, INTERFACES_PER_BUCKET, InterfaceSlot,
        MAX_INTERFACES, Method, VERDICTS,
    },
    path::{
        Env,
        family::{Family, V4, V6},
        outcome::action,
        platform::Platform,
    },
    wire::Be16,
};

/// A family whose flows are told.
trait Told: Family {
    /// Address and port of a client, as on the wire.
    fn ends<P: Platform>(env: &Env<P>, bucket: u32, slot: usize, flow: FlowEntry) -> ([u64; 2], u16);
}

impl Told for V4 {
    #[inline(always)]
    fn ends<P: Platform>(env: &Env<P>, bucket: u32, _slot: usize, flow: FlowEntry) -> ([u64; 2], u16) {
        let client = flow.client(bucket, Self::mask(env.platform));
        let (address, port) = client.ends_v4(env.keys());
        ([u64::from(address), 0], port)
    }
}

impl Told for V6 {
    #[inline(always)]
    fn ends<P: Platform>(env: &Env<P>, bucket: u32, slot: usize, flow: FlowEntry) -> ([u64; 2], u16) {
        let Some(clients) = env.platform.clients_v6(bucket) else {
            return ([0; 2], 0);
        };
        // SAFETY: the slot is below the number of those of a bucket.
        let words = unsafe {
            clients
                .cast::<[u64; 2]>()
                .add(slot & (FLOWS_PER_BUCKET - 1))
                .cast::<u64>()
        };
        // SAFETY: both words are the bucket's.
        let address = unsafe { [env.platform.load(words), env.platform.load(words.add(1))] };
        let client = flow.client(bucket, Self::mask(env.platform));
        (address, client.port_v6(address, env.keys()))
    }
}

/// The program that is run on a [`Question`] and writes the answer behind it.
#[inline(always)]
pub fn tell<P: Platform>(platform: P, context: P::Context) -> u32 {
    if let Some(env) = Env::of(platform, context)
        && let Some(question) = env.frame.view::<Question>(0)
    {
        // SAFETY: the view was checked.
        unsafe {
            if (*question).abi == ABI {
                (*question).records = answer(&env, &question.read_unaligned());
                (*question).abi = 0;
            }
        }
    }
    action::PASS
}

/// Answers; says how many records there are.
#[inline(always)]
fn answer<P: Platform>(env: &Env<P>, question: &Question) -> u32 {
    const FACTS: u32 = Topic::Facts as u32;
    const BACKENDS: u32 = Topic::Backends as u32;
    const COUNTERS: u32 = Topic::Counters as u32;
    const SERVICES: u32 = Topic::Services as u32;
    const INTERFACES: u32 = Topic::Interfaces as u32;
    const VERDICTS: u32 = Topic::Verdicts as u32;
    const FLOWS_V4: u32 = Topic::FlowsV4 as u32;
    const FLOWS_V6: u32 = Topic::FlowsV6 as u32;
    let first = question.first;
    match question.topic {
        FACTS => facts(env),
        BACKENDS => records(env, RECORDS, |place| backend(env, first + place as u32)),
        COUNTERS => records(env, RECORDS, |place| counters(env, first + place as u32, question.cpu)),
        SERVICES => records(env, RECORDS, |place| service(env, first + place as u32)),
        INTERFACES => records(env, INTERFACES_PER_BUCKET, |place| interface(env, first, place)),
        VERDICTS => verdicts(env, first, question.cpu),
        FLOWS_V4 => records(env, FLOWS_PER_BUCKET, |place| flow::<P, V4>(env, first, place)),
        FLOWS_V6 => records(env, FLOWS_PER_BUCKET, |place| flow::<P, V6>(env, first, place)),
        _ => 0,
    }
}

/// Writes so many records.
#[inline(always)]
fn records<P: Platform, R>(env: &Env<P>, length: usize, record: impl Fn(usize) -> R) -> u32 {
    const { assert!(size_of::<R>() == RECORD) }
    for place in 0..length {
        let Some(view) = env.frame.view::<R>(size_of::<Question>() + place * RECORD) else {
            return place as u32;
        };
        // SAFETY: the view was checked.
        unsafe { view.write_unaligned(record(place)) };
    }
    length as u32
}

#[inline(always)]
fn facts<P: Platform>(env: &Env<P>) -> u32 {
    let Some(view) = env.frame.view::<Facts>(size_of::<Question>()) else {
        return 0;
    };
    let (platform, keys, control) = (env.platform, env.keys(), env.control());
    // SAFETY: the words are the table's; the first is set before the first packet.
    let (hertz, highest) = unsafe { ((*control).hertz, platform.load(&raw const (*control).highest)) };
    let facts = Facts {
        flow_version: FLOW_VERSION,
        counter_version: COUNTER_VERSION,
        buckets_v4: platform.flows_v4_mask() + 1,
        buckets_v6: platform.flows_v6_mask() + 1,
        backends: platform.backends_size(),
        hertz,
        tick: env.tick(),
        reserved: 0,
        keys: [
            keys.whitening,
            keys.factors[0],
            keys.factors[1],
            keys.addends[0],
            keys.addends[1],
            keys.multiplier,
        ],
        highest,
        room: [0; 5],
    };
    // SAFETY: the view was checked.
    unsafe { view.write_unaligned(facts) };
    1
}

#[inline(always)]
fn backend<P: Platform>(env: &Env<P>, number: u32) -> BackendRecord {
    match env.backend(number) {
        Some(backend) if backend.method != Method::NONE => BackendRecord {
            number,
            service: u32::from(backend.service),
            address: backend.address,
            vip: backend.vip,
            port: backend.port,
            vport: backend.vport,
            protocol: backend.protocol,
            address_v6: u8::from(backend.flags & Backend::IPV6 != 0),
            vip_v6: u8::from(backend.flags & Backend::IPV6 != 0),
            method: backend.method.0,
            macs: if backend.ifindex == 0 {
                [Be16(0); 6]
            } else {
                backend.macs
            },
            interface: backend.interface,
            reserved: 0,
        },
        _ => BackendRecord::default(),
    }
}

#[inline(always)]
fn counters<P: Platform>(env: &Env<P>, number: u32, cpu: u32) -> CounterRecord {
    let size = env.platform.backends_size();
    if number >= size {
        return CounterRecord::default();
    }
    match env.platform.backend_counters(cpu * size + number) {
        // SAFETY: the entry is the table's; each of its words is read once.
        Some(counters) => unsafe {
            CounterRecord {
                number,
                packets_in: env.platform.load(&raw const (*counters).packets_in),
                bytes_in: env.platform.load(&raw const (*counters).bytes_in),
                packets_out: env.platform.load(&raw const (*counters).packets_out),
                bytes_out: env.platform.load(&raw const (*counters).bytes_out),
                connections: env.platform.load(&raw const (*counters).connections),
                ..CounterRecord::default()
            }
        },
        None => CounterRecord::default(),
    }
}

#[inline(always)]
fn service<P: Platform>(env: &Env<P>, number: u32) -> ServiceRecord {
    match env.service(number) {
        Some(service) => ServiceRecord {
            number,
            group: service.group,
            mark: service.mark,
            ..ServiceRecord::default()
        },
        None => ServiceRecord::default(),
    }
}

#[inline(always)]
fn interface<P: Platform>(env: &Env<P>, bucket: u32, place: usize) -> InterfaceRecord {
    let Some(entries) = env.platform.interface_slots(bucket) else {
        return InterfaceRecord::default();
    };
    // SAFETY: the place is below the number of those of a bucket.
    let entry = InterfaceSlot(unsafe {
        env.platform
            .load(entries.cast::<u64>().add(place & (INTERFACES_PER_BUCKET - 1)))
    });
    InterfaceRecord {
        ifindex: entry.ifindex(),
        slot: entry.slot(),
        room: [0; 7],
    }
}

#[inline(always)]
fn verdicts<P: Platform>(env: &Env<P>, slot: u32, cpu: u32) -> u32 {
    const { assert!(VERDICTS == size_of::<VerdictRecord>() / size_of::<u64>()) }
    let row = cpu * MAX_INTERFACES + (slot & (MAX_INTERFACES - 1));
    let (Some(counters), Some(view)) = (
        env.platform.verdict_counters(row),
        env.frame.view::<VerdictRecord>(size_of::<Question>()),
    ) else {
        return 0;
    };
    for place in 0..VERDICTS {
        // SAFETY: the place is within the row, and the view was checked.
        unsafe {
            let count = env.platform.load(counters.cast::<u64>().add(place));
            view.cast::<u64>().add(place).write_unaligned(count);
        }
    }
    1
}

#[inline(always)]
fn flow<P: Platform, F: Told>(env: &Env<P>, number: u32, slot: usize) -> FlowRecord {
    let none = FlowRecord::default();
    let (Some(bucket), Some(hops)) = (F::bucket(env.platform, number), F::hops(env.platform, number)) else {
        return none;
    };
    // SAFETY: the slot is below the number of those of a bucket.
    let (word, hop) = unsafe { (bucket.cast::<u64>().add(slot), hops.cast::<u64>().add(slot)) };
    // SAFETY: the word is the flow table's.
    let flow = FlowEntry(unsafe { env.platform.load(word) });
    let backend = flow.backend(F::mask(env.platform));
    if backend == 0 {
        return none;
    }
    let (address, port) = F::ends(env, number, slot, flow);
    // SAFETY: a hop is one word.
    let hop = Hop(unsafe { env.platform.load(hop) });
    // Another flow may have come into this slot since its word was read.
    // SAFETY: as above.
    if unsafe { env.platform.load_last(word) } != flow.0 {
        return none;
    }
    let mark = |mark: u64, told: u8| if flow.0 & mark != 0 { told } else { 0 };
    FlowRecord {
        backend,
        state: flow.state() as u8,
        marks: mark(FlowEntry::UNCONFIRMED, FlowRecord::UNCONFIRMED) | mark(FlowEntry::LEARNT, FlowRecord::LEARNT),
        interface: hop.interface() as u16,
        address,
        port: Be16(port),
        mac: hop.mac(),
        idle: flow.seen().idle(env.platform.jiffies(), env.tick()),
        room: [0; 3],
    }
}
