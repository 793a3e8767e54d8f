//! When which probe is due: spread over time, without bursts. Pure.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::Duration,
};

use rand::Rng;

use lvx_model::Check;

/// Names a probe of a backend; never used twice.
pub type ProbeId = u64;

/// Probes are due at multiples of this, so that thousands cost a few hundred wake-ups per second and not thousands.
const GRAIN: Duration = Duration::from_millis(5);

/// Probes by the time at which they are due; a time that was given anew replaces the one before.
#[derive(Debug, Default)]
pub struct Schedule {
    queue: BinaryHeap<Reverse<(Duration, ProbeId)>>,
    due: HashMap<ProbeId, Duration>,
}

impl Schedule {
    /// Makes a probe due at a time.
    pub fn set(&mut self, probe: ProbeId, at: Duration) {
        let grains = at.as_micros().div_ceil(GRAIN.as_micros());
        let at = Duration::from_micros(u64::try_from(grains * GRAIN.as_micros()).unwrap_or(u64::MAX));
        self.due.insert(probe, at);
        self.queue.push(Reverse((at, probe)));
    }

    /// Makes a probe due at a time, if it is due later.
    pub fn hasten(&mut self, probe: ProbeId, at: Duration) {
        if self.due.get(&probe).is_some_and(|due| *due > at) {
            self.set(probe, at);
        }
    }

    /// Forgets a probe.
    pub fn remove(&mut self, probe: ProbeId) {
        self.due.remove(&probe);
    }

    /// When the next one is due.
    pub fn next_due(&mut self) -> Option<Duration> {
        while let Some(Reverse((at, probe))) = self.queue.peek() {
            if self.due.get(probe) == Some(at) {
                return Some(*at);
            }
            self.queue.pop();
        }
        None
    }

    /// Takes out one that is due.
    pub fn pop(&mut self, now: Duration) -> Option<ProbeId> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse((_, probe)) = self.queue.pop()?;
        self.due.remove(&probe);
        Some(probe)
    }
}

/// How long the n-th of so many new probes waits, so that they are spread over one interval. A single one does not.
pub fn first(position: usize, of: usize, interval: Duration) -> Duration {
    let (position, of) = (
        u32::try_from(position).unwrap_or(u32::MAX),
        u32::try_from(of).unwrap_or(u32::MAX),
    );
    // A handful is asked within a tenth of a second: their service waits for them.
    let span = interval.min(GRAIN * of);
    span * position / of.max(1)
}

/// The time from the start of one probe to the start of the next: never longer than asked for, shorter by chance.
pub fn pause(check: &Check, failed: bool, random: &mut impl Rng) -> Duration {
    let span = if failed { check.retry() } else { check.interval() }.get();
    let shortest = span * (100 - check.jitter()) / 100;
    random.random_range(shortest..=span)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn what_is_set_anew_is_due_once() {
        let mut schedule = Schedule::default();
        schedule.set(1, Duration::from_millis(10));
        schedule.set(1, Duration::from_millis(30));
        schedule.set(2, Duration::from_millis(20));
        schedule.set(3, Duration::from_millis(20));
        schedule.remove(3);
        schedule.set(4, Duration::from_millis(45));
        schedule.hasten(4, Duration::from_millis(40));
        schedule.hasten(4, Duration::from_millis(45));
        // One that is not due at all, because it is just asked.
        schedule.hasten(5, Duration::ZERO);
        let mut due = Vec::new();
        for millis in 0..50 {
            while let Some(probe) = schedule.pop(Duration::from_millis(millis)) {
                due.push((millis, probe));
            }
        }
        assert_eq!((due, schedule.next_due()), (vec![(20, 2), (30, 1), (40, 4)], None));
    }

    #[test]
    fn two_thousand_probes_per_second_come_without_a_burst() {
        let check: Check = toml::from_str("type = \"tcp\"\ninterval = \"1s\"").unwrap();
        let mut random = StdRng::seed_from_u64(1);
        let mut schedule = Schedule::default();
        for probe in 0..2_000 {
            schedule.set(probe, first(probe as usize, 2_000, check.interval().get()));
        }
        let mut largest = 0;
        let mut total = 0;
        for step in 0..2_000 {
            let now = GRAIN * step;
            let mut at_once = 0;
            while let Some(probe) = schedule.pop(now) {
                at_once += 1;
                schedule.set(probe, now + pause(&check, false, &mut random));
            }
            largest = largest.max(at_once);
            total += at_once;
        }
        // 10 per grain on the average.
        assert!(largest <= 30, "{largest} probes at once");
        assert!((20_000..22_500).contains(&total), "{total} in 10 s");
    }

    #[test]
    fn the_first_probe_of_a_lone_backend_does_not_wait() {
        assert_eq!(first(0, 1, Duration::from_secs(60)), Duration::ZERO);
        assert!(first(2, 3, Duration::from_secs(60)) < Duration::from_millis(20));
        assert!(first(1_999, 2_000, Duration::from_secs(1)) < Duration::from_secs(1));
    }

    #[test]
    fn a_pause_is_never_longer_than_asked_for() {
        let check: Check = toml::from_str("type = \"tcp\"\ninterval = \"1s\"\ndelay_before_retry = \"3s\"").unwrap();
        let mut random = StdRng::seed_from_u64(2);
        for _ in 0..1_000 {
            let pause = |failed, random: &mut StdRng| pause(&check, failed, random).as_millis();
            assert!((900..=1_000).contains(&pause(false, &mut random)));
            assert!((2_700..=3_000).contains(&pause(true, &mut random)));
        }
    }
}
