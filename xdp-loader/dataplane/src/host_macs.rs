//! Host MACs: to which frames are this host's.

use std::{mem::offset_of, sync::atomic::Ordering};

use tracing::warn;
use xdp_common::{
    hash,
    layout::{Control, HOST_MAC_BUCKETS, HOST_MAC_REACH, HOST_MACS_PER_BUCKET, HostMac, HostMacBucket, OWN_MACS},
};

use super::memory::{Memory, grace_period};
use lvx_netlink::LinkTable;

/// Writes the own MACs of the first of these interfaces, by slot, to where packets look first.
pub fn write_own(control: &Memory<Control>, interfaces: impl Iterator<Item = (u32, u32)>, links: &LinkTable) {
    let mut interfaces: Vec<_> = interfaces.collect();
    interfaces.sort_unstable_by_key(|(_, slot)| *slot);
    let mut own = interfaces.into_iter().filter_map(|(ifindex, _)| {
        let mac = HostMac::word_of(links.get(ifindex).ok()?.mac?);
        let ifindex = u64::from(ifindex);
        Some(HostMac { mac, ifindex })
    });
    let wanted: [HostMac; OWN_MACS] = std::array::from_fn(|_| own.next().unwrap_or(HostMac::NONE));
    let there = control.read(0).own_macs;
    if there == wanted {
        return;
    }
    let set = |place: usize, part: usize, value: u64| {
        let at = (offset_of!(Control, own_macs) + place * size_of::<HostMac>() + part) / size_of::<u64>();
        control.word(0, at).store(value, Ordering::Release);
    };
    let changed = || (0..OWN_MACS).filter(|place| there[*place] != wanted[*place]);
    for place in changed() {
        set(place, offset_of!(HostMac, mac), HostMac::NONE.mac);
    }
    // A packet that has read an old MAC compares it with an old index.
    grace_period();
    for place in changed() {
        set(place, offset_of!(HostMac, ifindex), wanted[place].ifindex);
        set(place, offset_of!(HostMac, mac), wanted[place].mac);
    }
}

/// Writes the MACs to which frames are this host's, where they come in by these interfaces, into a bank that is not in use.
pub fn write(table: &Memory<HostMacBucket>, bank: u32, interfaces: impl Iterator<Item = u32>, links: &LinkTable) {
    let mut buckets = [[HostMac::default(); HOST_MACS_PER_BUCKET]; HOST_MAC_BUCKETS as usize];
    for ifindex in interfaces {
        for mac in links.host_macs(ifindex) {
            if !enter(&mut buckets, ifindex, mac) {
                let interface = links.name(ifindex);
                warn!(
                    %interface,
                    mac = %mac.map(|byte| format!("{byte:02x}")).join(":"),
                    "there are too many devices above the interfaces: frames to this one's MAC are not balanced"
                );
            }
        }
    }
    for (number, bucket) in (0..).zip(&buckets) {
        table.write((number << 1 | bank) as usize, bucket);
    }
}

/// Enters a MAC, if there is room.
fn enter(buckets: &mut [HostMacBucket], ifindex: u32, mac: [u8; 6]) -> bool {
    let mac = HostMac::word_of(mac);
    let number = hash::host_mac(mac, ifindex);
    let free = (0..HOST_MAC_REACH)
        .map(|step| ((number + step) % HOST_MAC_BUCKETS) as usize)
        .find_map(|number| {
            let place = buckets[number].iter().position(|entry| entry.ifindex == 0)?;
            Some((number, place))
        });
    let Some((number, place)) = free else {
        return false;
    };
    buckets[number][place] = HostMac {
        mac,
        ifindex: u64::from(ifindex),
    };
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_hundred_macs_find_room_and_two_thousand_do_not() {
        let mut buckets = [[HostMac::default(); HOST_MACS_PER_BUCKET]; HOST_MAC_BUCKETS as usize];
        let mac = |number: u16| [2, 0, 0, 7, (number >> 8) as u8, number as u8];
        assert!((0..500).all(|number| enter(&mut buckets, 3, mac(number))));
        assert!(!(500..2000).all(|number| enter(&mut buckets, 3, mac(number))));
    }
}
