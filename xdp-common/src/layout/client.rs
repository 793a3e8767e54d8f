//! A client's address and port as the number that places its flows.
//!
//! The number has 48 bits, as many as an IPv4 address and a port, and every address and port has a number of its own: the
//! shuffle is one to one. So a table that finds a flow by some bits of the number and keeps the others has kept the whole
//! client (Knuth, "The Art of Computer Programming", volume 3, section 6.4, exercise 13: quotienting). An IPv6 address is
//! hashed first; beside the number a table has to keep it.
//!
//! The seed is random, so that nobody outside can aim at one bucket.

/// The bits below a number in its word.
const BELOW: u64 = 0xffff;

/// Odd factors of the shuffle, those of the 64-bit finalizer of MurmurHash3 (Appleby, public domain).
const FACTORS: [u64; 2] = [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53];

/// The numbers that undo a multiplication by them.
const INVERSES: [u64; 2] = [inverse(FACTORS[0]), inverse(FACTORS[1])];

/// The number of a client: 48 bits above 16 that are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Client(pub u64);

impl Client {
    /// That of an IPv4 address and a port (each as loaded from the packet).
    #[inline(always)]
    #[must_use]
    pub const fn v4(address: u32, port: u16, seed: u64) -> Self {
        Self(shuffle(((address as u64) << 32 | (port as u64) << 16) ^ seed & !BELOW))
    }

    /// That of an IPv6 address (its halves, as loaded from the packet) and a port.
    #[inline(always)]
    #[must_use]
    pub const fn v6(address: [u64; 2], port: u16, seed: u64) -> Self {
        Self(shuffle(hash_v6(address, seed) ^ (port as u64) << 16))
    }

    /// The IPv4 address and the port that have this number.
    #[must_use]
    pub const fn ends_v4(self, seed: u64) -> (u32, u16) {
        let word = unshuffle(self.0) ^ seed & !BELOW;
        ((word >> 32) as u32, (word >> 16) as u16)
    }

    /// The port that has this number with an IPv6 address.
    #[must_use]
    pub const fn port_v6(self, address: [u64; 2], seed: u64) -> u16 {
        ((unshuffle(self.0) ^ hash_v6(address, seed)) >> 16) as u16
    }

    /// The bucket of its flows, of so many buckets and one.
    #[inline(always)]
    #[must_use]
    pub const fn bucket(self, mask: u32) -> u32 {
        (self.0 >> 16) as u32 & mask
    }

    /// Where in a bucket its flows are looked for first, below [`super::WAYS`].
    #[inline(always)]
    #[must_use]
    pub const fn way(self) -> usize {
        (self.0 >> 61) as usize
    }
}

/// An IPv6 address as 48 bits. The seed goes in before a multiplication and a shift, so that from outside no difference of
/// addresses is known to be one of ports.
#[inline(always)]
const fn hash_v6(address: [u64; 2], seed: u64) -> u64 {
    let word = crate::hash::fold_v6(address, 0, seed);
    (word ^ word >> 32).wrapping_mul(FACTORS[0]) & !BELOW
}

/// Makes each of the 48 bits depend on all of them, one to one.
#[inline(always)]
const fn shuffle(word: u64) -> u64 {
    let word = fold(word).wrapping_mul(FACTORS[0]);
    fold(fold(word).wrapping_mul(FACTORS[1]))
}

/// What was shuffled.
const fn unshuffle(word: u64) -> u64 {
    let word = fold(word).wrapping_mul(INVERSES[1]);
    fold(fold(word).wrapping_mul(INVERSES[0]))
}

/// Adds the upper half of the 48 bits to the lower one, without carry: done twice it is undone.
#[inline(always)]
const fn fold(word: u64) -> u64 {
    word ^ word >> 24 & !BELOW
}

/// The number that makes 1 of an odd one by multiplication, modulo 2^64 (Newton's iteration, which doubles the bits that are
/// right: 3, 6, ... 96).
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut step = 0;
    while step < 5 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeSet;

    use super::*;

    const SEED: u64 = 0x0123_4567_89ab_cdef;

    #[test]
    fn a_number_tells_the_address_and_port_that_have_it() {
        for step in 0..10_000_u32 {
            let address = step.wrapping_mul(0x9e37_79b1);
            let port = (step.wrapping_mul(31) as u16).to_be();
            assert_eq!(Client::v4(address, port, SEED).ends_v4(SEED), (address, port));
            let v6 = [u64::from(address) << 7, u64::from(step)];
            assert_eq!(Client::v6(v6, port, SEED).port_v6(v6, SEED), port);
        }
    }

    #[test]
    fn a_number_leaves_the_lowest_16_bits_of_its_word_alone() {
        for port in 0..1000 {
            assert_eq!(Client::v4(0x0100_000a, port, SEED).0 & BELOW, 0);
            assert_eq!(Client::v6([1, 2], port, SEED).0 & BELOW, 0);
        }
    }

    #[test]
    fn clients_of_neighbouring_ports_spread_evenly_over_buckets_and_ways() {
        const BUCKETS: usize = 1024;
        let mut counts = [[0_u32; BUCKETS]; 2];
        let mut ways = [[0_u32; 8]; 2];
        for port in 0..=u16::MAX {
            let clients = [
                Client::v4(0x0100_000a, port.to_be(), SEED),
                Client::v6([0x0c00_00fd, 1 << 56], port.to_be(), SEED),
            ];
            for (family, client) in clients.into_iter().enumerate() {
                counts[family][client.bucket(BUCKETS as u32 - 1) as usize] += 1;
                ways[family][client.way()] += 1;
            }
        }
        let expected = 65_536 / BUCKETS as u32;
        for counts in counts {
            assert!(counts.iter().all(|count| (expected / 2..expected * 2).contains(count)));
        }
        for ways in ways {
            assert!(ways.iter().all(|count| (7900..8500).contains(count)), "{ways:?}");
        }
    }

    #[test]
    fn clients_of_neighbouring_hosts_spread_evenly_over_buckets() {
        const BUCKETS: usize = 1024;
        let mut counts = [[0_u32; BUCKETS]; 2];
        for host in 0..=u16::MAX {
            let v4 = Client::v4((0x0a00_0000 + u32::from(host)).to_be(), 80_u16.to_be(), SEED);
            let v6 = Client::v6([0x0c00_00fd, u64::from(host).to_be()], 80_u16.to_be(), SEED);
            counts[0][v4.bucket(BUCKETS as u32 - 1) as usize] += 1;
            counts[1][v6.bucket(BUCKETS as u32 - 1) as usize] += 1;
        }
        for counts in counts {
            assert!(counts.iter().all(|count| (32..128).contains(count)));
        }
    }

    #[test]
    fn ipv6_clients_of_neighbouring_hosts_and_ports_have_numbers_of_their_own() {
        let mut numbers = BTreeSet::new();
        for host in 0..256_u64 {
            for port in 0..256_u16 {
                numbers.insert(Client::v6([0x0c00_00fd, host.to_be()], (1024 + port).to_be(), SEED).0);
            }
        }
        assert_eq!(numbers.len(), 256 * 256);
    }

    #[test]
    fn a_seed_moves_clients_to_other_buckets() {
        let moved = (0..1000_u16)
            .filter(|port| Client::v4(1, *port, 1 << 20).bucket(4095) != Client::v4(1, *port, 2 << 20).bucket(4095))
            .count();
        assert!(moved > 990);
    }
}
