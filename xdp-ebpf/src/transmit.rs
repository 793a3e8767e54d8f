//! Transmit: out of the interface the packet came in by, or through the devmap out of another.

use aya_ebpf::bindings::xdp_action;
use xdp_common::{
    layout::{Backend, Hop, PORT_SLOTS, PORTS},
    verdict::Verdict,
    wire::Ethernet,
};

use crate::{Env, end::End, maps, rewrite};

/// The index of the interface that a packet came in by.
#[inline(always)]
pub fn ingress(env: &Env) -> u32 {
    // SAFETY: the context is the kernel's.
    unsafe { (*env.context).ingress_ifindex }
}

/// The port of the interface that a packet came in by: place 0, which is nobody's, if it has none.
#[inline(always)]
pub fn ingress_port(env: &Env) -> u32 {
    let ifindex = ingress(env);
    match maps::PORT_OF.get(ifindex & (PORT_SLOTS - 1)) {
        Some(slot) if slot.ifindex == ifindex => slot.port & (PORTS - 1),
        _ => 0,
    }
}

/// The next hop that an answer to this packet takes: back to where it came from.
#[inline(always)]
pub fn hop_back(env: &Env) -> Hop {
    let ethernet: *mut Ethernet = env.frame.ethernet();
    // SAFETY: parsing has checked the Ethernet header.
    let macs = unsafe { (*ethernet).addresses };
    Hop::new([macs[3], macs[4], macs[5]], ingress_port(env))
}

/// To a backend, whose next hop is known.
#[inline(always)]
pub fn to_backend(env: &Env, backend: &Backend) -> End {
    // SAFETY: parsing has checked the Ethernet header.
    unsafe { rewrite::macs(env.frame, &backend.macs) };
    out(env, backend.ifindex, u32::from(backend.out))
}

/// To a client, by the way its own packets came.
#[inline(always)]
pub fn to_client(env: &Env, hop: Hop) -> End {
    let Some(port) = maps::PORTS.get((hop.port() & (PORTS - 1)) << 1 | env.bank) else {
        return End::Drop(Verdict::DroppedNoInterface);
    };
    if port.ifindex == 0 {
        return End::Drop(Verdict::DroppedNoInterface);
    }
    let [a, b, c] = hop.mac();
    let [d, e, f] = port.mac;
    // SAFETY: parsing has checked the Ethernet header.
    unsafe { rewrite::macs(env.frame, &[a, b, c, d, e, f]) };
    out(env, port.ifindex, hop.port())
}

/// Out of an interface.
#[inline(always)]
fn out(env: &Env, ifindex: u32, port: u32) -> End {
    if ifindex == ingress(env) {
        return End::Action(xdp_action::XDP_TX);
    }
    match maps::TX_PORTS.redirect(port, 0) {
        Ok(action) => End::Action(action),
        Err(_) => End::Drop(Verdict::DroppedNoInterface),
    }
}
