//! Interfaces: the slots that they have in the maps.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Map, MapData, xdp::DevMap};
use xdp_common::{
    hash,
    layout::{InterfaceBucket, InterfaceSlot, MAX_INTERFACES},
};

use super::{Error, attach::name_of, memory::Memory};

/// Which interface has which slot. Slot 0 is nobody's.
#[derive(Debug, Default)]
pub struct Interfaces {
    by_index: BTreeMap<u32, u32>,
    /// Slots of a predecessor's interfaces that have gone: flows may know them, so they are given last.
    former: BTreeSet<u32>,
}

impl Interfaces {
    /// Has an interface keep the slot that it had in a predecessor. One that has gone meanwhile needs none.
    pub fn keep(&mut self, ifindex: u32, slot: u32, slots: &Memory<InterfaceBucket>, egress: &mut Map) {
        let place = place(slots, ifindex, |entry| entry == InterfaceSlot::NONE);
        let is_there =
            DevMap::<&mut MapData>::try_from(egress).is_ok_and(|mut egress| egress.set(slot, ifindex, None, 0).is_ok());
        if let (Some(place), true, 1..MAX_INTERFACES) = (place, is_there, slot) {
            enter(slots, place, InterfaceSlot::new(ifindex, slot));
            self.by_index.insert(ifindex, slot);
        } else {
            self.former.insert(slot);
        }
    }

    /// The slot of an interface; a new one, entered into the maps, if it has none.
    ///
    /// # Errors
    ///
    /// If there are too many interfaces, or the kernel does not know this one.
    pub fn give(&mut self, ifindex: u32, slots: &Memory<InterfaceBucket>, egress: &mut Map) -> Result<u32, Error> {
        if let Some(slot) = self.by_index.get(&ifindex) {
            return Ok(*slot);
        }
        let is_free = |slot: &u32| !self.by_index.values().any(|taken| taken == slot);
        let mut fresh = (1..MAX_INTERFACES).filter(|slot| is_free(slot) && !self.former.contains(slot));
        let slot = fresh
            .next()
            .or_else(|| self.former.iter().copied().find(is_free))
            .ok_or_else(|| Error::TooManyInterfaces {
                interface: name_of(ifindex),
                limit: MAX_INTERFACES - 1,
            })?;
        let place =
            place(slots, ifindex, |entry| entry == InterfaceSlot::NONE).ok_or_else(|| self.index_taken(ifindex))?;
        DevMap::<&mut MapData>::try_from(egress)?
            .set(slot, ifindex, None, 0)
            .map_err(aya_xdp)?;
        enter(slots, place, InterfaceSlot::new(ifindex, slot));
        self.by_index.insert(ifindex, slot);
        Ok(slot)
    }

    /// Why there is no place for an interface's index.
    fn index_taken(&self, ifindex: u32) -> Error {
        let is_beside = |other: &&u32| hash::interface(**other) == hash::interface(ifindex);
        let others: Vec<_> = self.by_index.keys().filter(is_beside).map(|it| name_of(*it)).collect();
        Error::IndexTaken {
            interface: name_of(ifindex),
            ifindex,
            others: others.join(", "),
        }
    }

    /// Enters an interface's slot anew as the one that packets leave through: the kernel has taken it out of the devmap if the
    /// interface went and came back with the same index.
    ///
    /// # Errors
    ///
    /// If the kernel does not know the interface.
    pub fn renew(&self, ifindex: u32, egress: &mut Map) -> Result<(), Error> {
        match self.slot(ifindex) {
            Some(slot) => DevMap::<&mut MapData>::try_from(egress)?
                .set(slot, ifindex, None, 0)
                .map_err(aya_xdp),
            None => Ok(()),
        }
    }

    /// Takes the slots of interfaces that no longer exist.
    pub fn retain(&mut self, keep: impl Fn(u32) -> bool, slots: &Memory<InterfaceBucket>) {
        let gone: Vec<u32> = self
            .by_index
            .keys()
            .filter(|ifindex| !keep(**ifindex))
            .copied()
            .collect();
        for ifindex in gone {
            self.by_index.remove(&ifindex);
            if let Some(place) = place(slots, ifindex, |entry| entry.ifindex() == ifindex) {
                enter(slots, place, InterfaceSlot::NONE);
            }
        }
    }

    /// The slot of an interface, if it has one.
    #[must_use]
    pub fn slot(&self, ifindex: u32) -> Option<u32> {
        self.by_index.get(&ifindex).copied()
    }

    /// The interfaces and their slots.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        self.by_index.iter().map(|(ifindex, slot)| (*ifindex, *slot))
    }
}

/// Where in the table an interface's slot stands or may stand: its bucket, and a place in it.
fn place(
    slots: &Memory<InterfaceBucket>,
    ifindex: u32,
    wanted: impl Fn(InterfaceSlot) -> bool,
) -> Option<(usize, usize)> {
    let bucket = hash::interface(ifindex) as usize;
    let place = slots.read(bucket).into_iter().position(wanted)?;
    Some((bucket, place))
}

/// Writes an entry, which packets read as one word.
fn enter(slots: &Memory<InterfaceBucket>, (bucket, place): (usize, usize), entry: InterfaceSlot) {
    slots
        .word(bucket, place)
        .store(entry.0, std::sync::atomic::Ordering::Release);
}

/// An error of an XDP map as one of maps.
fn aya_xdp(error: aya::maps::xdp::XdpMapError) -> Error {
    match error {
        aya::maps::xdp::XdpMapError::MapError(error) => Error::Map(error),
        other => Error::Load(other.to_string()),
    }
}
