//! One probe's verdict: results in a row, behind rise and fall.

use serde::{Deserialize, Serialize};

use super::probe::Outcome;
use lvx_model::health::ProbeVerdict;

/// What one probe has said so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streak {
    verdict: ProbeVerdict,
    /// Results in a row that speak against the verdict.
    against: u32,
    /// Whether the last result was a failure.
    failed: bool,
    /// Whether the last success came with a warning.
    #[serde(default)]
    warned: bool,
}

impl Default for Streak {
    fn default() -> Self {
        Self {
            verdict: ProbeVerdict::Unknown,
            against: 0,
            failed: false,
            warned: false,
        }
    }
}

impl Streak {
    /// A streak that begins with a verdict from before a restart.
    pub fn begin(verdict: ProbeVerdict) -> Self {
        Self {
            verdict,
            ..Self::default()
        }
    }

    /// Takes in a result and says what follows: the first success is enough where nothing was known. A result that is unknown
    /// counts neither for nor against anything.
    pub fn take(&mut self, outcome: &Outcome, rise: u32, fall: u32) -> ProbeVerdict {
        if *outcome == Outcome::Unknown {
            return self.verdict();
        }
        self.failed = *outcome == Outcome::Down;
        self.warned = *outcome == Outcome::Degraded || (self.warned && self.failed);
        let (says, needed) = match (outcome, self.verdict) {
            (Outcome::Down, _) => (ProbeVerdict::Down, fall),
            (Outcome::Drain, ProbeVerdict::Down) => (ProbeVerdict::Drain, rise),
            (Outcome::Drain, _) => (ProbeVerdict::Drain, 1),
            (_, ProbeVerdict::Down) => (ProbeVerdict::Up, rise),
            (_, _) => (ProbeVerdict::Up, 1),
        };
        if says == self.verdict {
            self.against = 0;
        } else {
            self.against += 1;
            if self.against >= needed {
                self.verdict = says;
                self.against = 0;
            }
        }
        self.verdict()
    }

    /// The verdict; degraded when the last result was a failure that is not yet enough, or a warning.
    pub fn verdict(&self) -> ProbeVerdict {
        if self.verdict == ProbeVerdict::Up && (self.failed || self.warned) {
            ProbeVerdict::Degraded
        } else {
            self.verdict
        }
    }

    /// Failures or successes in a row that speak against the verdict.
    pub fn against(&self) -> u32 {
        self.against
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(streak: &mut Streak, outcomes: &[Outcome]) -> Vec<ProbeVerdict> {
        outcomes.iter().map(|outcome| streak.take(outcome, 2, 3)).collect()
    }

    #[test]
    fn a_hiccup_does_not_take_a_backend_out() {
        use ProbeVerdict::{Degraded, Down, Up};
        let mut streak = Streak::default();
        let (up, down) = (Outcome::Up, Outcome::Down);
        assert_eq!(
            verdicts(&mut streak, &[up, down, down, up, down, down, down, up, down, up, up]),
            [
                Up, Degraded, Degraded, Up, Degraded, Degraded, Down, Down, Down, Down, Up
            ]
        );
    }

    #[test]
    fn what_is_unknown_is_up_at_the_first_success_and_down_after_fall_failures() {
        use ProbeVerdict::{Down, Unknown};
        let mut streak = Streak::default();
        assert_eq!(verdicts(&mut streak, &[Outcome::Down; 3]), [Unknown, Unknown, Down]);
    }

    #[test]
    fn a_warning_is_a_success_that_degrades() {
        use ProbeVerdict::{Degraded, Down, Up};
        let mut streak = Streak::default();
        let (up, down, warning) = (Outcome::Up, Outcome::Down, Outcome::Degraded);
        assert_eq!(
            verdicts(
                &mut streak,
                &[warning, Outcome::Unknown, up, down, down, warning, down, down, down]
            ),
            [
                Degraded, Degraded, Up, Degraded, Degraded, Degraded, Degraded, Degraded, Down
            ]
        );
        assert_eq!(verdicts(&mut streak, &[warning, warning, up]), [Down, Degraded, Up]);
    }

    #[test]
    fn what_could_not_be_asked_neither_counts_nor_breaks_a_row() {
        use ProbeVerdict::{Degraded, Down, Up};
        let mut streak = Streak::default();
        let (up, down, unknown) = (Outcome::Up, Outcome::Down, Outcome::Unknown);
        assert_eq!(verdicts(&mut streak, &[unknown; 9]), [ProbeVerdict::Unknown; 9]);
        assert_eq!(
            verdicts(&mut streak, &[up, unknown, down, unknown, down, unknown, unknown, down]),
            [Up, Up, Degraded, Degraded, Degraded, Degraded, Degraded, Down]
        );
        assert_eq!(verdicts(&mut streak, &[up, unknown, up]), [Down, Down, Up]);
    }

    #[test]
    fn drain_me_is_believed_at_once_and_so_is_its_end() {
        use ProbeVerdict::{Drain, Up};
        let mut streak = Streak::default();
        let outcomes = [Outcome::Up, Outcome::Drain, Outcome::Drain, Outcome::Up];
        assert_eq!(verdicts(&mut streak, &outcomes), [Up, Drain, Drain, Up]);
    }

    #[test]
    fn mixed_failures_and_drains_do_not_add_up() {
        let mut streak = Streak::begin(ProbeVerdict::Up);
        let outcomes = [Outcome::Down, Outcome::Drain, Outcome::Down, Outcome::Down];
        assert_eq!(verdicts(&mut streak, &outcomes).last(), Some(&ProbeVerdict::Drain));
    }
}
