use super::Be16;

/// An Ethernet header (IEEE 802.3): 14 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub struct Ethernet {
    /// Destination and source MAC, in the order of the wire: what forwarding replaces as one.
    pub addresses: [Be16; 6],
    /// What follows: [`EtherType`].
    pub ether_type: Be16,
}

/// Size of [`Ethernet`], bytes.
pub const ETHERNET: usize = size_of::<Ethernet>();

/// An 802.1Q or 802.1ad tag: 4 bytes between an EtherType of [`EtherType::is_vlan`] and the next EtherType.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub struct Vlan {
    /// Priority, drop eligibility and VLAN id.
    pub control: Be16,
    /// What follows.
    pub ether_type: Be16,
}

/// Size of [`Vlan`], bytes.
pub const VLAN: usize = size_of::<Vlan>();

/// The EtherTypes (IANA) that the packet path tells apart.
pub struct EtherType;

impl EtherType {
    /// IPv4.
    pub const IPV4: Be16 = Be16::new(0x0800);
    /// IPv6.
    pub const IPV6: Be16 = Be16::new(0x86dd);
    /// 802.1Q tag.
    pub const VLAN: Be16 = Be16::new(0x8100);
    /// 802.1ad service tag (QinQ).
    pub const QINQ: Be16 = Be16::new(0x88a8);

    /// Whether a tag follows.
    #[inline(always)]
    #[must_use]
    pub const fn is_vlan(ether_type: Be16) -> bool {
        ether_type.0 == Self::VLAN.0 || ether_type.0 == Self::QINQ.0
    }
}

const _: () = assert!(ETHERNET == 14 && VLAN == 4);
