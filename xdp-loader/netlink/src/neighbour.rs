//! Neighbours: who has which Ethernet address (ARP for IPv4, neighbour discovery for IPv6), as the kernel knows it.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use tokio::time::Instant;

use super::{
    Kernel, NetlinkError,
    socket::{answers, done},
};

/// How long a neighbour keeps its address after the kernel forgot it (garbage collection, `ip neigh flush`) and while
/// it is being asked for again. A neighbour that fails to answer loses it at once.
pub const GRACE: Duration = Duration::from_secs(1);

/// Who deletes a neighbour makes the kernel announce a failure first and the deletion within microseconds
/// (`neigh_delete` in `net/core/neighbour.c`): a failure followed by a deletion this soon was none.
const DELETION: Duration = Duration::from_millis(20);

/// A neighbour: an address on the link that it is reached through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbour {
    /// Index of the interface.
    pub ifindex: u32,
    /// Its address; unicast.
    pub address: IpAddr,
}

/// What the kernel knows of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knowledge {
    /// Its Ethernet address, confirmed or not yet doubted: REACHABLE, STALE, DELAY, PROBE.
    Known([u8; 6]),
    /// Its Ethernet address, as the operator or the link says: PERMANENT, NOARP. To ask would make it doubtful.
    Fixed([u8; 6]),
    /// Being asked, or forgotten. The address that it had may be used until then.
    Resolving(Option<([u8; 6], Instant)>),
    /// Asked without an answer: FAILED. The address that it had until when it failed.
    Failed(Option<([u8; 6], Instant)>),
}

/// A neighbour's address has come to another Ethernet address, as when a second router takes the first one's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Index of the interface.
    pub ifindex: u32,
    /// The Ethernet address that it had, and that no neighbour there has any more.
    pub from: [u8; 6],
    /// The one that it has.
    pub to: [u8; 6],
}

/// What the kernel knows of all neighbours in this network namespace.
#[derive(Debug, Clone, Default)]
pub struct NeighbourTable {
    known: BTreeMap<Neighbour, Knowledge>,
    moves: Vec<Move>,
}

impl Knowledge {
    /// The Ethernet address, that of now or the last one.
    const fn mac(self) -> Option<[u8; 6]> {
        match self {
            Self::Known(mac) | Self::Fixed(mac) | Self::Resolving(Some((mac, _))) | Self::Failed(Some((mac, _))) => {
                Some(mac)
            }
            Self::Resolving(None) | Self::Failed(None) => None,
        }
    }
}

impl NeighbourTable {
    /// Replaces everything by what the kernel knows now.
    ///
    /// # Errors
    ///
    /// The kernel's refusal; the table is then unchanged.
    pub async fn dump(&mut self, kernel: &Kernel, now: Instant) -> Result<(), NetlinkError> {
        let request = kernel.requests().neighbours().get();
        let messages = answers("list the neighbours", request.execute()).await?;
        self.replace(&messages, now);
        Ok(())
    }

    fn replace(&mut self, messages: &[NeighbourMessage], now: Instant) {
        let before = std::mem::take(&mut self.known);
        for message in messages {
            if let Some(neighbour) = identify(message) {
                let old = before.get(&neighbour).copied();
                let new = learn(old, message, now);
                self.known.insert(neighbour, new);
                self.note_move(neighbour, old, new);
            }
        }
        for (neighbour, old) in before {
            if let Some(forgotten) = forget(old, now) {
                self.known.entry(neighbour).or_insert(forgotten);
            }
        }
    }

    /// Takes in what the kernel announced. The neighbour of which something changed.
    pub fn apply(&mut self, message: &RouteNetlinkMessage, now: Instant) -> Option<Neighbour> {
        match message {
            RouteNetlinkMessage::NewNeighbour(message) => {
                let neighbour = identify(message)?;
                let old = self.known.get(&neighbour).copied();
                let new = learn(old, message, now);
                self.known.insert(neighbour, new);
                self.note_move(neighbour, old, new);
                (old != Some(new)).then_some(neighbour)
            }
            RouteNetlinkMessage::DelNeighbour(message) => {
                let neighbour = identify(message)?;
                let old = self.known.remove(&neighbour)?;
                if let Some(forgotten) = forget(old, now) {
                    self.known.insert(neighbour, forgotten);
                }
                Some(neighbour)
            }
            _ => None,
        }
    }

    /// Notes that a neighbour has another Ethernet address, unless somebody else still has the one that it had.
    fn note_move(&mut self, neighbour: Neighbour, old: Option<Knowledge>, new: Knowledge) {
        let (Some(from), Knowledge::Known(to) | Knowledge::Fixed(to)) = (old.and_then(Knowledge::mac), new) else {
            return;
        };
        let Neighbour { ifindex, .. } = neighbour;
        let is_in_use = || {
            let mut others = self.known.iter().filter(|(other, _)| other.ifindex == ifindex);
            others.any(
                |(_, knowledge)| matches!(knowledge, Knowledge::Known(mac) | Knowledge::Fixed(mac) if *mac == from),
            )
        };
        if from != to && !is_in_use() {
            self.moves.push(Move { ifindex, from, to });
        }
    }

    /// The moves since the last call.
    pub fn take_moves(&mut self) -> Vec<Move> {
        std::mem::take(&mut self.moves)
    }

    /// The neighbour's Ethernet address, if it is known or was until a moment ago.
    #[must_use]
    pub fn mac(&self, neighbour: Neighbour, now: Instant) -> Option<[u8; 6]> {
        match self.known.get(&neighbour)? {
            Knowledge::Known(mac) | Knowledge::Fixed(mac) => Some(*mac),
            Knowledge::Resolving(Some((mac, until))) if now < *until => Some(*mac),
            Knowledge::Resolving(_) | Knowledge::Failed(_) => None,
        }
    }

    /// Whether the kernel itself has an address for the neighbour.
    #[must_use]
    pub fn is_known(&self, neighbour: Neighbour) -> bool {
        matches!(
            self.known.get(&neighbour),
            Some(Knowledge::Known(_) | Knowledge::Fixed(_))
        )
    }

    /// Whether the address is not to be asked for.
    #[must_use]
    pub fn is_fixed(&self, neighbour: Neighbour) -> bool {
        matches!(self.known.get(&neighbour), Some(Knowledge::Fixed(_)))
    }

    /// Whether the neighbour was asked and did not answer.
    #[must_use]
    pub fn has_failed(&self, neighbour: Neighbour) -> bool {
        matches!(self.known.get(&neighbour), Some(Knowledge::Failed(_)))
    }

    /// When the neighbour loses the address that it had, unless it answers before.
    #[must_use]
    pub fn grace_ends(&self, neighbour: Neighbour, now: Instant) -> Option<Instant> {
        match self.known.get(&neighbour)? {
            Knowledge::Resolving(Some((_, until))) if now < *until => Some(*until),
            _ => None,
        }
    }
}

/// Asks the kernel to resolve the neighbour or, if what it knows is stale, to confirm it (as `ip neighbour ... use`).
/// It does so in its own time: the outcome arrives as an event.
///
/// # Errors
///
/// The kernel's refusal: `ENOBUFS` if its neighbour table is full, `ENODEV` if the interface is gone.
pub async fn ask(kernel: &Kernel, neighbour: Neighbour) -> Result<(), NetlinkError> {
    let request = kernel
        .requests()
        .neighbours()
        .add(neighbour.ifindex, neighbour.address)
        .state(NeighbourState::None)
        .flags(NeighbourFlags::Use)
        .replace();
    done("resolve a neighbour", request.execute()).await
}

/// Which neighbour a message is about; `None` for proxies, bridges' forwarding tables and the like.
fn identify(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some((*address).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some((*address).into()),
        _ => None,
    })?;
    Some(Neighbour {
        ifindex: message.header.ifindex,
        address,
    })
}

fn learn(old: Option<Knowledge>, message: &NeighbourMessage, now: Instant) -> Knowledge {
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    });
    match (message.header.state, mac) {
        (NeighbourState::Failed, _) => Knowledge::Failed(match old {
            Some(Knowledge::Known(mac) | Knowledge::Fixed(mac)) => Some((mac, now)),
            Some(Knowledge::Failed(last)) => last,
            Some(Knowledge::Resolving(_)) | None => None,
        }),
        (
            NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe,
            Some(mac),
        ) if mac != [0; 6] => Knowledge::Known(mac),
        (NeighbourState::Permanent | NeighbourState::Noarp, Some(mac)) if mac != [0; 6] => Knowledge::Fixed(mac),
        _ => match old {
            Some(Knowledge::Known(mac) | Knowledge::Fixed(mac)) => Knowledge::Resolving(Some((mac, now + GRACE))),
            Some(Knowledge::Resolving(last)) => Knowledge::Resolving(last),
            Some(Knowledge::Failed(_)) | None => Knowledge::Resolving(None),
        },
    }
}

fn forget(old: Knowledge, now: Instant) -> Option<Knowledge> {
    match old {
        Knowledge::Known(mac) | Knowledge::Fixed(mac) => Some(Knowledge::Resolving(Some((mac, now + GRACE)))),
        Knowledge::Resolving(Some((_, until))) if now < until => Some(old),
        Knowledge::Failed(Some((mac, since))) if now < since + DELETION => {
            Some(Knowledge::Resolving(Some((mac, now + GRACE))))
        }
        Knowledge::Resolving(_) | Knowledge::Failed(_) => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use netlink_packet_route::{AddressFamily, neighbour::NeighbourHeader};

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

    pub(in super::super) fn message(
        neighbour: Neighbour,
        state: NeighbourState,
        mac: Option<[u8; 6]>,
    ) -> NeighbourMessage {
        let (family, address) = match neighbour.address {
            IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
            IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
        };
        let mut message = NeighbourMessage::default();
        message.header = NeighbourHeader {
            family,
            ifindex: neighbour.ifindex,
            state,
            ..NeighbourHeader::default()
        };
        message.attributes = vec![NeighbourAttribute::Destination(address)];
        if let Some(mac) = mac {
            message
                .attributes
                .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        }
        message
    }

    fn backend() -> Neighbour {
        Neighbour {
            ifindex: 2,
            address: IpAddr::from([10, 0, 0, 11]),
        }
    }

    fn new(state: NeighbourState, mac: Option<[u8; 6]>) -> RouteNetlinkMessage {
        RouteNetlinkMessage::NewNeighbour(message(backend(), state, mac))
    }

    #[test]
    fn every_state_with_an_address_counts_as_known() {
        let now = Instant::now();
        for state in [
            NeighbourState::Reachable,
            NeighbourState::Stale,
            NeighbourState::Delay,
            NeighbourState::Probe,
            NeighbourState::Permanent,
            NeighbourState::Noarp,
        ] {
            let mut table = NeighbourTable::default();
            assert_eq!(table.apply(&new(state, Some(MAC)), now), Some(backend()));
            assert_eq!(table.mac(backend(), now), Some(MAC), "{state}");
        }
    }

    #[test]
    fn a_neighbour_without_an_answer_is_unknown() {
        let now = Instant::now();
        let mut table = NeighbourTable::default();
        table.apply(&new(NeighbourState::Incomplete, None), now);
        assert_eq!(table.mac(backend(), now), None);
        table.apply(&new(NeighbourState::Failed, None), now);
        assert_eq!(table.mac(backend(), now), None);
        assert!(table.has_failed(backend()));
    }

    #[test]
    fn a_known_neighbour_that_fails_is_unknown_at_once() {
        let now = Instant::now();
        let mut table = NeighbourTable::default();
        table.apply(&new(NeighbourState::Probe, Some(MAC)), now);
        // The kernel still quotes the address that did not answer.
        table.apply(&new(NeighbourState::Failed, Some(MAC)), now);
        assert_eq!(table.mac(backend(), now), None);
        table.apply(&new(NeighbourState::Incomplete, None), now);
        assert_eq!(table.mac(backend(), now), None);
    }

    #[test]
    fn a_known_neighbour_that_the_kernel_forgets_is_kept_while_it_is_asked_again() {
        let now = Instant::now();
        let mut table = NeighbourTable::default();
        table.apply(&new(NeighbourState::Stale, Some(MAC)), now);
        // As the kernel announces an `ip neigh flush`.
        table.apply(&new(NeighbourState::Failed, Some(MAC)), now);
        let deleted = RouteNetlinkMessage::DelNeighbour(message(backend(), NeighbourState::Failed, None));
        table.apply(&deleted, now);
        table.apply(&new(NeighbourState::Incomplete, None), now);
        assert!(!table.is_known(backend()));
        assert_eq!(table.mac(backend(), now), Some(MAC));
        assert_eq!(table.grace_ends(backend(), now), Some(now + GRACE));
        assert_eq!(table.mac(backend(), now + GRACE), None);
    }

    #[test]
    fn a_neighbour_that_failed_is_not_revived_when_the_kernel_forgets_it() {
        let now = Instant::now();
        let mut table = NeighbourTable::default();
        table.apply(&new(NeighbourState::Probe, Some(MAC)), now);
        table.apply(&new(NeighbourState::Failed, Some(MAC)), now);
        let later = now + DELETION;
        let deleted = RouteNetlinkMessage::DelNeighbour(message(backend(), NeighbourState::Failed, None));
        table.apply(&deleted, later);
        assert_eq!(table.mac(backend(), later), None);
    }

    #[test]
    fn a_repeated_announcement_is_no_change() {
        let now = Instant::now();
        let mut table = NeighbourTable::default();
        table.apply(&new(NeighbourState::Reachable, Some(MAC)), now);
        assert_eq!(table.apply(&new(NeighbourState::Stale, Some(MAC)), now), None);
    }

    #[test]
    fn a_dump_forgets_what_it_does_not_name() {
        let now = Instant::now();
        let mut table = NeighbourTable::default();
        table.apply(&new(NeighbourState::Reachable, Some(MAC)), now);
        table.replace(&[], now);
        assert_eq!(table.mac(backend(), now + GRACE), None);
        table.replace(&[message(backend(), NeighbourState::Stale, Some(MAC))], now);
        assert_eq!(table.mac(backend(), now + GRACE), Some(MAC));
    }

    #[test]
    fn an_address_that_the_operator_wrote_down_is_not_asked_for() {
        let now = Instant::now();
        let mut table = NeighbourTable::default();
        table.apply(&new(NeighbourState::Stale, Some(MAC)), now);
        assert!(!table.is_fixed(backend()));
        table.apply(&new(NeighbourState::Permanent, Some(MAC)), now);
        assert!(table.is_fixed(backend()) && table.is_known(backend()));
        table.apply(&new(NeighbourState::Stale, Some(MAC)), now);
        assert!(!table.is_fixed(backend()));
    }

    #[test]
    fn a_move_is_told_once_nobody_has_the_old_address_any_more() {
        const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x12];
        let now = Instant::now();
        let moved = Move {
            ifindex: 2,
            from: MAC,
            to: OTHER,
        };
        let mut table = NeighbourTable::default();
        table.apply(&new(NeighbourState::Stale, Some(MAC)), now);
        assert_eq!(table.take_moves(), []);
        table.apply(&new(NeighbourState::Reachable, Some(OTHER)), now);
        assert_eq!((table.take_moves(), table.take_moves()), (vec![moved], vec![]));
        // As it fails, is asked for again and answers from elsewhere.
        table.apply(&new(NeighbourState::Failed, Some(OTHER)), now);
        table.apply(&new(NeighbourState::Incomplete, None), now);
        table.apply(&new(NeighbourState::Reachable, Some(OTHER)), now);
        assert_eq!(table.take_moves(), []);
        let second = Neighbour {
            address: IpAddr::from([10, 0, 0, 12]),
            ..backend()
        };
        let second = message(second, NeighbourState::Stale, Some(OTHER));
        table.apply(&RouteNetlinkMessage::NewNeighbour(second), now);
        table.apply(&new(NeighbourState::Reachable, Some(MAC)), now);
        assert_eq!(table.take_moves(), [], "the second one is still there");
    }

    #[test]
    fn proxies_are_no_neighbours() {
        let mut proxy = message(backend(), NeighbourState::Permanent, Some(MAC));
        proxy.header.flags = NeighbourFlags::Proxy;
        let mut table = NeighbourTable::default();
        assert_eq!(
            table.apply(&RouteNetlinkMessage::NewNeighbour(proxy), Instant::now()),
            None
        );
    }
}
