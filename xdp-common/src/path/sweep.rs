//! Sweep: what the kernel does by itself, whether a daemon runs or not: it forgets flows that were idle for too long.
//!
//! A flow's last-seen time wraps ([`crate::layout::Seen`]): an entry that is over has to be freed before it looks young again.
//! So all buckets are looked at in [`ROUND`], one after the other, IPv4's first. A daemon's own sweeps are more frequent; they
//! also count, and know what is gone.

use super::{
    connections,
    family::{Family, V4, V6},
    platform::Platform,
};
use crate::layout::{Control, FLOWS_PER_BUCKET, FlowEntry};

/// In how many seconds all buckets are looked at once. The shortest unit of a last-seen time, about a quarter of a second, wraps
/// after twice as long as flows that are noted in it may be idle for: some 250 seconds remain to find them.
pub const ROUND: u64 = 128;

/// Looks at the bucket in this place, counted over both tables. Returns the place of the next one.
#[inline(always)]
pub fn bucket<P: Platform>(platform: P, place: u64) -> u64 {
    let v4 = u64::from(V4::mask(platform)) + 1;
    let all = v4 + u64::from(V6::mask(platform)) + 1;
    if place < v4 {
        idle::<P, V4>(platform, place as u32);
    } else if place < all {
        idle::<P, V6>(platform, (place - v4) as u32);
    } else {
        return 0;
    }
    place + 1
}

/// Forgets the flows of a bucket that were idle for too long.
#[inline(always)]
fn idle<P: Platform, F: Family>(platform: P, number: u32) {
    let (Some(control), Some(bucket)) = (platform.control(0), F::bucket(platform, number)) else {
        return;
    };
    // SAFETY: the word is a table's; the tick is set before the first packet.
    let (mode, tick) = unsafe { (platform.load(&raw const (*control).mode), (*control).tick) };
    if mode & Control::WAITING != 0 {
        return;
    }
    let bank = mode as u32 & 1;
    let now = platform.jiffies();
    for slot in 0..FLOWS_PER_BUCKET {
        // SAFETY: the slot is one of the bucket's.
        let word = unsafe { bucket.cast::<u64>().add(slot) };
        // SAFETY: the word is the flow table's.
        let flow = FlowEntry(unsafe { platform.load(word) });
        let number = flow.backend(F::mask(platform));
        if number == 0 {
            continue;
        }
        let Some(backend) = platform.backends(number << 1 | bank) else {
            continue;
        };
        // SAFETY: a bank is not written while packets may read it, nor while this does, which takes no longer.
        let backend = unsafe { &*backend };
        let set = u32::from(backend.timeouts()) << 1 | bank;
        let Some(timeouts) = platform.timeouts(set) else {
            continue;
        };
        let state = platform.bounded::<{ crate::tcp_state::STATES - 1 }>(flow.state() as usize, number as usize);
        // SAFETY: as above; the place is masked.
        let timeout = unsafe { (*timeouts)[state] };
        let seen = flow.seen();
        if seen.is_expired(seen.age(now, tick), tick, timeout)
            // SAFETY: the word is the flow table's. A packet that comes at this moment has noted the flow, and it stays.
            && unsafe { platform.replace(word, flow.0, FlowEntry::FREE.0) }
        {
            connections::end_in(platform, bank, number, backend, flow.state());
        }
    }
}
