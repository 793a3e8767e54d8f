//! The maps, as [`xdp_common::maps`] declares them; the loader sets the sizes that are 1 here.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, DevMap, LruHashMap, PerCpuArray, ProgramArray},
    macros::btf_map,
};
use xdp_common::{
    for_each_map,
    layout::{
        self, Answers, Backend, BackendCounters, BucketClients, BucketFlow, BucketV4, BucketV6, CHUNK,
        CHUNKS_PER_SEGMENT, Connections, Control, FRAGMENTS, FragmentRoute, FragmentV4, FragmentV6, Handover,
        HopBucket, HostMacBucket, Interface, InterfaceBucket, Limit, LossFilter, MAX_INTERFACES, SEGMENTS, Service,
        Timeouts, Underlay, Verdicts,
    },
    maps::Arrays,
    succession::{Found, successor},
};

use crate::{kernel::Kernel, sweeper::Sweeper};

/// `BPF_F_MMAPABLE`: userspace reads and writes these arrays through memory, a word at a time.
const MMAPABLE: usize = 1 << 10;
/// A segment of scheduling tables. All are of one size, so the verifier inlines their lookup; and its value is no struct,
/// or kernel 6.1 would take the loader's maps, which come without type information, for another kind (`map_meta_equal`).
type Segment = Array<[u64; CHUNK / 8], { CHUNKS_PER_SEGMENT as usize }, MMAPABLE>;

macro_rules! statics {
    (
        arrays { $($(#[$array_doc:meta])* $array:ident $accessor:ident: $value:ty, $entries:expr, $array_sharing:ident;)* }
        others { $($(#[$other_doc:meta])* $other:ident: $kind:ty, $other_sharing:ident;)* }
    ) => {
        $(
            $(#[$array_doc])*
            #[btf_map]
            pub static $array: Array<$value, 1, MMAPABLE> = Array::new();
        )*

        $(
            $(#[$other_doc])*
            #[btf_map]
            pub static $other: $kind = <$kind>::new();
        )*

        impl Arrays for Kernel {
            $(
                #[inline(always)]
                fn $accessor(self, place: u32) -> Option<*mut $value> {
                    $array.get_ptr_mut(place)
                }
            )*
        }
    };
}

for_each_map!(statics);

/// When something was last logged, jiffies. No part of the dataplane: not pinned.
#[btf_map]
pub static LOGGED: Array<u64, 1> = Array::new();

/// Bytes of a packet whose checksum is worked out. No part of the dataplane either.
#[btf_map]
pub static QUOTED: PerCpuArray<[u32; size::QUOTE / 4], 1> = PerCpuArray::new();

/// Whose losses are counted. No part of the dataplane: not pinned.
#[btf_map]
pub static LOSS_FILTER: Array<LossFilter, 1> = Array::new();

/// Sizes, constants for the verifier once the program is loaded. Each is one less than a power of two, but `BACKENDS`.
pub mod size {
    /// Bytes of a packet whose checksum is worked out at once. A power of two.
    pub const QUOTE: usize = 512;

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
