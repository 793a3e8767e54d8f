//! Rules: what the backends' connections are measured by: idle times and thresholds.

use std::collections::BTreeMap;

use xdp_common::{
    layout::{Backend, Limit, Seen, TIMEOUT_SETS, Timeouts},
    tcp_state::{STATES, State},
};

use crate::{Error, Maps, flow::Flow, image::Image};

/// What a sweep of the flow tables must know of backends.
#[derive(Debug, Default)]
pub struct Rules {
    tick: u32,
    sets: Vec<Timeouts>,
    /// The set of each backend, by number.
    set_of: Vec<u8>,
    /// The backends whose connections packets count, and their thresholds.
    counted: BTreeMap<u32, Limit>,
}

impl Rules {
    /// The rules of the bank in use, for backends up to this number.
    ///
    /// # Errors
    ///
    /// If the kernel does not map a table.
    pub fn read(maps: &Maps, bank: u32, highest: u32) -> Result<Self, Error> {
        let place = |number: u32| (number << 1 | bank) as usize;
        let (backends, limits, timeouts) = (maps.backends.whole()?, maps.limits.whole()?, maps.timeouts.whole()?);
        let mut rules = Self {
            tick: maps.control().read(0).tick,
            sets: (0..TIMEOUT_SETS).map(|set| timeouts.read(place(set))).collect(),
            ..Self::default()
        };
        for number in 0..=highest {
            let backend = backends.read(place(number));
            rules.set_of.push(backend.timeouts());
            if backend.flags & Backend::COUNTED != 0 {
                rules.counted.insert(number, limits.read(place(number)));
            }
        }
        Ok(rules)
    }

    /// The rules of an image, for backends up to this number.
    #[must_use]
    pub fn of(image: &Image, highest: u32) -> Self {
        let counted = image.backends.iter().filter(|(_, it)| it.flags & Backend::COUNTED != 0);
        let limit = |number: &u32| image.limits.get(number).copied().unwrap_or_default();
        let mut set_of = vec![0; highest as usize + 1];
        for (number, backend) in &image.backends {
            set_of[*number as usize] = backend.timeouts();
        }
        Self {
            tick: image.timeouts.clock.tick(),
            sets: image.timeouts.sets().to_vec(),
            set_of,
            counted: counted.map(|(number, _)| (*number, limit(number))).collect(),
        }
    }

    /// How long a backend's flow may be idle in a state, jiffies.
    #[must_use]
    pub fn idle_timeout(&self, backend: u32, state: State) -> u32 {
        let set = self.set_of.get(backend as usize).copied().unwrap_or(0);
        self.sets
            .get(usize::from(set))
            .map_or(0, |set| set[state as usize % STATES])
    }

    /// Whether a flow has been idle for longer than its backend allows in its state.
    #[must_use]
    pub fn is_expired(&self, flow: &Flow, now: u64) -> bool {
        let age = flow.seen.age(now, self.tick);
        flow.seen
            .is_expired(age, self.tick, self.idle_timeout(flow.backend, flow.state))
    }

    /// When a flow was last seen, if it is to be noted in another unit: what its backend allows has changed since.
    #[must_use]
    pub fn restamp(&self, flow: &Flow, now: u64) -> Option<Seen> {
        flow.seen
            .in_unit_of(now, self.tick, self.idle_timeout(flow.backend, flow.state))
    }

    /// The backends whose connections packets count, and their thresholds.
    #[must_use]
    pub fn counted(&self) -> &BTreeMap<u32, Limit> {
        &self.counted
    }
}
