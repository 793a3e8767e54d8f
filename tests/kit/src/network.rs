//! The interfaces that the tests of single frames name, and who is behind them: the backend `10.0.N.H` or
//! `2001:db8:N::H` is host H behind network N.

use std::net::IpAddr;

/// The index of the interface where clients are. It is no veth, so packets may leave by it that came in by it.
pub const OUTSIDE: u32 = 10;
/// The index of the interface where backends are.
pub const INSIDE: u32 = 11;
/// The index of a veth: packets leave it through the devmap only.
pub const VETH: u32 = 12;

/// The MAC to which the tests' frames are addressed unless they say otherwise: that of a device above each interface, as VRRP has
/// one.
pub const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The MAC address of an interface.
pub fn mac(ifindex: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0xff, ifindex as u8]
}

/// The MAC address of a backend.
pub fn backend_mac(address: IpAddr) -> [u8; 6] {
    let (network, host) = match address {
        IpAddr::V4(address) => (address.octets()[2], address.octets()[3]),
        IpAddr::V6(address) => (address.octets()[5], address.octets()[15]),
    };
    [2, 0, 0, 0xbb, network, host]
}

/// The index of the interface that a backend is behind: network 0 is outside, 1 inside, 2 behind the veth.
pub fn behind(address: IpAddr) -> u32 {
    OUTSIDE + u32::from(backend_mac(address)[4])
}
