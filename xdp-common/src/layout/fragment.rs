use super::Hop;

/// The datagram that an IPv4 fragment belongs to (RFC 791): 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct FragmentV4 {
    /// Source address, as on the wire.
    pub source: u32,
    /// Destination address, as on the wire.
    pub destination: u32,
    /// Identification, as on the wire.
    pub identification: u32,
    /// IP protocol.
    pub protocol: u32,
}

/// The datagram that an IPv6 fragment belongs to (RFC 8200, section 4.5): 40 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct FragmentV6 {
    /// Source address, as two words in the order of the wire.
    pub source: [u64; 2],
    /// Destination address, as two words in the order of the wire.
    pub destination: [u64; 2],
    /// Identification, as on the wire.
    pub identification: u32,
    /// Zero.
    pub reserved: u32,
}

/// Where the first fragment of a datagram went: 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct FragmentRoute {
    /// The backend's number.
    pub backend: u32,
    /// 1 towards the backend, 0 towards the client.
    pub inbound: u32,
    /// The client's next hop, on the way back.
    pub hop: Hop,
}

/// Datagrams in fragments that are remembered, per family. Each takes a moment: its fragments follow one another.
pub const FRAGMENTS: u32 = 8192;

const _: () =
    assert!(size_of::<FragmentV4>() == 16 && size_of::<FragmentV6>() == 40 && size_of::<FragmentRoute>() == 16);
