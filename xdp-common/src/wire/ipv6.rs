use super::{Be16, Be32, protocol};

/// An IPv6 header (RFC 8200, section 3): 40 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub struct Ipv6 {
    version_class_flow: Be32,
    /// Length of what follows this header, extension headers included, bytes.
    pub payload_length: Be16,
    /// What follows: [`super::protocol`].
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// Source address, as two words in the order of the wire.
    pub source: [u64; 2],
    /// Destination address, as two words in the order of the wire.
    pub destination: [u64; 2],
}

impl Ipv6 {
    /// The header of a packet that has so many bytes after it.
    #[inline(always)]
    #[must_use]
    pub const fn of(hop_limit: u8, next_header: u8, bytes: u16, source: [u64; 2], destination: [u64; 2]) -> Self {
        Self {
            version_class_flow: Be32::new(6 << 28),
            payload_length: Be16::new(bytes),
            next_header,
            hop_limit,
            source,
            destination,
        }
    }

    /// The version field, 6 in a valid header.
    #[inline(always)]
    #[must_use]
    pub const fn version(&self) -> u8 {
        (self.version_class_flow.get() >> 28) as u8
    }
}

/// The start that hop-by-hop, routing, destination options (RFC 8200, section 4) and authentication headers (RFC 4302, section 2)
/// share. Each has 8 bytes at least.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub struct Option {
    /// What follows.
    pub next_header: u8,
    length: u8,
    kind: u8,
    /// Of a routing header: nodes that are yet to be visited.
    segments_left: u8,
}

impl Option {
    /// Length of the whole header, which a Next Header value has announced, bytes: at most 2,048. An authentication header counts
    /// in words of 4 bytes.
    #[inline(always)]
    #[must_use]
    pub const fn length(&self, announced: u8) -> usize {
        if announced == protocol::AUTHENTICATION {
            (self.length as usize + 2) * 4
        } else {
            (self.length as usize + 1) * 8
        }
    }

    /// Whether the packet is to go to other addresses after this one (RFC 8200, section 4.4).
    #[inline(always)]
    #[must_use]
    pub const fn leads_elsewhere(&self, announced: u8) -> bool {
        announced == protocol::ROUTING && self.segments_left != 0
    }

    /// Whether a Next Header value announces a header of this form.
    #[inline(always)]
    #[must_use]
    pub const fn follows(next_header: u8) -> bool {
        matches!(
            next_header,
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION | protocol::AUTHENTICATION
        )
    }
}

/// A fragment header (RFC 8200, section 4.5): 8 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub struct Fragment {
    /// What follows in the whole datagram.
    pub next_header: u8,
    reserved: u8,
    offset_flags: Be16,
    /// Identification, the same in all fragments of a datagram.
    pub identification: Be32,
}

/// Size of [`Fragment`], bytes.
pub const FRAGMENT_HEADER: usize = size_of::<Fragment>();

impl Fragment {
    /// Whether this is a fragment other than the first, which has no ports.
    #[inline(always)]
    #[must_use]
    pub const fn is_later_fragment(&self) -> bool {
        self.offset_flags.0 & Be16::new(0xfff8).0 != 0
    }

    /// Whether this is the only fragment of its datagram (RFC 6946), which is no fragment at all.
    #[inline(always)]
    #[must_use]
    pub const fn is_atomic(&self) -> bool {
        self.offset_flags.0 & Be16::new(0xfff9).0 == 0
    }
}

const _: () = assert!(size_of::<Ipv6>() == 40 && size_of::<Option>() == 4 && FRAGMENT_HEADER == 8);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::view;

    #[test]
    fn a_header_from_the_wire_reads_as_sent() {
        let mut bytes = [0_u8; 40];
        bytes[..8].copy_from_slice(&[0x60, 0x05, 0x6a, 0x9d, 0x00, 0x28, 0x06, 0x40]);
        bytes[8..12].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        bytes[39] = 1;
        let header: Ipv6 = view(&bytes);
        assert_eq!(header.version(), 6);
        assert_eq!({ header.payload_length }.get(), 40);
        assert_eq!((header.next_header, header.hop_limit), (protocol::TCP, 64));
        assert_eq!({ header.source }[0].to_ne_bytes(), [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0]);
        assert_eq!({ header.destination }[1].to_ne_bytes(), [0, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn an_options_header_is_eight_bytes_and_eight_more_per_unit() {
        let length = |units: u8, announced: u8| view::<Option>(&[protocol::UDP, units, 0, 0]).length(announced);
        assert_eq!(length(0, protocol::DESTINATION), 8);
        assert_eq!(length(255, protocol::HOP_BY_HOP), 2048);
        assert_eq!(length(4, protocol::AUTHENTICATION), 24, "a digest of 96 bits");
        assert_eq!(length(255, protocol::AUTHENTICATION), 1028);
    }

    #[test]
    fn an_atomic_fragment_is_no_fragment() {
        assert!(view::<Fragment>(&[6, 0, 0, 0, 0, 0, 0, 1]).is_atomic());
        let first: Fragment = view(&[17, 0, 0, 1, 0, 0, 0, 1]);
        assert!(!first.is_atomic() && !first.is_later_fragment());
        let last: Fragment = view(&[17, 0, 0x05, 0xa8, 0, 0, 0, 1]);
        assert!(!last.is_atomic() && last.is_later_fragment());
    }
}
