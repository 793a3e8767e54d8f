use crate::wire::Be16;

/// In place of an interface's index in [`Interface`] and [`super::Backend`]: packets always leave through the devmap, even by
/// the interface that they came in by. For veth, whose `XDP_TX` wakes the other end only if that has an XDP program too
/// (kernel `drivers/net/veth.c`, `veth_xdp_flush`); elsewhere `XDP_TX` costs less.
pub const VIA_DEVMAP: u32 = u32::MAX;

/// An interface that packets come in by or go out of: 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Interface {
    /// Its index for the kernel; 0 where the slot is free; [`VIA_DEVMAP`].
    pub ifindex: u32,
    /// Its MAC, in the order of the wire.
    pub mac: [Be16; 3],
    /// Zero.
    pub reserved: [u16; 3],
}

/// Which slot (in map `INTERFACES`) an interface has: the slot above 32 bits of its index, so that both change as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct InterfaceSlot(pub u64);

impl InterfaceSlot {
    /// No interface is here.
    pub const NONE: Self = Self(0);

    /// The interface with this index has this slot.
    #[must_use]
    pub const fn new(ifindex: u32, slot: u32) -> Self {
        Self((slot as u64) << 32 | ifindex as u64)
    }

    /// The interface's index; 0 where the place is free.
    #[inline(always)]
    #[must_use]
    pub const fn ifindex(self) -> u32 {
        self.0 as u32
    }

    /// Its slot.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Buckets of the table that finds an interface's slot by its index ([`crate::hash::interface`]).
pub const INTERFACE_BUCKETS: u32 = 1024;

/// Places in such a bucket. Of sets of 63 interfaces with indices at random, one in 100,000 does not find place.
pub const INTERFACES_PER_BUCKET: usize = 4;

/// Interfaces whose indices have one hash: half a cache line.
pub type InterfaceBucket = [InterfaceSlot; INTERFACES_PER_BUCKET];

const _: () = assert!(size_of::<Interface>() == 16 && size_of::<InterfaceBucket>() == 32);
