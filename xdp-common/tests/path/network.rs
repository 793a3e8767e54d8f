//! The interfaces of the tests, and who is behind them.

use std::net::IpAddr;

/// Where clients are.
pub const OUTSIDE: u32 = 10;
/// Where backends are.
pub const INSIDE: u32 = 11;
/// A veth: packets leave it through the devmap only.
pub const VETH: u32 = 12;

/// The slot of an interface.
pub fn slot(ifindex: u32) -> u32 {
    ifindex - OUTSIDE + 1
}

/// The MAC of an interface.
pub fn mac(ifindex: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0xff, ifindex as u8]
}

/// The interface that a backend is behind: in `10.0.N.H` and `2001:db8:N::H` network 0 is outside, 1 inside, 2 behind the veth.
pub fn behind(address: IpAddr) -> u32 {
    OUTSIDE + u32::from(backend_mac(address)[4])
}

/// The MAC of a backend.
pub fn backend_mac(address: IpAddr) -> [u8; 6] {
    let (network, host) = match address {
        IpAddr::V4(address) => (address.octets()[2], address.octets()[3]),
        IpAddr::V6(address) => (address.octets()[5], address.octets()[15]),
    };
    [2, 0, 0, 0xbb, network, host]
}
