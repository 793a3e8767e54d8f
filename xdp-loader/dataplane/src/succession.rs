//! Succession: from the dataplane in force to this daemon's, with no packet dropped and no flow lost, whatever changed in the
//! layouts. In order:
//!
//! 1. [`Succession::prepare`] finds the generation in force and asks it what it is; [`crate::open::open`] loads the new one
//!    with maps of its own, and with the old one's where nothing has changed in them.
//! 2. [`Succession::introduce`] tells each of the programs that packets go on in the other.
//! 3. The configuration is written, all of it.
//! 4. The new program replaces the old one in every link. It passes packets on to the old one ([`Control::WAITING`]).
//! 5. One store turns all interfaces. If the tables of flows are not shared, the new dataplane looks up what it does not know
//!    in the old one ([`Control::SUCCEEDING`]), until [`Succession::copy`] has brought all flows over.
//! 6. [`Succession::count_on`] enters what the old dataplane had counted; [`Succession::conclude`] removes its pins.
//!
//! Until step 5 nothing has changed for packets, and whatever fails leaves the old dataplane in force. A daemon that is
//! killed leaves a generation behind that waits; the next one removes it. One that is killed while it copies leaves two behind,
//! of which the older, the elder, still is asked; the next one copies from it first.
//!
//! [`Control::WAITING`]: xdp_common::layout::Control::WAITING
//! [`Control::SUCCEEDING`]: xdp_common::layout::Control::SUCCEEDING

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use aya::{
    Ebpf,
    maps::{Map, ProgramArray},
    programs::Xdp,
};
use tracing::{info, warn};
use xdp_common::{layout::TailCall, succession::successor};

use lvx_model::BackendKey;

use super::{
    Clock, Error, Maps,
    copy::{Copied, Copy, Numbering},
    counters,
    generation::Generation,
    ids::{Group, Ids},
    pins::{prepare, remove_ungrouped},
    predecessor::Predecessor,
    program, recovery,
    rules::Rules,
};

/// A dataplane that takes over, and whom it takes over from.
#[derive(Default)]
pub struct Succession {
    generation: Option<Generation>,
    /// Generations that go when this one is in force.
    before: Vec<Generation>,
    predecessor: Option<Predecessor>,
    /// Whom the predecessor took over from, if its daemon died before all flows were copied.
    elder: Option<Predecessor>,
    tail_calls: Option<Map>,
    shared: BTreeSet<&'static str>,
    keys: BTreeMap<u32, BackendKey>,
    groups: BTreeMap<u32, Group>,
    /// Whether this one is in force.
    is_done: bool,
}

impl Succession {
    /// Makes the directory of a new generation and finds the one in force. Without pins there is neither.
    ///
    /// # Errors
    ///
    /// If the pins cannot be read or made.
    pub fn prepare(pins: Option<&Path>, cpus: u32) -> Result<Self, Error> {
        let Some(pins) = pins else {
            return Ok(Self::default());
        };
        prepare(pins)?;
        let all = Generation::all(pins)?;
        let in_force = Generation::in_force(&all).cloned();
        let generation = Generation::next(pins, &all)?;
        let predecessor = match &in_force {
            Some(generation) => ask(generation, cpus)?,
            None => None,
        };
        if let Some(predecessor) = &predecessor {
            // What an attempt before this one may have left.
            predecessor.clear_successor()?;
        }
        let elder = match in_force.filter(Generation::is_succeeding) {
            Some(in_force) => match all.iter().rev().find(|elder| **elder < in_force) {
                Some(elder) => ask(elder, cpus)?,
                None => None,
            },
            None => None,
        };
        let mut succession = Self::default();
        succession.generation = Some(generation);
        // Those that wait were left behind by daemons that did not get far. Their program may be attached, and go on to the one
        // in force: they are there until this one is.
        succession.before = all;
        succession.predecessor = predecessor;
        succession.elder = elder;
        Ok(succession)
    }

    /// Where the new dataplane is pinned.
    #[must_use]
    pub fn generation(&self) -> Option<&Generation> {
        self.generation.as_ref()
    }

    /// The dataplane in force.
    #[must_use]
    pub fn predecessor(&self) -> Option<&Predecessor> {
        self.predecessor.as_ref()
    }

    /// Its maps that are gone on with.
    #[must_use]
    pub fn shared(&self) -> &BTreeSet<&'static str> {
        &self.shared
    }

    /// Its program that is attached.
    pub fn lvx(&mut self) -> Option<&mut Xdp> {
        self.predecessor.as_mut().map(Predecessor::lvx)
    }

    /// Tells each dataplane of the other's programs. `shared` are the maps that both have, `keys` and `groups` what the
    /// predecessor's backends and what shares persistence are told apart by.
    ///
    /// # Errors
    ///
    /// If the kernel does not take the programs.
    pub fn introduce(
        &mut self,
        ebpf: &mut Ebpf,
        tail_calls: Map,
        shared: BTreeSet<&'static str>,
        keys: BTreeMap<u32, BackendKey>,
        groups: BTreeMap<u32, Group>,
    ) -> Result<(), Error> {
        let mut tail_calls = tail_calls;
        if let Some(predecessor) = &self.predecessor {
            let [lvx, find] = predecessor.programs()?;
            let mut places = ProgramArray::try_from(&mut tail_calls)?;
            places.set(TailCall::Predecessor as u32, lvx, 0)?;
            places.set(TailCall::Find as u32, find, 0)?;
            let v4 = program::descriptor(ebpf, "lvx_adopt_v4")?;
            let v6 = program::descriptor(ebpf, "lvx_adopt_v6")?;
            predecessor.set_successor(&[(successor::V4, &v4), (successor::V6, &v6)])?;
        }
        self.tail_calls = Some(tail_calls);
        self.shared = shared;
        self.keys = keys;
        self.groups = groups;
        Ok(())
    }

    /// Whether the predecessor's flows must be copied, as their tables are not shared.
    #[must_use]
    pub fn copies(&self) -> bool {
        self.predecessor.is_some() && !self.shared.contains("FLOWS_V4")
    }

    /// Copies the predecessor's flows into the tables of these maps.
    ///
    /// # Errors
    ///
    /// If the kernel does not map a table, or the predecessor does not answer.
    pub fn copy(&self, maps: &Maps, rules: &Rules, ids: &Ids, clock: Clock) -> Result<(), Error> {
        match &self.predecessor {
            Some(predecessor) => {
                let numbering = numbering(&self.keys, &self.groups, ids);
                Self::copy_from(predecessor, &numbering, maps, rules, clock)
            }
            None => Ok(()),
        }
    }

    /// Copies the flows that the predecessor's daemon had not copied when it died, into tables that are gone on with as it
    /// would have done.
    ///
    /// # Errors
    ///
    /// As [`Self::copy`].
    pub fn copy_from_elder(&self, maps: &Maps, rules: &Rules, ids: &Ids, clock: Clock) -> Result<(), Error> {
        let Some(elder) = &self.elder else {
            return Ok(());
        };
        let keys = recovery::keys(&elder.backends()?);
        let numbering = numbering(&keys, &self.groups, ids);
        Self::copy_from(elder, &numbering, maps, rules, clock)
    }

    fn copy_from(
        predecessor: &Predecessor,
        numbers: &Numbering,
        maps: &Maps,
        rules: &Rules,
        clock: Clock,
    ) -> Result<(), Error> {
        let copy = Copy::into(maps, rules, numbers, clock)?;
        let mut copied = Copied::default();
        predecessor.flows(|is_v6, record| copy.take(is_v6, &record, &mut copied))?;
        info!(flows = copied.flows, "copied the flows of the previous dataplane");
        if copied.lost > 0 {
            warn!(flows = copied.lost, "flows of the previous dataplane had no room");
        }
        Ok(())
    }

    /// Enters what the predecessor has counted, where its counters are not gone on with.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn count_on(&self, maps: &Maps, ids: &Ids) -> Result<(), Error> {
        let Some(predecessor) = &self.predecessor else {
            return Ok(());
        };
        if !self.shared.contains("BACKEND_COUNTERS") {
            let counted = predecessor.counters()?;
            let numbers = numbering(&self.keys, &self.groups, ids).backends;
            let counted = numbers
                .into_iter()
                .filter_map(|(there, here)| Some((here, *counted.get(&there)?)));
            counters::before_of_backends(maps, counted)?;
        }
        if !self.shared.contains("VERDICT_COUNTERS") {
            counters::before_of_interfaces(maps, &predecessor.verdicts()?)?;
        }
        Ok(())
    }

    /// This dataplane is in force: its pins stay.
    pub fn is_in_force(&mut self) {
        self.is_done = true;
    }

    /// No packet is in the predecessor any more, and all that it knew is known here: its pins are removed.
    ///
    /// # Errors
    ///
    /// If a pin cannot be removed.
    pub fn conclude(&mut self, pins: &Path) -> Result<(), Error> {
        self.predecessor = None;
        self.elder = None;
        if let Some(tail_calls) = &mut self.tail_calls {
            let mut places = ProgramArray::try_from(tail_calls)?;
            for place in [TailCall::Predecessor, TailCall::Find] {
                // There is nothing to clear where there was no predecessor.
                let _ = places.clear_index(&(place as u32));
            }
        }
        for generation in self.before.drain(..) {
            generation.remove()?;
        }
        remove_ungrouped(pins)
    }
}

/// A generation's dataplane, if it can be asked.
fn ask(generation: &Generation, cpus: u32) -> Result<Option<Predecessor>, Error> {
    let predecessor = Predecessor::open(generation.clone(), cpus)?;
    if predecessor.is_none() {
        warn!("the programs of the previous dataplane are gone: flows that have begun are not known any more");
    }
    Ok(predecessor)
}

/// The numbers here of what has these numbers elsewhere.
fn numbering(keys: &BTreeMap<u32, BackendKey>, groups: &BTreeMap<u32, Group>, ids: &Ids) -> Numbering {
    let backends = keys.iter().map(|(there, key)| (*there, ids.backends.get(key)));
    let groups = groups.iter().map(|(there, group)| (*there, ids.groups.get(group)));
    let known = |(there, here): (u32, Option<u32>)| here.map(|here| (there, here));
    Numbering {
        backends: backends.filter_map(known).collect(),
        groups: groups.filter_map(known).collect(),
    }
}

/// Removes the pins of all dataplanes; no program is attached any more.
///
/// # Errors
///
/// If a pin cannot be removed.
pub fn end(pins: &Path) -> Result<(), Error> {
    for generation in Generation::all(pins)? {
        generation.remove()?;
    }
    remove_ungrouped(pins)
}

impl Drop for Succession {
    fn drop(&mut self) {
        if let Some(predecessor) = self.predecessor.as_ref().filter(|_| !self.is_done)
            && let Err(error) = predecessor.clear_successor()
        {
            warn!(%error, "the maps of a dataplane that did not come into force stay in memory");
        }
        if let Some(generation) = self.generation.take().filter(|_| !self.is_done)
            && let Err(error) = generation.remove()
        {
            warn!(%error, "the pins of a dataplane that did not come into force could not be removed");
        }
    }
}
