//! A client's address and port as the number that places its flows.
//!
//! The number has 48 bits, as many as an IPv4 address and a port. Over IPv4 every address and port has a number of its own:
//! the shuffle is one to one. So a table that finds a flow by some bits of the number and keeps the others has kept the whole
//! client (Knuth, "The Art of Computer Programming", volume 3, section 6.4, exercise 13: quotienting).
//!
//! An IPv6 address is hashed to 48 bits first, which the port then changes one to one: the ports of one address never share a
//! number. The hash is keyed: NH, as in UMAC (Black, Halevi, Krawczyk, Krovetz, Rogaway, "UMAC: Fast and Secure Message
//! Authentication", 1999, section 4.1), then a multiplication by a secret odd number. Two clients at different addresses share
//! a number with a probability of about 2^-48: with a million flows in the table, one new client in 2^28 is taken for another
//! flow's. Who chooses addresses may bring that to 2^-32 for a pair (NH's bound: where a half of an address is the negative of
//! a key, the other half does not count), and cannot see when it happened.
//!
//! Two clients that share a number and go to the same service share an entry: its backend; its state, so that the end of
//! one connection shortens the idle timeout of the other's; and under NAT the next hop of answers, which is that of whichever
//! packet was noted last. Packets are rewritten by what stands in them, so none is sent to the other client's address.
//!
//! All keys are random, so that nobody outside can aim at one bucket: neither at a victim's nor at any at all.

/// The bits below a number in its word.
const BELOW: u64 = 0xffff;

/// What makes numbers of clients unpredictable: 48 bytes, random for each new table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ClientKeys {
    /// Added to an IPv4 client, without carry.
    pub whitening: u64,
    /// Factors of the shuffle: odd.
    pub factors: [u64; 2],
    /// Four halves that are added to those of an IPv6 address.
    pub addends: [u64; 2],
    /// The factor of the sum of their products: odd.
    pub multiplier: u64,
}

impl ClientKeys {
    /// The keys that come of six random words.
    #[must_use]
    pub const fn new(random: [u64; 6]) -> Self {
        let [whitening, one, other, high, low, multiplier] = random;
        Self {
            whitening: whitening & !BELOW,
            factors: [one | 1, other | 1],
            addends: [high, low],
            multiplier: multiplier | 1,
        }
    }

    /// Makes each of the 48 bits depend on all of them, one to one.
    #[inline(always)]
    const fn shuffle(&self, word: u64) -> u64 {
        let word = fold(word).wrapping_mul(self.factors[0]);
        fold(fold(word).wrapping_mul(self.factors[1]))
    }

    /// What was shuffled.
    const fn unshuffle(&self, word: u64) -> u64 {
        let word = fold(word).wrapping_mul(inverse(self.factors[1]));
        fold(fold(word).wrapping_mul(inverse(self.factors[0])))
    }

    /// An IPv6 address as 48 bits.
    #[inline(always)]
    const fn hash_v6(&self, address: [u64; 2]) -> u64 {
        let word = product(address[0], self.addends[0])
            .wrapping_add(product(address[1], self.addends[1]))
            .wrapping_mul(self.multiplier);
        (word ^ word >> 32) & !BELOW
    }
}

/// The product of the halves of a word, each increased by that of a key: NH's step.
#[inline(always)]
const fn product(word: u64, key: u64) -> u64 {
    let low = (word as u32).wrapping_add(key as u32);
    let high = ((word >> 32) as u32).wrapping_add((key >> 32) as u32);
    (low as u64).wrapping_mul(high as u64)
}

/// The number of a client: 48 bits above 16 that are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct ClientId(pub u64);

impl ClientId {
    /// That of an IPv4 address and a port (each as loaded from the packet).
    #[inline(always)]
    #[must_use]
    pub const fn v4(address: u32, port: u16, keys: &ClientKeys) -> Self {
        Self(keys.shuffle(((address as u64) << 32 | (port as u64) << 16) ^ keys.whitening))
    }

    /// That of an IPv6 address (its halves, as loaded from the packet) and a port.
    #[inline(always)]
    #[must_use]
    pub const fn v6(address: [u64; 2], port: u16, keys: &ClientKeys) -> Self {
        Self(keys.shuffle(keys.hash_v6(address) ^ (port as u64) << 16))
    }

    /// The IPv4 address and the port that have this number.
    #[must_use]
    pub const fn ends_v4(self, keys: &ClientKeys) -> (u32, u16) {
        let word = keys.unshuffle(self.0) ^ keys.whitening;
        ((word >> 32) as u32, (word >> 16) as u16)
    }

    /// The port that has this number with an IPv6 address.
    #[must_use]
    pub const fn port_v6(self, address: [u64; 2], keys: &ClientKeys) -> u16 {
        ((keys.unshuffle(self.0) ^ keys.hash_v6(address)) >> 16) as u16
    }

    /// The bucket of its flows, of so many buckets and one.
    #[inline(always)]
    #[must_use]
    pub const fn bucket(self, mask: u32) -> u32 {
        (self.0 >> 16) as u32 & mask
    }

    /// The slot of the bucket in which its flows are looked for first, below [`super::FLOWS_PER_BUCKET`].
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> usize {
        (self.0 >> 61) as usize
    }
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

const _: () = assert!(size_of::<ClientKeys>() == 48);

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeSet;

    use super::*;

    const KEYS: ClientKeys = ClientKeys::new([
        0x0123_4567_89ab_cdef,
        0x9e37_79b9_7f4a_7c15,
        0xd6e8_feb8_6659_fd93,
        0xc2b2_ae3d_27d4_eb4f,
        0xff51_afd7_ed55_8ccd,
        0xc4ce_b9fe_1a85_ec53,
    ]);

    #[test]
    fn a_number_tells_the_address_and_port_that_have_it() {
        for step in 0..10_000_u32 {
            let address = step.wrapping_mul(0x9e37_79b1);
            let port = (step.wrapping_mul(31) as u16).to_be();
            assert_eq!(ClientId::v4(address, port, &KEYS).ends_v4(&KEYS), (address, port));
            let v6 = [u64::from(address) << 7, u64::from(step)];
            assert_eq!(ClientId::v6(v6, port, &KEYS).port_v6(v6, &KEYS), port);
        }
    }

    #[test]
    fn a_number_leaves_the_lowest_16_bits_of_its_word_alone() {
        for port in 0..1000 {
            assert_eq!(ClientId::v4(0x0100_000a, port, &KEYS).0 & BELOW, 0);
            assert_eq!(ClientId::v6([1, 2], port, &KEYS).0 & BELOW, 0);
        }
    }

    #[test]
    fn clients_of_neighbouring_ports_spread_evenly_over_buckets_and_slots() {
        const BUCKETS: usize = 1024;
        let mut counts = [[0_u32; BUCKETS]; 2];
        let mut slots = [[0_u32; 8]; 2];
        for port in 0..=u16::MAX {
            let clients = [
                ClientId::v4(0x0100_000a, port.to_be(), &KEYS),
                ClientId::v6([0x0c00_00fd, 1 << 56], port.to_be(), &KEYS),
            ];
            for (family, client) in clients.into_iter().enumerate() {
                counts[family][client.bucket(BUCKETS as u32 - 1) as usize] += 1;
                slots[family][client.slot()] += 1;
            }
        }
        let expected = 65_536 / BUCKETS as u32;
        for counts in counts {
            assert!(counts.iter().all(|count| (expected / 2..expected * 2).contains(count)));
        }
        for slots in slots {
            assert!(slots.iter().all(|count| (7900..8500).contains(count)), "{slots:?}");
        }
    }

    #[test]
    fn clients_of_neighbouring_hosts_spread_evenly_over_buckets() {
        const BUCKETS: usize = 1024;
        let mut counts = [[0_u32; BUCKETS]; 2];
        for host in 0..=u16::MAX {
            let v4 = ClientId::v4((0x0a00_0000 + u32::from(host)).to_be(), 80_u16.to_be(), &KEYS);
            let v6 = ClientId::v6([0x0c00_00fd, u64::from(host).to_be()], 80_u16.to_be(), &KEYS);
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
                numbers.insert(ClientId::v6([0x0c00_00fd, host.to_be()], (1024 + port).to_be(), &KEYS).0);
            }
        }
        assert_eq!(numbers.len(), 256 * 256);
    }

    /// SplitMix64 (Steele, Lea, Flood, 2014).
    struct Random(u64);

    impl Random {
        fn word(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            crate::hash::mix(self.0)
        }

        fn keys(&mut self) -> ClientKeys {
            ClientKeys::new(core::array::from_fn(|_| self.word()))
        }
    }

    /// How often, of so many keys, two clients share one of 1024 buckets.
    fn shared(random: &mut Random, of: u32, numbers: impl Fn(&ClientKeys) -> [ClientId; 2]) -> u32 {
        (0..of)
            .filter(|_| {
                let [one, other] = numbers(&random.keys());
                one.bucket(1023) == other.bucket(1023)
            })
            .count() as u32
    }

    #[test]
    fn whatever_two_clients_differ_in_they_share_a_bucket_as_rarely_as_chance_has_it() {
        const KEYS_EACH: u32 = 8192;
        let mut random = Random(7);
        let mut worst = 0;
        // Every difference of one bit, and of two bits at a time: what an attacker who knows the algorithm would try first.
        let bits: std::vec::Vec<u128> = (0..128).map(|bit| 1 << bit).collect();
        let mut differences = bits.clone();
        for step in [1, 7, 8, 24, 31, 32, 33, 63, 64, 65, 96] {
            differences.extend(bits.iter().map(|bit| bit ^ bit.rotate_left(step)));
        }
        for difference in differences {
            let base = [random.word(), random.word()];
            let halves = [difference as u64, (difference >> 64) as u64];
            let other = [base[0] ^ halves[0], base[1] ^ halves[1]];
            worst = worst.max(shared(&mut random, KEYS_EACH, |keys| {
                [ClientId::v6(base, 80, keys), ClientId::v6(other, 80, keys)]
            }));
        }
        for bit in 0..48 {
            for step in [0, 1, 8, 16, 23, 24, 25, 31] {
                let difference = (1_u64 << bit) | 1 << ((bit + step) % 48);
                let base = random.word() >> 16;
                let client = |word: u64, keys: &ClientKeys| ClientId::v4((word >> 16) as u32, word as u16, keys);
                worst = worst.max(shared(&mut random, KEYS_EACH, |keys| {
                    [client(base, keys), client(base ^ difference, keys)]
                }));
            }
        }
        // Eight are expected; thirty-two of 8192 would be one difference in ten billion that is due to chance.
        assert!(
            worst < 32,
            "{worst} of {KEYS_EACH} keys put two clients into one bucket"
        );
    }

    #[test]
    fn clients_chosen_for_one_table_do_not_crowd_a_bucket_of_another() {
        let mut random = Random(11);
        let known = random.keys();
        let victim = ClientId::v6([1, 2], 80, &known).bucket(1023);
        // With the keys known it is easy to find clients that share a bucket. They do not under other keys.
        let mut aimed = std::vec::Vec::new();
        let mut number = 0_u64;
        while aimed.len() < 480 {
            number += 1;
            let address = [0x0c00_00fd, number.to_be()];
            if ClientId::v6(address, 80, &known).bucket(1023) == victim {
                aimed.push(address);
            }
        }
        for _ in 0..64 {
            let keys = random.keys();
            let mut counts = [0_u32; 1024];
            for address in &aimed {
                counts[ClientId::v6(*address, 80, &keys).bucket(1023) as usize] += 1;
            }
            let most = counts.iter().max().copied().unwrap_or(0);
            assert!(most <= 8, "{most} of 480 in one bucket");
        }
    }
}
