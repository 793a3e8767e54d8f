//! Ids: the numbers by which the maps know services and backends.
//!
//! Flows refer to them, so a number stays with its owner for as long as that lives, over restarts too, and a number
//! that was given back is not given out again before every flow that knows it is gone.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

/// Numbers from 1 up to a limit, and who has them.
#[derive(Debug)]
pub struct IdAllocator<K> {
    /// Shared with whoever reads a snapshot; copied only when it changes meanwhile.
    owners: Arc<BTreeMap<K, u32>>,
    /// Given back, and not yet free of flows.
    retired: Vec<u32>,
    /// Free to give out, the next one last.
    free: Vec<u32>,
    /// The lowest number that was never given out.
    fresh: u32,
    /// The first number that there is no place for.
    end: u32,
}

impl<K: Ord + Clone + Debug> IdAllocator<K> {
    /// All free, below `end`.
    #[must_use]
    pub fn new(end: u32) -> Self {
        Self {
            owners: Arc::default(),
            retired: Vec::new(),
            free: Vec::new(),
            fresh: 1,
            end,
        }
    }

    /// With these owners, as a predecessor tells. All other numbers up to the highest, and up to the highest that it has ever
    /// given, count as retired: flows may still know them.
    #[must_use]
    pub fn recovered(end: u32, owners: BTreeMap<K, u32>, given: u32) -> Self {
        let highest = owners.values().max().copied().unwrap_or(0).max(given.min(end - 1));
        let fresh = highest + 1;
        let taken: std::collections::BTreeSet<u32> = owners.values().copied().collect();
        let retired = (1..fresh).filter(|number| !taken.contains(number)).collect();
        Self {
            owners: Arc::new(owners),
            retired,
            free: Vec::new(),
            fresh,
            end,
        }
    }

    /// The number of an owner, if it has one.
    #[must_use]
    pub fn get(&self, owner: &K) -> Option<u32> {
        self.owners.get(owner).copied()
    }

    /// The owners and their numbers as they are now.
    #[must_use]
    pub fn owners(&self) -> Arc<BTreeMap<K, u32>> {
        Arc::clone(&self.owners)
    }

    /// How many owners there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// How many owners there can be.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.end - 1
    }

    /// The highest number that was ever given out.
    #[must_use]
    pub fn highest(&self) -> u32 {
        self.fresh - 1
    }

    /// The owners and their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (&K, u32)> {
        self.owners.iter().map(|(owner, number)| (owner, *number))
    }

    /// The number of an owner, a new one if it has none; `None` if there are no more.
    pub fn give(&mut self, owner: &K) -> Option<Given> {
        if let Some(number) = self.get(owner) {
            return Some(Given { number, is_new: false });
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.fresh < self.end => {
                self.fresh += 1;
                self.fresh - 1
            }
            None => return None,
        };
        Arc::make_mut(&mut self.owners).insert(owner.clone(), number);
        Some(Given { number, is_new: true })
    }

    /// Takes their numbers from all owners that `keep` does not keep; returns what was taken.
    pub fn retain(&mut self, keep: impl Fn(&K, u32) -> bool) -> Vec<(K, u32)> {
        if self.owners.iter().all(|(owner, number)| keep(owner, *number)) {
            return Vec::new();
        }
        let gone: Vec<(K, u32)> = Arc::make_mut(&mut self.owners)
            .extract_if(.., |owner, number| !keep(owner, *number))
            .collect();
        self.retired.extend(gone.iter().map(|(_, number)| *number));
        gone
    }

    /// Numbers that were given back. Hand them to [`IdAllocator::release`] once no flow knows them any more.
    #[must_use]
    pub fn retired(&self) -> Vec<u32> {
        self.retired.clone()
    }

    /// Frees all retired numbers: no flow knows any of them.
    pub fn release_all(&mut self) {
        self.free.append(&mut self.retired);
    }

    /// Frees retired numbers that no flow knows any more.
    pub fn release(&mut self, numbers: &[u32]) {
        self.retired.retain(|number| !numbers.contains(number));
        self.free.extend(numbers);
    }
}

/// A number that was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// The number.
    pub number: u32,
    /// Whether the owner had none before.
    pub is_new: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_keeps_its_number_and_zero_is_nobodys() {
        let mut numbers = IdAllocator::new(10);
        assert_eq!(
            numbers.give(&"a"),
            Some(Given {
                number: 1,
                is_new: true
            })
        );
        assert_eq!(
            numbers.give(&"b"),
            Some(Given {
                number: 2,
                is_new: true
            })
        );
        assert_eq!(
            numbers.give(&"a"),
            Some(Given {
                number: 1,
                is_new: false
            })
        );
    }

    #[test]
    fn a_number_that_was_given_back_waits_for_its_flows() {
        let mut numbers = IdAllocator::new(3);
        numbers.give(&"a");
        numbers.give(&"b");
        assert_eq!(numbers.retain(|owner, _| *owner == "b"), [("a", 1)]);
        assert_eq!(numbers.give(&"c"), None, "number 1 may still be known to flows");
        let retired = numbers.retired();
        numbers.release(&retired);
        assert_eq!(
            numbers.give(&"c"),
            Some(Given {
                number: 1,
                is_new: true
            })
        );
    }

    #[test]
    fn a_number_that_was_given_before_and_has_no_owner_any_more_waits_too() {
        let mut numbers = IdAllocator::recovered(10, BTreeMap::from([("a", 2)]), 5);
        assert_eq!(numbers.retired(), [1, 3, 4, 5]);
        assert_eq!(numbers.give(&"b").map(|given| given.number), Some(6));
        numbers.release_all();
        assert_eq!(numbers.give(&"c").map(|given| given.number), Some(5));
        let limited = IdAllocator::recovered(4, BTreeMap::from([("a", 2)]), 50);
        assert_eq!(limited.retired(), [1, 3]);
    }

    #[test]
    fn recovered_numbers_stay_and_gaps_wait() {
        let mut numbers = IdAllocator::recovered(10, BTreeMap::from([("a", 2), ("b", 4)]), 0);
        assert_eq!(numbers.get(&"a"), Some(2));
        assert_eq!(numbers.retired(), [1, 3]);
        assert_eq!(
            numbers.give(&"c"),
            Some(Given {
                number: 5,
                is_new: true
            })
        );
    }
}
