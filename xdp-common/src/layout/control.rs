use super::{ClientKeys, HostMac, OWN_MACS, TAIL_CALLS};

/// The words that steer the whole packet path: the only entry of map `CONTROL`, two cache lines. Packets of known flows read
/// the first one only.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Control {
    /// Which bank of the configuration maps packets use, 0 or 1, and flags beside it ([`Control::ANSWERS`] and others): the one
    /// write that makes a change visible. It is the first word in every version.
    pub mode: u64,
    /// The logarithm of the jiffies in the shortest unit of a flow's last-seen time ([`super::Seen`]).
    pub tick: u32,
    /// Jiffies per second, as measured when the maps were made.
    pub hertz: u32,
    /// What makes the places of flows unpredictable.
    pub keys: ClientKeys,
    /// [`UnknownFragments`].
    pub unknown_fragments: u64,
    /// The highest number that a backend was ever given.
    pub highest: u64,
    /// The own MACs of some interfaces: most frames are for one of these, and are not looked for in map `HOST_MACS`.
    pub own_macs: [HostMac; OWN_MACS],
}

impl Control {
    /// In `mode`: some packets that are for no service are the answers of NAT backends.
    pub const ANSWERS: u64 = 1 << 1;
    /// In `mode`: packets go to the predecessor until all interfaces have this dataplane's program. The same bit in every
    /// version: by it a dataplane is known that has not taken over yet.
    pub const WAITING: u64 = 1 << 2;
    /// In `mode`: flows that are not known here may be the predecessor's. The same bit in every version.
    pub const SUCCEEDING: u64 = 1 << 3;

    /// The bank that packets use.
    #[inline(always)]
    #[must_use]
    pub const fn bank(&self) -> u32 {
        self.mode as u32 & 1
    }
}

/// The programs in which the path of rarer packets goes on, by their place in map `TAIL_CALLS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TailCall {
    /// A new IPv4 flow, and the first fragment of a datagram.
    NewFlowV4 = 0,
    /// The same over IPv6.
    NewFlowV6 = 1,
    /// Another fragment.
    Fragment = 2,
    /// ICMP.
    Icmp = 3,
    /// The predecessor's program that is attached to interfaces.
    Predecessor = 4,
    /// The predecessor's program that finds flows ([`crate::succession`]).
    Find = 5,
    /// A packet that asks a NAT backend directly.
    Direct = 6,
    /// An IPv4 packet whose service has no backend left.
    RejectV4 = 7,
    /// The same over IPv6.
    RejectV6 = 8,
}

impl TailCall {
    /// Those to programs of the dataplane's own, in the order of their places, and the programs' names.
    pub const OWN: [(Self, &'static str); 7] = [
        (Self::NewFlowV4, "lvx_new_flow_v4"),
        (Self::NewFlowV6, "lvx_new_flow_v6"),
        (Self::Fragment, "lvx_fragment"),
        (Self::Icmp, "lvx_icmp"),
        (Self::Direct, "lvx_direct"),
        (Self::RejectV4, "lvx_reject_v4"),
        (Self::RejectV6, "lvx_reject_v6"),
    ];

    /// Programs that nobody goes on in, but which the dataplane is to keep though their pins be removed: their places and names.
    pub const KEPT: [(u32, &'static str); 2] =
        [(TAIL_CALLS as u32 - 2, "lvx_find"), (TAIL_CALLS as u32 - 1, "lvx_tell")];
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

const _: () = assert!(size_of::<Control>() == 128 && (TailCall::RejectV6 as usize) < TAIL_CALLS);
