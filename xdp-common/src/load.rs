//! Load: how schedulers compare backends by what they have to do, and when a backend has enough.
//!
//! The comparisons are IPVS's (`net/netfilter/ipvs/ip_vs_{lc,wlc,sed,nq,fo,ovf}.c`): what is smaller is better, and of equals
//! the first. They are one formula with coefficients, so that no branch of the packet path depends on the scheduler.

use crate::layout::{Connections, Limit};

/// What an active connection weighs in inactive ones (`ip_vs_dest_conn_overhead` in `include/net/ip_vs.h`).
const ACTIVE: u16 = 256;

/// More than any weight.
const HEAVIEST: u64 = 1 << 16;

/// The coefficients of a scheduler's comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Measure {
    /// What an active connection counts.
    pub active: u16,
    /// What an inactive connection counts.
    pub inactive: u8,
    /// What the new connection itself counts.
    pub new: u8,
    /// 1 if that sum is divided by the weight.
    pub divided: u8,
    /// 1 if a backend without active connections is better than any that has some.
    pub idle_first: u8,
    /// 1 if what a weight falls short of the highest counts too.
    pub heaviest: u8,
    /// 1 if a backend with more active connections than its weight takes no more.
    pub bounded: u8,
}

impl Measure {
    /// Nothing is compared: the ring tells.
    pub const NONE: Self = Self {
        active: 0,
        inactive: 0,
        new: 0,
        divided: 0,
        idle_first: 0,
        heaviest: 0,
        bounded: 0,
    };
    /// Least connections: `lc`.
    pub const LEAST_CONNECTIONS: Self = Self {
        active: ACTIVE,
        inactive: 1,
        ..Self::NONE
    };
    /// Least connections by weight: `wlc`, `p2c`.
    pub const WEIGHTED_LEAST_CONNECTIONS: Self = Self {
        divided: 1,
        ..Self::LEAST_CONNECTIONS
    };
    /// Shortest expected delay: `sed`.
    pub const SHORTEST_DELAY: Self = Self {
        active: 1,
        new: 1,
        divided: 1,
        ..Self::NONE
    };
    /// One that is idle, else the shortest expected delay: `nq`.
    pub const NEVER_QUEUE: Self = Self {
        idle_first: 1,
        ..Self::SHORTEST_DELAY
    };
    /// The heaviest: `fo`.
    pub const FAILOVER: Self = Self {
        heaviest: 1,
        ..Self::NONE
    };
    /// The heaviest with no more active connections than its weight: `ovf`.
    pub const OVERFLOW: Self = Self {
        bounded: 1,
        ..Self::FAILOVER
    };

    /// The coefficients as one word.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        (self.active as u64)
            | (self.inactive as u64) << 16
            | (self.new as u64) << 24
            | (self.divided as u64) << 32
            | (self.idle_first as u64) << 40
            | (self.heaviest as u64) << 48
            | (self.bounded as u64) << 56
    }

    /// The coefficients in a word of [`Measure::word`].
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self {
            active: word as u16,
            inactive: (word >> 16) as u8,
            new: (word >> 24) as u8,
            divided: (word >> 32) as u8,
            idle_first: (word >> 40) as u8,
            heaviest: (word >> 48) as u8,
            bounded: (word >> 56) as u8,
        }
    }

    /// Whether connections count, so that they must be counted as they begin and end.
    #[must_use]
    pub const fn counts(self) -> bool {
        self.active != 0 || self.bounded != 0
    }
}

/// How well a backend would do for a new connection: a fraction, the smaller the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Score {
    /// At most 41 bits.
    pub numerator: u64,
    /// At most 16 bits; 0 if it takes no new connection, which is worse than all that do.
    pub denominator: u64,
}

impl Score {
    /// Worse than any backend's that takes a new connection.
    pub const NONE: Self = Self {
        numerator: 1 << 42,
        denominator: 1,
    };

    /// Whether this one is better.
    #[inline(always)]
    #[must_use]
    pub const fn is_better_than(self, other: Self) -> bool {
        self.numerator * other.denominator < other.numerator * self.denominator
    }
}

/// 1 if `one` is less than `other`, else 0. Both must be below 2^63.
#[inline(always)]
const fn less(one: u64, other: u64) -> u64 {
    one.wrapping_sub(other) >> 63
}

/// The score of a backend of this weight that has this load.
#[inline(always)]
#[must_use]
pub const fn score(measure: Measure, load: Connections, weight: u64) -> Score {
    let active = Connections::active(load.word) as u64;
    let inactive = Connections::inactive(load.word) as u64;
    let is_idle = less(active, 1);
    let sum = active * measure.active as u64
        + inactive * measure.inactive as u64
        + measure.new as u64
        + measure.heaviest as u64 * (HEAVIEST - weight);
    let takes_none = less(weight, 1) | (load.overloaded & 1) | (measure.bounded as u64 & less(weight, active));
    Score {
        numerator: sum * (1 - (measure.idle_first as u64 & is_idle)),
        denominator: (measure.divided as u64 * weight.wrapping_sub(1)).wrapping_add(1) * (1 - takes_none),
    }
}

impl Limit {
    /// Whether a backend with this load has reached the upper threshold and not undercut the lower one since.
    ///
    /// As `ip_vs_dest_update_overload` in `include/net/ip_vs.h`: without a lower threshold it is so down to three quarters of
    /// the upper one.
    #[inline(always)]
    #[must_use]
    pub const fn overloads(self, load: Connections) -> bool {
        if self.upper == 0 {
            return false;
        }
        let connections = Connections::active(load.word) as u64 + Connections::inactive(load.word) as u64;
        let upper = self.upper as u64;
        if load.overloaded == 0 {
            connections >= upper
        } else if self.lower == 0 {
            connections * 4 >= upper * 3
        } else {
            connections >= self.lower as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(active: u64, inactive: u64) -> Connections {
        Connections {
            word: active * Connections::ACTIVE + inactive,
            overloaded: 0,
        }
    }

    fn better(measure: Measure, one: (u64, u64, u64), other: (u64, u64, u64)) -> bool {
        let of = |(active, inactive, weight)| score(measure, load(active, inactive), weight);
        of(one).is_better_than(of(other))
    }

    #[test]
    fn least_connections_ignores_weights_and_counts_an_active_one_for_256() {
        let lc = Measure::LEAST_CONNECTIONS;
        assert!(better(lc, (1, 0, 1), (1, 1, 9)));
        assert!(better(lc, (0, 255, 1), (1, 0, 1)));
        assert!(!better(lc, (0, 256, 1), (1, 0, 1)));
    }

    #[test]
    fn weighted_least_connections_divides_by_the_weight() {
        let wlc = Measure::WEIGHTED_LEAST_CONNECTIONS;
        assert!(better(wlc, (5, 0, 3), (2, 0, 1)));
        assert!(!better(wlc, (6, 0, 3), (2, 0, 1)));
    }

    #[test]
    fn the_shortest_delay_counts_the_new_connection_too() {
        let sed = Measure::SHORTEST_DELAY;
        assert!(better(sed, (1, 99, 3), (0, 0, 1)), "2/3 is less than 1/1");
        assert!(!better(sed, (2, 0, 3), (0, 0, 1)));
    }

    #[test]
    fn never_queue_prefers_an_idle_backend_to_a_fast_one() {
        let nq = Measure::NEVER_QUEUE;
        assert!(better(nq, (0, 5, 1), (1, 0, 100)));
        assert!(better(nq, (1, 0, 3), (1, 0, 2)));
    }

    #[test]
    fn failover_and_overflow_take_the_heaviest_and_overflow_only_up_to_its_weight() {
        assert!(better(Measure::FAILOVER, (900, 0, 3), (0, 0, 2)));
        assert!(better(Measure::OVERFLOW, (3, 0, 3), (0, 0, 2)));
        assert!(better(Measure::OVERFLOW, (0, 0, 2), (4, 0, 3)));
        let full = score(Measure::OVERFLOW, load(4, 0), 3);
        assert!(!full.is_better_than(Score::NONE));
    }

    #[test]
    fn what_takes_no_connection_is_worse_than_all_that_do() {
        let overloaded = Connections { word: 0, overloaded: 1 };
        let measures = [
            Measure::LEAST_CONNECTIONS,
            Measure::WEIGHTED_LEAST_CONNECTIONS,
            Measure::SHORTEST_DELAY,
            Measure::NEVER_QUEUE,
            Measure::FAILOVER,
            Measure::OVERFLOW,
        ];
        for measure in measures {
            for out in [score(measure, overloaded, 5), score(measure, load(0, 0), 0)] {
                assert!(!out.is_better_than(Score::NONE), "{measure:?}");
            }
        }
    }

    #[test]
    fn a_measure_comes_out_of_its_word_as_it_went_in() {
        for measure in [
            Measure::OVERFLOW,
            Measure::NEVER_QUEUE,
            Measure::WEIGHTED_LEAST_CONNECTIONS,
        ] {
            assert_eq!(Measure::from_word(measure.word()), measure);
        }
    }

    #[test]
    fn no_count_and_no_weight_overflows_the_comparison() {
        let most = load(u64::from(u32::MAX / 2), u64::from(u32::MAX / 2));
        let worst = score(Measure::LEAST_CONNECTIONS, most, 1);
        assert!(worst.is_better_than(Score::NONE));
        assert!(worst.numerator < 1 << 41);
        assert!(score(Measure::WEIGHTED_LEAST_CONNECTIONS, most, 65_535).is_better_than(worst));
    }

    #[test]
    fn an_overloaded_backend_is_so_until_the_lower_threshold() {
        let of = |limit: Limit, connections, overloaded| {
            limit.overloads(Connections {
                overloaded,
                ..load(connections, 0)
            })
        };
        let limit = Limit { upper: 10, lower: 4 };
        assert!(!of(limit, 9, 0));
        assert!(of(limit, 10, 0));
        assert!(of(limit, 4, 1));
        assert!(!of(limit, 3, 1));
        let limit = Limit { upper: 10, lower: 0 };
        assert!(of(limit, 8, 1));
        assert!(!of(limit, 7, 1));
        assert!(!of(Limit::default(), 1 << 30, 1));
    }
}
