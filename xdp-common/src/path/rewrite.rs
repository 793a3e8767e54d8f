//! Rewrite: addresses, ports, hop count, and the checksums that cover them (RFC 1624).

use super::{
    Frame, Outcome,
    family::{Family, V4, V6},
    parse::{Header, Packet},
};
use crate::{
    checksum::{self, word},
    layout::{Backend, Method},
    verdict::Verdict,
    wire::{Be16, Be32, Icmp, Ipv4, Ipv6, protocol},
};

/// What NAT changes in a family's header.
pub trait Translate: Family {
    /// Whether the checksum of its ICMP covers the addresses (RFC 4443, section 2.3).
    const PSEUDO_HEADER: bool;

    /// Whether an ICMP type is an error, which quotes a packet.
    fn is_icmp_error(kind: u8) -> bool;

    /// The delta of the checksum when an address becomes another one.
    fn delta(old: Self::Address, new: Self::Address) -> u16;

    /// Sets the source of a quoted header; `delta` is that of the addresses.
    ///
    /// # Safety
    ///
    /// `ip` must be a checked view.
    unsafe fn quote_source(ip: *mut Self::Header, address: Self::Address, delta: u16);

    /// Sets the destination of a quoted header; `delta` is that of the addresses.
    ///
    /// # Safety
    ///
    /// `ip` must be a checked view.
    unsafe fn quote_destination(ip: *mut Self::Header, address: Self::Address, delta: u16);

    /// Hops that the packet has left.
    ///
    /// # Safety
    ///
    /// `ip` must be a checked view.
    unsafe fn hops_left(ip: *const Self::Header) -> u8;

    /// Takes one hop.
    ///
    /// # Safety
    ///
    /// `ip` must be a checked view of a header that has a hop left.
    unsafe fn take_hop(ip: *mut Self::Header);

    /// Sets the destination and takes one hop; `delta` is that of the addresses.
    ///
    /// # Safety
    ///
    /// `ip` must be a checked view.
    unsafe fn set_destination(ip: *mut Self::Header, address: Self::Address, delta: u16);

    /// Sets the source and takes one hop; `delta` is that of the addresses.
    ///
    /// # Safety
    ///
    /// `ip` must be a checked view.
    unsafe fn set_source(ip: *mut Self::Header, address: Self::Address, delta: u16);
}

impl Translate for V4 {
    const PSEUDO_HEADER: bool = false;

    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        Icmp::is_error_v4(kind)
    }

    #[inline(always)]
    fn delta(old: u32, new: u32) -> u16 {
        checksum::fold(word(u64::from(!old)) + word(u64::from(new)))
    }

    #[inline(always)]
    unsafe fn quote_source(ip: *mut Ipv4, address: u32, delta: u16) {
        // SAFETY: the caller's view was checked.
        unsafe {
            (*ip).source = Be32(address);
            (*ip).checksum = checksum::update((*ip).checksum, delta);
        }
    }

    #[inline(always)]
    unsafe fn quote_destination(ip: *mut Ipv4, address: u32, delta: u16) {
        // SAFETY: the caller's view was checked.
        unsafe {
            (*ip).destination = Be32(address);
            (*ip).checksum = checksum::update((*ip).checksum, delta);
        }
    }

    #[inline(always)]
    unsafe fn hops_left(ip: *const Ipv4) -> u8 {
        // SAFETY: the caller's view was checked.
        unsafe { (*ip).ttl }
    }

    #[inline(always)]
    unsafe fn take_hop(ip: *mut Ipv4) {
        // SAFETY: the caller's view was checked.
        unsafe {
            (*ip).ttl -= 1;
            (*ip).checksum = checksum::one_hop_less((*ip).checksum);
        }
    }

    #[inline(always)]
    unsafe fn set_destination(ip: *mut Ipv4, address: u32, delta: u16) {
        // SAFETY: the caller's view was checked.
        unsafe {
            (*ip).destination = Be32(address);
            take_hop_v4(ip, delta);
        }
    }

    #[inline(always)]
    unsafe fn set_source(ip: *mut Ipv4, address: u32, delta: u16) {
        // SAFETY: the caller's view was checked.
        unsafe {
            (*ip).source = Be32(address);
            take_hop_v4(ip, delta);
        }
    }
}

/// One hop less, in a header whose addresses changed by `delta`.
///
/// # Safety
///
/// `ip` must be a checked view.
#[inline(always)]
unsafe fn take_hop_v4(ip: *mut Ipv4, delta: u16) {
    // SAFETY: the caller's view was checked.
    unsafe {
        (*ip).ttl -= 1;
        (*ip).checksum = checksum::update_both((*ip).checksum, delta, checksum::TTL_DECREMENT);
    }
}

/// An address to be written as two words: as a whole it would be copied by a call, a byte at a time.
#[inline(always)]
fn words(address: [u64; 2]) -> [u64; 2] {
    let [high, low] = address;
    [high, low]
}

impl Translate for V6 {
    const PSEUDO_HEADER: bool = true;

    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        Icmp::is_error_v6(kind)
    }

    #[inline(always)]
    fn delta(old: [u64; 2], new: [u64; 2]) -> u16 {
        checksum::fold(word(!old[0]) + word(!old[1]) + word(new[0]) + word(new[1]))
    }

    #[inline(always)]
    unsafe fn quote_source(ip: *mut Ipv6, address: [u64; 2], _delta: u16) {
        // SAFETY: the caller's view was checked.
        unsafe { (*ip).source = words(address) }
    }

    #[inline(always)]
    unsafe fn quote_destination(ip: *mut Ipv6, address: [u64; 2], _delta: u16) {
        // SAFETY: the caller's view was checked.
        unsafe { (*ip).destination = words(address) }
    }

    #[inline(always)]
    unsafe fn hops_left(ip: *const Ipv6) -> u8 {
        // SAFETY: the caller's view was checked.
        unsafe { (*ip).hop_limit }
    }

    #[inline(always)]
    unsafe fn take_hop(ip: *mut Ipv6) {
        // SAFETY: the caller's view was checked.
        unsafe { (*ip).hop_limit -= 1 }
    }

    #[inline(always)]
    unsafe fn set_destination(ip: *mut Ipv6, address: [u64; 2], _delta: u16) {
        // SAFETY: the caller's view was checked.
        unsafe {
            (*ip).destination = words(address);
            (*ip).hop_limit -= 1;
        }
    }

    #[inline(always)]
    unsafe fn set_source(ip: *mut Ipv6, address: [u64; 2], _delta: u16) {
        // SAFETY: the caller's view was checked.
        unsafe {
            (*ip).source = words(address);
            (*ip).hop_limit -= 1;
        }
    }
}

/// Sends a packet that was for the service to the backend. It must have a hop left to take: every method takes one, so that a
/// loop between balancers ends.
#[inline(always)]
pub fn inbound<F: Translate>(packet: &Packet<F>, backend: &Backend) {
    // SAFETY: parsing has checked the views of the IP and the transport header.
    unsafe {
        if !backend.method.has(Method::REWRITES_DESTINATION) {
            return F::take_hop(packet.ip);
        }
        F::set_destination(packet.ip, F::of_backend(&backend.address), backend.address_delta);
        (*packet.ports).destination = backend.port;
        update_transport(packet, backend.endpoint_delta);
    }
}

/// Makes a packet that the backend sent one from the service.
#[inline(always)]
pub fn outbound<F: Translate>(packet: &Packet<F>, backend: &Backend) -> Result<(), Outcome> {
    // SAFETY: parsing has checked the views of the IP and the transport header.
    unsafe {
        if F::hops_left(packet.ip) <= 1 {
            return Err(Outcome::Drop(Verdict::DroppedTtlExceeded));
        }
        let vip = F::of_backend(&backend.vip);
        F::set_source(packet.ip, vip, checksum::inverse(backend.address_delta));
        (*packet.ports).source = backend.vport;
        update_transport(packet, checksum::inverse(backend.endpoint_delta));
    }
    Ok(())
}

/// Sends a fragment other than the first, which has neither ports nor checksum, to the backend.
#[inline(always)]
pub fn fragment_inbound<F: Translate>(header: &Header<F>, backend: &Backend) -> Result<(), Outcome> {
    // SAFETY: the header's view was checked when it was followed.
    unsafe {
        if F::hops_left(header.ip) <= 1 {
            return Err(Outcome::Drop(Verdict::DroppedTtlExceeded));
        }
        if !backend.method.has(Method::REWRITES_DESTINATION) {
            F::take_hop(header.ip);
            return Ok(());
        }
        F::set_destination(header.ip, F::of_backend(&backend.address), backend.address_delta);
    }
    Ok(())
}

/// Makes a fragment other than the first, which the backend sent, one from the service.
#[inline(always)]
pub fn fragment_outbound<F: Translate>(header: &Header<F>, backend: &Backend) -> Result<(), Outcome> {
    // SAFETY: the header's view was checked when it was followed.
    unsafe {
        if F::hops_left(header.ip) <= 1 {
            return Err(Outcome::Drop(Verdict::DroppedTtlExceeded));
        }
        F::set_source(
            header.ip,
            F::of_backend(&backend.vip),
            checksum::inverse(backend.address_delta),
        );
    }
    Ok(())
}

/// Updates the checksum of the transport header, whose pseudo header and ports changed by `delta`.
///
/// # Safety
///
/// The packet's transport header must be a checked view.
#[inline(always)]
unsafe fn update_transport<F: Family>(packet: &Packet<F>, delta: u16) {
    // SAFETY: the caller's view was checked.
    unsafe {
        let old = *packet.checksum;
        *packet.checksum = match packet.tuple.protocol {
            protocol::UDP => checksum::update_udp(old, delta),
            _ => checksum::update(old, delta),
        };
    }
}

/// Sets both MACs of a frame.
///
/// # Safety
///
/// The frame's Ethernet header must have been checked.
#[inline(always)]
pub unsafe fn macs(frame: Frame, macs: &[Be16; 6]) {
    // As in `words`.
    let [a, b, c, d, e, f] = *macs;
    // SAFETY: the caller's view was checked.
    unsafe { (*frame.ethernet()).addresses = [a, b, c, d, e, f] }
}
