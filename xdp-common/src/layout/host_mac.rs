/// A MAC to which frames are this host's, where they come in by an interface: the interface's own, or that of a device above
/// it. 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HostMac {
    /// The MAC: [`HostMac::word`].
    pub mac: u64,
    /// The interface's index; 0 where the place is free.
    pub ifindex: u64,
}

impl HostMac {
    /// A MAC as packets compare it: the first eight bytes of a frame, of which the last two are not its.
    #[inline(always)]
    #[must_use]
    pub const fn word(frame: [u8; 8]) -> u64 {
        u64::from_le_bytes(frame) << 16
    }

    /// [`Self::word`] of a MAC.
    #[must_use]
    pub const fn word_of([a, b, c, d, e, f]: [u8; 6]) -> u64 {
        Self::word([a, b, c, d, e, f, 0, 0])
    }

    /// No frame has this MAC.
    pub const NONE: Self = Self {
        mac: u64::MAX,
        ifindex: 0,
    };
}

/// Places in [`super::Control::own_macs`].
pub const OWN_MACS: usize = 3;

/// Buckets of the table of [`HostMac`]s in a bank ([`crate::hash::host_mac`]).
pub const HOST_MAC_BUCKETS: u32 = 256;

/// Places in such a bucket: one cache line.
pub const HOST_MACS_PER_BUCKET: usize = 4;

/// Buckets that a MAC may be in: its own and the next one.
pub const HOST_MAC_REACH: u32 = 2;

/// MACs that have one hash.
pub type HostMacBucket = [HostMac; HOST_MACS_PER_BUCKET];

const _: () = assert!(size_of::<HostMacBucket>() == 64);
