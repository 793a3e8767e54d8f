//! What a probe has said lately: the last results, and how long they took.

use std::{collections::VecDeque, time::Duration};

use super::probe::{Outcome, Report};

/// Results that are kept per probe.
const KEPT: usize = 32;

/// Latencies that percentiles are taken from.
const LATENCIES: usize = 128;

/// One result.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// When it came.
    pub at: Duration,
    /// What it was.
    pub outcome: Outcome,
    /// How long it took, in microseconds.
    pub micros: u32,
    /// Why, where it was not a success, or what was said.
    pub reason: Option<Box<str>>,
}

/// The last results of one probe. Bounded: 32 results and 128 latencies.
#[derive(Clone, Debug, Default)]
pub struct History {
    entries: VecDeque<Entry>,
    latencies: VecDeque<u32>,
    /// Results in all.
    pub total: u64,
    /// Failures in all.
    pub failed: u64,
    /// Results in all that say nothing, because this node could not ask.
    pub unknown: u64,
}

impl History {
    /// Takes in a result.
    pub fn add(&mut self, report: &Report, at: Duration) {
        let micros = u32::try_from(report.latency.as_micros()).unwrap_or(u32::MAX);
        self.total += 1;
        match report.outcome {
            Outcome::Down => self.failed += 1,
            Outcome::Unknown => self.unknown += 1,
            _ => {
                if self.latencies.len() == LATENCIES {
                    self.latencies.pop_front();
                }
                self.latencies.push_back(micros);
            }
        }
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        // The same words again share nothing in memory, but there are at most 32 of them.
        self.entries.push_back(Entry {
            at,
            outcome: report.outcome,
            micros,
            reason: report.reason.clone(),
        });
    }

    /// The last results, the newest last.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The last result, if it says nothing: why this node could not ask.
    pub fn trouble(&self) -> Option<&str> {
        let last = self.entries.back().filter(|entry| entry.outcome == Outcome::Unknown)?;
        last.reason.as_deref()
    }

    /// The reason of the last result that was no success, or one with a warning.
    pub fn last_failure(&self) -> Option<&str> {
        let failed = |entry: &&Entry| matches!(entry.outcome, Outcome::Down | Outcome::Drain | Outcome::Degraded);
        self.entries.iter().rev().find(failed)?.reason.as_deref()
    }

    /// The latency that so many percent of the last successes did not exceed, in microseconds (nearest rank).
    pub fn percentile(&self, percent: usize) -> Option<u32> {
        let mut sorted: Vec<_> = self.latencies.iter().copied().collect();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcome: Outcome, micros: u64) -> Report {
        Report {
            outcome,
            latency: Duration::from_micros(micros),
            reason: Some(format!("{micros}").into()),
        }
    }

    #[test]
    fn percentiles_are_those_of_the_last_successes() {
        let mut history = History::default();
        assert_eq!(history.percentile(50), None);
        for micros in 0..200 {
            history.add(&report(Outcome::Up, micros), Duration::ZERO);
        }
        history.add(&report(Outcome::Down, 1_000_000), Duration::ZERO);
        history.add(&report(Outcome::Unknown, 1), Duration::ZERO);
        // 72 to 199 are left.
        assert_eq!((history.percentile(50), history.percentile(99)), (Some(135), Some(198)));
        assert_eq!((history.total, history.failed, history.unknown), (202, 1, 1));
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_newest() {
        let mut history = History::default();
        for micros in 0..1_000 {
            history.add(&report(Outcome::Up, micros), Duration::from_micros(micros));
        }
        assert_eq!(history.entries().count(), KEPT);
        assert_eq!(history.entries().next_back().map(|entry| entry.micros), Some(999));
        assert_eq!(history.last_failure(), None);
        history.add(&report(Outcome::Down, 7), Duration::ZERO);
        history.add(&report(Outcome::Up, 8), Duration::ZERO);
        assert_eq!(history.last_failure(), Some("7"));
    }
}
