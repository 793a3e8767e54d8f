//! Addressee: whom a frame is for.

use super::{Env, Outcome, ingress, platform::Platform};
use crate::{
    hash,
    layout::{HOST_MAC_BUCKETS, HOST_MAC_REACH, HostMac, OWN_MACS},
    verdict::Verdict,
};

/// Whether the frame of a packet of ours is addressed to this host: to the interface that it came in by, or to a device above that.
///
/// # Errors
///
/// The outcome for a frame that is for another host, or for nobody. Who sees such frames (a hub, a switch that floods, another
/// node on the same network) leaves them alone, as the kernel does.
#[inline(always)]
pub fn is_this_host<P: Platform>(env: &Env<P>) -> Result<(), Outcome> {
    // SAFETY: parsing has checked the Ethernet header, which has more than eight bytes.
    let mac = HostMac::word(unsafe { env.frame.ethernet().cast::<[u8; 8]>().read_unaligned() });
    let ifindex = u64::from(ingress::ifindex(env));
    for place in 0..OWN_MACS {
        // SAFETY: the words are a table's. An entry that changes is nobody's until no packet reads what it was.
        let (its_mac, its_ifindex) = unsafe {
            let entry = &raw const (*env.control()).own_macs[place];
            (
                env.platform.load(&raw const (*entry).mac),
                env.platform.load(&raw const (*entry).ifindex),
            )
        };
        if its_mac == mac && its_ifindex == ifindex {
            return Ok(());
        }
    }
    match is_known(env.platform, env.bank, mac, ifindex) {
        true => Ok(()),
        false => Err(Outcome::Pass(Verdict::PassedOtherHost)),
    }
}

/// Whether a MAC is in the table of the host's MACs. A function of its own, as few packets need it.
#[inline(never)]
fn is_known<P: Platform>(platform: P, bank: u32, mac: u64, ifindex: u64) -> bool {
    let number = hash::host_mac(mac, ifindex as u32);
    for step in 0..HOST_MAC_REACH {
        let Some(bucket) = platform.host_macs(((number + step) & (HOST_MAC_BUCKETS - 1)) << 1 | bank) else {
            return false;
        };
        // SAFETY: a bank is not written while packets may read it.
        for entry in unsafe { &*bucket } {
            if entry.mac == mac && entry.ifindex == ifindex {
                return true;
            }
        }
    }
    false
}
