//! The host: the packet path over tables in plain memory, to be tested, fuzzed and explained without a kernel.

mod table;

use core::{
    cell::Cell,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};
use std::{
    boxed::Box,
    collections::HashMap,
    sync::{Mutex, PoisonError},
    vec::Vec,
};

pub use self::table::Table;
use crate::{
    checksum, for_each_map, hash,
    layout::{
        Answers, BANKS, Backend, BackendCounters, BucketClients, BucketFlow, BucketV4, BucketV6, CHUNKS_PER_SEGMENT,
        Chunk, Connections, Control, FragmentRoute, FragmentV4, FragmentV6, HOST_MAC_BUCKETS, Handover, HopBucket,
        HostMacBucket, INTERFACE_BUCKETS, Interface, InterfaceBucket, Limit, MAX_INTERFACES, SEGMENTS, Service, Sizes,
        TIMEOUT_SETS, TailCall, Timeouts, Underlay, Verdicts,
    },
    maps::Arrays,
    path::{
        self, Frame, compare, conflict,
        family::{V4, V6},
        outcome::action,
        platform::{Atomics, Platform},
        scheduler,
    },
    succession::{self, Found, successor},
    verdict::Verdict,
};

/// A segment of scheduling tables.
type Segment = Box<[Chunk]>;

macro_rules! tables {
    (
        arrays { $($(#[$doc:meta])* $array:ident $accessor:ident: $value:ty, $entries:expr, $sharing:ident;)* }
        others { $($others:tt)* }
    ) => {
        /// The tables of a dataplane, and what else packets of it ask for.
        pub struct Tables {
            $($(#[$doc])* pub $accessor: Table<$value>,)*
            sizes: Sizes,
            segments: Vec<Segment>,
            fragments_v4: Mutex<HashMap<FragmentV4, FragmentRoute>>,
            fragments_v6: Mutex<HashMap<FragmentV6, FragmentRoute>>,
            jiffies: AtomicU64,
            random: AtomicU64,
            warned: AtomicU32,
            predecessor: Option<Box<Self>>,
            cpus: Box<[Mutex<()>]>,
        }

        impl Tables {
            /// Empty tables for these sizes and so many CPUs.
            #[must_use]
            pub fn new(sizes: Sizes, cpus: u32) -> Self {
                Self {
                    $($accessor: {
                        let entries: fn(&Sizes, u32) -> u32 = $entries;
                        Table::new(entries(&sizes, cpus))
                    },)*
                    sizes,
                    segments: Vec::new(),
                    fragments_v4: Mutex::default(),
                    fragments_v6: Mutex::default(),
                    jiffies: AtomicU64::new(0),
                    random: AtomicU64::new(0),
                    warned: AtomicU32::new(0),
                    predecessor: None,
                    cpus: (0..cpus).map(|_| Mutex::new(())).collect(),
                }
            }
        }

        impl Arrays for Host<'_> {
            $(
                fn $accessor(self, place: u32) -> Option<*mut $value> {
                    self.tables.$accessor.pointer(place)
                }
            )*
        }
    };
}

for_each_map!(tables);

impl Tables {
    /// How much there is room for.
    #[must_use]
    pub const fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Puts a segment of scheduling tables in place of the one with this number, or after the last.
    ///
    /// # Panics
    ///
    /// If there are segments missing before it, or it has too many chunks.
    pub fn set_segment(&mut self, number: usize, chunks: Segment) {
        assert!(number < SEGMENTS as usize && chunks.len() <= CHUNKS_PER_SEGMENT as usize);
        if number == self.segments.len() {
            self.segments.push(chunks);
        } else {
            self.segments[number] = chunks;
        }
    }

    /// Has these tables come after others ([`Control::WAITING`], [`Control::SUCCEEDING`]).
    pub fn succeed(&mut self, predecessor: Option<Self>) {
        self.predecessor = predecessor.map(Box::new);
    }

    /// Sets the time, jiffies.
    pub fn set_jiffies(&self, jiffies: u64) {
        self.jiffies.store(jiffies, Relaxed);
    }

    /// How many packets operators would have been told of.
    #[must_use]
    pub fn warned(&self) -> u32 {
        self.warned.load(Relaxed)
    }

    /// Looks at all buckets of flows once, as the kernel's timer does.
    pub fn sweep(&self) {
        let host = Host {
            tables: self,
            cpu: 0,
            successor: None,
        };
        let mut place = 0;
        loop {
            place = path::sweep::bucket(host, place);
            if place == 0 {
                return;
            }
        }
    }

    /// Runs the program that is attached on a frame that comes in by an interface: the XDP action. The frame is then what it
    /// has become. A CPU runs one packet at a time, whichever thread plays it.
    ///
    /// # Panics
    ///
    /// If there is no such CPU.
    pub fn run(&self, cpu: u32, ingress: u32, frame: &mut Vec<u8>) -> u32 {
        let _one = self.cpus[cpu as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = Vec::with_capacity(HEADROOM + frame.len());
        buffer.resize(HEADROOM, 0);
        buffer.extend_from_slice(frame);
        let bytes = buffer.as_mut_ptr_range();
        let first = bytes.start.expose_provenance();
        let bounds = Cell::new((first + HEADROOM, bytes.end.expose_provenance()));
        let packet = Ingress {
            bounds: &bounds,
            first,
            ifindex: ingress,
        };
        let host = Host {
            tables: self,
            cpu,
            successor: None,
        };
        let action = path::lvx(host, packet);
        let (start, end) = bounds.get();
        frame.clear();
        frame.extend_from_slice(&buffer[start - first..end - first]);
        action
    }
}

/// Bytes that a frame can grow by at its front, as in the kernel (`XDP_PACKET_HEADROOM`).
const HEADROOM: usize = 256;

/// A packet on the host: it is borrowed for as long as its path takes.
#[derive(Clone, Copy, Debug)]
pub struct Ingress<'a> {
    /// Where its frame starts and ends.
    bounds: &'a Cell<(usize, usize)>,
    /// Where the frame may start at the earliest.
    first: usize,
    ifindex: u32,
}

/// The host as a platform: a CPU and the tables, and those of who comes after these.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    tables: &'a Tables,
    cpu: u32,
    successor: Option<&'a Tables>,
}

impl<'a> Host<'a> {
    /// The predecessor as a platform, if there is one.
    fn predecessor(self) -> Option<Host<'a>> {
        self.tables.predecessor.as_deref().map(|tables| Host {
            tables,
            cpu: self.cpu,
            successor: Some(self.tables),
        })
    }
}

/// A word of a table as an atomic.
///
/// # Safety
///
/// `word` must point to an aligned word that lives as long as the tables.
unsafe fn atomic<'a>(word: *const u64) -> &'a AtomicU64 {
    // SAFETY: the caller's.
    unsafe { AtomicU64::from_ptr(word.cast_mut()) }
}

impl Atomics for Host<'_> {
    unsafe fn load(self, word: *const u64) -> u64 {
        // SAFETY: the caller's, as for all below.
        unsafe { atomic(word) }.load(Relaxed)
    }

    unsafe fn store(self, word: *mut u64, value: u64) {
        // SAFETY: as above.
        unsafe { atomic(word) }.store(value, Relaxed);
    }

    unsafe fn load_last(self, word: *mut u64) -> u64 {
        // SAFETY: as above.
        unsafe { atomic(word) }.load(Acquire)
    }

    unsafe fn publish(self, word: *mut u64, value: u64) {
        // SAFETY: as above.
        unsafe { atomic(word) }.store(value, Release);
    }

    unsafe fn replace(self, word: *mut u64, old: u64, new: u64) -> bool {
        // SAFETY: as above.
        unsafe { atomic(word) }
            .compare_exchange(old, new, AcqRel, Relaxed)
            .is_ok()
    }

    unsafe fn count(self, word: *mut u64, value: u64) {
        // SAFETY: as above.
        unsafe { atomic(word) }.fetch_add(value, Relaxed);
    }

    unsafe fn add(self, word: *mut u64, value: u64) -> u64 {
        // SAFETY: as above.
        unsafe { atomic(word) }.fetch_add(value, AcqRel)
    }
}

impl<'a> Platform for Host<'a> {
    type Context = Ingress<'a>;

    fn frame(self, context: Ingress<'a>) -> Frame {
        let (start, end) = context.bounds.get();
        // SAFETY: the frame is borrowed by `Tables::run` until the path ends.
        unsafe { Frame::new(start, end) }
    }

    fn grow(self, context: Ingress<'a>, bytes: usize) -> bool {
        let (start, end) = context.bounds.get();
        let grows = start - bytes >= context.first;
        if grows {
            context.bounds.set((start - bytes, end));
        }
        grows
    }

    fn cut(self, context: Ingress<'a>, length: usize) -> bool {
        let (start, end) = context.bounds.get();
        let is_longer = end - start >= length;
        if is_longer {
            context.bounds.set((start, start + length));
        }
        is_longer
    }

    fn sum(self, context: Ingress<'a>, at: usize, length: usize) -> Option<u32> {
        let bytes = self.frame(context).bytes(at, length)?;
        // SAFETY: nobody writes into the frame meanwhile.
        Some(checksum::sum(unsafe { &*bytes }, 0))
    }

    fn ingress(self, context: Ingress<'a>) -> u32 {
        context.ifindex
    }

    fn tail_call(self, context: Ingress<'a>, to: TailCall) -> Option<u32> {
        Some(match to {
            TailCall::NewFlowV4 => path::lvx_new_flow::<_, V4>(self, context),
            TailCall::NewFlowV6 => path::lvx_new_flow::<_, V6>(self, context),
            TailCall::Fragment => path::lvx_fragment(self, context),
            TailCall::Icmp => path::lvx_icmp(self, context),
            TailCall::Direct => path::lvx_direct(self, context),
            TailCall::RejectV4 => path::lvx_reject::<_, V4>(self, context),
            TailCall::RejectV6 => path::lvx_reject::<_, V6>(self, context),
            TailCall::Predecessor => path::lvx(self.predecessor()?, context),
            TailCall::Find => succession::find(self.predecessor()?, context),
        })
    }

    fn go_on(self, context: Ingress<'a>, to: u32) -> Option<u32> {
        let successor = Host {
            tables: self.successor?,
            cpu: self.cpu,
            successor: None,
        };
        let found = self.tables.found.read(self.cpu as usize);
        successor.tables.found.write(self.cpu as usize, found);
        Some(match to {
            successor::V4 => path::lvx_adopt::<_, V4>(successor, context),
            successor::V6 => path::lvx_adopt::<_, V6>(successor, context),
            _ => return None,
        })
    }

    fn redirect(self, interface: u32) -> Option<u32> {
        let is_there = interface < MAX_INTERFACES
            && (0..BANKS).any(|bank| self.tables.interfaces.read((interface << 1 | bank) as usize).ifindex != 0);
        is_there.then_some(action::REDIRECT)
    }

    fn warn(self, _context: Ingress<'a>, verdict: Verdict) {
        if verdict.is_told() {
            self.tables.warned.fetch_add(1, Relaxed);
        }
    }

    fn cpu(self) -> u32 {
        self.cpu
    }

    fn jiffies(self) -> u64 {
        self.tables.jiffies.load(Relaxed)
    }

    fn random(self) -> u32 {
        (hash::mix(self.tables.random.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed)) >> 32) as u32
    }

    fn bounded<const MASK: usize>(self, number: usize, _unknown: usize) -> usize {
        assert!(number <= MASK, "{number} is not within {MASK:#x}");
        number
    }

    fn flows_v4_mask(self) -> u32 {
        self.tables.sizes.buckets_v4() - 1
    }

    fn flows_v6_mask(self) -> u32 {
        self.tables.sizes.buckets_v6() - 1
    }

    fn endpoints_mask(self) -> u32 {
        self.tables.sizes.endpoint_buckets() - 1
    }

    fn backends_size(self) -> u32 {
        self.tables.sizes.backends + 1
    }

    fn chunk(self, segment: u32, place: u32) -> Option<*const Chunk> {
        let chunk = self.tables.segments.get(segment as usize)?.get(place as usize)?;
        Some(core::ptr::from_ref(chunk))
    }

    fn fragment_v4(self, datagram: &FragmentV4) -> Option<FragmentRoute> {
        self.tables.fragments_v4.lock().ok()?.get(datagram).copied()
    }

    fn fragment_v6(self, datagram: &FragmentV6) -> Option<FragmentRoute> {
        self.tables.fragments_v6.lock().ok()?.get(datagram).copied()
    }

    fn remember_fragment_v4(self, datagram: &FragmentV4, route: &FragmentRoute) {
        if let Ok(mut fragments) = self.tables.fragments_v4.lock() {
            fragments.insert(*datagram, *route);
        }
    }

    fn remember_fragment_v6(self, datagram: &FragmentV6, route: &FragmentRoute) {
        if let Ok(mut fragments) = self.tables.fragments_v6.lock() {
            fragments.insert(*datagram, *route);
        }
    }

    fn repeat<T>(self, times: u32, step: extern "C" fn(u64, *mut T) -> u64, state: &mut T) {
        for index in 0..u64::from(times) {
            if step(index, state) != 0 {
                return;
            }
        }
    }

    fn choose_member(self, service: u64, client: u64, high: u64, low: u64) -> u64 {
        scheduler::choose_member(self, service, client, high, low)
    }

    fn compare_members(self, service: u64, answer: u64) -> u64 {
        scheduler::compare_members(self, service, answer)
    }

    fn member_without_rival(self, service: u64, client: u64, is_v6: u64) -> u64 {
        conflict::member_without_rival(self, service, client, is_v6)
    }

    fn member_at(self, first: u64, chunks: u64, bank: u64, high: u64, low: u64) -> u64 {
        compare::member_at(self, first, chunks, bank, high, low)
    }
}
