use super::{Be16, Be32};

/// A TCP header without options (RFC 9293, section 3.1): 20 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub struct Tcp {
    /// Source port.
    pub source: Be16,
    /// Destination port.
    pub destination: Be16,
    /// Sequence number.
    pub sequence: Be32,
    /// Acknowledgment number.
    pub acknowledgment: Be32,
    /// Length of the header in its high four bits, in words of 4 bytes.
    pub data_offset: u8,
    /// [`crate::tcp_state::SYN`] and its like.
    pub flags: u8,
    /// Receive window.
    pub window: Be16,
    /// Checksum over pseudo header, header and data.
    pub checksum: u16,
    /// Urgent pointer.
    pub urgent: Be16,
}

const _: () = assert!(size_of::<Tcp>() == 20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp_state::SYN;
    use crate::wire::view;

    #[test]
    fn a_syn_from_the_wire_reads_as_sent() {
        let header: Tcp = view(&[
            0xc3, 0x50, 0x00, 0x50, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0, 0xa0, 0x02, 0xfa, 0xf0, 0xbe, 0xef, 0, 0,
        ]);
        assert_eq!(({ header.source }.get(), { header.destination }.get()), (50_000, 80));
        assert_eq!({ header.sequence }.get(), 0x1234_5678);
        assert_eq!(header.flags, SYN);
        assert_eq!({ header.checksum }.to_ne_bytes(), [0xbe, 0xef]);
    }
}
