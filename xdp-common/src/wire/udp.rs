use super::Be16;

/// A UDP header (RFC 768): 8 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub struct Udp {
    /// Source port.
    pub source: Be16,
    /// Destination port.
    pub destination: Be16,
    /// Length of header and data, bytes.
    pub length: Be16,
    /// Checksum over pseudo header, header and data; zero for none.
    pub checksum: u16,
}

/// The four bytes that TCP and UDP have in common, and that an ICMP error is sure to quote (RFC 792).
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub struct Ports {
    /// Source port.
    pub source: Be16,
    /// Destination port.
    pub destination: Be16,
}

const _: () = assert!(size_of::<Udp>() == 8 && size_of::<Ports>() == 4);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::view;

    #[test]
    fn a_query_from_the_wire_reads_as_sent() {
        let header: Udp = view(&[0x9c, 0x40, 0x00, 0x35, 0x00, 0x21, 0xab, 0xcd]);
        assert_eq!(({ header.source }.get(), { header.destination }.get()), (40_000, 53));
        assert_eq!({ header.length }.get(), 33);
        assert_eq!({ header.checksum }.to_ne_bytes(), [0xab, 0xcd]);
    }
}
