use crate::wire::Be16;

/// How packets reach a backend, as the properties that steps of the packet path ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Method(pub u8);

impl Method {
    /// No backend has this number.
    pub const NONE: Self = Self(0);
    /// Packets are forwarded to it.
    pub const FORWARDS: Self = Self(1);
    /// The destination becomes the backend's address and port.
    pub const REWRITES_DESTINATION: Self = Self(1 << 1);
    /// The source becomes one of the balancer's addresses and ports.
    pub const REWRITES_SOURCE: Self = Self(1 << 2);
    /// An outer header is put before the packet ([`Underlay`]).
    pub const ENCAPSULATES: Self = Self(1 << 3);
    /// Answers come back through the balancer.
    pub const SEES_ANSWERS: Self = Self(1 << 4);

    /// Direct routing: MACs are rewritten, the backend owns the VIP.
    pub const DR: Self = Self::FORWARDS;
    /// Network address translation, both ways.
    pub const NAT: Self = Self(Self::FORWARDS.0 | Self::REWRITES_DESTINATION.0 | Self::SEES_ANSWERS.0);

    /// Whether it has a property.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, property: Self) -> bool {
        self.0 & property.0 != 0
    }
}

/// A backend of a service and all that rewriting a packet needs: 64 bytes, one cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Backend {
    /// Its address, as two words in the order of the wire; IPv4 in the first four bytes.
    pub address: [u64; 2],
    /// The service's address in the same form: the source of packets on the way back.
    pub vip: [u64; 2],
    /// Destination and source MAC of the frames to it, in the order of the wire.
    pub macs: [Be16; 6],
    /// The interface that it is behind: its index for the kernel. 0 while the next hop is unknown;
    /// [`super::VIA_DEVMAP`].
    pub ifindex: u32,
    /// The backend's port.
    pub port: Be16,
    /// The service's port.
    pub vport: Be16,
    /// How packets reach it.
    pub method: Method,
    /// IP protocol of the service.
    pub protocol: u8,
    /// The slot of that interface (in map `INTERFACES`).
    pub interface: u16,
    /// Delta of the checksum when the VIP becomes the backend's address (see [`crate::checksum`]).
    pub address_delta: u16,
    /// Delta of the checksum when VIP and port become the backend's.
    pub endpoint_delta: u16,
    /// The service's number.
    pub service: u16,
    /// [`Backend::IPV6`] and the other flags; the number of its timeouts (place in map `TIMEOUTS`) in the high byte.
    pub flags: u16,
}

impl Backend {
    /// In `flags`: the addresses are IPv6.
    pub const IPV6: u16 = 1;
    /// In `flags`: it takes no new connections, and clients that persist with it are scheduled anew.
    pub const QUIESCED: u16 = 1 << 1;
    /// In `flags`: it is down, and its flows are scheduled anew.
    pub const ENDED: u16 = 1 << 2;
    /// In `flags`: it is down or deleted, and the packets of its flows are dropped.
    pub const DROPPING: u16 = 1 << 3;
    /// In `flags`: its connections are counted as they begin and end, because its scheduler or its thresholds ask.
    pub const COUNTED: u16 = 1 << 4;
    /// In `flags`: its service has persistence.
    pub const PERSISTENT: u16 = 1 << 5;
    /// In `flags`: it has thresholds.
    pub const LIMITED: u16 = 1 << 6;

    /// In `flags`: answers come back from the same address and port for another service too.
    pub const SHARED: u16 = 1 << 7;

    /// In `flags`: no flow goes on with it.
    pub const UNUSABLE: u16 = Self::ENDED | Self::DROPPING;

    /// Flags with the number of the timeouts.
    #[must_use]
    pub const fn flags(flags: u16, timeouts: u8) -> u16 {
        flags | (timeouts as u16) << 8
    }

    /// The number of its timeouts.
    #[inline(always)]
    #[must_use]
    pub const fn timeouts(&self) -> u8 {
        (self.flags >> 8) as u8
    }

    /// No backend.
    pub const NONE: Self = Self {
        address: [0; 2],
        vip: [0; 2],
        macs: [Be16(0); 6],
        ifindex: 0,
        port: Be16(0),
        vport: Be16(0),
        method: Method::NONE,
        protocol: 0,
        interface: 0,
        address_delta: 0,
        endpoint_delta: 0,
        service: 0,
        flags: 0,
    };
}

/// Thresholds of a backend's connections, active and inactive, as `ipvsadm -x -y`: 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Limit {
    /// As many connections make it overloaded; 0 for no limit.
    pub upper: u32,
    /// An overloaded backend is so until it has fewer connections than this.
    pub lower: u32,
}

/// What of the path to a backend only some packets ask for, so that it has a line of its own: 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Underlay {
    /// Source of the outer header, as two words in the order of the wire; IPv4 in the first four bytes.
    pub source: [u64; 2],
    /// The longest packet that the next hop takes, bytes from the IP header on.
    pub mtu: u16,
    /// What stands between the outer header and the packet; 0 for nothing.
    pub encapsulation: u8,
    /// TTL or hop limit of the outer header.
    pub hops: u8,
    /// Destination port of the outer header, where that has ports.
    pub port: Be16,
    /// Zero.
    pub reserved: u16,
    /// Bytes a second that the backend is sent at most; 0 for no limit.
    pub rate: u64,
    /// Bytes above that which may come at once.
    pub burst: u64,
    /// Zero.
    pub room: [u64; 3],
}

/// The connections of a backend, for schedulers and thresholds: 16 bytes, written by packets of all CPUs where
/// [`Backend::COUNTED`] says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Connections {
    /// Active connections above 32 bits of inactive ones: in one word, so that they change as one.
    pub word: u64,
    /// 1 from when the upper threshold is reached until the lower one is undercut.
    pub overloaded: u64,
}

impl Connections {
    /// One active connection.
    pub const ACTIVE: u64 = 1 << 32;
    /// One inactive connection.
    pub const INACTIVE: u64 = 1;

    /// Active connections. A count that is a few too low at the moment reads as none.
    #[inline(always)]
    #[must_use]
    pub const fn active(word: u64) -> u32 {
        let active = (word.wrapping_add(1 << 31) >> 32) as u32;
        active & !((active as i32 >> 31) as u32)
    }

    /// Inactive connections. As [`Connections::active`].
    #[inline(always)]
    #[must_use]
    pub const fn inactive(word: u64) -> u32 {
        let inactive = word as u32;
        inactive & !((inactive as i32 >> 31) as u32)
    }
}

/// Idle times after which a flow in each state is over, jiffies, by [`crate::tcp_state::State`].
pub type Timeouts = [u32; crate::tcp_state::STATES];

const _: () = assert!(size_of::<Backend>() == 64 && size_of::<Limit>() == 8 && size_of::<Connections>() == 16);
const _: () = assert!(size_of::<Underlay>() == 64);
const _: () = assert!(size_of::<Timeouts>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_in_halves_of_a_word_that_may_be_below_zero_for_a_moment() {
        let word = 3 * Connections::ACTIVE + 2 * Connections::INACTIVE;
        assert_eq!((Connections::active(word), Connections::inactive(word)), (3, 2));
        let word = word.wrapping_sub(3 * Connections::INACTIVE);
        assert_eq!((Connections::active(word), Connections::inactive(word)), (3, 0));
        let word = word.wrapping_sub(4 * Connections::ACTIVE);
        assert_eq!((Connections::active(word), Connections::inactive(word)), (0, 0));
        let word = word.wrapping_add(4 * Connections::ACTIVE + Connections::INACTIVE);
        assert_eq!((Connections::active(word), Connections::inactive(word)), (3, 0));
    }
}
