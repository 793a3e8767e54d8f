//! Flow tables: set-associative, in arrays, without locks.
//!
//! A connection has one entry, and both directions find it, because its bucket is chosen by the client's address and
//! port alone. The entry is one word: which client it is (as far as the bucket does not say that), its backend, its state
//! and when it was last seen. So eight of them share a cache line, a packet waits for no more memory than that, and an entry
//! is read, replaced and freed as one. Whose service it is the backend says: a backend belongs to one service.
//!
//! Over IPv6 the word has a keyed tag of the client ([`super::ClientId`]), whose address stands in a table of its own for those
//! who list flows; and a NAT flow's next hop in another. A writer puts [`FlowEntry::BUSY`] into the word, writes the rest, then the
//! word; a lister reads the word again after the rest, and takes the entry for absent if it changed.
//!
//! A template, which is where a client persists, has an entry too: its port is the number of the persistence group.

use super::{ClientId, Seen};
use crate::{tcp_state::State, wire::Be16};

/// Flows in a bucket. A power of two.
pub const FLOWS_PER_BUCKET: usize = 8;

/// A flow: 48 bits of client and backend, 3 of state, 13 of when it was last seen.
///
/// The 48 bits are the client's number ([`ClientId`]), of which the lowest, that are the number of the bucket, make room for
/// the number of the backend and, below it, two marks. A table has therefore at least four times as many buckets as there
/// can be backends. `mask` is one less than the number of buckets, which is a power of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct FlowEntry(pub u64);

impl FlowEntry {
    /// No flow is here.
    pub const FREE: Self = Self(0);
    /// One is being written. As above, its backend has number 0, which none has.
    pub const BUSY: Self = Self(1);
    /// A mark: nothing has confirmed yet that the flow is one.
    pub const UNCONFIRMED: u64 = 1 << 16;
    /// A mark: the flow was learnt from another node.
    pub const LEARNT: u64 = 1 << 17;

    /// The flow of a client with a backend.
    #[inline(always)]
    #[must_use]
    pub const fn new(client: ClientId, mask: u32, backend: u32, state: State, seen: Seen) -> Self {
        Self(client.0 & !placed(mask) | (backend as u64) << 18).with(state, seen)
    }

    /// The same flow in this state, seen then.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, state: State, seen: Seen) -> Self {
        Self(self.0 & !0xffff | (state as u64) << STATE | (seen.0 as u64) << SEEN)
    }

    /// Whether this is an entry of the client, of which the bucket says the rest.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(self, client: ClientId, mask: u32) -> bool {
        (self.0 ^ client.0) >> 16 <= mask as u64
    }

    /// The client of a flow in this bucket.
    #[must_use]
    pub const fn client(self, bucket: u32, mask: u32) -> ClientId {
        ClientId(self.0 & !placed(mask) & !0xffff | (bucket as u64) << 16)
    }

    /// The backend's number.
    #[inline(always)]
    #[must_use]
    pub const fn backend(self, mask: u32) -> u32 {
        ((self.0 >> 16) as u32 & mask) >> 2
    }

    /// The flow's state.
    #[inline(always)]
    #[must_use]
    pub const fn state(self) -> State {
        State::from_bits((self.0 >> STATE) as u8)
    }

    /// When a packet of it was last seen.
    #[inline(always)]
    #[must_use]
    pub const fn seen(self) -> Seen {
        Seen((self.0 >> SEEN) as u16 & 0x1fff)
    }
}

/// Where state and last-seen time stand in a flow's word.
const STATE: u32 = if cfg!(feature = "other-flows") { 0 } else { 13 };
const SEEN: u32 = if cfg!(feature = "other-flows") { 3 } else { 0 };

/// The bits of a client's word that the place of its bucket says.
#[inline(always)]
const fn placed(mask: u32) -> u64 {
    (mask as u64) << 16
}

/// A bucket of flows: one cache line.
pub type BucketFlow = [FlowEntry; FLOWS_PER_BUCKET];

/// The addresses of the clients of a bucket of IPv6 flows, each as two words in the order of the wire.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct BucketClients {
    /// By slot of the bucket.
    pub addresses: [[u64; 2]; FLOWS_PER_BUCKET],
}

/// Where the answers of a NAT flow go: the client's next hop, learnt from the client's own packets (48 bits of MAC, 16
/// of interface slot). The balancer answers by the way it was asked, as routers' "auto last hop" does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Hop(pub u64);

impl Hop {
    /// Nothing was learnt.
    pub const NONE: Self = Self(0);

    /// The neighbour with this MAC (in the order of the wire) behind the interface in this slot.
    #[inline(always)]
    #[must_use]
    pub const fn new(mac: [Be16; 3], interface: u32) -> Self {
        Self(mac[0].0 as u64 | (mac[1].0 as u64) << 16 | (mac[2].0 as u64) << 32 | (interface as u64) << 48)
    }

    /// The neighbour's MAC, in the order of the wire.
    #[inline(always)]
    #[must_use]
    pub const fn mac(self) -> [Be16; 3] {
        [
            Be16(self.0 as u16),
            Be16((self.0 >> 16) as u16),
            Be16((self.0 >> 32) as u16),
        ]
    }

    /// The slot of its interface (in map `INTERFACES`).
    #[inline(always)]
    #[must_use]
    pub const fn interface(self) -> u32 {
        (self.0 >> 48) as u32
    }
}

/// The next hops of the flows of a bucket.
pub type HopBucket = [Hop; FLOWS_PER_BUCKET];

const _: () = assert!(size_of::<BucketFlow>() == 64 && size_of::<BucketClients>() == 128);
const _: () = assert!(FLOWS_PER_BUCKET == 8, "ClientId::slot");

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: u32 = 0x3ff;

    #[test]
    fn a_flow_tells_what_it_was_made_of() {
        let client = ClientId(0x1234_5678_9abc_0000);
        let flow = FlowEntry::new(client, MASK, 0xfe, State::Template, Seen(0x1abc));
        assert_eq!(flow.client(client.bucket(MASK), MASK), client);
        assert_eq!(flow.backend(MASK), 0xfe);
        assert_eq!((flow.state(), flow.seen()), (State::Template, Seen(0x1abc)));
        let later = flow.with(State::Closed, Seen(1));
        assert_eq!((later.state(), later.seen()), (State::Closed, Seen(1)));
        assert_eq!(later.client(client.bucket(MASK), MASK), client);
        assert_eq!(later.backend(MASK), 0xfe);
    }

    #[test]
    fn a_flow_is_of_no_client_but_its_own_among_those_of_its_bucket() {
        let client = ClientId(0x1234_5678_9abc_0000);
        let flow = FlowEntry::new(client, MASK, 5, State::Udp, Seen(9));
        assert!(flow.is_of(client, MASK));
        for bit in 26..64 {
            assert!(!flow.is_of(ClientId(client.0 ^ 1 << bit), MASK), "bit {bit}");
        }
    }

    #[test]
    fn marks_change_neither_client_nor_backend_and_outlast_a_new_state() {
        let client = ClientId(0x1234_5678_9abc_0000);
        let flow = FlowEntry::new(client, MASK, 0xff, State::Udp, Seen(9));
        for mark in [
            FlowEntry::UNCONFIRMED,
            FlowEntry::LEARNT,
            FlowEntry::UNCONFIRMED | FlowEntry::LEARNT,
        ] {
            let marked = FlowEntry(flow.0 | mark).with(State::Closed, Seen(7));
            assert_eq!(
                (
                    marked.backend(MASK),
                    marked.0 & (FlowEntry::UNCONFIRMED | FlowEntry::LEARNT)
                ),
                (0xff, mark)
            );
            assert!(marked.is_of(client, MASK));
        }
    }

    #[test]
    fn a_slot_that_is_free_or_busy_has_no_backend() {
        assert_eq!(
            (FlowEntry::FREE.backend(u32::MAX), FlowEntry::BUSY.backend(u32::MAX)),
            (0, 0)
        );
    }
}
