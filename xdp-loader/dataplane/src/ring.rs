//! Rings for schedulers that take turns: a sequence of members, walked by a counter.
//!
//! `rr` has every member once. `wrr` has member `i` `w_i` times, spread as evenly as whole numbers allow: its k-th turn
//! comes at time `(k + 1/2) / w_i` (stride scheduling; Waldspurger and Weihl, 1995). IPVS's `wrr` gives the same shares,
//! but to the heaviest in runs.

use std::{cmp::Ordering, collections::BinaryHeap};

/// A backend as a scheduler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RingMember {
    /// What it is told apart by, the same on every node: its address in two words, with the port mixed in.
    pub identity: [u64; 2],
    /// Its share of new connections, relative to the others'; 0 takes none.
    pub weight: u16,
}

/// Slots of a ring at most. Weights whose sum is larger are scaled down.
pub const LONGEST: u64 = 65_536;

/// Each member with a weight once, in order.
#[must_use]
pub fn equal(members: &[RingMember]) -> Vec<u16> {
    members
        .iter()
        .zip(0..)
        .filter(|(member, _)| member.weight > 0)
        .map(|(_, index)| index)
        .collect()
}

/// A member's next turn.
#[derive(PartialEq, Eq)]
struct Turn {
    /// Turns taken.
    taken: u64,
    weight: u64,
    member: u16,
}

impl Ord for Turn {
    /// The earliest is the greatest, as [`BinaryHeap`] gives that first; at the same time, the heavier one.
    fn cmp(&self, other: &Self) -> Ordering {
        let mine = (2 * self.taken + 1) * other.weight;
        let theirs = (2 * other.taken + 1) * self.weight;
        theirs
            .cmp(&mine)
            .then(self.weight.cmp(&other.weight))
            .then(other.member.cmp(&self.member))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Each member as often as its weight says, spread evenly.
#[must_use]
pub fn weighted(members: &[RingMember]) -> Vec<u16> {
    let weights = scaled(members);
    let length = weights.iter().sum();
    let mut turns: BinaryHeap<Turn> = weights
        .into_iter()
        .zip(0..)
        .filter(|(weight, _)| *weight > 0)
        .map(|(weight, member)| Turn {
            taken: 0,
            weight,
            member,
        })
        .collect();
    let mut ring = Vec::with_capacity(length as usize);
    while (ring.len() as u64) < length
        && let Some(mut turn) = turns.peek_mut()
    {
        ring.push(turn.member);
        turn.taken += 1;
    }
    ring
}

/// The weights over their greatest common divisor, and scaled to [`LONGEST`] if their sum is larger still; whoever has a
/// weight keeps at least 1.
fn scaled(members: &[RingMember]) -> Vec<u64> {
    let divisor = members
        .iter()
        .map(|member| u64::from(member.weight))
        .fold(0, gcd)
        .max(1);
    let weights: Vec<u64> = members
        .iter()
        .map(|member| u64::from(member.weight) / divisor)
        .collect();
    let sum: u64 = weights.iter().sum();
    if sum <= LONGEST {
        return weights;
    }
    weights
        .into_iter()
        .map(|weight| {
            if weight == 0 {
                0
            } else {
                (weight * LONGEST / sum).max(1)
            }
        })
        .collect()
}

/// Euclid's.
fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(weights: &[u16]) -> Vec<RingMember> {
        weights
            .iter()
            .zip(0..)
            .map(|(weight, number)| RingMember {
                identity: [number, 80],
                weight: *weight,
            })
            .collect()
    }

    #[test]
    fn round_robin_takes_everyone_with_a_weight_once() {
        assert_eq!(equal(&members(&[1, 0, 7])), [0, 2]);
        assert!(equal(&members(&[0, 0])).is_empty());
    }

    #[test]
    fn weights_are_met_exactly_within_one_round_and_spread() {
        let ring = weighted(&members(&[1, 2, 3]));
        assert_eq!(ring.len(), 6);
        for (member, weight) in [(0, 1), (1, 2), (2, 3)] {
            assert_eq!(ring.iter().filter(|slot| **slot == member).count(), weight);
        }
        assert!(ring.windows(2).all(|pair| pair[0] != pair[1]), "no runs: {ring:?}");
    }

    #[test]
    fn a_common_divisor_makes_no_longer_ring() {
        assert_eq!(weighted(&members(&[100, 200])).len(), 3);
    }

    #[test]
    fn large_weights_are_scaled_and_nobody_is_lost() {
        let ring = weighted(&members(&[65_535, 65_534, 1, 0]));
        assert!(ring.len() as u64 <= LONGEST + 4);
        let shares: Vec<usize> = (0..4)
            .map(|member| ring.iter().filter(|slot| **slot == member).count())
            .collect();
        assert!(
            shares[0].abs_diff(shares[1]) <= 1 && shares[2] == 1 && shares[3] == 0,
            "{shares:?}"
        );
    }

    #[test]
    fn at_every_moment_each_has_had_its_share_within_one_turn() {
        let weights = [5_u16, 1, 1, 9, 2];
        let ring = weighted(&members(&weights));
        let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        for until in 1..=ring.len() {
            for (member, weight) in (0_u16..).zip(weights) {
                let had = ring[..until].iter().filter(|slot| **slot == member).count() as f64;
                assert!((had - until as f64 * f64::from(weight) / sum).abs() < 1.5);
            }
        }
    }
}
