//! Hashes of the packet path: two to five multiplications each, no table, no state.
//!
//! [`client_v4`], [`client_v6`] and [`spread`] answer for schedulers and must give the same on every node: their seed comes
//! from the service's address. Where a client's flows are is said by [`crate::layout::ClientId`]. The mixer is the 64-bit
//! finalizer of MurmurHash3 (Appleby, public domain).

/// MurmurHash3's `fmix64`: every input bit changes every output bit with probability one half.
#[inline(always)]
#[must_use]
pub const fn mix(mut word: u64) -> u64 {
    word ^= word >> 33;
    word = word.wrapping_mul(0xff51_afd7_ed55_8ccd);
    word ^= word >> 33;
    word = word.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ (word >> 33)
}

/// Folds an IPv6 address (its two halves, as loaded from the packet) and a port into one word, to be mixed.
///
/// The last byte of an address, which tells the hosts of a subnet apart, is the highest of its word on most machines, and
/// a multiplication carries upwards only: so the product is turned by half, and the port is multiplied too, so that no
/// difference of hosts is undone by one of ports.
#[inline(always)]
#[must_use]
pub const fn fold_v6(address: [u64; 2], port: u32, seed: u64) -> u64 {
    (address[1] ^ seed)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(32)
        .wrapping_add(address[0].wrapping_mul(0xd6e8_feb8_6659_fd93))
        .wrapping_add((port as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f))
}

/// The hash by which schedulers spread the client at this IPv4 address and port (each as loaded from the packet).
#[inline(always)]
#[must_use]
pub const fn client_v4(address: u32, port: u16, seed: u64) -> u64 {
    mix((((address as u64) << 16) | port as u64) ^ seed)
}

/// The same of an IPv6 address.
#[inline(always)]
#[must_use]
pub const fn client_v6(address: [u64; 2], port: u16, seed: u64) -> u64 {
    mix(fold_v6(address, port as u32, seed))
}

/// The slot out of `slots` that a scheduler's ring has for a client: the high word of `hash * slots`, which needs no
/// division (Lemire, "Fast Random Integer Generation in an Interval", 2019).
#[inline(always)]
#[must_use]
pub const fn spread(hash: u64, slots: u32) -> u32 {
    (((hash >> 32) * slots as u64) >> 32) as u32
}

/// The first factor of [`endpoint_v4`].
const ENDPOINT_FACTOR: u64 = if cfg!(feature = "other-configuration") {
    0xd6e8_feb8_6659_fd93
} else {
    0x9e37_79b9_7f4a_7c15
};

/// The bucket of the IPv4 endpoint table for a packed endpoint key. Nobody outside says what is in that table: it is enough
/// that no grid of addresses and ports crowds a bucket. The bytes are swapped first, as those that tell endpoints apart are the
/// highest on most machines, and a multiplication carries upwards only.
#[inline(always)]
#[must_use]
pub const fn endpoint_v4(key: u64) -> u32 {
    let key = key.swap_bytes().wrapping_mul(ENDPOINT_FACTOR);
    ((key ^ key >> 32).wrapping_mul(0xff51_afd7_ed55_8ccd) >> 32) as u32
}

/// The bucket of the IPv6 endpoint table for an address and a packed port and protocol.
#[inline(always)]
#[must_use]
pub const fn endpoint_v6(address: [u64; 2], port_protocol: u32) -> u32 {
    mix(fold_v6(address, port_protocol, 0)) as u32
}

/// The bucket of an interface's index in the table of slots.
#[inline(always)]
#[must_use]
pub const fn interface(ifindex: u32) -> u32 {
    ifindex.wrapping_mul(0x9e37_79b1) >> 22
}

/// The bucket of a MAC ([`crate::layout::HostMac::word`]) and an interface's index in the table of the host's MACs.
#[inline(always)]
#[must_use]
pub const fn host_mac(mac: u64, ifindex: u32) -> u32 {
    ((mac ^ ifindex as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u32
}

const _: () = assert!(crate::layout::INTERFACE_BUCKETS == 1 << 10, "interface");
const _: () = assert!(crate::layout::HOST_MAC_BUCKETS == 1 << 8, "host_mac");

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn clients_of_neighbouring_ports_spread_evenly() {
        const BUCKETS: usize = 1024;
        let mut counts = [0_u32; BUCKETS];
        for port in 0..=u16::MAX {
            counts[client_v4(0x0100_000a, port.to_be(), 42) as usize % BUCKETS] += 1;
        }
        let expected = 65_536 / BUCKETS as u32;
        assert!(counts.iter().all(|count| (expected / 2..expected * 2).contains(count)));
    }

    #[test]
    fn ipv6_clients_of_neighbouring_hosts_and_ports_have_hashes_of_their_own() {
        let mut hashes = std::collections::BTreeSet::new();
        for host in 0..256_u16 {
            for port in 0..256_u16 {
                let [high, low] = host.to_be_bytes();
                let address = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, high, low]);
                hashes.insert(client_v6([0x0c00_00fd, address], (1024 + port).to_be(), 42));
            }
        }
        assert_eq!(hashes.len(), 256 * 256);
    }

    #[test]
    fn endpoints_of_neighbouring_addresses_and_ports_spread_evenly_over_buckets() {
        const BUCKETS: usize = 1024;
        let mut counts = [[0_u32; BUCKETS]; 2];
        for number in 0..BUCKETS as u32 * 16 {
            let (address, port) = (0x0a00_0000 + number / 16, 80 + number % 16);
            let port_protocol = (port as u16).to_be() as u32 * 65_536 + 6;
            let key = u64::from(address.to_be()) << 32 | u64::from(port_protocol);
            counts[0][endpoint_v4(key) as usize % BUCKETS] += 1;
            let v6 = [0x0000_0000_b80d_0120, u64::from(address).to_be()];
            counts[1][endpoint_v6(v6, port_protocol) as usize % BUCKETS] += 1;
        }
        for counts in counts {
            assert!(counts.iter().all(|count| *count <= 48), "three times the mean");
        }
    }

    /// With as many endpoints as buckets, whatever grid they form, few do not find one of their bucket's four places.
    #[test]
    fn endpoints_of_every_grid_spread_over_buckets() {
        const BUCKETS: u32 = 1 << 14;
        let mut strides = std::vec![1_u32, 3, 10, 100, 250, 251, 254, 1000, 65_535, 65_537];
        strides.extend((1..18).map(|bits| 1 << bits));
        for stride in strides {
            for (hosts, port_stride) in [(1, 1), (4, 1), (10, 1), (256, 1), (BUCKETS, 1), (16, 256), (100, 1000)] {
                let mut counts = [std::vec![0_u32; BUCKETS as usize], std::vec![0_u32; BUCKETS as usize]];
                let grid = (0..BUCKETS).map(|number| (number % hosts * stride, 80 + number / hosts * port_stride));
                for (host, port) in grid.filter(|(_, port)| *port <= 65_535) {
                    let address = (0x0a00_0000 + host).to_be();
                    let port_protocol = u32::from((port as u16).to_be()) << 16 | 6;
                    let v4 = endpoint_v4(u64::from(address) << 32 | u64::from(port_protocol));
                    let v6 = endpoint_v6(
                        [0x0000_0000_b80d_0120, u64::from(0x0a00_0000 + host).to_be()],
                        port_protocol,
                    );
                    for (counts, hash) in counts.iter_mut().zip([v4, v6]) {
                        counts[(hash & (BUCKETS - 1)) as usize] += 1;
                    }
                }
                for (family, counts) in counts.iter().enumerate() {
                    let over: u32 = counts.iter().map(|count| count.saturating_sub(4)).sum();
                    let most = counts.iter().max().copied().unwrap_or_default();
                    assert!(
                        most <= 10 && over < BUCKETS / 64,
                        "family {family}, stride {stride}, {hosts} hosts: {most} at most, {over} too many"
                    );
                }
            }
        }
    }

    #[test]
    fn a_seed_moves_clients_elsewhere() {
        let moved = (0..1000_u16)
            .filter(|port| client_v4(1, *port, 1) % 4096 != client_v4(1, *port, 2) % 4096)
            .count();
        assert!(moved > 990);
        assert_ne!(client_v6([1, 2], 3, 1), client_v6([1, 2], 3, 2));
    }

    #[test]
    fn spread_covers_every_slot_and_stays_within() {
        let mut seen = [false; 251];
        for word in 0..20_000_u64 {
            seen[spread(mix(word), 251) as usize] = true;
        }
        assert!(seen.iter().all(|seen| *seen));
        assert_eq!(spread(u64::MAX, 65_537), 65_536);
    }

    #[test]
    fn the_mixer_matches_the_published_function() {
        // fmix64 is a bijection with fixed point 0; 1 maps to this in every implementation of MurmurHash3.
        assert_eq!(mix(0), 0);
        assert_eq!(mix(1), 0xb456_bcfc_34c2_cb2c);
    }
}
