//! The maps: each is declared once, in [`for_each_map`](crate::for_each_map), and from there come the program's static, the name of its pin, its
//! size, and how both sides reach its entries.

use crate::{
    layout::{
        Answers, BANKS, Backend, BackendCounters, BucketClients, BucketFlow, BucketV4, BucketV6, Connections, Control,
        HOST_MAC_BUCKETS, Handover, HopBucket, HostMacBucket, INTERFACE_BUCKETS, Interface, InterfaceBucket, Limit,
        MAX_INTERFACES, Service, Sizes, TIMEOUT_SETS, Timeouts, Underlay, Verdicts,
    },
    succession::Found,
};

/// What of a dataplane's maps its successor may go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Nothing: each dataplane has its own.
    Own,
    /// All of these maps together, if the layout of flows and all their sizes are the same.
    Flows,
    /// This map, if its layout and size are the same: what it says is then put right by and by.
    Counts,
    /// This map, always: its layout is part of what dataplanes agree upon.
    Always,
}

/// A map of the packet path.
#[derive(Clone, Copy, Debug)]
pub struct MapDeclaration {
    /// Its name: in the program, and of its pin.
    pub name: &'static str,
    /// Whether a successor may go on with it.
    pub sharing: Sharing,
    /// How many entries it has, for sizes and a number of CPUs; `None` where the program says.
    pub entries: Option<fn(&Sizes, u32) -> u32>,
}

/// Calls a macro with the declarations of all maps.
///
/// First the arrays, which userspace reads and writes through memory: `NAME accessor: Value, entries, sharing`. Then the maps
/// that only the kernel reaches, with their types in terms of `aya_ebpf::btf_maps`: `NAME: Type, sharing`.
#[macro_export]
macro_rules! for_each_map {
    ($with:ident) => {
        $with! {
            arrays {
                /// The bank in use, keys and settings.
                CONTROL control: Control, |_, _| 1, Own;
                /// What IPv4 addresses and ports stand for: bucket `2 * hash + bank`.
                ENDPOINTS_V4 endpoints_v4: BucketV4, |sizes, _| sizes.endpoint_buckets() * BANKS, Own;
                /// What IPv6 addresses and ports stand for: bucket `2 * hash + bank`.
                ENDPOINTS_V6 endpoints_v6: BucketV6, |sizes, _| sizes.endpoint_buckets() * BANKS, Own;
                /// Services: place `2 * number + bank`.
                SERVICES services: Service, |sizes, _| (sizes.services + 1) * BANKS, Own;
                /// Backends: place `2 * number + bank`.
                BACKENDS backends: Backend, |sizes, _| (sizes.backends + 1) * BANKS, Own;
                /// What only some packets ask for of backends: place `2 * number + bank`.
                UNDERLAYS underlays: Underlay, |sizes, _| (sizes.backends + 1) * BANKS, Own;
                /// Thresholds of backends: place `2 * number + bank`.
                LIMITS limits: Limit, |sizes, _| (sizes.backends + 1) * BANKS, Own;
                /// The connections of backends, by number.
                CONNECTIONS connections: Connections, |sizes, _| sizes.backends + 1, Counts;
                /// Idle times, the node's and those of services: place `2 * set + bank`.
                TIMEOUTS timeouts: Timeouts, |_, _| TIMEOUT_SETS * BANKS, Own;
                /// The turn of each service whose scheduler counts, by its number.
                TURNS turns: u64, |sizes, _| sizes.services + 1, Counts;
                /// IPv4 flows.
                FLOWS_V4 flows_v4: BucketFlow, |sizes, _| sizes.buckets_v4(), Flows;
                /// IPv6 flows.
                FLOWS_V6 flows_v6: BucketFlow, |sizes, _| sizes.buckets_v6(), Flows;
                /// The addresses of the clients of IPv6 flows, by the flow's place.
                CLIENTS_V6 clients_v6: BucketClients, |sizes, _| sizes.buckets_v6(), Flows;
                /// The clients' next hops of IPv4 flows whose answers are seen, by the flow's place.
                HOPS_V4 hops_v4: HopBucket, |sizes, _| sizes.buckets_v4(), Flows;
                /// The clients' next hops of IPv6 flows whose answers are seen, by the flow's place.
                HOPS_V6 hops_v6: HopBucket, |sizes, _| sizes.buckets_v6(), Flows;
                /// Interfaces: place `2 * slot + bank`.
                INTERFACES interfaces: Interface, |_, _| MAX_INTERFACES * BANKS, Own;
                /// The slots of interfaces, by a hash of their index.
                INTERFACE_SLOTS interface_slots: InterfaceBucket, |_, _| INTERFACE_BUCKETS, Own;
                /// The MACs to which frames are this host's: bucket `2 * hash + bank`.
                HOST_MACS host_macs: HostMacBucket, |_, _| HOST_MAC_BUCKETS * BANKS, Own;
                /// Packets, bytes and flows: place `cpu * (backends + 1) + backend`. After the last CPU's stands what was counted
                /// before this map was made.
                BACKEND_COUNTERS backend_counters: BackendCounters,
                    |sizes, cpus| (sizes.backends + 1) * (cpus + 1), Counts;
                /// Verdicts: place `cpu * MAX_INTERFACES + slot`. After the last CPU's, as above.
                VERDICT_COUNTERS verdict_counters: Verdicts, |_, cpus| MAX_INTERFACES * (cpus + 1), Counts;
                /// What a packet takes along into the program of new flows: place `cpu`. In pages of their own, so that each
                /// CPU has a line to itself.
                HANDOVERS handovers: Handover, |_, cpus| cpus, Own;
                /// What has been answered: place `cpu`.
                ANSWERS answers: Answers, |_, cpus| cpus, Own;
                /// What a predecessor has found of a packet's flow: place `cpu`.
                FOUND found: Found, |_, cpus| cpus, Always;
            }
            others {
                /// Scheduling tables, by segment.
                SCHEDULES: ArrayOfMaps<Segment, { SEGMENTS as usize }>, Own;
                /// Where the first fragments of IPv4 datagrams went. Fragments are rare: a hash map that finds its own oldest
                /// entry does.
                FRAGMENTS_V4: LruHashMap<FragmentV4, FragmentRoute, { FRAGMENTS as usize }>, Flows;
                /// Where the first fragments of IPv6 datagrams went.
                FRAGMENTS_V6: LruHashMap<FragmentV6, FragmentRoute, { FRAGMENTS as usize }>, Flows;
                /// The interfaces by slot, for `bpf_redirect_map`.
                EGRESS: DevMap<{ MAX_INTERFACES as usize }>, Own;
                /// The programs in which the path of rarer packets goes on.
                TAIL_CALLS: ProgramArray<{ layout::TAIL_CALLS }>, Own;
                /// The programs of the successor in which packets go on whose flow was looked up for it.
                SUCCESSOR: ProgramArray<{ successor::PLACES }>, Own;
                /// The kernel's timer that has idle flows forgotten, and where it is ([`crate::path::sweep`]).
                SWEEPER: Array<Sweeper, 1>, Own;
            }
        }
    };
}

macro_rules! declarations {
    (
        arrays { $($(#[$array_doc:meta])* $array:ident $accessor:ident: $value:ty, $entries:expr, $array_sharing:ident;)* }
        others { $($(#[$other_doc:meta])* $other:ident: $kind:ty, $other_sharing:ident;)* }
    ) => {
        /// All maps.
        pub const MAPS: &[MapDeclaration] = &[
            $(MapDeclaration {
                name: stringify!($array),
                sharing: Sharing::$array_sharing,
                entries: Some($entries),
            },)*
            $(MapDeclaration {
                name: stringify!($other),
                sharing: Sharing::$other_sharing,
                entries: None,
            },)*
        ];

        /// The arrays, as the packet path reaches their entries: `None` where there is no such entry.
        pub trait Arrays: Copy {
            $(
                $(#[$array_doc])*
                fn $accessor(self, place: u32) -> Option<*mut $value>;
            )*
        }
    };
}

for_each_map!(declarations);
