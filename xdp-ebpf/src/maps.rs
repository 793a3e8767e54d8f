//! The maps. Their keys and values are in [`xdp_common::layout`]; the loader sets the sizes that are 1 here.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, DevMap, LruHashMap, ProgramArray},
    macros::btf_map,
};
use xdp_common::layout::{
    BANKS, Backend, BackendCounters, BucketFlowV4, BucketFlowV6, BucketV4, BucketV6, CHUNK, CHUNKS_PER_SEGMENT,
    Control, FRAGMENTS, FragmentV4, FragmentV6, FragmentWay, Further, Handover, HopBucket, Limit, Load, PORT_SLOTS,
    PORTS as MAX_PORTS, Port, PortOf, SEGMENTS, Service, TIMEOUT_SETS, Timeouts, Verdicts,
};

/// `BPF_F_MMAPABLE`: userspace reads and writes these arrays through memory, a word at a time.
const MMAPABLE: usize = 1 << 10;
/// A segment of scheduling tables. All are of one size, so the verifier inlines their lookup; and its value is no struct,
/// or kernel 6.1 would take the loader's maps, which come without type information, for another kind (`map_meta_equal`).
type Segment = Array<[u64; CHUNK / 8], { CHUNKS_PER_SEGMENT as usize }, MMAPABLE>;

/// The bank in use, and seeds.
#[btf_map]
pub static CONTROL: Array<Control, 1, MMAPABLE> = Array::new();

/// What IPv4 addresses and ports stand for: bucket `2 * hash + bank`.
#[btf_map]
pub static ENDPOINTS_V4: Array<BucketV4, 1, MMAPABLE> = Array::new();

/// What IPv6 addresses and ports stand for: bucket `2 * hash + bank`.
#[btf_map]
pub static ENDPOINTS_V6: Array<BucketV6, 1, MMAPABLE> = Array::new();

/// Services: place `2 * number + bank`.
#[btf_map]
pub static SERVICES: Array<Service, 1, MMAPABLE> = Array::new();

/// Backends: place `2 * number + bank`.
#[btf_map]
pub static BACKENDS: Array<Backend, 1, MMAPABLE> = Array::new();

/// Thresholds of backends: place `2 * number + bank`.
#[btf_map]
pub static LIMITS: Array<Limit, 1, MMAPABLE> = Array::new();

/// What backends have to do, by number.
#[btf_map]
pub static LOADS: Array<Load, 1, MMAPABLE> = Array::new();

/// Idle times, the node's and those of services: place `2 * set + bank`.
#[btf_map]
pub static TIMEOUTS: Array<Timeouts, { (TIMEOUT_SETS * BANKS) as usize }, MMAPABLE> = Array::new();

/// Scheduling tables, by segment.
#[btf_map]
pub static SCHEDULES: ArrayOfMaps<Segment, { SEGMENTS as usize }> = ArrayOfMaps::new();

/// The turn of each service whose scheduler counts, by its number.
#[btf_map]
pub static TURNS: Array<u64, 1, MMAPABLE> = Array::new();

/// IPv4 flows.
#[btf_map]
pub static FLOWS_V4: Array<BucketFlowV4, 1, MMAPABLE> = Array::new();

/// IPv6 flows.
#[btf_map]
pub static FLOWS_V6: Array<BucketFlowV6, 1, MMAPABLE> = Array::new();

/// The clients' next hops of IPv4 flows under NAT, by the flow's place.
#[btf_map]
pub static HOPS_V4: Array<HopBucket, 1, MMAPABLE> = Array::new();

/// The clients' next hops of IPv6 flows under NAT, by the flow's place.
#[btf_map]
pub static HOPS_V6: Array<HopBucket, 1, MMAPABLE> = Array::new();

/// Where the first fragments of IPv4 datagrams went. Fragments are rare: a hash map that finds its own oldest entry does.
#[btf_map]
pub static FRAGMENTS_V4: LruHashMap<FragmentV4, FragmentWay, { FRAGMENTS as usize }> = LruHashMap::new();

/// Where the first fragments of IPv6 datagrams went.
#[btf_map]
pub static FRAGMENTS_V6: LruHashMap<FragmentV6, FragmentWay, { FRAGMENTS as usize }> = LruHashMap::new();

/// Interfaces: place `2 * port + bank`.
#[btf_map]
pub static PORTS: Array<Port, { (MAX_PORTS * BANKS) as usize }, MMAPABLE> = Array::new();

/// The port of an interface, by its index modulo the size.
#[btf_map]
pub static PORT_OF: Array<PortOf, { PORT_SLOTS as usize }, MMAPABLE> = Array::new();

/// The same interfaces, for `bpf_redirect_map`.
#[btf_map]
pub static TX_PORTS: DevMap<{ MAX_PORTS as usize }> = DevMap::new();

/// Packets, bytes and flows per backend and CPU.
#[btf_map]
pub static BACKEND_COUNTERS: Array<BackendCounters, 1, MMAPABLE> = Array::new();

/// Verdicts per interface and CPU.
#[btf_map]
pub static VERDICT_COUNTERS: Array<Verdicts, 1, MMAPABLE> = Array::new();

/// The programs in which the way of rarer packets goes on.
#[btf_map]
pub static FURTHER: ProgramArray<{ Further::ALL.len() }> = ProgramArray::new();

/// What a packet that begins a flow takes along to the program for that: place `cpu`. The flag puts it into pages of its own,
/// so that each CPU has a line to itself.
#[btf_map]
pub static HANDOVERS: Array<Handover, 1, MMAPABLE> = Array::new();

/// When something was last logged, jiffies.
#[btf_map]
pub static LOGGED: Array<u64, 1> = Array::new();

/// Sizes, constants for the verifier once the program is loaded. Each is one less than a power of two, but `BACKENDS`.
pub mod size {
    use core::ptr::read_volatile;

    #[unsafe(no_mangle)]
    static FLOWS_V4_MASK: u32 = 0;
    #[unsafe(no_mangle)]
    static FLOWS_V6_MASK: u32 = 0;
    #[unsafe(no_mangle)]
    static ENDPOINTS_MASK: u32 = 0;
    #[unsafe(no_mangle)]
    static BACKENDS_SIZE: u32 = 0;

    macro_rules! constant {
        ($(#[$doc:meta])* $name:ident = $global:ident) => {
            $(#[$doc])*
            #[inline(always)]
            pub fn $name() -> u32 {
                // SAFETY: a static is readable; volatile, because the loader has replaced its value.
                unsafe { read_volatile(&raw const $global) }
            }
        };
    }

    constant! {
        /// Mask of the buckets of the IPv4 flow table.
        flows_v4_mask = FLOWS_V4_MASK
    }
    constant! {
        /// Mask of the buckets of the IPv6 flow table.
        flows_v6_mask = FLOWS_V6_MASK
    }
    constant! {
        /// Mask of the buckets of both endpoint tables.
        endpoints_mask = ENDPOINTS_MASK
    }
    constant! {
        /// Backends there is room for: counters of the next CPU are so many places further.
        backends = BACKENDS_SIZE
    }
}
