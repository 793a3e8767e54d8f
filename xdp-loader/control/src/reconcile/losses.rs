//! Losses: packets that were forwarded and that the kernel could not transmit. They are told in status for as long as they are
//! fresh, and in the log when they begin.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use lvx_api::Loss;
use lvx_dataplane::{Error, counters};
use lvx_netlink::Link;
use tracing::warn;
use xdp_common::verdict::Verdict;

use super::Shared;

/// For how long a loss is told of.
const FRESH: Duration = Duration::from_secs(5 * 60);
/// What is lost within such a span is forgotten together.
const SPAN: Duration = Duration::from_secs(10);

/// What was counted of an interface, by reason, as [`Verdict::LOST`] has them.
type Counted = [u64; Verdict::LOST.len()];

/// What was lost lately.
pub(super) struct Losses {
    /// What is not counted, and why.
    pub(super) uncounted: Option<String>,
    seen: Mutex<Seen>,
}

impl Losses {
    /// With nothing seen yet. `uncounted` is what is not counted, and why.
    pub(super) fn new(uncounted: Option<String>) -> Self {
        Self {
            uncounted,
            seen: Mutex::default(),
        }
    }
}

/// What was counted at the last look, by slot of the interface, and what of it is fresh.
#[derive(Default)]
struct Seen {
    counted: BTreeMap<u32, Counted>,
    /// By slot, and place in [`Verdict::LOST`].
    fresh: BTreeMap<(u32, usize), Fresh>,
    /// Whether there was a look: what had been lost before this daemon came is not told.
    is_begun: bool,
}

impl Seen {
    /// Takes in what is counted now. Those losses that have begun: packets, by slot and reason.
    fn take(&mut self, counted: BTreeMap<u32, Counted>, now: Instant) -> Vec<(u32, usize, u64)> {
        let mut begun = Vec::new();
        for (slot, counts) in &counted {
            let before = match self.counted.get(slot) {
                Some(before) => *before,
                None if self.is_begun => Counted::default(),
                None => *counts,
            };
            for (reason, (now_counted, before)) in counts.iter().zip(before).enumerate() {
                let packets = now_counted.saturating_sub(before);
                if packets > 0 {
                    let fresh = self.fresh.entry((*slot, reason)).or_default();
                    if fresh.packets() == 0 {
                        begun.push((*slot, reason, packets));
                    }
                    fresh.add(packets, now);
                }
            }
        }
        // Slots that are nobody's for a while keep what they had.
        self.counted.extend(counted);
        self.is_begun = true;
        self.fresh.retain(|_, fresh| fresh.forget(now));
        begun
    }
}

/// Packets that were lost for one reason: spans in which there were some, the first and the last moment of each, and how many.
#[derive(Default)]
struct Fresh(VecDeque<(Instant, Instant, u64)>);

impl Fresh {
    fn add(&mut self, packets: u64, now: Instant) {
        match self.0.back_mut() {
            Some((first, last, sum)) if now - *first < SPAN => (*last, *sum) = (now, *sum + packets),
            _ => self.0.push_back((now, now, packets)),
        }
    }

    fn packets(&self) -> u64 {
        self.0.iter().map(|(.., packets)| packets).sum()
    }

    /// How long ago the last one was.
    fn age(&self, now: Instant) -> Duration {
        self.0
            .back()
            .map(|(_, last, _)| now.saturating_duration_since(*last))
            .unwrap_or_default()
    }

    /// Forgets what is no longer fresh. Whether something is left.
    fn forget(&mut self, now: Instant) -> bool {
        self.0.retain(|(_, last, _)| now - *last < FRESH);
        !self.0.is_empty()
    }
}

impl Shared {
    /// Looks what has been lost since the last look, and tells the log where it begins.
    pub(super) fn look_for_losses(&self) -> Result<(), Error> {
        let slots = self.published.get().tables.interfaces.clone();
        let counted = counters::lost(&self.maps, slots.values().copied())?;
        let begun = {
            let mut seen = self.losses.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.take(counted, Instant::now())
        };
        let (links, widest) = (self.links.table(), self.widest());
        for (slot, reason, packets) in begun {
            let ifindex = slots.iter().find(|(_, its)| **its == slot).map(|(ifindex, _)| *ifindex);
            if let Some(link) = ifindex.and_then(|ifindex| links.get(ifindex).ok()) {
                let reason = why(Verdict::LOST[reason], link, widest);
                warn!(
                    interface = link.name,
                    packets, "packets that were forwarded are lost: {reason}"
                );
            }
        }
        Ok(())
    }

    /// The largest MTU of the interfaces that have the program.
    fn widest(&self) -> u32 {
        let (list, links) = (self.interfaces.get(), self.links.table());
        let attachments = list.iter().filter_map(|interface| interface.attachment.as_ref());
        let mtus = attachments.filter_map(|attachment| Some(links.get(attachment.ifindex).ok()?.mtu));
        mtus.max().unwrap_or_default()
    }

    /// What was lost lately, by interface and reason.
    pub(super) fn recent_losses(&self) -> Vec<Loss> {
        let (links, widest, now) = (self.links.table(), self.widest(), Instant::now());
        let slots = self.published.get().tables.interfaces.clone();
        let seen = self.losses.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |(ifindex, slot): (&u32, &u32)| {
            let link = links.get(*ifindex).ok()?;
            let losses = Verdict::LOST.iter().enumerate().filter_map(|(place, verdict)| {
                let fresh = seen.fresh.get(&(*slot, place))?;
                Some(Loss {
                    interface: link.name.clone(),
                    verdict: verdict.name().to_owned(),
                    packets: fresh.packets(),
                    last_seconds: fresh.age(now).as_secs(),
                    reason: why(*verdict, link, widest),
                })
            });
            Some(losses.collect::<Vec<_>>())
        };
        slots.iter().filter_map(of).flatten().collect()
    }
}

/// Why packets that were to leave by an interface are lost, and the way out. `widest` is the largest MTU of those that packets come
/// in by.
fn why(verdict: Verdict, link: &Link, widest: u32) -> String {
    let (name, mtu) = (&link.name, link.mtu);
    match verdict {
        Verdict::LostTooLong if widest <= mtu => format!(
            "longer than the MTU of {name}, which is {mtu}, as no packet on a cable here is: GRO, or the other end of a veth, \
             merges segments; ethtool -K IF gro off, for the interfaces they come in by, and ethtool -K IF tx off at the other \
             end of a veth"
        ),
        Verdict::LostTooLong => format!(
            "longer than the MTU of {name}, which is {mtu}: give it that of the interfaces they come in by (ip link set dev {name} \
             mtu ...), or have the hosts send smaller ones"
        ),
        Verdict::LostLinkDown => format!("{name} is down: ip link set dev {name} up"),
        Verdict::LostRingFull if link.kind == "veth" => format!(
            "the driver of {name} took fewer than it was given: is the MTU of its other end smaller, or the processor of its \
             other end too busy?"
        ),
        Verdict::LostRingFull => format!(
            "the driver of {name} took fewer than it was given, as its ring was full: lengthen it (ethtool -G {name} tx ...), or \
             spread the load"
        ),
        _ => format!(
            "the driver of {name} ({}) does not transmit for an XDP program: attach the program to {name} too, or use \
             --xdp-mode generic",
            link.kind
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_loss_is_told_once_when_it_begins_and_forgotten_after_five_minutes() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let look =
            |seen: &mut Seen, count, seconds| seen.take(BTreeMap::from([(3, [count, 0, 0, 0])]), at(start, seconds));
        assert_eq!(look(&mut seen, 100, 0), [], "that was before this daemon");
        assert_eq!(look(&mut seen, 107, 1), [(3, 0, 7)]);
        assert_eq!(look(&mut seen, 109, 2), [], "it goes on");
        assert_eq!(look(&mut seen, 110, 200), []);
        let fresh = &seen.fresh[&(3, 0)];
        assert_eq!((fresh.packets(), fresh.age(at(start, 260)).as_secs()), (10, 60));
        assert_eq!(look(&mut seen, 110, 310), []);
        assert_eq!(seen.fresh[&(3, 0)].packets(), 1, "the first nine are old");
        assert_eq!(look(&mut seen, 110, 600), []);
        assert!(seen.fresh.is_empty());
        assert_eq!(look(&mut seen, 111, 601), [(3, 0, 1)], "it begins again");
    }

    #[test]
    fn what_an_interface_that_came_later_loses_is_told_from_the_first_packet_on() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        seen.take(BTreeMap::from([(1, [0; 4])]), start);
        let both = BTreeMap::from([(1, [0; 4]), (2, [0, 5, 0, 0])]);
        assert_eq!(seen.take(both, at(start, 1)), [(2, 1, 5)]);
    }

    #[test]
    fn a_reason_names_the_interface_and_the_way_out() {
        let link = Link {
            name: "eth1".to_owned(),
            mtu: 1400,
            kind: "macvlan".to_owned(),
            ..Link::default()
        };
        for (verdict, words) in [
            (Verdict::LostTooLong, "the MTU of eth1, which is 1400"),
            (Verdict::LostLinkDown, "ip link set dev eth1 up"),
            (Verdict::LostRingFull, "ethtool -G eth1"),
            (Verdict::LostNotTaken, "the driver of eth1 (macvlan)"),
        ] {
            let said = why(verdict, &link, 1500);
            assert!(said.contains(words), "{said}");
        }
        let merged = why(Verdict::LostTooLong, &link, 1400);
        assert!(merged.contains("gro off"), "{merged}");
    }
}
