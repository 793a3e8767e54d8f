use super::Be32;

/// The 8 bytes before the quoted packet of an ICMP (RFC 792) or ICMPv6 (RFC 4443) error.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub struct Icmp {
    /// What happened.
    pub kind: u8,
    /// What exactly.
    pub code: u8,
    /// Checksum of the whole message; in ICMPv6 over a pseudo header too.
    pub checksum: u16,
    /// MTU, pointer or unused.
    pub rest: Be32,
}

impl Icmp {
    /// Whether an ICMP type is an error about the packet that it quotes: destination unreachable, source quench, time exceeded,
    /// parameter problem (RFC 792). A redirect quotes one too, but is for the host that gets it.
    #[inline(always)]
    #[must_use]
    pub const fn is_error_v4(kind: u8) -> bool {
        matches!(kind, 3 | 4 | 11 | 12)
    }

    /// Whether an ICMPv6 type is an error message: the high bit is clear (RFC 4443, section 2.1).
    #[inline(always)]
    #[must_use]
    pub const fn is_error_v6(kind: u8) -> bool {
        kind < 128
    }
}

const _: () = assert!(size_of::<Icmp>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_from_questions_and_answers() {
        assert!(Icmp::is_error_v4(3) && Icmp::is_error_v4(11));
        assert!(!Icmp::is_error_v4(0) && !Icmp::is_error_v4(8) && !Icmp::is_error_v4(5));
        assert!(Icmp::is_error_v6(2) && Icmp::is_error_v6(1));
        assert!(!Icmp::is_error_v6(128) && !Icmp::is_error_v6(135));
    }
}
