//! Placement: which interface a VIP stands on. On an interface of another network its neighbours would not find it: over IPv6
//! an interface answers only for its own addresses.

use std::{cmp::Reverse, net::IpAddr};

use super::address::Present;

/// Where VIPs may stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Indices of the interfaces that take the VIPs of their own networks.
    pub interfaces: Vec<u32>,
    /// Index of the interface that takes all others.
    pub otherwise: Option<u32>,
}

impl Places {
    /// The index of the interface for a VIP: where the longest prefix of an address contains it. Of interfaces on one network,
    /// the one for all others comes first.
    pub(super) fn of(&self, vip: IpAddr, present: &[Present]) -> Option<u32> {
        let rank = |ifindex: u32| {
            let place = self.interfaces.iter().position(|it| *it == ifindex);
            place.map(|place| (Some(ifindex) != self.otherwise, place))
        };
        present
            .iter()
            .filter(|there| !there.ours && contains(there, vip))
            .filter_map(|there| Some((Reverse(there.prefix_length), rank(there.ifindex)?, there.ifindex)))
            .min()
            .map(|(_, _, ifindex)| ifindex)
            .or(self.otherwise)
    }
}

/// Whether an address is in the network of another.
fn contains(network: &Present, address: IpAddr) -> bool {
    let (one, other, bits) = match (network.address, address) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (u128::from(one.to_bits()), u128::from(other.to_bits()), 32),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits(), other.to_bits(), 128),
        _ => return false,
    };
    let host_bits = bits - u32::from(network.prefix_length).min(bits);
    (one ^ other).checked_shr(host_bits).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    const ETH0: u32 = 2;
    const ETH1: u32 = 3;
    const ETH2: u32 = 4;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn there(address: &str, prefix_length: u8, ifindex: u32) -> Present {
        Present {
            address: ip(address),
            prefix_length,
            ifindex,
            ours: false,
        }
    }

    fn places() -> Places {
        Places {
            interfaces: vec![ETH0, ETH1],
            otherwise: Some(ETH0),
        }
    }

    #[test]
    fn a_vip_stands_where_its_network_is() {
        let present = [
            there("10.0.0.2", 24, ETH0),
            there("10.0.1.2", 24, ETH1),
            there("2001:db8:1::2", 64, ETH1),
        ];
        let place = |vip| places().of(ip(vip), &present);
        assert_eq!(place("10.0.0.100"), Some(ETH0));
        assert_eq!(place("10.0.1.100"), Some(ETH1));
        assert_eq!(place("2001:db8:1::100"), Some(ETH1));
        assert_eq!(place("192.0.2.1"), Some(ETH0), "of no network here");
        assert_eq!(place("2001:db8:2::1"), Some(ETH0), "of no network here");
    }

    #[test]
    fn the_longest_prefix_counts_and_then_the_interface_for_all_others() {
        let wide = [there("10.0.0.2", 8, ETH0), there("10.0.1.2", 24, ETH1)];
        assert_eq!(places().of(ip("10.0.1.100"), &wide), Some(ETH1));
        let same = [there("10.0.0.3", 24, ETH1), there("10.0.0.2", 24, ETH0)];
        assert_eq!(places().of(ip("10.0.0.100"), &same), Some(ETH0));
        let to_eth1 = Places {
            otherwise: Some(ETH1),
            ..places()
        };
        assert_eq!(to_eth1.of(ip("10.0.0.100"), &same), Some(ETH1));
        let all = [there("10.0.1.2", 0, ETH1)];
        assert_eq!(places().of(ip("192.0.2.1"), &all), Some(ETH1));
    }

    #[test]
    fn an_interface_that_is_not_ours_to_use_takes_no_vip() {
        let present = [there("10.0.2.2", 24, ETH2)];
        assert_eq!(places().of(ip("10.0.2.100"), &present), Some(ETH0));
        assert_eq!(Places::default().of(ip("10.0.2.100"), &present), None);
    }

    #[test]
    fn our_own_vips_are_no_network() {
        let present = [Present {
            ours: true,
            ..there("10.0.1.100", 32, ETH1)
        }];
        assert_eq!(places().of(ip("10.0.1.100"), &present), Some(ETH0));
    }
}
