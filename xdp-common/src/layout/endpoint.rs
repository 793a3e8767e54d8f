use super::MAX_SERVICES;

/// What an address and port stand for: 0 nothing, [`Target::REAL`] a backend that answers through NAT, else a service's
/// number, with a mark above it if no flow is looked for ([`Target::each_packet`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Target(pub u32);

impl Target {
    /// Nothing is here.
    pub const NONE: Self = Self(0);
    /// A NAT backend: packets from here may be the way back of a flow.
    pub const REAL: Self = Self(1 << 31);

    /// A service whose packets are each scheduled by themselves though flows are kept for their answers. No backend is of the
    /// service that is looked for then, so no flow is found.
    #[must_use]
    pub const fn each_packet(service: u32) -> Self {
        Self(service | MAX_SERVICES)
    }

    /// The service that flows are looked for by, if it is one: its number, or what [`Self::number`] makes one.
    #[inline(always)]
    #[must_use]
    pub const fn service(self) -> Option<u32> {
        if self.0 != 0 && self.0 >> 17 == 0 {
            Some(self.0)
        } else {
            None
        }
    }

    /// The number of what [`Self::service`] told.
    #[inline(always)]
    #[must_use]
    pub const fn number(service: u32) -> u32 {
        service & (MAX_SERVICES - 1)
    }
}

/// Port (network order) and protocol of an endpoint in one word. Never zero, as no protocol of ours is.
#[inline(always)]
#[must_use]
pub const fn port_protocol(port: u16, protocol: u8) -> u32 {
    (port as u32) << 16 | protocol as u32
}

/// All ports of a protocol in the place of [`port_protocol`]: for fragments, which have no port.
#[inline(always)]
#[must_use]
pub const fn any_port(protocol: u8) -> u32 {
    1 << 8 | protocol as u32
}

/// An IPv4 endpoint: 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EndpointV4 {
    /// Address (network order) above [`port_protocol`]; 0 where the place is free.
    pub key: u64,
    /// What is there.
    pub target: Target,
    /// In the first place of a bucket: 1 if something that belongs here or before has spilled into the next bucket.
    pub spilled: u32,
}

impl EndpointV4 {
    /// The key of an address and [`port_protocol`].
    #[inline(always)]
    #[must_use]
    pub const fn key(address: u32, port_protocol: u32) -> u64 {
        (address as u64) << 32 | port_protocol as u64
    }
}

/// An IPv6 endpoint: 32 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EndpointV6 {
    /// Address, as two words in the order of the wire.
    pub address: [u64; 2],
    /// [`port_protocol`]; 0 where the place is free.
    pub port_protocol: u32,
    /// What is there.
    pub target: Target,
    /// As in [`EndpointV4::spilled`].
    pub spilled: u32,
    /// Zero.
    pub reserved: u32,
}

/// Places in a bucket of the IPv4 table: one cache line.
pub const BUCKET_V4: usize = 4;
/// Places in a bucket of the IPv6 table: two cache lines.
pub const BUCKET_V6: usize = 4;

/// Buckets that an endpoint may be in: its own and the next ones. With as many buckets as endpoints, one in 300 spills
/// into the next; four in a row that are full are not met.
pub const REACH: u32 = 4;

/// A bucket of the IPv4 endpoint table.
pub type BucketV4 = [EndpointV4; BUCKET_V4];
/// A bucket of the IPv6 endpoint table.
pub type BucketV6 = [EndpointV6; BUCKET_V6];

const _: () = assert!(size_of::<BucketV4>() == 64 && size_of::<BucketV6>() == 128);
