//! What differs between IPv4 and IPv6, so that every step is written once.

use xdp_common::{
    hash,
    layout::{
        Backend, BucketFlowV4, BucketFlowV6, Client, EndpointV4, Flow, FragmentV4, FragmentV6, FragmentWay, Further,
        HopBucket, REACH, Target,
    },
    wire::{Ipv4, Ipv6, protocol},
};

use crate::{
    atomic,
    end::End,
    maps,
    parse::{self, Frame, Header, Packet},
};

/// An address family: its header, addresses and tables.
pub trait Family: Copy {
    /// The IP header.
    type Header: Copy;
    /// An address, as loaded from the packet.
    type Address: Copy + PartialEq;
    /// A bucket of the flow table, which begins with the words of its flows.
    type Bucket;

    /// The protocol number of its ICMP.
    const ICMP: u8;
    /// Whether it is IPv6.
    const IS_V6: bool;
    /// The program in which its flows begin.
    const BEGIN: Further;

    /// Follows the IP header `at` bytes into the frame.
    fn header(frame: Frame, at: usize) -> Result<Header<Self>, End>
    where
        Self: Sized;

    /// Where the first fragment of a datagram went.
    fn fragment(header: &Header<Self>, identification: u64) -> Option<FragmentWay>
    where
        Self: Sized;

    /// Remembers where the first fragment of a datagram goes.
    fn remember(packet: &Packet<Self>, identification: u64, way: FragmentWay)
    where
        Self: Sized;

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

    /// What an address stands for, with a port or all of them ([`xdp_common::layout::port_protocol`]), in this bank.
    fn endpoint(bank: u32, address: Self::Address, port_protocol: u32) -> Target;

    /// The number of a client.
    fn client(address: Self::Address, port: u16, seed: u64) -> Client;

    /// One less than the number of buckets of the flow table.
    fn mask() -> u32;

    /// A bucket of the flow table.
    fn bucket(number: u32) -> Option<*mut Self::Bucket>;

    /// The next hops of a bucket of the flow table.
    fn hops(number: u32) -> Option<*mut HopBucket>;

    /// What a prefix of so many bits leaves of an address.
    fn masked(address: Self::Address, prefix: u8) -> Self::Address;

    /// Whether the flow in a way of a bucket is this client's, beyond what its word says.
    ///
    /// # Safety
    ///
    /// `bucket` must be one of the flow table and `way` below [`xdp_common::layout::WAYS`], as for [`Family::set_client`].
    unsafe fn is_client(bucket: *mut Self::Bucket, way: usize, flow: Flow, address: Self::Address) -> bool;

    /// Writes what of the client the word does not say. The way must be held by this CPU.
    ///
    /// # Safety
    ///
    /// As for [`Family::is_client`].
    unsafe fn set_client(bucket: *mut Self::Bucket, way: usize, address: Self::Address);
}

/// IPv4.
#[derive(Clone, Copy)]
pub struct V4;

impl Family for V4 {
    type Header = Ipv4;
    type Address = u32;
    type Bucket = BucketFlowV4;

    const ICMP: u8 = protocol::ICMP;
    const IS_V6: bool = false;
    const BEGIN: Further = Further::BeginV4;

    #[inline(always)]
    fn header(frame: Frame, at: usize) -> Result<Header<Self>, End> {
        parse::ipv4(frame, at)
    }

    #[inline(always)]
    fn fragment(header: &Header<Self>, identification: u64) -> Option<FragmentWay> {
        // SAFETY: the header's view was checked when it was followed.
        let (source, destination, _) = unsafe { Self::addresses(header.ip) };
        let key = FragmentV4 {
            source,
            destination,
            identification: identification as u32,
            protocol: u32::from(header.protocol),
        };
        // SAFETY: an entry that is replaced while it is read is of a datagram with the same key or of a later one that
        // took its place; either way the copy is a whole way.
        unsafe { maps::FRAGMENTS_V4.get(&key) }.copied()
    }

    #[inline(always)]
    fn remember(packet: &Packet<Self>, identification: u64, way: FragmentWay) {
        let key = FragmentV4 {
            source: packet.tuple.source,
            destination: packet.tuple.destination,
            identification: identification as u32,
            protocol: u32::from(packet.tuple.protocol),
        };
        // Without room the fragments that follow are dropped under their own reason.
        let _: Result<(), i32> = maps::FRAGMENTS_V4.insert(&key, &way, 0);
    }

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
    fn endpoint(bank: u32, address: u32, port_protocol: u32) -> Target {
        let key = EndpointV4::key(address, port_protocol);
        let mask = maps::size::endpoints_mask();
        let number = hash::endpoint_v4(key) & mask;
        for step in 0..REACH {
            let Some(bucket) = maps::ENDPOINTS_V4.get(((number + step) & mask) << 1 | bank) else {
                break;
            };
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
    fn client(address: u32, port: u16, seed: u64) -> Client {
        Client::v4(address, port, seed)
    }

    #[inline(always)]
    fn mask() -> u32 {
        maps::size::flows_v4_mask()
    }

    #[inline(always)]
    fn bucket(number: u32) -> Option<*mut BucketFlowV4> {
        maps::FLOWS_V4.get_ptr_mut(number)
    }

    #[inline(always)]
    fn hops(number: u32) -> Option<*mut HopBucket> {
        maps::HOPS_V4.get_ptr_mut(number)
    }

    #[inline(always)]
    fn masked(address: u32, prefix: u8) -> u32 {
        // A prefix of 32 shifts by 32, which leaves none of the 32 bits.
        address & !((u64::from(u32::MAX) >> (prefix & 63)) as u32).to_be()
    }

    #[inline(always)]
    unsafe fn is_client(_bucket: *mut BucketFlowV4, _way: usize, _flow: Flow, _address: u32) -> bool {
        true
    }

    #[inline(always)]
    unsafe fn set_client(_bucket: *mut BucketFlowV4, _way: usize, _address: u32) {}
}

/// IPv6.
#[derive(Clone, Copy)]
pub struct V6;

impl Family for V6 {
    type Header = Ipv6;
    type Address = [u64; 2];
    type Bucket = BucketFlowV6;

    const ICMP: u8 = protocol::ICMPV6;
    const IS_V6: bool = true;
    const BEGIN: Further = Further::BeginV6;

    #[inline(always)]
    fn header(frame: Frame, at: usize) -> Result<Header<Self>, End> {
        parse::ipv6(frame, at)
    }

    #[inline(always)]
    fn fragment(header: &Header<Self>, identification: u64) -> Option<FragmentWay> {
        // SAFETY: the header's view was checked when it was followed.
        let (source, destination, _) = unsafe { Self::addresses(header.ip) };
        let key = FragmentV6 {
            source,
            destination,
            identification: identification as u32,
            reserved: 0,
        };
        // SAFETY: as for IPv4.
        unsafe { maps::FRAGMENTS_V6.get(&key) }.copied()
    }

    #[inline(always)]
    fn remember(packet: &Packet<Self>, identification: u64, way: FragmentWay) {
        let key = FragmentV6 {
            source: packet.tuple.source,
            destination: packet.tuple.destination,
            identification: identification as u32,
            reserved: 0,
        };
        // Without room the fragments that follow are dropped under their own reason.
        let _: Result<(), i32> = maps::FRAGMENTS_V6.insert(&key, &way, 0);
    }

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
    fn endpoint(bank: u32, address: [u64; 2], port_protocol: u32) -> Target {
        let mask = maps::size::endpoints_mask();
        let number = hash::endpoint_v6(address, port_protocol) & mask;
        for step in 0..REACH {
            let Some(bucket) = maps::ENDPOINTS_V6.get(((number + step) & mask) << 1 | bank) else {
                break;
            };
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
    fn client(address: [u64; 2], port: u16, seed: u64) -> Client {
        Client::v6(address, port, seed)
    }

    #[inline(always)]
    fn mask() -> u32 {
        maps::size::flows_v6_mask()
    }

    #[inline(always)]
    fn bucket(number: u32) -> Option<*mut BucketFlowV6> {
        maps::FLOWS_V6.get_ptr_mut(number)
    }

    #[inline(always)]
    fn hops(number: u32) -> Option<*mut HopBucket> {
        maps::HOPS_V6.get_ptr_mut(number)
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
    unsafe fn is_client(bucket: *mut BucketFlowV6, way: usize, flow: Flow, address: [u64; 2]) -> bool {
        // SAFETY: the caller's bucket and way.
        unsafe {
            let client = (&raw const (*bucket).clients).cast::<[u64; 2]>().add(way);
            // Another flow may have come into this place since its word was read.
            client.read() == address && atomic::load_last(bucket.cast::<u64>().add(way)) == flow.0
        }
    }

    #[inline(always)]
    unsafe fn set_client(bucket: *mut BucketFlowV6, way: usize, address: [u64; 2]) {
        // SAFETY: the caller's bucket and way.
        unsafe { (&raw mut (*bucket).clients).cast::<[u64; 2]>().add(way).write(address) }
    }
}

/// The backend with this number, if there is one in this bank.
#[inline(always)]
pub fn backend(bank: u32, number: u32) -> Option<&'static Backend> {
    maps::BACKENDS.get(number << 1 | bank)
}
