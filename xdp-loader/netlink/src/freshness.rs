//! Keeping neighbours fresh: which are needed, and when the kernel is made to ask them.
//!
//! The kernel confirms by itself only the neighbours that it sends to, and packets that leave in XDP do not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::time::Instant;

use super::{
    Kernel, NetlinkError,
    neighbour::{Neighbour, NeighbourTable, ask},
    socket::AT_ONCE,
};

/// How often a neighbour that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// How often the kernel is made to confirm a neighbour that it knows.
const CONFIRM: Duration = Duration::from_secs(10);

/// When a neighbour is asked next, and how it went before.
#[derive(Debug)]
struct Turn {
    next: Instant,
    last: Option<Instant>,
    /// Why the kernel would not ask.
    refused: Option<String>,
}

/// What [`Freshness::ask_due`] found out.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The kernel began, or ceased, to refuse to ask a neighbour.
    pub changed: bool,
    /// The kernel did not answer: the connection to it may be broken.
    pub unanswered: bool,
}

/// The neighbours that are needed, and their turns.
#[derive(Debug, Default)]
pub struct Freshness(BTreeMap<Neighbour, Turn>);

impl Freshness {
    /// Makes these the neighbours that are needed; those that are new and not known are asked at once. Whether there
    /// are such.
    pub fn need(&mut self, needed: &BTreeSet<Neighbour>, neighbours: &NeighbourTable, now: Instant) -> bool {
        self.0.retain(|neighbour, _| needed.contains(neighbour));
        let mut unknown = false;
        for neighbour in needed {
            let known = neighbours.is_known(*neighbour);
            self.0.entry(*neighbour).or_insert_with(|| {
                unknown |= !known;
                Turn {
                    next: if known { now + spread(CONFIRM, *neighbour) } else { now },
                    last: None,
                    refused: None,
                }
            });
        }
        unknown
    }

    /// Takes in that the kernel knows something new of a neighbour. Whether it is needed.
    pub fn changed(&mut self, neighbour: Neighbour, known: bool, now: Instant) -> bool {
        let Some(turn) = self.0.get_mut(&neighbour) else {
            return false;
        };
        if !known {
            // Gone or forgotten: asked at once, but not more often than a neighbour that never answered.
            turn.next = turn.last.map_or(now, |last| now.max(last + RETRY));
        }
        true
    }

    /// When the next turn is.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.0.values().map(|turn| turn.next).min()
    }

    /// Why the kernel would not ask the neighbour, if it would not, and what to do.
    #[must_use]
    pub fn refused(&self, neighbour: Neighbour) -> Option<&str> {
        self.0.get(&neighbour)?.refused.as_deref()
    }

    /// Has the kernel ask the neighbours whose turn it is.
    pub async fn ask_due(&mut self, kernel: &Kernel, neighbours: &NeighbourTable) -> Outcome {
        let now = Instant::now();
        let due: Vec<_> = self
            .0
            .iter()
            .filter(|(_, turn)| turn.next <= now)
            .map(|(neighbour, _)| *neighbour)
            .collect();
        // An address that the operator wrote down is not doubted, now or later.
        let (fixed, due): (Vec<_>, Vec<_>) = due.into_iter().partition(|neighbour| neighbours.is_fixed(*neighbour));
        for neighbour in fixed {
            if let Some(turn) = self.0.get_mut(&neighbour) {
                turn.next = now + spread(CONFIRM, neighbour);
            }
        }
        let mut asked = stream::iter(due)
            .map(async |neighbour| (neighbour, ask(kernel, neighbour).await))
            .buffer_unordered(AT_ONCE);
        let mut outcome = Outcome::default();
        while let Some((neighbour, answer)) = asked.next().await {
            let Some(turn) = self.0.get_mut(&neighbour) else {
                continue;
            };
            let interval = if neighbours.is_known(neighbour) { CONFIRM } else { RETRY };
            turn.next = now + spread(interval, neighbour);
            turn.last = Some(now);
            let error = answer.err();
            outcome.unanswered |= error.as_ref().is_some_and(|error| error.errno().is_none());
            let refused = error.map(|error| refusal(&error, neighbour));
            outcome.changed |= turn.refused != refused;
            turn.refused = refused;
        }
        outcome
    }
}

/// Between three quarters and five quarters of the interval, always the same for the same neighbour, so that a thousand
/// backends that came together are not asked together for ever.
fn spread(interval: Duration, neighbour: Neighbour) -> Duration {
    let mut hasher = DefaultHasher::new();
    neighbour.hash(&mut hasher);
    let [byte, ..] = hasher.finish().to_ne_bytes();
    interval * 3 / 4 + interval / 512 * u32::from(byte)
}

/// Why the kernel would not resolve a neighbour, and what to do.
fn refusal(error: &NetlinkError, neighbour: Neighbour) -> String {
    let family = if neighbour.address.is_ipv4() { "ipv4" } else { "ipv6" };
    match error.errno() {
        Some(libc::ENOBUFS | libc::ENOMEM) => {
            format!("its neighbour table is full; raise net.{family}.neigh.default.gc_thresh3")
        }
        Some(libc::EPERM | libc::EACCES) => "it needs the capability CAP_NET_ADMIN".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use std::net::IpAddr;

    use super::*;

    fn backend() -> Neighbour {
        Neighbour {
            ifindex: 2,
            address: IpAddr::from([10, 0, 0, 11]),
        }
    }

    #[test]
    fn a_new_neighbour_is_asked_at_once_and_one_that_fails_not_more_than_once_a_second() {
        let now = Instant::now();
        let mut fresh = Freshness::default();
        let needed = BTreeSet::from([backend()]);
        assert!(fresh.need(&needed, &NeighbourTable::default(), now));
        assert_eq!(fresh.next(), Some(now));
        fresh.0.get_mut(&backend()).unwrap().last = Some(now);
        assert!(fresh.changed(backend(), false, now));
        assert_eq!(fresh.next(), Some(now + RETRY));
        // Nothing new about it: it keeps its turn.
        assert!(!fresh.need(&needed, &NeighbourTable::default(), now));
        assert_eq!(fresh.next(), Some(now + RETRY));
    }

    #[test]
    fn a_neighbour_that_is_no_longer_needed_has_no_turn() {
        let now = Instant::now();
        let mut fresh = Freshness::default();
        fresh.need(&BTreeSet::from([backend()]), &NeighbourTable::default(), now);
        fresh.need(&BTreeSet::new(), &NeighbourTable::default(), now);
        assert_eq!(fresh.next(), None);
        assert!(!fresh.changed(backend(), true, now));
    }

    #[test]
    fn retries_are_spread_around_their_interval() {
        let waits: Vec<_> = (1..=200)
            .map(|host| {
                spread(
                    RETRY,
                    Neighbour {
                        ifindex: 2,
                        address: IpAddr::from([10, 0, 0, host]),
                    },
                )
            })
            .collect();
        assert!(
            waits
                .iter()
                .all(|wait| *wait >= RETRY * 3 / 4 && *wait <= RETRY * 5 / 4)
        );
        let distinct: BTreeSet<_> = waits.iter().collect();
        assert!(distinct.len() > 100);
    }

    #[test]
    fn a_full_neighbour_table_is_answered_with_the_way_out() {
        let error = NetlinkError::Refused {
            what: "resolve a neighbour".to_owned(),
            source: std::io::Error::from_raw_os_error(libc::ENOBUFS),
        };
        assert_eq!(
            refusal(&error, backend()),
            "its neighbour table is full; raise net.ipv4.neigh.default.gc_thresh3"
        );
    }
}
