/// The words that steer the whole packet path: the only entry of map `CONTROL`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Control {
    /// Which bank of the configuration maps packets use, 0 or 1, and [`Control::ANSWERS`] if it has endpoints of NAT backends:
    /// the one write that makes a change visible.
    pub bank: u64,
    /// [`super::VERSION`] of the layouts.
    pub version: u64,
    /// Seed of the hashes that place flows, random for each new table.
    pub seed: u64,
    /// The logarithm of the jiffies in the shortest unit of a flow's last-seen time ([`super::Seen`]).
    pub tick: u32,
    /// Jiffies per second, as measured when the maps were made.
    pub hertz: u32,
    /// [`UnknownFragments`].
    pub unknown_fragments: u64,
    /// Zero.
    pub room: [u64; 3],
}

impl Control {
    /// In `bank`: some packets that are for no service are the answers of NAT backends.
    pub const ANSWERS: u64 = 1 << 1;

    /// The bank that packets use.
    #[inline(always)]
    #[must_use]
    pub const fn in_use(&self) -> u32 {
        self.bank as u32 & 1
    }
}

/// The programs in which the way of rarer packets goes on, by their place in map `FURTHER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Further {
    /// A new IPv4 flow, and the first fragment of a datagram.
    BeginV4 = 0,
    /// The same over IPv6.
    BeginV6 = 1,
    /// Another fragment.
    Fragment = 2,
    /// ICMP.
    Icmp = 3,
}

impl Further {
    /// All of them, in the order of their places.
    pub const ALL: [Self; 4] = [Self::BeginV4, Self::BeginV6, Self::Fragment, Self::Icmp];

    /// The program's name.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::BeginV4 => "lvx_begin_v4",
            Self::BeginV6 => "lvx_begin_v6",
            Self::Fragment => "lvx_fragment",
            Self::Icmp => "lvx_icmp",
        }
    }
}

/// What becomes of a fragment whose first fragment, which has the ports, was not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum UnknownFragments {
    /// It is passed to the kernel.
    Pass = 0,
    /// It is dropped, if its destination is a service's.
    Drop = 1,
    /// The addresses alone choose its backend, if its destination is a service's.
    Addresses = 2,
}

const _: () = assert!(size_of::<Control>() == 64);
