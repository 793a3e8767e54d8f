//! Ingress: where a packet came from, which is also where its answers go.

use super::{Env, platform::Platform};
use crate::{
    hash,
    layout::{Hop, INTERFACES_PER_BUCKET, InterfaceSlot, MAX_INTERFACES},
    wire::Ethernet,
};

/// The index of the interface that a packet came in by.
#[inline(always)]
pub fn ifindex<P: Platform>(env: &Env<P>) -> u32 {
    env.platform.ingress(env.context)
}

/// The slot of the interface that a packet came in by: slot 0, which is nobody's, if it has none.
#[inline(always)]
pub fn interface<P: Platform>(env: &Env<P>) -> u32 {
    slot(env.platform, ifindex(env))
}

/// The slot of an interface with this index: slot 0 if it has none.
#[inline(always)]
pub fn slot<P: Platform>(platform: P, ifindex: u32) -> u32 {
    if let Some(bucket) = platform.interface_slots(hash::interface(ifindex)) {
        for place in 0..INTERFACES_PER_BUCKET {
            // SAFETY: the entries are words of a table, so many to a bucket.
            let entry = InterfaceSlot(unsafe { platform.load(bucket.cast::<u64>().add(place)) });
            if entry.ifindex() == ifindex {
                return entry.slot() & (MAX_INTERFACES - 1);
            }
        }
    }
    0
}

/// The next hop of answers to this packet: back to where it came from.
#[inline(always)]
pub fn hop_back<P: Platform>(env: &Env<P>) -> Hop {
    let ethernet: *mut Ethernet = env.frame.ethernet();
    // SAFETY: parsing has checked the Ethernet header.
    let macs = unsafe { (*ethernet).addresses };
    Hop::new([macs[3], macs[4], macs[5]], interface(env))
}
