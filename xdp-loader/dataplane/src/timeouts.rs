//! Idle times: the sets that services have, in jiffies.

use lvx_model::{self as model, Period, TimeoutOf};
use xdp_common::{
    layout::{self, TIMEOUT_SETS, Timeouts},
    tcp_state::{STATES, State},
};

use crate::{Clock, Error};

/// The sets of idle times that services have, each there once.
#[derive(Debug)]
pub struct TimeoutSets {
    /// What their jiffies are counted by.
    pub clock: Clock,
    node: model::Timeouts,
    sets: Vec<Timeouts>,
}

impl TimeoutSets {
    /// The node's alone, which is number 0.
    #[must_use]
    pub fn new(clock: Clock, node: model::Timeouts) -> Self {
        let mut sets = Self {
            clock,
            node,
            sets: Vec::new(),
        };
        sets.sets.push(sets.of(model::Timeouts::default(), None));
        sets
    }

    /// The number of the set of a service that has these idle times and this persistence.
    ///
    /// # Errors
    ///
    /// If there are too many different ones.
    pub fn number(&mut self, timeouts: model::Timeouts, persistence: Option<Period>) -> Result<u8, Error> {
        let set = self.of(timeouts, persistence);
        let number = match self.sets.iter().position(|known| *known == set) {
            Some(number) => number,
            None => {
                self.sets.push(set);
                self.sets.len() - 1
            }
        };
        u8::try_from(number).map_err(|_| Error::Full {
            what: "different sets of timeouts and persistence",
            limit: TIMEOUT_SETS - 1,
            setting: "timeouts and persistence (of the services; the number is fixed)",
        })
    }

    /// The sets, by number.
    #[must_use]
    pub fn sets(&self) -> &[Timeouts] {
        &self.sets
    }

    fn of(&self, timeouts: model::Timeouts, persistence: Option<Period>) -> Timeouts {
        let timeouts = timeouts.or(self.node).or(model::Timeouts::IPVS);
        let longest = layout::longest(self.clock.tick());
        let jiffies = |period: Option<Period>| match period {
            Some(period) => self.clock.jiffies_in(period.get()).min(longest),
            None => longest,
        };
        let mut set: Timeouts = [0; STATES];
        for (state, place) in set.iter_mut().enumerate() {
            *place = jiffies(match State::from_bits(state as u8) {
                State::Udp => timeouts.get(TimeoutOf::Udp),
                State::SynReceived => timeouts.get(TimeoutOf::Syn),
                State::Established => timeouts.get(TimeoutOf::Established),
                State::FinClient | State::FinBackend | State::TimeWait => timeouts.get(TimeoutOf::Fin),
                State::Closed => timeouts.get(TimeoutOf::Closed),
                State::Template => persistence,
            });
        }
        set
    }
}
