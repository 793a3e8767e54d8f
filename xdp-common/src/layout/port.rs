use crate::wire::Be16;

/// In place of an interface's index in [`Port`] and [`super::Backend`]: packets always leave through the devmap, even by
/// the interface that they came in by. For veth, whose `XDP_TX` wakes the other end only if that has an XDP program too
/// (kernel `drivers/net/veth.c`, `veth_xdp_flush`); elsewhere `XDP_TX` costs less.
pub const VIA_DEVMAP: u32 = u32::MAX;

/// An interface that packets come in by or go out of: 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Port {
    /// Its index for the kernel; 0 where the place is free; [`VIA_DEVMAP`].
    pub ifindex: u32,
    /// Its MAC, in the order of the wire.
    pub mac: [Be16; 3],
    /// Zero.
    pub reserved: [u16; 3],
}

/// The port of the interface whose index, modulo [`super::PORT_SLOTS`], is this place: 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PortOf {
    /// The interface's index; 0 where the place is free.
    pub ifindex: u32,
    /// Its place in map `PORTS`.
    pub port: u32,
}

const _: () = assert!(size_of::<Port>() == 16 && size_of::<PortOf>() == 8);
