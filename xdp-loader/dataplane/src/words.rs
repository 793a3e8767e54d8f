//! Addresses and protocols as the packet path has them: words in the order of the wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lvx_model::Protocol;
use xdp_common::{checksum, wire::Be16};

/// IP's number of a protocol.
#[must_use]
pub fn protocol(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => xdp_common::wire::protocol::TCP,
        Protocol::Udp => xdp_common::wire::protocol::UDP,
    }
}

/// An address in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// IPv4.
    V4(u32),
    /// IPv6.
    V6([u64; 2]),
}

/// The words of an address.
#[must_use]
pub fn of(address: IpAddr) -> Words {
    match address {
        IpAddr::V4(address) => Words::V4(u32::from_ne_bytes(address.octets())),
        IpAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.octets();
            Words::V6([
                u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
                u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
            ])
        }
    }
}

/// The words of an address in the form that entries for both families have: IPv4 in the first four bytes.
#[must_use]
pub fn wide(address: IpAddr) -> [u64; 2] {
    match of(address) {
        Words::V4(address) => [u64::from(address), 0],
        Words::V6(address) => address,
    }
}

/// The IPv4 address of a word.
#[must_use]
pub fn v4(word: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(word.to_ne_bytes()))
}

/// The IPv6 address of two words.
#[must_use]
pub fn v6(words: [u64; 2]) -> IpAddr {
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&words[0].to_ne_bytes());
    octets[8..].copy_from_slice(&words[1].to_ne_bytes());
    IpAddr::V6(Ipv6Addr::from(octets))
}

/// A MAC as frames carry it.
#[must_use]
pub fn mac(mac: [u8; 6]) -> [Be16; 3] {
    checksum::words::<6, 3>(mac).map(Be16)
}

/// The 16-bit words of an address, as checksums sum them.
fn sum(address: IpAddr) -> Vec<u16> {
    match address {
        IpAddr::V4(address) => checksum::words::<4, 2>(address.octets()).to_vec(),
        IpAddr::V6(address) => checksum::words::<16, 8>(address.octets()).to_vec(),
    }
}

/// The delta of the checksum when `old` becomes `new` (see [`checksum::delta`]).
#[must_use]
pub fn address_delta(old: IpAddr, new: IpAddr) -> u16 {
    checksum::delta(&sum(old), &sum(new))
}

/// The delta of the checksum when address and port `old` become `new`.
#[must_use]
pub fn endpoint_delta(old: (IpAddr, u16), new: (IpAddr, u16)) -> u16 {
    let words = |(address, port): (IpAddr, u16)| {
        let mut words = sum(address);
        words.push(port.to_be());
        words
    };
    checksum::delta(&words(old), &words(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_to_words_and_back() {
        let four = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(of(four), Words::V4(u32::from_be(0x0a00_0001)));
        assert_eq!(v4(u32::from_be(0x0a00_0001)), four);
        let six: IpAddr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53).into();
        let Words::V6(words) = of(six) else {
            panic!("an IPv6 address")
        };
        assert_eq!(v6(words), six);
        assert_eq!(words[0].to_ne_bytes(), [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0]);
    }
}
