//! The programs that measure the balancer. Never attached by `lvx`; `cargo xtask bench` runs them.
//!
//! [`measured`] restores the frame, which the run before has changed, gives it the next flow and tail-calls the program
//! under test. [`floor`] does the same with a program that only answers `XDP_TX`: what it costs is not the balancer's.
//!
//! [`generate`] sends such frames out of an interface, the whole frame written anew each time, as the receivers' changes
//! come back with the memory. [`sink`] drops what arrives and lets ARP be answered. [`two_macs`] is the least that a balancer does.
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

/// Where checksums stand in a frame: in its words 3, 5 and 7.
const IPV4_CHECKSUM: usize = 14 + 10;
const UDP_OVER_IPV4_CHECKSUM: usize = 14 + 20 + 6;
const UDP_OVER_IPV6_CHECKSUM: usize = 14 + 40 + 6;

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
    match restore(&context).and_then(|flow| checksums(&context, flow)) {
        Some(()) => OUT.redirect(0, 0).unwrap_or(xdp_action::XDP_ABORTED),
        None => xdp_action::XDP_ABORTED,
    }
}

/// The floor of a balancer: two MACs and a redirect, whatever the packet.
#[xdp]
pub fn two_macs(context: XdpContext) -> u32 {
    match MACS.get(0).and_then(|macs| put(&context, 0, *macs)) {
        Some(()) => OUT.redirect(0, 0).unwrap_or(xdp_action::XDP_ABORTED),
        None => xdp_action::XDP_ABORTED,
    }
}

/// Drops what arrives, but not ARP. The interface counts what is dropped.
#[xdp]
pub fn sink(context: XdpContext) -> u32 {
    let ethertype = context.data() + 12;
    if ethertype + 2 > context.data_end() {
        return xdp_action::XDP_DROP;
    }
    // SAFETY: the bytes are within the frame.
    match unsafe { (ethertype as *const [u8; 2]).read_unaligned() } {
        [0x08, 0x06] => xdp_action::XDP_PASS,
        _ => xdp_action::XDP_DROP,
    }
}

/// Makes the frame what the script says it is next: its flow. Checksums stay those of flow 0.
#[inline(always)]
fn restore(context: &XdpContext) -> Option<u32> {
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
    put(context, script.service_at as usize & 63, script.destination(flow))?;
    Some(flow)
}

/// Makes the checksums of a UDP frame from a client those of its flow: the kernel looks at them.
#[inline(always)]
fn checksums(context: &XdpContext, flow: u32) -> Option<()> {
    // SAFETY: as in `restore`.
    let script: &Script = unsafe { &*SCRIPT.get_ptr(0)? };
    // RFC 1624, equation 3. The sum does not depend on the order of bytes, as long as all words have the same.
    let address = halves(script.client(flow)) + halves(!script.client(0));
    let ports = u32::from(Script::port(flow)) + u32::from(!Script::port(0));
    let updated = |checksum: u64, difference: u32| {
        let sum = u32::from(!(checksum as u16)) + difference;
        let sum = halves(sum);
        !halves(sum) as u16
    };
    if script.length == SHORT_FRAME as u32 {
        put(context, IPV4_CHECKSUM, updated(script.frame[3], address))?;
        put(
            context,
            UDP_OVER_IPV4_CHECKSUM,
            updated(script.frame[5], address + ports),
        )
    } else {
        put(
            context,
            UDP_OVER_IPV6_CHECKSUM,
            updated(script.frame[7] >> 32, address + ports),
        )
    }
}

/// The sum of the halves.
#[inline(always)]
const fn halves(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
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
