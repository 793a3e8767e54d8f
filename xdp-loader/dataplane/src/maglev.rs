//! Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section
//! 3.4), with weights.
//!
//! Each backend has a permutation of the slots, from a hash of its address alone; the backends fill the table in turns,
//! each its next free slot. So the table is the same on every node, and when a backend leaves, mostly its own slots
//! change hands. A backend of weight `w` takes its turn in `w / max` of the rounds.

use xdp_common::hash::{fold_v6, mix};

use crate::ring::RingMember;

/// The slots of a table, each the index of one of `members`. Empty if no member has a weight.
///
/// `slots` must be a prime, or some permutations would not reach every slot. The order of `members` does not matter for
/// which backend gets which slot, as long as their identities differ.
#[must_use]
pub fn table(members: &[RingMember], slots: u32) -> Vec<u16> {
    const FREE: u16 = u16::MAX;

    struct Turn {
        member: u16,
        /// The slot it asks for next.
        slot: u32,
        /// How far apart the slots of its permutation are.
        step: u32,
        weight: u64,
        /// What it has saved up towards its next turn.
        credit: u64,
    }

    let mut turns: Vec<(u64, Turn)> = members
        .iter()
        .zip(0_u16..)
        .filter(|(member, _)| member.weight > 0)
        .map(|(member, index)| {
            let offset = mix(fold_v6(member.identity, 0, 0x6d61_676c_6576_0001));
            let step = mix(offset ^ 0x6d61_676c_6576_0002);
            let turn = Turn {
                member: index,
                slot: (offset % u64::from(slots)) as u32,
                step: (step % u64::from(slots - 1)) as u32 + 1,
                weight: u64::from(member.weight),
                credit: 0,
            };
            (offset, turn)
        })
        .collect();
    // Turns are taken in an order that comes from the identities, not from the configuration.
    turns.sort_by_key(|(offset, turn)| (*offset, members[usize::from(turn.member)].identity));
    let Some(most) = turns.iter().map(|(_, turn)| turn.weight).max() else {
        return Vec::new();
    };

    let mut table = vec![FREE; slots as usize];
    let mut free = slots;
    loop {
        for (_, turn) in &mut turns {
            turn.credit += turn.weight;
            if turn.credit < most {
                continue;
            }
            turn.credit -= most;
            while table[turn.slot as usize] != FREE {
                turn.slot = next(turn.slot, turn.step, slots);
            }
            table[turn.slot as usize] = turn.member;
            free -= 1;
            if free == 0 {
                return table;
            }
        }
    }
}

/// The slot after this one in a permutation.
fn next(slot: u32, step: u32, slots: u32) -> u32 {
    let next = slot + step;
    if next >= slots { next - slots } else { next }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: u32 = 65_537;

    fn member(number: u64, weight: u16) -> RingMember {
        RingMember {
            identity: [number << 32 | 0x0a00, 80],
            weight,
        }
    }

    fn shares(table: &[u16], members: usize) -> Vec<usize> {
        let mut shares = vec![0; members];
        for member in table {
            shares[usize::from(*member)] += 1;
        }
        shares
    }

    #[test]
    fn equal_backends_get_equal_shares() {
        for count in [1, 2, 3, 10, 100, 1000] {
            let members: Vec<RingMember> = (0..count).map(|number| member(number, 1)).collect();
            let shares = shares(&table(&members, SLOTS), members.len());
            let (least, most) = (shares.iter().min().copied(), shares.iter().max().copied());
            assert!(
                most.zip(least).is_some_and(|(most, least)| most - least <= 1),
                "{count} backends"
            );
        }
    }

    #[test]
    fn shares_follow_weights() {
        let members: Vec<RingMember> = [1, 2, 3, 10]
            .into_iter()
            .zip(0..)
            .map(|(weight, n)| member(n, weight))
            .collect();
        let shares = shares(&table(&members, SLOTS), 4);
        for (share, weight) in shares.iter().zip([1, 2, 3, 10]) {
            let expected = f64::from(SLOTS) * f64::from(weight) / 16.0;
            assert!((*share as f64 / expected - 1.0).abs() < 0.01, "{shares:?}");
        }
    }

    #[test]
    fn the_order_of_configuration_does_not_matter() {
        let members: Vec<RingMember> = (0..50).map(|number| member(number, 1 + (number % 3) as u16)).collect();
        let mut turned = members.clone();
        turned.reverse();
        let by_identity = |members: &[RingMember]| -> Vec<[u64; 2]> {
            table(members, SLOTS)
                .into_iter()
                .map(|slot| members[usize::from(slot)].identity)
                .collect()
        };
        assert_eq!(by_identity(&members), by_identity(&turned));
    }

    #[test]
    fn a_backend_that_leaves_moves_few_slots_of_the_others() {
        for count in [3_u64, 10, 100] {
            let members: Vec<RingMember> = (0..count).map(|number| member(number, 1)).collect();
            let before = table(&members, SLOTS);
            for gone in [0, count / 2, count - 1] {
                let mut after = members.clone();
                after[gone as usize].weight = 0;
                let moved = before
                    .iter()
                    .zip(table(&after, SLOTS))
                    .filter(|(old, new)| **old != gone as u16 && **old != *new)
                    .count();
                // Of the slots of the others, at most 1/N + 1 % move.
                let bound = f64::from(SLOTS) * (1.0 / count as f64 + 0.01);
                assert!((moved as f64) < bound, "{moved} of {SLOTS} moved with {count} backends");
            }
        }
    }

    #[test]
    fn weight_zero_gets_nothing_and_nobody_left_makes_no_table() {
        let table_of_two = table(&[member(1, 0), member(2, 5)], 251);
        assert!(table_of_two.iter().all(|member| *member == 1));
        assert!(table(&[member(1, 0)], 251).is_empty());
        assert!(table(&[], 251).is_empty());
    }

    #[test]
    fn extreme_weights_still_end() {
        let shares = shares(&table(&[member(1, 1), member(2, 65_535)], 251), 2);
        assert_eq!(shares.iter().sum::<usize>(), 251);
    }
}
