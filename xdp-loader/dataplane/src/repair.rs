//! Repair: pins that somebody has removed from a dataplane in force are put back. Its maps and programs are still there, as
//! they hold each other; where the kernel lets them be found (with CAP_SYS_ADMIN), nothing is lost.

use std::{collections::BTreeSet, path::Path};

use aya::{
    maps::{MapData, MapInfo},
    programs::{ProgramInfo, Xdp, loaded_programs},
};
use aya_obj::programs::XdpAttachType;
use tracing::{info, warn};
use xdp_common::maps::{MAPS, Sharing};

use super::generation::{Generation, PROGRAMS};

/// Letters of a map's name that the kernel keeps (`BPF_OBJ_NAME_LEN`).
const NAME: usize = 15;

/// Puts back what pins of a generation are missing, as far as they can be found.
pub fn repair(generation: &Generation) {
    let missing_maps: Vec<&str> = MAPS
        .iter()
        .map(|map| map.name)
        .filter(|name| !generation.map(name).exists())
        .collect();
    let missing_programs: Vec<&str> = PROGRAMS
        .into_iter()
        .filter(|name| !generation.program(name).exists())
        .collect();
    if missing_maps.is_empty() && missing_programs.is_empty() {
        return;
    }
    // What is still pinned, and no other dataplane's, tells this one's programs from all others.
    let pinned: BTreeSet<u32> = MAPS
        .iter()
        .filter(|map| map.sharing == Sharing::Own)
        .filter_map(|map| MapInfo::from_pin(generation.map(map.name)).ok())
        .map(|info| info.id())
        .collect();
    let mut programs: Vec<(ProgramInfo, Vec<u32>)> = loaded_programs()
        .filter_map(Result::ok)
        .map(|program| {
            let maps = program.map_ids().ok().flatten().unwrap_or_default();
            (program, maps)
        })
        .filter(|(_, maps)| maps.iter().any(|id| pinned.contains(id)))
        .collect();
    let maps: BTreeSet<u32> = programs.iter().flat_map(|(_, maps)| maps).copied().collect();
    for name in missing_programs {
        let found = programs
            .iter()
            .position(|(program, _)| program.name_as_str() == Some(name))
            .and_then(|place| pin_program(programs.remove(place).0, name, &generation.program(name)));
        told(found, name);
    }
    for name in missing_maps {
        let short = &name[..name.len().min(NAME)];
        let found = maps
            .iter()
            .filter_map(|id| MapInfo::from_id(*id).ok())
            .find(|map| map.name_as_str() == Some(short))
            .and_then(|map| MapData::from_id(map.id()).ok())
            .and_then(|map| map.pin(generation.map(name)).ok());
        told(found, name);
    }
}

fn pin_program(program: ProgramInfo, name: &'static str, path: &Path) -> Option<()> {
    let mut program = Xdp::from_program_info(program, name.into(), XdpAttachType::Interface).ok()?;
    program.pin(path).ok()
}

fn told(found: Option<()>, name: &str) {
    match found {
        Some(()) => info!(name, "a pin of the dataplane had been removed; it was put back"),
        None => warn!(name, "a pin of the dataplane has been removed, and cannot be put back"),
    }
}
