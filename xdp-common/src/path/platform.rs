//! Platform: what the packet path needs of what it runs on. In the kernel that is the maps and helpers of BPF
//! (`xdp-ebpf/src/platform.rs`), on the host plain memory ([`crate::host`]).

use super::Frame;
pub use crate::maps::Arrays;
use crate::{
    layout::{Chunk, FragmentRoute, FragmentV4, FragmentV6, TailCall},
    verdict::Verdict,
};

/// Words of tables that several CPUs read and write at once.
///
/// # Safety
///
/// Each `word` must point to an aligned word of a table, for all functions here.
pub trait Atomics: Copy {
    /// Reads a word, once and whole (the kernel's `READ_ONCE`).
    ///
    /// # Safety
    ///
    /// That of the trait.
    unsafe fn load(self, word: *const u64) -> u64;

    /// Writes a word, once and whole (the kernel's `WRITE_ONCE`).
    ///
    /// # Safety
    ///
    /// That of the trait.
    unsafe fn store(self, word: *mut u64, value: u64);

    /// Reads a word after all that was read before.
    ///
    /// # Safety
    ///
    /// That of the trait.
    unsafe fn load_last(self, word: *mut u64) -> u64;

    /// Writes a word after all that was written before.
    ///
    /// # Safety
    ///
    /// That of the trait.
    unsafe fn publish(self, word: *mut u64, value: u64);

    /// Writes a word if it still is `old`; says whether it was.
    ///
    /// # Safety
    ///
    /// That of the trait.
    unsafe fn replace(self, word: *mut u64, old: u64, new: u64) -> bool;

    /// Adds to a word whose value is of no interest now, and orders nothing.
    ///
    /// # Safety
    ///
    /// That of the trait.
    unsafe fn count(self, word: *mut u64, value: u64);

    /// Adds to a word; returns what it was.
    ///
    /// # Safety
    ///
    /// That of the trait.
    unsafe fn add(self, word: *mut u64, value: u64) -> u64;
}

/// What the packet path runs on. A value of it is small and copied freely: nothing at all in the kernel, a reference on the host.
pub trait Platform: Arrays + Atomics {
    /// The packet, as this platform knows it.
    type Context: Copy;

    /// The bytes of the packet.
    fn frame(self, context: Self::Context) -> Frame;

    /// Has the frame begin so many bytes earlier; says whether it does. Views of it are void then.
    fn grow(self, context: Self::Context, bytes: usize) -> bool;

    /// Has the frame end after so many bytes; says whether it does. Views of it are void then.
    fn cut(self, context: Self::Context, length: usize) -> bool;

    /// The sum of the 16-bit words (RFC 1071) of so many bytes `at` bytes into the frame, an odd last one padded with zero. At
    /// least one, at most [`crate::layout::QUOTED`] bytes; folded it fits a checksum.
    fn sum(self, context: Self::Context, at: usize, length: usize) -> Option<u32>;

    /// The index of the interface that the packet came in by.
    fn ingress(self, context: Self::Context) -> u32;

    /// Leaves for another program: the XDP action that this came to, or `None` if there is no such program. In the kernel a
    /// tail call does not return.
    fn tail_call(self, context: Self::Context, to: TailCall) -> Option<u32>;

    /// Leaves for a program of the successor, as [`Self::tail_call`] ([`crate::succession::successor`]).
    fn go_on(self, context: Self::Context, to: u32) -> Option<u32>;

    /// Has the packet go out of the interface in this slot: the XDP action, or `None` if there is no such interface.
    fn redirect(self, interface: u32) -> Option<u32>;

    /// Tells the operator of a packet that was not forwarded.
    fn warn(self, context: Self::Context, verdict: Verdict);

    /// The CPU that runs this, from 0.
    fn cpu(self) -> u32;

    /// The time, in the kernel's ticks.
    fn jiffies(self) -> u64;

    /// A number that nobody can foresee.
    fn random(self) -> u32;

    /// `number`, of which the verifier knows only that `MASK` covers it, so that paths which differ in that number alone are
    /// one path to it. On the host: asserts that `MASK` does cover it. `unknown` must be something that the verifier cannot
    /// know, such as a field of the packet; `MASK` one less than a power of two.
    fn bounded<const MASK: usize>(self, number: usize, unknown: usize) -> usize;

    /// One less than the number of buckets of the IPv4 flow table.
    fn flows_v4_mask(self) -> u32;

    /// One less than the number of buckets of the IPv6 flow table.
    fn flows_v6_mask(self) -> u32;

    /// One less than the number of buckets of an endpoint table.
    fn endpoints_mask(self) -> u32;

    /// Entries of a CPU in the counters of backends.
    fn backends_size(self) -> u32;

    /// A chunk of the scheduling tables, by its segment and its place there.
    fn chunk(self, segment: u32, place: u32) -> Option<*const Chunk>;

    /// Where the first fragment of an IPv4 datagram went.
    fn fragment_v4(self, datagram: &FragmentV4) -> Option<FragmentRoute>;

    /// Where the first fragment of an IPv6 datagram went.
    fn fragment_v6(self, datagram: &FragmentV6) -> Option<FragmentRoute>;

    /// Remembers where the first fragment of an IPv4 datagram goes.
    fn remember_fragment_v4(self, datagram: &FragmentV4, route: &FragmentRoute);

    /// Remembers where the first fragment of an IPv6 datagram goes.
    fn remember_fragment_v6(self, datagram: &FragmentV6, route: &FragmentRoute);

    /// Calls `step` with 0, 1, ... below `times` until it returns something else than 0.
    fn repeat<T>(self, times: u32, step: extern "C" fn(u64, *mut T) -> u64, state: &mut T);

    /// The scheduler's `choose_member`, in a function that the verifier walks by itself.
    fn choose_member(self, service: u64, client: u64, high: u64, low: u64) -> u64;

    /// The scheduler's `compare_members`, likewise.
    fn compare_members(self, service: u64, answer: u64) -> u64;

    /// The conflict's `member_without_rival`, likewise.
    fn member_without_rival(self, service: u64, client: u64, is_v6: u64) -> u64;

    /// The comparison's `member_at`, likewise.
    fn member_at(self, first: u64, chunks: u64, bank: u64, high: u64, low: u64) -> u64;
}
