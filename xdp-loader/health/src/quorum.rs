//! Which backends of a service get new connections: quorum with hysteresis, sorry backends, fail open. Pure.

use serde::{Deserialize, Serialize};

use lvx_model::{
    Availability,
    health::{Serving, State},
};

/// A backend as the decision sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its state.
    pub state: State,
    /// Its configured weight.
    pub weight: u16,
    /// Whether it is a sorry backend.
    pub sorry: bool,
    /// Whether its reported load keeps new connections from it.
    pub protected: bool,
    /// Whether the operator drains or disabled it.
    pub withdrawn: bool,
}

impl Candidate {
    fn available(&self) -> bool {
        self.state.serves() && self.weight > 0 && !self.withdrawn
    }
}

/// The quorum of a service, from one decision to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    /// Whether it was lost and is not regained yet.
    pub lost: bool,
    /// The weights of healthy backends.
    pub available: u32,
    /// Who serves.
    pub serving: Serving,
}

impl Quorum {
    /// Decides anew. Returns for each candidate whether it takes new connections.
    pub fn decide(&mut self, candidates: &[Candidate], policy: &Availability) -> Vec<bool> {
        let regular = || candidates.iter().filter(|candidate| !candidate.sorry);
        self.available = regular()
            .filter(|candidate| candidate.available())
            .map(|candidate| u32::from(candidate.weight))
            .sum();
        let needed = match self.lost {
            true => policy.quorum.saturating_add(policy.quorum_hysteresis),
            false => policy.quorum.saturating_sub(policy.quorum_hysteresis),
        };
        let unproven = |candidate: &Candidate| {
            candidate.state == State::Unknown && candidate.weight > 0 && !candidate.withdrawn && !candidate.sorry
        };
        // What was never probed is no loss yet.
        let undecided = self.available == 0 && candidates.iter().any(unproven);
        self.lost = self.available < needed && !undecided;
        let healthy = |candidate: &Candidate| candidate.available() && !candidate.sorry;
        let sorry = |candidate: &Candidate| candidate.available() && candidate.sorry;
        self.serving = if self.lost && candidates.iter().any(sorry) {
            Serving::Sorry
        } else if self.available > 0 {
            Serving::Healthy
        } else if undecided {
            Serving::Unproven
        } else if policy.fail_open && regular().any(|candidate| candidate.weight > 0 && !candidate.withdrawn) {
            Serving::FailOpen
        } else {
            Serving::None
        };
        let takes = |candidate: &Candidate| match self.serving {
            Serving::Healthy => healthy(candidate) && !candidate.protected,
            Serving::Unproven => unproven(candidate),
            Serving::Sorry => sorry(candidate),
            Serving::FailOpen => !candidate.sorry && candidate.weight > 0 && !candidate.withdrawn,
            Serving::None => false,
        };
        candidates.iter().map(takes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(state: State) -> Candidate {
        Candidate {
            state,
            weight: 1,
            sorry: false,
            protected: false,
            withdrawn: false,
        }
    }

    fn sorry(state: State) -> Candidate {
        Candidate {
            sorry: true,
            ..candidate(state)
        }
    }

    fn decide(quorum: &mut Quorum, candidates: &[Candidate], policy: &Availability) -> (Serving, Vec<bool>) {
        let takes = quorum.decide(candidates, policy);
        (quorum.serving, takes)
    }

    #[test]
    fn the_healthy_serve_and_the_rest_do_not() {
        use State::{Degraded, Disabled, Down, Draining, Unknown, Up};
        let states = [Up, Degraded, Down, Draining, Disabled, Unknown].map(candidate);
        let (serving, takes) = decide(&mut Quorum::default(), &states, &Availability::default());
        assert_eq!(serving, Serving::Healthy);
        assert_eq!(takes, [true, true, false, false, false, false]);
    }

    #[test]
    fn where_nothing_is_known_yet_the_unknown_serve() {
        let (serving, takes) = decide(
            &mut Quorum::default(),
            &[candidate(State::Unknown), candidate(State::Down)],
            &Availability::default(),
        );
        assert_eq!((serving, takes), (Serving::Unproven, vec![true, false]));
    }

    #[test]
    fn sorry_serves_only_while_the_quorum_is_lost() {
        let policy = Availability::default();
        let mut quorum = Quorum::default();
        let (up, down) = (candidate(State::Up), candidate(State::Down));
        assert_eq!(decide(&mut quorum, &[up, sorry(State::Up)], &policy).1, [true, false]);
        assert_eq!(
            decide(&mut quorum, &[down, sorry(State::Up)], &policy),
            (Serving::Sorry, vec![false, true])
        );
        assert_eq!(decide(&mut quorum, &[up, sorry(State::Up)], &policy).1, [true, false]);
        assert_eq!(
            decide(&mut quorum, &[down, sorry(State::Down)], &policy),
            (Serving::None, vec![false, false])
        );
    }

    #[test]
    fn the_quorum_has_hysteresis() {
        let policy = Availability {
            quorum: 3,
            quorum_hysteresis: 1,
            ..Availability::default()
        };
        let mut quorum = Quorum::default();
        let lost = |quorum: &mut Quorum, up: usize| {
            let mut states = vec![candidate(State::Down); 5 - up];
            states.extend(vec![candidate(State::Up); up]);
            states.push(sorry(State::Up));
            quorum.decide(&states, &policy);
            quorum.lost
        };
        let counts = [3, 2, 1, 2, 3, 4, 2, 1];
        assert_eq!(
            counts.map(|up| lost(&mut quorum, up)),
            [false, false, true, true, true, false, false, true]
        );
    }

    #[test]
    fn without_a_sorry_backend_those_that_are_left_go_on() {
        let policy = Availability {
            quorum: 2,
            ..Availability::default()
        };
        let mut quorum = Quorum::default();
        let (serving, takes) = decide(&mut quorum, &[candidate(State::Up), candidate(State::Down)], &policy);
        assert_eq!(
            (quorum.lost, serving, takes),
            (true, Serving::Healthy, vec![true, false])
        );
    }

    #[test]
    fn fail_open_sends_to_all_but_the_withdrawn_when_none_is_healthy() {
        let policy = Availability {
            fail_open: true,
            ..Availability::default()
        };
        let withdrawn = Candidate {
            withdrawn: true,
            ..candidate(State::Down)
        };
        let (serving, takes) = decide(
            &mut Quorum::default(),
            &[candidate(State::Down), withdrawn, candidate(State::Draining)],
            &policy,
        );
        assert_eq!((serving, takes), (Serving::FailOpen, vec![true, false, true]));
    }

    #[test]
    fn a_backend_past_its_load_limit_is_spared_but_counts_for_the_quorum() {
        let loaded = Candidate {
            protected: true,
            ..candidate(State::Degraded)
        };
        let mut quorum = Quorum::default();
        let (serving, takes) = decide(&mut quorum, &[loaded, candidate(State::Up)], &Availability::default());
        assert_eq!(
            (serving, takes, quorum.available),
            (Serving::Healthy, vec![false, true], 2)
        );
    }
}
