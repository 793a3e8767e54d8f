//! Succession: from the dataplane in force to this daemon's, with no packet dropped and no flow lost, whatever changed in the
//! layouts. In order:
//!
//! 1. [`Succession::prepare`] finds the generation in force and asks it what it is; [`super::Maps::open`] loads the new one
//!    with maps of its own, and with the old one's where nothing has changed in them.
//! 2. [`Succession::introduce`] tells each of the programs that packets go on in the other.
//! 3. The configuration is written, all of it.
//! 4. The new program replaces the old one in every link. It passes packets on to the old one ([`Control::WAITING`]).
//! 5. One store turns all interfaces. If the tables of flows are not shared, the new dataplane looks up what it does not know
//!    in the old one ([`Control::SUCCEEDING`]), until [`Succession::copy`] has brought all flows over.
//! 6. [`Succession::conclude`] adds what the old dataplane had counted, and removes its pins.
//!
//! Until step 5 nothing has changed for packets, and whatever fails leaves the old dataplane in force. A daemon that is
//! killed leaves a generation behind that waits; the next one removes it.
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

use super::{
    Clock, Error, Maps, attach,
    copy::{Copied, Copy},
    counters,
    generation::Generation,
    image::{BackendKey, Names},
    maps::{prepare, remove_ungrouped},
    predecessor::Predecessor,
    recovery,
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
        let (before, waiting): (Vec<_>, Vec<_>) = all
            .iter()
            .cloned()
            .partition(|generation| in_force.as_ref().is_some_and(|in_force| generation <= in_force));
        // Left behind by a daemon that did not get far. Its program may be attached: it goes on to the one in force.
        let generation = Generation::next(pins, &all)?;
        let ask = |generation: &Generation| match Predecessor::open(generation.clone(), cpus) {
            Ok(predecessor) => Some(predecessor),
            Err(error) => {
                warn!(%error, "flows that have begun are not known any more");
                None
            }
        };
        let predecessor = in_force.as_ref().and_then(ask);
        let elder = in_force
            .filter(Generation::is_succeeding)
            .and_then(|in_force| before.iter().rev().find(|elder| **elder != in_force))
            .and_then(ask);
        let mut succession = Self::default();
        succession.generation = Some(generation);
        succession.before = before.into_iter().chain(waiting).collect();
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

    /// Whether its flow tables have all flows in them.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.elder.is_none()
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

    /// Tells each dataplane of the other's programs. `shared` are the maps that both have, `keys` what the predecessor's
    /// backends are told apart by.
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
    ) -> Result<(), Error> {
        let mut tail_calls = tail_calls;
        if let Some(predecessor) = &self.predecessor {
            let [lvx, find] = predecessor.programs()?;
            let mut places = ProgramArray::try_from(&mut tail_calls)?;
            places.set(TailCall::Predecessor as u32, lvx, 0)?;
            places.set(TailCall::Find as u32, find, 0)?;
            let v4 = attach::descriptor(ebpf, "lvx_new_flow_v4")?;
            let v6 = attach::descriptor(ebpf, "lvx_new_flow_v6")?;
            predecessor.set_successor(&[(successor::V4, &v4), (successor::V6, &v6)])?;
        }
        self.tail_calls = Some(tail_calls);
        self.shared = shared;
        self.keys = keys;
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
    pub fn copy(&self, maps: &Maps, rules: &Rules, names: &Names, clock: Clock) -> Result<(), Error> {
        match &self.predecessor {
            Some(predecessor) => Self::copy_from(predecessor, &self.numbers(names), maps, rules, clock),
            None => Ok(()),
        }
    }

    /// Copies the flows that the predecessor had not copied. No packet changes them any more.
    ///
    /// # Errors
    ///
    /// As [`Self::copy`].
    pub fn copy_from_elder(&self, maps: &Maps, rules: &Rules, names: &Names, clock: Clock) -> Result<(), Error> {
        let Some(elder) = &self.elder else {
            return Ok(());
        };
        let keys = recovery::keys(&elder.backends()?);
        Self::copy_from(elder, &numbers(&keys, names), maps, rules, clock)
    }

    fn copy_from(
        predecessor: &Predecessor,
        numbers: &BTreeMap<u32, u32>,
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

    /// The numbers that the predecessor's backends have here, by those that they have there.
    fn numbers(&self, names: &Names) -> BTreeMap<u32, u32> {
        numbers(&self.keys, names)
    }

    /// This dataplane is in force, and no packet is in the predecessor any more: what that had counted is gone on with, and its
    /// pins are removed.
    ///
    /// # Errors
    ///
    /// If the predecessor does not answer, or a pin cannot be removed.
    pub fn conclude(&mut self, maps: &Maps, names: &Names, pins: &Path) -> Result<(), Error> {
        self.is_done = true;
        if let Some(predecessor) = self.predecessor.take() {
            let backends = match self.shared.contains("BACKEND_COUNTERS") {
                true => BTreeMap::new(),
                false => {
                    let numbers = self.numbers(names);
                    let counted = predecessor.counters()?;
                    numbers
                        .into_iter()
                        .filter_map(|(there, here)| Some((here, *counted.get(&there)?)))
                        .collect()
                }
            };
            let interfaces = match self.shared.contains("VERDICT_COUNTERS") {
                true => Vec::new(),
                false => predecessor.verdicts()?,
            };
            counters::go_on(maps, &backends, &interfaces)?;
        }
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

/// The numbers of backends here, by those that they have elsewhere.
fn numbers(keys: &BTreeMap<u32, BackendKey>, names: &Names) -> BTreeMap<u32, u32> {
    keys.iter()
        .filter_map(|(there, key)| Some((*there, names.backends.get(key)?)))
        .collect()
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
        if let Some(generation) = self.generation.take().filter(|_| !self.is_done)
            && let Err(error) = generation.remove()
        {
            warn!(%error, "the pins of a dataplane that did not come into force could not be removed");
        }
    }
}
