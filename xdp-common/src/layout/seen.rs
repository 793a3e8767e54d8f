//! When a flow was last seen, in 13 bits.
//!
//! A time of the kind of a floating-point number: 11 bits count units, 2 bits say which. The unit goes by how long the flow
//! may be idle: a quarter of a second where that is up to four minutes, a second up to 17 minutes, and never more than a
//! sixteenth of it. Times wrap: a flow that has been over for about as long as it may last has to be freed by then (the
//! daemon's sweeps do that, and [`crate::path::sweep`] where none runs), or it is taken for young again.

/// Bits that count units.
const BITS: u32 = 11;
const UNITS: u32 = (1 << BITS) - 1;

/// Units that a flow may be idle for at most: the other half of the count is for those that are over.
const MOST: u32 = 1 << (BITS - 1);

/// How far in units another CPU's idea of now may be ahead of this one's.
const AHEAD: u32 = 16;

/// When a flow was last seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Seen(pub u16);

/// The longest time, in jiffies, that a flow can be kept for: about 12 days. `tick` is the logarithm of the jiffies in the
/// shortest unit.
#[must_use]
pub const fn longest(tick: u32) -> u32 {
    let longest = ((MOST - 1) as u64) << shift(tick, 3);
    if longest > i32::MAX as u64 {
        i32::MAX as u32
    } else {
        longest as u32
    }
}

/// The logarithm of the jiffies in a unit: units are 1, 4, 64 and 4,096 ticks.
#[inline(always)]
const fn shift(tick: u32, unit: u32) -> u32 {
    tick + unit * (unit + 1)
}

impl Seen {
    /// Seen now, by a flow that may be idle for so many jiffies.
    #[inline(always)]
    #[must_use]
    pub const fn at(now: u64, tick: u32, idle_timeout: u32) -> Self {
        let ticks = idle_timeout >> tick;
        let unit = (ticks >= MOST) as u32 + (ticks >= MOST << 2) as u32 + (ticks >= MOST << 6) as u32;
        Self((unit << BITS | (now >> shift(tick, unit)) as u32 & UNITS) as u16)
    }

    #[inline(always)]
    const fn unit(self) -> u32 {
        (self.0 >> BITS) as u32 & 3
    }

    /// How many units ago. Zero for one that is ahead.
    #[inline(always)]
    #[must_use]
    pub const fn age(self, now: u64, tick: u32) -> u32 {
        let age = ((now >> shift(tick, self.unit())) as u32).wrapping_sub(self.0 as u32) & UNITS;
        if age > UNITS - AHEAD { 0 } else { age }
    }

    /// The same time, as late as it may have been, in the unit of flows that may be idle for so many jiffies, if that is
    /// another one.
    #[must_use]
    pub fn in_unit_of(self, now: u64, tick: u32, idle_timeout: u32) -> Option<Self> {
        let shift = shift(tick, self.unit());
        let noted = (now >> shift) - u64::from(self.age(now, tick));
        let latest = ((noted + 1) << shift) - 1;
        let other = Self::at(latest.min(now), tick, idle_timeout);
        (other.unit() != self.unit()).then_some(other)
    }

    /// How many jiffies ago, of which the last unit is not certain.
    #[inline(always)]
    #[must_use]
    pub const fn idle(self, now: u64, tick: u32) -> u64 {
        (self.age(now, tick) as u64) << shift(tick, self.unit())
    }

    /// Whether a flow that may be idle for so many jiffies is over at this age: never before that time, as it may have been
    /// seen until the end of its unit.
    #[inline(always)]
    #[must_use]
    pub const fn is_expired(self, age: u32, tick: u32, idle_timeout: u32) -> bool {
        let shift = shift(tick, self.unit());
        let units = ((idle_timeout as u64 + (1 << shift) - 1) >> shift) as u32;
        age > if units < MOST { units } else { MOST }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A quarter of a second, at 1000 jiffies per second.
    const TICK: u32 = 8;
    const NOW: u64 = 0x1_2345_6789;

    #[test]
    fn a_flow_is_never_over_before_its_time_and_soon_after() {
        for idle_timeout in [
            1,
            255,
            256,
            10_000,
            60_000,
            262_143,
            262_144,
            300_000,
            900_000,
            5_000_000,
            86_400_000,
            longest(TICK),
        ] {
            for now in [NOW, NOW + 255, NOW + 100_000] {
                let seen = Seen::at(now, TICK, idle_timeout);
                let is_expired = |after: u64| seen.is_expired(seen.age(now + after, TICK), TICK, idle_timeout);
                assert!(!is_expired(0) && !is_expired(u64::from(idle_timeout)), "{idle_timeout}");
                let soon = u64::from(idle_timeout) + u64::from(idle_timeout) / 8 + (2 << TICK);
                assert!(is_expired(soon), "{idle_timeout}");
                assert!(
                    is_expired(soon + u64::from(idle_timeout) / 2),
                    "{idle_timeout}: not yet wrapped"
                );
            }
        }
    }

    #[test]
    fn the_unit_is_fine_for_short_times_and_at_most_a_sixteenth_of_long_ones() {
        for idle_timeout in (0..31).map(|bits| (1_u32 << bits).min(longest(TICK))) {
            let unit = 1 << shift(TICK, Seen::at(NOW, TICK, idle_timeout).unit());
            assert!(unit <= 1 << TICK || unit <= idle_timeout / 16, "{idle_timeout}: {unit}");
        }
    }

    #[test]
    fn a_time_that_is_a_little_ahead_is_now() {
        for idle_timeout in [60_000, 900_000, 86_400_000] {
            let ahead = Seen::at(NOW + 600, TICK, idle_timeout);
            assert_eq!((ahead.age(NOW, TICK), ahead.idle(NOW, TICK)), (0, 0));
        }
    }

    #[test]
    fn a_time_in_another_unit_is_no_earlier_and_not_yet_to_come() {
        for (before, after) in [(3_600_000, 10_000), (10_000, 3_600_000), (86_400_000, 900_000)] {
            for since in [0, 100, 5_000, 9_000] {
                let (seen, now) = (Seen::at(NOW, TICK, before), NOW + since);
                let noted = seen.in_unit_of(now, TICK, after).expect("another unit");
                assert!(!noted.is_expired(noted.age(NOW + u64::from(after), TICK), TICK, after));
                let soon = since + u64::from(after) + u64::from(after) / 8 + (2 << TICK);
                assert!(
                    noted.is_expired(noted.age(NOW + soon, TICK), TICK, after),
                    "{before} {after} {since}"
                );
                assert_eq!(noted.in_unit_of(now, TICK, after), None);
            }
        }
    }

    #[test]
    fn a_flow_whose_time_was_shortened_is_expired_by_the_new_one() {
        let seen = Seen::at(NOW, TICK, 86_400_000);
        let after = |jiffies: u64| seen.is_expired(seen.age(NOW + jiffies, TICK), TICK, 60_000);
        assert!(!after(60_000));
        assert!(after(60_000 + (2 << shift(TICK, 3))));
    }

    #[test]
    fn a_flow_whose_time_was_made_longer_is_kept_for_its_old_one_at_least_until_it_is_seen_again() {
        let seen = Seen::at(NOW, TICK, 60_000);
        let after = |jiffies: u64| seen.is_expired(seen.age(NOW + jiffies, TICK), TICK, longest(TICK));
        assert!(!after(60_000));
    }
}
