//! The kernel as a platform of the packet path: its maps and helpers.

use core::{ffi::c_void, ptr::null_mut};

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{
        bpf_csum_diff, bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_jiffies64, bpf_loop, bpf_xdp_adjust_head,
        bpf_xdp_adjust_tail, bpf_xdp_load_bytes,
    },
    programs::XdpContext,
};
use xdp_common::{
    layout::{Chunk, FragmentRoute, FragmentV4, FragmentV6, TailCall},
    path::{
        Frame,
        platform::{Atomics, Platform},
    },
    verdict::Verdict,
};

use crate::{atomic, kernel::Kernel, log, maps, maps::size::QUOTE, verifier, walked};

impl Platform for Kernel {
    type Context = *mut xdp_md;

    #[inline(always)]
    fn frame(self, context: *mut xdp_md) -> Frame {
        let context = XdpContext::new(context);
        // SAFETY: the kernel says where the frame is, and the verifier sees to it that it is used no longer.
        unsafe { Frame::new(context.data(), context.data_end()) }
    }

    #[inline(always)]
    fn grow(self, context: *mut xdp_md, bytes: usize) -> bool {
        // SAFETY: the context is the kernel's.
        unsafe { bpf_xdp_adjust_head(context, -(bytes as i32)) == 0 }
    }

    #[inline(always)]
    fn cut(self, context: *mut xdp_md, length: usize) -> bool {
        // What is left of two pointers' difference must not be worked out in 32 bits, as the compiler would.
        let whole = verifier::bounded::<0xffff>(self.frame(context).length(), length);
        let surplus = whole as i32 - length as i32;
        // SAFETY: the context is the kernel's.
        surplus >= 0 && unsafe { bpf_xdp_adjust_tail(context, -surplus) == 0 }
    }

    #[inline(always)]
    fn sum(self, context: *mut xdp_md, at: usize, length: usize) -> Option<u32> {
        // Read into memory first: the verifier lets nobody look at so many bytes of a packet as the packet says.
        const BOUND: i32 = QUOTE as i32 - 1;
        // SAFETY: the buffer is this CPU's, and the masks keep to it; its last word is cleared before it is written into; the context
        // is the kernel's.
        unsafe {
            let buffer = maps::QUOTED.get_ptr_mut(0)?.cast::<u32>();
            let last = verifier::masked::<{ QUOTE as i32 / 4 - 1 }>(length.wrapping_sub(1) / 4);
            buffer.add(last).write(0);
            // Kernel 6.1 learns from no comparison that a number is not 0.
            let length = verifier::masked::<BOUND>(length.wrapping_sub(1)) + 1;
            if bpf_xdp_load_bytes(context, at as u32, buffer.cast(), length as u32) != 0 {
                return None;
            }
            let whole = verifier::masked::<BOUND>(length + 3 & !3);
            let sum = bpf_csum_diff(null_mut(), 0, buffer, whole as u32, 0);
            (sum >= 0).then_some(sum as u32)
        }
    }

    #[inline(always)]
    fn ingress(self, context: *mut xdp_md) -> u32 {
        // SAFETY: the context is the kernel's.
        unsafe { (*context).ingress_ifindex }
    }

    #[inline(always)]
    fn tail_call(self, context: *mut xdp_md, to: TailCall) -> Option<u32> {
        // SAFETY: nothing here waits to be dropped.
        unsafe { maps::TAIL_CALLS.tail_call(&XdpContext::new(context), to as u32) };
        None
    }

    #[inline(always)]
    fn go_on(self, context: *mut xdp_md, to: u32) -> Option<u32> {
        // SAFETY: as above.
        unsafe { maps::SUCCESSOR.tail_call(&XdpContext::new(context), to) };
        None
    }

    #[inline(always)]
    fn redirect(self, interface: u32) -> Option<u32> {
        maps::EGRESS.redirect(interface, 0).ok()
    }

    #[inline(always)]
    fn warn(self, context: *mut xdp_md, verdict: Verdict) {
        log::dropped(&XdpContext::new(context), self.ingress(context), verdict);
    }

    #[inline(always)]
    fn cpu(self) -> u32 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_smp_processor_id() as u32 }
    }

    #[inline(always)]
    fn jiffies(self) -> u64 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_jiffies64() }
    }

    #[inline(always)]
    fn random(self) -> u32 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn bounded<const MASK: usize>(self, number: usize, unknown: usize) -> usize {
        verifier::bounded::<MASK>(number, unknown)
    }

    #[inline(always)]
    fn flows_v4_mask(self) -> u32 {
        maps::size::flows_v4_mask()
    }

    #[inline(always)]
    fn flows_v6_mask(self) -> u32 {
        maps::size::flows_v6_mask()
    }

    #[inline(always)]
    fn endpoints_mask(self) -> u32 {
        maps::size::endpoints_mask()
    }

    #[inline(always)]
    fn backends_size(self) -> u32 {
        maps::size::backends()
    }

    #[inline(always)]
    fn chunk(self, segment: u32, place: u32) -> Option<*const Chunk> {
        maps::SCHEDULES
            .get_value(segment, &place)
            .map(|words| core::ptr::from_ref(words).cast())
    }

    #[inline(always)]
    fn fragment_v4(self, datagram: &FragmentV4) -> Option<FragmentRoute> {
        // SAFETY: an entry that is replaced while it is read is of a datagram with the same key or of a later one that
        // took its place; either way the copy is a whole route.
        unsafe { maps::FRAGMENTS_V4.get(datagram) }.copied()
    }

    #[inline(always)]
    fn fragment_v6(self, datagram: &FragmentV6) -> Option<FragmentRoute> {
        // SAFETY: as for IPv4.
        unsafe { maps::FRAGMENTS_V6.get(datagram) }.copied()
    }

    #[inline(always)]
    fn remember_fragment_v4(self, datagram: &FragmentV4, route: &FragmentRoute) {
        let _: Result<(), i32> = maps::FRAGMENTS_V4.insert(datagram, route, 0);
    }

    #[inline(always)]
    fn remember_fragment_v6(self, datagram: &FragmentV6, route: &FragmentRoute) {
        let _: Result<(), i32> = maps::FRAGMENTS_V6.insert(datagram, route, 0);
    }

    #[inline(always)]
    fn repeat<T>(self, times: u32, step: extern "C" fn(u64, *mut T) -> u64, state: &mut T) {
        // SAFETY: the callback takes the pointer for what it is, and the kernel calls it no longer than this call lasts.
        unsafe {
            bpf_loop(times, step as *mut c_void, core::ptr::from_mut(state).cast(), 0);
        }
    }

    #[inline(always)]
    fn choose_member(self, service: u64, client: u64, high: u64, low: u64) -> u64 {
        walked::lvx_choose(service, client, high, low)
    }

    #[inline(always)]
    fn compare_members(self, service: u64, answer: u64) -> u64 {
        walked::lvx_compare(service, answer)
    }

    #[inline(always)]
    fn member_without_rival(self, service: u64, client: u64, is_v6: u64) -> u64 {
        walked::lvx_without_rival(service, client, is_v6)
    }

    #[inline(always)]
    fn member_at(self, first: u64, chunks: u64, bank: u64, high: u64, low: u64) -> u64 {
        walked::lvx_member_at(first, chunks, bank, high, low)
    }
}

/// `core::sync::atomic` leaves compare-and-exchange out for this target: see [`mod@atomic`].
impl Atomics for Kernel {
    #[inline(always)]
    unsafe fn load(self, word: *const u64) -> u64 {
        // SAFETY: the caller's, as for all below.
        unsafe { atomic::load(word) }
    }

    #[inline(always)]
    unsafe fn store(self, word: *mut u64, value: u64) {
        // SAFETY: as above.
        unsafe { atomic::store(word, value) }
    }

    #[inline(always)]
    unsafe fn load_last(self, word: *mut u64) -> u64 {
        // SAFETY: as above.
        unsafe { atomic::load_last(word) }
    }

    #[inline(always)]
    unsafe fn publish(self, word: *mut u64, value: u64) {
        // SAFETY: as above.
        unsafe { atomic::publish(word, value) }
    }

    #[inline(always)]
    unsafe fn replace(self, word: *mut u64, old: u64, new: u64) -> bool {
        // SAFETY: as above.
        unsafe { atomic::replace(word, old, new) }
    }

    #[inline(always)]
    unsafe fn count(self, word: *mut u64, value: u64) {
        // SAFETY: as above.
        unsafe { atomic::count(word, value) }
    }

    #[inline(always)]
    unsafe fn add(self, word: *mut u64, value: u64) -> u64 {
        // SAFETY: as above.
        unsafe { atomic::add(word, value) }
    }
}
