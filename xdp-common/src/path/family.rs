//! What differs between IPv4 and IPv6 in addresses and tables, so that every step is written once.

use super::platform::Platform;
use crate::{
    hash,
    layout::{BucketFlow, ClientId, ClientKeys, EndpointV4, FLOWS_PER_BUCKET, HopBucket, REACH, TailCall, Target},
    succession::successor,
    wire::{Ipv4, Ipv6, protocol},
};

/// An address family: its header, addresses and tables.
pub trait Family: Copy {
    /// The IP header.
    type Header: Copy;
    /// An address, as loaded from the packet.
    type Address: Copy + PartialEq;

    /// The protocol number of its ICMP.
    const ICMP: u8;
    /// Whether it is IPv6.
    const IS_V6: bool;
    /// The program in which its flows begin.
    const NEW_FLOW: TailCall;
    /// The program in which its packets are rejected.
    const REJECT: TailCall;
    /// Where a predecessor that was asked for a flow goes on.
    const SUCCESSOR: u32;

    /// Source, destination and length from the IP header on.
    ///
    /// # Safety
    ///
    /// `ip` must be a checked view.
    unsafe fn addresses(ip: *const Self::Header) -> (Self::Address, Self::Address, u64);

    /// An address as the words of a backend's entry.
    fn words_of(address: Self::Address) -> [u64; 2];

    /// The address in a backend's entry, or its VIP.
    fn of_backend(words: &[u64; 2]) -> Self::Address;

    /// What an address stands for, with a port or all of them ([`crate::layout::port_protocol`]), in this bank.
    fn endpoint<P: Platform>(platform: P, bank: u32, address: Self::Address, port_protocol: u32) -> Target;

    /// The number of a client.
    fn client(address: Self::Address, port: u16, keys: &ClientKeys) -> ClientId;

    /// One less than the number of buckets of the flow table.
    fn mask<P: Platform>(platform: P) -> u32;

    /// A bucket of the flow table.
    fn bucket<P: Platform>(platform: P, number: u32) -> Option<*mut BucketFlow>;

    /// The next hops of a bucket of the flow table.
    fn hops<P: Platform>(platform: P, number: u32) -> Option<*mut HopBucket>;

    /// What a prefix of so many bits leaves of an address.
    fn masked(address: Self::Address, prefix: u8) -> Self::Address;

    /// Writes what of a client its number does not tell, for whoever lists flows. The slot must be held by this CPU.
    fn set_client<P: Platform>(platform: P, bucket: u32, slot: usize, address: Self::Address);
}

/// IPv4.
#[derive(Clone, Copy)]
pub struct V4;

impl Family for V4 {
    type Header = Ipv4;
    type Address = u32;

    const ICMP: u8 = protocol::ICMP;
    const IS_V6: bool = false;
    const NEW_FLOW: TailCall = TailCall::NewFlowV4;
    const REJECT: TailCall = TailCall::RejectV4;
    const SUCCESSOR: u32 = successor::V4;

    #[inline(always)]
    unsafe fn addresses(ip: *const Ipv4) -> (u32, u32, u64) {
        // SAFETY: the caller's view was checked.
        let ip = unsafe { &*ip };
        (ip.source.0, ip.destination.0, u64::from(ip.total_length.get()))
    }

    #[inline(always)]
    fn words_of(address: u32) -> [u64; 2] {
        [u64::from(address), 0]
    }

    #[inline(always)]
    fn of_backend(words: &[u64; 2]) -> u32 {
        words[0] as u32
    }

    #[inline(always)]
    fn endpoint<P: Platform>(platform: P, bank: u32, address: u32, port_protocol: u32) -> Target {
        let key = EndpointV4::key(address, port_protocol);
        let mask = platform.endpoints_mask();
        let number = hash::endpoint_v4(key) & mask;
        for step in 0..REACH {
            let Some(bucket) = platform.endpoints_v4(((number + step) & mask) << 1 | bank) else {
                break;
            };
            // SAFETY: a bank is not written while packets may read it.
            let bucket = unsafe { &*bucket };
            for endpoint in bucket {
                if endpoint.key == key {
                    return endpoint.target;
                }
            }
            if bucket[0].spilled == 0 {
                break;
            }
        }
        Target::NONE
    }

    #[inline(always)]
    fn client(address: u32, port: u16, keys: &ClientKeys) -> ClientId {
        ClientId::v4(address, port, keys)
    }

    #[inline(always)]
    fn mask<P: Platform>(platform: P) -> u32 {
        platform.flows_v4_mask()
    }

    #[inline(always)]
    fn bucket<P: Platform>(platform: P, number: u32) -> Option<*mut BucketFlow> {
        platform.flows_v4(number)
    }

    #[inline(always)]
    fn hops<P: Platform>(platform: P, number: u32) -> Option<*mut HopBucket> {
        platform.hops_v4(number)
    }

    #[inline(always)]
    fn masked(address: u32, prefix: u8) -> u32 {
        // A prefix of 32 shifts by 32, which leaves none of the 32 bits.
        address & !((u64::from(u32::MAX) >> (prefix & 63)) as u32).to_be()
    }

    #[inline(always)]
    fn set_client<P: Platform>(_platform: P, _bucket: u32, _slot: usize, _address: u32) {}
}

/// IPv6.
#[derive(Clone, Copy)]
pub struct V6;

impl Family for V6 {
    type Header = Ipv6;
    type Address = [u64; 2];

    const ICMP: u8 = protocol::ICMPV6;
    const IS_V6: bool = true;
    const NEW_FLOW: TailCall = TailCall::NewFlowV6;
    const REJECT: TailCall = TailCall::RejectV6;
    const SUCCESSOR: u32 = successor::V6;

    #[inline(always)]
    unsafe fn addresses(ip: *const Ipv6) -> ([u64; 2], [u64; 2], u64) {
        // SAFETY: the caller's view was checked.
        let ip = unsafe { &*ip };
        (
            ip.source,
            ip.destination,
            u64::from(ip.payload_length.get()) + size_of::<Ipv6>() as u64,
        )
    }

    #[inline(always)]
    fn words_of(address: [u64; 2]) -> [u64; 2] {
        address
    }

    #[inline(always)]
    fn of_backend(words: &[u64; 2]) -> [u64; 2] {
        *words
    }

    #[inline(always)]
    fn endpoint<P: Platform>(platform: P, bank: u32, address: [u64; 2], port_protocol: u32) -> Target {
        let mask = platform.endpoints_mask();
        let number = hash::endpoint_v6(address, port_protocol) & mask;
        for step in 0..REACH {
            let Some(bucket) = platform.endpoints_v6(((number + step) & mask) << 1 | bank) else {
                break;
            };
            // SAFETY: as for IPv4.
            let bucket = unsafe { &*bucket };
            for endpoint in bucket {
                if endpoint.port_protocol == port_protocol && endpoint.address == address {
                    return endpoint.target;
                }
            }
            if bucket[0].spilled == 0 {
                break;
            }
        }
        Target::NONE
    }

    #[inline(always)]
    fn client(address: [u64; 2], port: u16, keys: &ClientKeys) -> ClientId {
        ClientId::v6(address, port, keys)
    }

    #[inline(always)]
    fn mask<P: Platform>(platform: P) -> u32 {
        platform.flows_v6_mask()
    }

    #[inline(always)]
    fn bucket<P: Platform>(platform: P, number: u32) -> Option<*mut BucketFlow> {
        platform.flows_v6(number)
    }

    #[inline(always)]
    fn hops<P: Platform>(platform: P, number: u32) -> Option<*mut HopBucket> {
        platform.hops_v6(number)
    }

    #[inline(always)]
    fn masked(address: [u64; 2], prefix: u8) -> [u64; 2] {
        let prefix = u64::from(prefix);
        let (high, low) = match prefix {
            0..=63 => (!(u64::MAX >> prefix), 0),
            64..=127 => (u64::MAX, !(u64::MAX >> (prefix - 64))),
            _ => (u64::MAX, u64::MAX),
        };
        [address[0] & high.to_be(), address[1] & low.to_be()]
    }

    #[inline(always)]
    fn set_client<P: Platform>(platform: P, bucket: u32, slot: usize, address: [u64; 2]) {
        if let Some(clients) = platform.clients_v6(bucket) {
            // SAFETY: the slot is masked to the bucket.
            let client = unsafe {
                clients
                    .cast::<[u64; 2]>()
                    .add(slot & (FLOWS_PER_BUCKET - 1))
                    .cast::<u64>()
            };
            let [high, low] = address;
            // SAFETY: both words are the bucket's.
            unsafe {
                platform.store(client, high);
                platform.store(client.add(1), low);
            }
        }
    }
}
