//! The programs that measure the balancer. Never attached by `lvx`; `cargo xtask bench` runs them.
//!
//! [`measured`] restores the frame, which the run before has changed, gives it the next flow and tail-calls the program
//! under test. [`floor`] does the same with a program that only answers `XDP_TX`: what it costs is not the balancer's.
//!
//! [`generate`] sends such frames out of an interface, the whole frame written anew each time, as the receivers' changes
//! come back with the memory. [`sink`] drops what arrives. [`two_macs`] is the least that a balancer does.
#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the entry points' macro makes public functions without")]

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, DevMap, PerCpuArray, ProgramArray},
    helpers::bpf_xdp_adjust_head,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use xdp_common::bench::{SHORT_FRAME, Script};

/// What frames are made, for each CPU.
#[btf_map]
pub static SCRIPT: PerCpuArray<Script, 1> = PerCpuArray::new();

/// The one-line program, and the program under test.
#[btf_map]
pub static TARGETS: ProgramArray<2> = ProgramArray::new();

/// Where [`generate`] and [`two_macs`] send frames.
#[btf_map]
pub static OUT: DevMap<1> = DevMap::new();

/// Destination and source that [`two_macs`] gives frames.
#[btf_map]
pub static MACS: Array<[u8; 12], 1> = Array::new();

/// Places in [`TARGETS`]. Constants, so that the kernel makes a direct jump of the tail call.
const NOTHING: u32 = 0;
const UNDER_TEST: u32 = 1;

/// A frame for the program under test.
#[xdp]
pub fn measured(context: XdpContext) -> u32 {
    if restore(&context).is_some() {
        // SAFETY: the tail call leaves nothing of this program behind.
        unsafe { TARGETS.tail_call(&context, UNDER_TEST) };
    }
    xdp_action::XDP_ABORTED
}

/// The same frame for the program that does nothing.
#[xdp]
pub fn floor(context: XdpContext) -> u32 {
    if restore(&context).is_some() {
        // SAFETY: as above.
        unsafe { TARGETS.tail_call(&context, NOTHING) };
    }
    xdp_action::XDP_ABORTED
}

/// The program that does nothing.
#[xdp]
pub fn nothing(_context: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// Sends the next frame out.
#[xdp]
pub fn generate(context: XdpContext) -> u32 {
    if restore(&context).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    OUT.redirect(0, 0).unwrap_or(xdp_action::XDP_ABORTED)
}

/// The floor of a balancer: two MACs and a redirect, whatever the packet.
#[xdp]
pub fn two_macs(context: XdpContext) -> u32 {
    match MACS.get(0).and_then(|macs| put(&context, 0, *macs)) {
        Some(()) => OUT.redirect(0, 0).unwrap_or(xdp_action::XDP_ABORTED),
        None => xdp_action::XDP_ABORTED,
    }
}

/// Drops what arrives. The interface counts it.
#[xdp]
pub fn sink(_context: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Makes the frame what the script says it is next.
#[inline(always)]
fn restore(context: &XdpContext) -> Option<()> {
    // SAFETY: the entry is this CPU's, and programs on a CPU do not interrupt each other.
    let script: &mut Script = unsafe { &mut *SCRIPT.get_ptr_mut(0)? };
    let length = context.data_end() - context.data();
    if length != script.length as usize {
        // SAFETY: the context is the kernel's, and no pointer into the frame is held.
        unsafe { bpf_xdp_adjust_head(context.ctx, (length - script.length as usize) as i32) };
    }
    let [a, b, c, d, e, f, g, h, i, j] = script.frame;
    put(context, 0, [a, b, c, d, e, f, g, h])?;
    if script.length > SHORT_FRAME as u32 {
        put(context, SHORT_FRAME, [i, j])?;
    }
    let flow = script.advance();
    put(context, script.address_at as usize & 63, script.client(flow))?;
    put(context, script.port_at as usize & 63, Script::port(flow))?;
    put(context, script.service_at as usize & 63, script.destination(flow))
}

/// Writes into the frame.
#[inline(always)]
fn put<T>(context: &XdpContext, at: usize, value: T) -> Option<()> {
    let start = context.data() + at;
    if start + size_of::<T>() > context.data_end() {
        return None;
    }
    // SAFETY: the bytes are within the frame.
    unsafe { (start as *mut T).write_unaligned(value) };
    Some(())
}

/// The kernel lets GPL-compatible programs call all helpers.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that this is never reached.
    loop {}
}
