//! Connections: what packets count as they begin and end, kept right by the sweeps.
//!
//! A packet changes an entry of the flow table and its backend's count one after the other, and two packets at once may
//! change the same entry: so a count may come to differ from the table by a few. A sweep knows the truth, but as of some
//! moment of the time that it took; it corrects what cannot be explained by what happened meanwhile.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use xdp_common::{
    layout::{self, Connections, Limit},
    tcp_state::State,
};

use super::{Error, Maps, census::Census, flow::Flow, memory::Memory, rules::Rules};

/// The word of [`Connections`] that counts them.
const CONNECTIONS: usize = 0;
/// The word of [`Connections`] that says whether it is overloaded.
const OVERLOADED: usize = 1;

/// The counts, and what they were before a sweep.
pub(super) struct ConnectionCounts<'a> {
    memory: Memory<Connections>,
    counted: &'a BTreeMap<u32, Limit>,
    before: BTreeMap<u32, u64>,
}

impl<'a> ConnectionCounts<'a> {
    /// The counts as they are now.
    pub(super) fn before(maps: &Maps, rules: &'a Rules) -> Result<Self, Error> {
        let memory = maps.connections.whole()?;
        let counted = rules.counted();
        let before = counted
            .keys()
            .map(|number| (*number, word(&memory, *number, CONNECTIONS).load(Ordering::Relaxed)))
            .collect();
        Ok(Self {
            memory,
            counted,
            before,
        })
    }

    /// Frees a flow's entry, unless it is another's by now, and takes the flow from its backend's count.
    pub(super) fn forget(&self, flow: &Flow, entry: layout::FlowEntry, place: &AtomicU64) -> bool {
        let free = layout::FlowEntry::FREE.0;
        let freed = place
            .compare_exchange(entry.0, free, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if freed && self.counted.contains_key(&flow.backend) {
            let weighs = match flow.state {
                State::Template => 0,
                state if state.is_busy() => Connections::ACTIVE,
                _ => Connections::INACTIVE,
            };
            word(&self.memory, flow.backend, CONNECTIONS).fetch_sub(weighs, Ordering::Relaxed);
        }
        freed
    }

    /// Sets the counts right after a sweep, and with them who is overloaded.
    pub(super) fn set_right(&self, census: &Census) {
        for (number, limit) in self.counted {
            let truth = census.backends.get(number).copied().unwrap_or_default();
            let count = word(&self.memory, *number, CONNECTIONS);
            let now = count.load(Ordering::Relaxed);
            let before = self.before.get(number).copied().unwrap_or(now);
            let off = [
                (
                    Connections::ACTIVE,
                    off(active, before, now, truth.active + truth.half_open),
                ),
                (
                    Connections::INACTIVE,
                    off(inactive, before, now, truth.inactive - truth.half_open),
                ),
            ];
            for (one, off) in off {
                count.fetch_add(one.wrapping_mul(off as u64), Ordering::Relaxed);
            }
            let overloaded = word(&self.memory, *number, OVERLOADED);
            let now = Connections {
                word: count.load(Ordering::Relaxed),
                overloaded: overloaded.load(Ordering::Relaxed),
            };
            overloaded.store(u64::from(limit.overloads(now)), Ordering::Relaxed);
        }
    }
}

/// Active connections as they were counted, which may be a few less than none.
fn active(connections: u64) -> i32 {
    (connections.wrapping_add(1 << 31) >> 32) as i32
}

/// Inactive connections. As [`active`].
fn inactive(connections: u64) -> i32 {
    connections as i32
}

/// By how much the truth of some moment between two counts is outside of what these say, and as much again as there was of
/// change between them.
fn off(part: impl Fn(u64) -> i32, before: u64, now: u64, truth: u64) -> i64 {
    let (before, now, truth) = (i64::from(part(before)), i64::from(part(now)), truth as i64);
    let slack = (now - before).abs();
    let (least, most) = (before.min(now) - slack, before.max(now) + slack);
    if truth < least {
        truth - least
    } else if truth > most {
        truth - most
    } else {
        0
    }
}

fn word(memory: &Memory<Connections>, number: u32, word: usize) -> &AtomicU64 {
    memory.word(number as usize, word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn off_active(before: u64, now: u64, truth: u64) -> i64 {
        off(active, before * Connections::ACTIVE, now * Connections::ACTIVE, truth)
    }

    #[test]
    fn a_count_that_did_not_change_during_a_sweep_is_set_to_what_the_sweep_found() {
        assert_eq!(off_active(5, 5, 5), 0);
        assert_eq!(off_active(5, 5, 3), -2);
        assert_eq!(off_active(0, 0, 7), 7);
    }

    #[test]
    fn a_count_below_none_is_set_to_what_the_sweep_found_at_once() {
        let below = (2 * Connections::ACTIVE).wrapping_neg() - 3;
        assert_eq!((off(active, below, below, 1), off(inactive, below, below, 0)), (3, 3));
    }

    #[test]
    fn what_may_have_happened_during_a_sweep_is_no_fault_of_the_count() {
        assert_eq!(off_active(5, 9, 7), 0);
        assert_eq!(off_active(5, 9, 12), 0);
        assert_eq!(off_active(5, 9, 20), 7);
        assert_eq!(off_active(9, 5, 0), -1);
    }
}
