//! Opening a dataplane: its program loaded with maps of its own, or gone on with where the predecessor's will do, and pinned.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::atomic::Ordering,
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use xdp_common::{
    layout::{COUNTER_VERSION, Control, FLOW_VERSION, Sizes},
    maps::{MAPS, MapDeclaration, Sharing},
};

use crate::{
    Error, Maps,
    generation::{Generation, PROGRAMS},
    maps,
    pin::Pin,
    predecessor::Predecessor,
    program,
};

/// A program that is loaded, and its maps.
pub struct Opened {
    /// The maps that are read and written through memory.
    pub maps: Maps,
    /// The segments of scheduling tables.
    pub schedules: Map,
    /// The interfaces for `bpf_redirect_map`.
    pub egress: Map,
    /// The programs that others go on in.
    pub tail_calls: Map,
    /// The program and its companions.
    pub ebpf: Ebpf,
    /// The predecessor's maps that are gone on with.
    pub shared: BTreeSet<&'static str>,
    /// The pins of maps and programs.
    pub pins: Vec<Pin>,
}

/// Loads the program with new maps, and with those of a predecessor that can be gone on with. All are pinned in a
/// generation, if there is one.
///
/// # Errors
///
/// If the kernel does not take the program or a map, or the pins cannot be made.
pub fn open(
    object: &[u8],
    generation: Option<&Generation>,
    predecessor: Option<&Predecessor>,
    sizes: Sizes,
    cpus: u32,
) -> Result<Opened, Error> {
    let shared: BTreeMap<_, _> = match predecessor {
        Some(predecessor) => shared(predecessor, sizes, cpus),
        None => BTreeMap::new(),
    };
    let mut ebpf = program::create_maps(object, &shared, sizes, cpus)?;
    // Programs first: they refer to the maps by descriptors that are given away below.
    program::load(&mut ebpf)?;
    // Whoever finds the pins is to know that this dataplane has not taken over.
    maps::steering(&ebpf)?
        .word(0, 0)
        .store(Control::WAITING, Ordering::Release);
    let pins = match generation {
        Some(generation) => pin(&mut ebpf, generation)?,
        None => Vec::new(),
    };
    let mut other = |name| ebpf.take_map(name).ok_or(Error::NoMap(name));
    let (schedules, egress, tail_calls) = (other("SCHEDULES")?, other("EGRESS")?, other("TAIL_CALLS")?);
    Ok(Opened {
        maps: Maps::take(&mut ebpf, sizes, cpus)?,
        schedules,
        egress,
        tail_calls,
        ebpf,
        shared: shared.into_keys().collect(),
        pins,
    })
}

/// The predecessor's maps that can be gone on with, and their pins.
fn shared(predecessor: &Predecessor, sizes: Sizes, cpus: u32) -> BTreeMap<&'static str, PathBuf> {
    let facts = predecessor.facts();
    let pinned = |map: &MapDeclaration| -> Option<(&'static str, PathBuf)> {
        let path = predecessor.map(map.name)?;
        let entries = MapData::from_pin(&path).ok()?.info().ok()?.max_entries();
        let wanted = map.entries.map(|wanted| wanted(&sizes, cpus));
        wanted
            .is_none_or(|wanted| wanted == entries)
            .then_some((map.name, path))
    };
    let of_kind = |kind| MAPS.iter().filter(move |map| map.sharing == kind);
    let flows: Vec<_> = of_kind(Sharing::Flows).filter_map(pinned).collect();
    // All of them or none. A number that there is no room for here must not stand in them.
    let shares_flows = facts.flow_version == FLOW_VERSION
        && facts.backends <= sizes.backends + 1
        && flows.len() == of_kind(Sharing::Flows).count();
    let counts = of_kind(Sharing::Counts)
        .filter(|_| facts.counter_version == COUNTER_VERSION)
        .filter_map(pinned);
    let always = of_kind(Sharing::Always).filter_map(pinned);
    flows
        .iter()
        .filter(|_| shares_flows)
        .cloned()
        .chain(counts)
        .chain(always)
        .collect()
}

/// Pins the maps and the programs that a successor needs.
fn pin(ebpf: &mut Ebpf, generation: &Generation) -> Result<Vec<Pin>, Error> {
    let mut pins = Vec::new();
    for map in MAPS {
        let pinned = ebpf.map(map.name).ok_or(Error::NoMap(map.name))?;
        pinned.pin(generation.map(map.name))?;
        pins.push(Pin::hold(&generation.map(map.name))?);
    }
    for name in PROGRAMS {
        program::program(ebpf, name)?.pin(generation.program(name))?;
        pins.push(Pin::hold(&generation.program(name))?);
    }
    Ok(pins)
}
