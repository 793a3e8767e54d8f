//! A backend's state machine: pure, driven by verdicts and a clock that only goes forward.
//!
//! A verdict is what all probes of a backend say together ([`super::combine`]); rise and fall are behind it already.
//! Here it is decided whether a change of verdict becomes a change of state at once, or is held out because the backend
//! flaps, and how much of its weight a backend gets after coming back.

use std::time::Duration;

use lvx_model::{
    Availability,
    health::{ProbeVerdict, State},
};
use serde::{Deserialize, Serialize};

/// Going down more than once within this time is flapping; after so long in service everything is forgiven.
pub const FLAP_WINDOW: Duration = Duration::from_secs(60);

/// Steps of a slow start: each is one change of the scheduler's table.
const RAMP_STEPS: u32 = 10;

/// The state machine. Times are since any one moment, the same for all calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    verdict: ProbeVerdict,
    /// Verdicts that count: what the state would be if nothing was held out.
    since: Duration,
    /// Falls that count as flapping.
    flaps: u32,
    last_fall: Option<Duration>,
    held_until: Option<Duration>,
    ramp_from: Option<Duration>,
    state: State,
}

/// What of a machine survives a restart; times are spans, as clocks begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    state: State,
    #[serde(default)]
    flaps: u32,
    #[serde(default)]
    since_fall_ms: Option<u64>,
    #[serde(default)]
    held_ms: Option<u64>,
    #[serde(default)]
    ramped_ms: Option<u64>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            verdict: ProbeVerdict::Unknown,
            since: Duration::ZERO,
            flaps: 0,
            last_fall: None,
            held_until: None,
            ramp_from: None,
            state: State::Unknown,
        }
    }
}

impl Machine {
    /// The state: unknown, up, degraded, down or draining.
    pub fn state(&self) -> State {
        self.state
    }

    /// What the probes say together, whatever is made of it.
    pub fn verdict(&self) -> ProbeVerdict {
        self.verdict
    }

    /// When the state was last another.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// Falls within [`FLAP_WINDOW`] of each other.
    pub fn flaps(&self) -> u32 {
        self.flaps
    }

    /// For how long the backend is still held out, if it answers and is.
    pub fn held_for(&self, now: Duration) -> Option<Duration> {
        self.held_until.map(|until| until.saturating_sub(now))
    }

    /// Takes in a verdict and returns the previous state if it is another now.
    pub fn observe(&mut self, verdict: ProbeVerdict, now: Duration, policy: &Availability) -> Option<State> {
        let before = self.verdict;
        self.verdict = verdict;
        if verdict == ProbeVerdict::Down && before != ProbeVerdict::Down {
            self.fell(now, policy);
        }
        self.tick(now, policy)
    }

    /// Lets time pass: a hold-out that is over ends, a backend that stayed up long enough is forgiven.
    pub fn tick(&mut self, now: Duration, policy: &Availability) -> Option<State> {
        let steady = self.state.serves() && self.last_fall.is_some_and(|fall| now >= fall + FLAP_WINDOW);
        if steady && now >= self.since + FLAP_WINDOW.min(policy.hold_out_max.get()) {
            self.flaps = 0;
            self.last_fall = None;
        }
        if policy.hold_out.is_zero() {
            // Nothing is held out any more.
            self.held_until = None;
        }
        let held = self.held_until.is_some_and(|until| now < until);
        let wanted = match self.verdict {
            // What is not known yet leaves what was known before.
            ProbeVerdict::Unknown => return None,
            ProbeVerdict::Up | ProbeVerdict::Degraded | ProbeVerdict::Drain if held => State::Down,
            ProbeVerdict::Up => State::Up,
            ProbeVerdict::Degraded => State::Degraded,
            ProbeVerdict::Drain => State::Draining,
            ProbeVerdict::Down => State::Down,
        };
        if !held && self.verdict != ProbeVerdict::Down {
            self.held_until = None;
        }
        self.become_state(wanted, now)
    }

    /// The share of its weight that the backend gets, in percent: less than 100 while it comes back slowly.
    pub fn share(&self, now: Duration, policy: &Availability) -> u32 {
        let span = policy.slow_start.get();
        let Some(from) = self.ramp_from.filter(|_| !span.is_zero()) else {
            return 100;
        };
        let done = now.saturating_sub(from).as_millis() * u128::from(RAMP_STEPS) / span.as_millis();
        let step = u32::try_from(done).unwrap_or(RAMP_STEPS).min(RAMP_STEPS - 1) + 1;
        if now >= from + span {
            100
        } else {
            step * 100 / RAMP_STEPS
        }
    }

    /// What is to survive a restart.
    pub fn remember(&self, now: Duration) -> Remembered {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Remembered {
            state: self.state,
            flaps: self.flaps,
            since_fall_ms: self.last_fall.map(|fall| millis(now.saturating_sub(fall))),
            held_ms: self.held_for(now).map(millis),
            ramped_ms: self.ramp_from.map(|from| millis(now.saturating_sub(from))),
        }
    }

    /// The machine as it was `ago` before `now`, with a state that the next verdicts confirm or change.
    pub fn recall(remembered: Remembered, ago: Duration, now: Duration) -> Self {
        let at = |millis: u64| now.saturating_sub(Duration::from_millis(millis).saturating_add(ago));
        Self {
            verdict: match remembered.state {
                State::Up => ProbeVerdict::Up,
                State::Degraded => ProbeVerdict::Degraded,
                State::Draining => ProbeVerdict::Drain,
                State::Down => ProbeVerdict::Down,
                State::Unknown | State::Disabled => ProbeVerdict::Unknown,
            },
            since: now,
            flaps: remembered.flaps,
            last_fall: remembered.since_fall_ms.map(at),
            held_until: remembered
                .held_ms
                .map(|millis| now + Duration::from_millis(millis).saturating_sub(ago)),
            ramp_from: remembered.ramped_ms.map(at),
            state: match remembered.state {
                State::Disabled => State::Unknown,
                state => state,
            },
        }
    }

    fn fell(&mut self, now: Duration, policy: &Availability) {
        let again = self.last_fall.is_some_and(|fall| now < fall + FLAP_WINDOW) || self.held_until.is_some();
        self.flaps = if again { self.flaps.saturating_add(1) } else { 1 };
        self.last_fall = Some(now);
        let base = policy.hold_out.get();
        if self.flaps >= 2 && !base.is_zero() {
            let grown = base.saturating_mul(1 << (self.flaps - 2).min(20));
            self.held_until = Some(now + grown.min(policy.hold_out_max.get()));
        }
    }

    fn become_state(&mut self, wanted: State, now: Duration) -> Option<State> {
        let before = self.state;
        if wanted == before {
            return None;
        }
        if wanted.serves() && matches!(before, State::Down | State::Draining) {
            self.ramp_from = Some(now);
        } else if !wanted.serves() {
            self.ramp_from = None;
        }
        self.state = wanted;
        self.since = now;
        Some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lvx_model::Period;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn policy() -> Availability {
        Availability {
            hold_out: Period::from_millis(10_000),
            hold_out_max: Period::from_millis(60_000),
            ..Availability::default()
        }
    }

    #[test]
    fn a_backend_follows_its_verdicts() {
        let mut machine = Machine::default();
        assert_eq!(machine.state(), State::Unknown);
        assert_eq!(
            machine.observe(ProbeVerdict::Up, at(1), &policy()),
            Some(State::Unknown)
        );
        assert_eq!(
            machine.observe(ProbeVerdict::Degraded, at(2), &policy()),
            Some(State::Up)
        );
        assert_eq!(machine.observe(ProbeVerdict::Degraded, at(3), &policy()), None);
        assert_eq!(
            machine.observe(ProbeVerdict::Drain, at(4), &policy()),
            Some(State::Degraded)
        );
        assert_eq!(
            machine.observe(ProbeVerdict::Up, at(5), &policy()),
            Some(State::Draining)
        );
        assert_eq!(machine.observe(ProbeVerdict::Unknown, at(6), &policy()), None);
        assert_eq!(machine.observe(ProbeVerdict::Down, at(7), &policy()), Some(State::Up));
        assert_eq!((machine.state(), machine.since()), (State::Down, at(7)));
    }

    #[test]
    fn one_fall_is_not_held_against_a_backend() {
        let mut machine = Machine::default();
        machine.observe(ProbeVerdict::Up, at(0), &policy());
        machine.observe(ProbeVerdict::Down, at(1_000), &policy());
        machine.observe(ProbeVerdict::Up, at(2_000), &policy());
        assert_eq!(machine.state(), State::Up);
    }

    #[test]
    fn a_backend_that_flaps_goes_out_and_stays_out() {
        let mut machine = Machine::default();
        let mut changes = 0;
        for second in 0..120 {
            let verdict = if second % 2 == 0 {
                ProbeVerdict::Up
            } else {
                ProbeVerdict::Down
            };
            changes += usize::from(machine.observe(verdict, at(second * 1_000), &policy()).is_some());
            for part in 1..10 {
                changes += usize::from(machine.tick(at(second * 1_000 + part * 100), &policy()).is_some());
            }
        }
        // Unknown -> up -> down -> up -> down, and no more.
        assert_eq!((changes, machine.state()), (4, State::Down));
        // The last fall was at 119 s; the hold-out has grown to its cap.
        assert_eq!(machine.held_for(at(119_000)), Some(at(60_000)));
        machine.observe(ProbeVerdict::Up, at(120_000), &policy());
        assert_eq!(machine.tick(at(178_999), &policy()), None);
        assert_eq!(machine.tick(at(179_000), &policy()), Some(State::Down));
    }

    #[test]
    fn the_hold_out_doubles_up_to_its_cap_and_a_minute_in_service_forgives() {
        let mut machine = Machine::default();
        let mut now = at(0);
        let mut held = Vec::new();
        for _ in 0..6 {
            machine.observe(ProbeVerdict::Up, now, &policy());
            now += at(1_000);
            machine.observe(ProbeVerdict::Down, now, &policy());
            held.push(machine.held_for(now).map_or(0, |span| span.as_secs()));
        }
        assert_eq!(held, [0, 10, 20, 40, 60, 60]);
        machine.observe(ProbeVerdict::Up, now, &policy());
        now += at(60_000);
        machine.tick(now, &policy());
        assert_eq!((machine.state(), machine.flaps()), (State::Up, 6));
        now += FLAP_WINDOW;
        machine.tick(now, &policy());
        assert_eq!(machine.flaps(), 0);
    }

    #[test]
    fn a_hold_out_of_0_releases_what_is_held_out() {
        let mut machine = Machine::default();
        for second in 0..4 {
            let verdict = [ProbeVerdict::Up, ProbeVerdict::Down][second as usize % 2];
            machine.observe(verdict, at(second * 1_000), &policy());
        }
        machine.observe(ProbeVerdict::Up, at(4_000), &policy());
        assert_eq!(
            (machine.state(), machine.held_for(at(4_000))),
            (State::Down, Some(at(9_000)))
        );
        let none = Availability {
            hold_out: Period::from_millis(0),
            ..policy()
        };
        assert_eq!(machine.tick(at(4_200), &none), Some(State::Down));
        assert_eq!((machine.state(), machine.held_for(at(4_200))), (State::Up, None));
    }

    #[test]
    fn a_backend_that_comes_back_gets_its_weight_step_by_step() {
        let policy = Availability {
            slow_start: Period::from_millis(10_000),
            ..policy()
        };
        let mut machine = Machine::default();
        machine.observe(ProbeVerdict::Up, at(0), &policy);
        assert_eq!(
            machine.share(at(0), &policy),
            100,
            "a backend that was never down begins in full"
        );
        machine.observe(ProbeVerdict::Down, at(1_000), &policy);
        machine.observe(ProbeVerdict::Up, at(2_000), &policy);
        let shares: Vec<_> = (0..12)
            .map(|second| machine.share(at(2_000 + second * 1_000), &policy))
            .collect();
        assert_eq!(shares, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 100, 100]);
    }

    #[test]
    fn a_restart_forgets_neither_state_nor_hold_out() {
        let mut machine = Machine::default();
        for (verdict, millis) in [
            (ProbeVerdict::Up, 0),
            (ProbeVerdict::Down, 1),
            (ProbeVerdict::Up, 2),
            (ProbeVerdict::Down, 3),
        ] {
            machine.observe(verdict, at(millis), &policy());
        }
        machine.observe(ProbeVerdict::Up, at(4), &policy());
        let remembered = machine.remember(at(4_003));
        let mut recalled = Machine::recall(remembered, at(1_000), at(50));
        assert_eq!((recalled.state(), recalled.flaps()), (State::Down, 2));
        assert_eq!(recalled.held_for(at(50)), Some(at(5_000)));
        recalled.observe(ProbeVerdict::Up, at(100), &policy());
        assert_eq!(recalled.tick(at(5_050), &policy()), Some(State::Down));
    }

    #[test]
    fn a_healthy_backend_is_still_up_after_a_restart_before_any_probe() {
        let mut machine = Machine::default();
        machine.observe(ProbeVerdict::Up, at(0), &policy());
        let mut recalled = Machine::recall(machine.remember(at(9)), at(9_000), at(0));
        assert_eq!(recalled.state(), State::Up);
        assert_eq!(recalled.observe(ProbeVerdict::Unknown, at(1), &policy()), None);
        assert_eq!(recalled.state(), State::Up);
    }
}
