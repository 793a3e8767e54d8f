use crate::wire::Be16;

/// How packets reach a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Method {
    /// No backend has this number.
    None = 0,
    /// Direct routing: MACs are rewritten, the backend owns the VIP.
    Dr = 1,
    /// Network address translation, both ways.
    Nat = 2,
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
    /// The interface it is behind: its index for the kernel. 0 while the next hop is unknown;
    /// [`super::VIA_DEVMAP`].
    pub ifindex: u32,
    /// The backend's port.
    pub port: Be16,
    /// The service's port.
    pub vport: Be16,
    /// [`Method`].
    pub method: u8,
    /// IP protocol of the service.
    pub protocol: u8,
    /// The interface's port (place in map `PORTS`).
    pub out: u16,
    /// Delta of the checksum when the VIP becomes the backend's address (see [`crate::checksum`]).
    pub address_delta: u16,
    /// Delta of the checksum when VIP and port become the backend's.
    pub endpoint_delta: u16,
    /// The service's number.
    pub service: u16,
    /// [`Backend::IPV6`]; room for limits.
    pub flags: u16,
}

impl Backend {
    /// In `flags`: the addresses are IPv6.
    pub const IPV6: u16 = 1;

    /// No backend.
    pub const NONE: Self = Self {
        address: [0; 2],
        vip: [0; 2],
        macs: [Be16(0); 6],
        ifindex: 0,
        port: Be16(0),
        vport: Be16(0),
        method: Method::None as u8,
        protocol: 0,
        out: 0,
        address_delta: 0,
        endpoint_delta: 0,
        service: 0,
        flags: 0,
    };
}

const _: () = assert!(size_of::<Backend>() == 64);
