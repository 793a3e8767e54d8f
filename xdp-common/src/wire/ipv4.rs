use super::{Be16, Be32};
use crate::checksum;

/// An IPv4 header without options (RFC 791): 20 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub struct Ipv4 {
    version_length: u8,
    /// Type of service.
    pub tos: u8,
    /// Length of header and payload, bytes.
    pub total_length: Be16,
    /// Identification, the same in all fragments of a datagram.
    pub identification: Be16,
    flags_offset: Be16,
    /// Time to live, hops.
    pub ttl: u8,
    /// What follows: [`super::protocol`].
    pub protocol: u8,
    /// Checksum of the header, options included.
    pub checksum: u16,
    /// Source address.
    pub source: Be32,
    /// Destination address.
    pub destination: Be32,
}

const _: () = assert!(size_of::<Ipv4>() == 20);

impl Ipv4 {
    /// The header, without options, of a packet that must not be fragmented and has so many bytes after it.
    #[inline(always)]
    #[must_use]
    pub const fn of(tos: u8, ttl: u8, protocol: u8, bytes: u16, source: Be32, destination: Be32) -> Self {
        let mut header = Self {
            version_length: 0x45,
            tos,
            total_length: Be16::new(bytes + size_of::<Self>() as u16),
            // RFC 6864, section 4.1: of no meaning where nothing may be fragmented.
            identification: Be16::new(0),
            flags_offset: Be16::new(0x4000),
            ttl,
            protocol,
            checksum: 0,
            source,
            destination,
        };
        let start = u16::from_ne_bytes([header.version_length, tos]) as u64;
        let lengths = start | (header.total_length.0 as u64) << 16 | (header.flags_offset.0 as u64) << 48;
        let addresses = source.0 as u64 | (destination.0 as u64) << 32;
        let hops = u16::from_ne_bytes([ttl, protocol]) as u64;
        header.checksum = !checksum::fold(checksum::word(lengths) + checksum::word(addresses) + checksum::word(hops));
        header
    }

    /// Length of the header with its options, bytes: 20 to 60, or less than 20 if the header is malformed.
    #[inline(always)]
    #[must_use]
    pub const fn header_length(&self) -> usize {
        (self.version_length & 0x0f) as usize * 4
    }

    /// The version field, 4 in a valid header.
    #[inline(always)]
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.version_length >> 4
    }

    /// Whether this is a fragment, the first one included: more fragments follow, or an offset is set.
    #[inline(always)]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.flags_offset.0 & Be16::new(0x3fff).0 != 0
    }

    /// Whether this is a fragment other than the first, which has no ports.
    #[inline(always)]
    #[must_use]
    pub const fn is_later_fragment(&self) -> bool {
        self.flags_offset.0 & Be16::new(0x1fff).0 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::view;

    const PING: [u8; 20] = [
        0x45, 0x00, 0x00, 0x54, 0xa6, 0xf2, 0x40, 0x00, 0x3f, 0x01, 0x7d, 0x0a, 0x0a, 0x00, 0x00, 0x01, 0x0a, 0x00,
        0x00, 0x64,
    ];

    #[test]
    fn a_header_from_the_wire_reads_as_sent() {
        let header: Ipv4 = view(&PING);
        assert_eq!((header.version(), header.header_length()), (4, 20));
        assert_eq!({ header.total_length }.get(), 84);
        assert_eq!((header.ttl, header.protocol), (63, 1));
        assert_eq!({ header.source }.get(), 0x0a00_0001);
        assert_eq!({ header.destination }.get(), 0x0a00_0064);
        assert!(!header.is_fragment());
    }

    #[test]
    fn a_header_that_is_made_has_the_checksum_of_its_bytes() {
        let (source, destination) = (Be32::new(0x0a00_0001), Be32::new(0xffff_fffe));
        let header = Ipv4::of(0xc0, 64, 1, 1_480, source, destination);
        // SAFETY: a header is plain bytes.
        let bytes: [u8; 20] = unsafe { core::mem::transmute(header) };
        assert_eq!(checksum::fold(checksum::sum(&bytes, 0)), 0xffff);
        assert_eq!(bytes[..10], [0x45, 0xc0, 0x05, 0xdc, 0, 0, 0x40, 0, 64, 1]);
        assert_eq!(bytes[12..], [10, 0, 0, 1, 255, 255, 255, 254]);
    }

    #[test]
    fn fragments_are_told_from_whole_datagrams_and_first_from_later_ones() {
        let with = |flags: u16| {
            let mut bytes = PING;
            bytes[6..8].copy_from_slice(&flags.to_be_bytes());
            view::<Ipv4>(&bytes)
        };
        assert!(!with(0x4000).is_fragment(), "don't fragment");
        assert!(with(0x2000).is_fragment() && !with(0x2000).is_later_fragment(), "first");
        assert!(with(0x2001).is_fragment() && with(0x2001).is_later_fragment(), "middle");
        assert!(with(0x00b9).is_fragment() && with(0x00b9).is_later_fragment(), "last");
    }
}
