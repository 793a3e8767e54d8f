//! LVX's XDP programs: a thin shell around [`xdp_common::path`], which runs in them over the kernel's maps ([`maps`]) and
//! helpers ([`platform`]).
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(missing_docs, reason = "the entry points' macro makes public functions without")]
#![expect(internal_features, reason = "compare-and-exchange: see the module atomic")]

mod atomic;
mod clock;
mod kernel;
mod log;
mod losses;
mod maps;
mod platform;
mod sweep;
mod sweeper;
mod verifier;
mod walked;

use aya_ebpf::{macros::xdp, programs::XdpContext};
use xdp_common::{
    path::{
        self,
        family::{V4, V6},
    },
    succession,
};

use crate::kernel::Kernel;

/// The program that is attached to interfaces.
#[xdp]
#[inline(always)]
pub fn lvx(context: XdpContext) -> u32 {
    path::lvx(Kernel, context.ctx)
}

/// The program of IPv4 packets that begin a flow, and of flows whose client's template is due.
#[xdp]
pub fn lvx_new_flow_v4(context: XdpContext) -> u32 {
    path::lvx_new_flow::<Kernel, V4>(Kernel, context.ctx)
}

/// The same for IPv6: each family has a stack of its own.
#[xdp]
pub fn lvx_new_flow_v6(context: XdpContext) -> u32 {
    path::lvx_new_flow::<Kernel, V6>(Kernel, context.ctx)
}

/// The program of IPv4 packets for whose flow the predecessor was asked.
#[xdp]
pub fn lvx_adopt_v4(context: XdpContext) -> u32 {
    path::lvx_adopt::<Kernel, V4>(Kernel, context.ctx)
}

/// The same for IPv6.
#[xdp]
pub fn lvx_adopt_v6(context: XdpContext) -> u32 {
    path::lvx_adopt::<Kernel, V6>(Kernel, context.ctx)
}

/// The program of fragments.
#[xdp]
pub fn lvx_fragment(context: XdpContext) -> u32 {
    path::lvx_fragment(Kernel, context.ctx)
}

/// The program of ICMP.
#[xdp]
pub fn lvx_icmp(context: XdpContext) -> u32 {
    path::lvx_icmp(Kernel, context.ctx)
}

/// The program of packets that ask NAT backends directly.
#[xdp]
pub fn lvx_direct(context: XdpContext) -> u32 {
    path::lvx_direct(Kernel, context.ctx)
}

/// The program of IPv4 packets whose service has no backend left.
#[xdp]
pub fn lvx_reject_v4(context: XdpContext) -> u32 {
    path::lvx_reject::<Kernel, V4>(Kernel, context.ctx)
}

/// The same for IPv6.
#[xdp]
pub fn lvx_reject_v6(context: XdpContext) -> u32 {
    path::lvx_reject::<Kernel, V6>(Kernel, context.ctx)
}

/// The program to which a successor leaves packets whose flow it does not know.
#[xdp]
pub fn lvx_find(context: XdpContext) -> u32 {
    succession::find(Kernel, context.ctx)
}

/// The program that answers a successor's questions. Never attached.
#[xdp]
pub fn lvx_tell(context: XdpContext) -> u32 {
    succession::tell(Kernel, context.ctx)
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
