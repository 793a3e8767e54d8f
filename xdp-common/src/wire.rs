//! Views of packet headers, as they stand in a frame.
//!
//! Every header is `#[repr(C, packed)]`, so that a view may start at any byte, and its numbers are [`Be16`] or [`Be32`]:
//! what is on the wire, converted in one place. A view never looks past its own fixed part; what follows (options,
//! extension headers) is for the parser to bound.

mod ethernet;
mod icmp;
mod ipv4;
mod ipv6;
mod tcp;
mod udp;

pub use ethernet::{ETHERNET, EtherType, Ethernet, VLAN, Vlan};
pub use icmp::Icmp;
pub use ipv4::Ipv4;
pub use ipv6::{FRAGMENT_HEADER, Fragment, Ipv6, Option as ExtensionHeader};
pub use tcp::Tcp;
pub use udp::{Ports, Udp};

/// IP protocol numbers (IANA), also the values of IPv6's Next Header.
pub mod protocol {
    /// IPv6 hop-by-hop options (RFC 8200, section 4.3).
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// IPv6 routing header (RFC 8200, section 4.4).
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header (RFC 8200, section 4.5).
    pub const FRAGMENT: u8 = 44;
    /// Authentication header (RFC 4302, section 2), in IPv4 too.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options (RFC 8200, section 4.6).
    pub const DESTINATION: u8 = 60;
}

/// A 16-bit number in network order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Be16(pub u16);

impl Be16 {
    /// From the machine's order.
    #[inline(always)]
    #[must_use]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// In the machine's order.
    #[inline(always)]
    #[must_use]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// A 32-bit number in network order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Be32(pub u32);

impl Be32 {
    /// From the machine's order.
    #[inline(always)]
    #[must_use]
    pub const fn new(host: u32) -> Self {
        Self(host.to_be())
    }

    /// In the machine's order.
    #[inline(always)]
    #[must_use]
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }
}

/// Tests that a header type has the size that its RFC gives it, and reads a real one.
#[cfg(test)]
fn view<T: Copy>(bytes: &[u8]) -> T {
    assert!(bytes.len() >= size_of::<T>());
    // SAFETY: the slice is long enough, and the header types are packed and valid for any bytes.
    unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) }
}
