//! Whether the checksums of an Ethernet frame are right, computed in full.
//!
//! Independent of the balancer's own code on purpose: it judges it.

use anyhow::{Context, Result, bail, ensure};

/// What a frame carries, its checksums being right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A TCP segment.
    Tcp,
    /// A UDP datagram.
    Udp,
    /// An ICMP or ICMPv6 message.
    Icmp,
    /// Nothing with a checksum that can be checked here.
    Other,
}

/// Checks the IPv4 header's checksum and those of TCP, UDP, ICMP and ICMPv6.
pub fn check(frame: &[u8]) -> Result<Verdict> {
    let mut at = 12;
    loop {
        let kind = be16(frame, at)?;
        at += 2;
        match kind {
            0x8100 | 0x88a8 => at += 2,
            0x0800 => return ipv4(part(frame, at..frame.len())?),
            0x86dd => return ipv6(part(frame, at..frame.len())?),
            _ => return Ok(Verdict::Other),
        }
    }
}

fn ipv4(packet: &[u8]) -> Result<Verdict> {
    let header = usize::from(byte(packet, 0)? & 0xf) * 4;
    ensure!(
        sum(part(packet, 0..header)?) == 0xffff,
        "the IPv4 header's checksum is wrong"
    );
    let total = usize::from(be16(packet, 2)?);
    let payload = part(packet, header..total)?;
    // More fragments follow, or this is not the first.
    if be16(packet, 6)? & 0x3fff != 0 {
        return Ok(Verdict::Other);
    }
    let protocol = byte(packet, 9)?;
    if protocol == 1 {
        ensure!(sum(payload) == 0xffff, "the ICMP checksum is wrong");
        return Ok(Verdict::Icmp);
    }
    transport(protocol, part(packet, 12..20)?, payload, true)
}

fn ipv6(packet: &[u8]) -> Result<Verdict> {
    let total = 40 + usize::from(be16(packet, 4)?);
    let mut next = byte(packet, 6)?;
    let mut at = 40;
    // RFC 8200, section 4.1: hop-by-hop, routing and destination options.
    while matches!(next, 0 | 43 | 60) {
        next = byte(packet, at)?;
        at += 8 + usize::from(byte(packet, at + 1)?) * 8;
    }
    transport(next, part(packet, 8..40)?, part(packet, at..total)?, false)
}

fn transport(protocol: u8, addresses: &[u8], payload: &[u8], v4: bool) -> Result<Verdict> {
    let (verdict, name) = match protocol {
        6 => (Verdict::Tcp, "TCP"),
        17 => (Verdict::Udp, "UDP"),
        58 => (Verdict::Icmp, "ICMPv6"),
        _ => return Ok(Verdict::Other),
    };
    if protocol == 17 && be16(payload, 6)? == 0 {
        // RFC 768: none was computed. RFC 8200, section 8.1: not in IPv6.
        ensure!(v4, "a UDP datagram over IPv6 has no checksum");
        return Ok(verdict);
    }
    let mut pseudo = addresses.to_vec();
    pseudo.extend(u32::try_from(payload.len())?.to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    pseudo.extend(payload);
    if sum(&pseudo) != 0xffff {
        bail!("the {name} checksum is wrong");
    }
    Ok(verdict)
}

/// The one's complement sum (RFC 1071); 0xffff over data that holds its own checksum.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0)
}

fn part(bytes: &[u8], range: std::ops::Range<usize>) -> Result<&[u8]> {
    bytes.get(range).context("the frame is shorter than its headers say")
}

fn byte(bytes: &[u8], at: usize) -> Result<u8> {
    Ok(part(bytes, at..at + 1)?[0])
}

fn be16(bytes: &[u8], at: usize) -> Result<u16> {
    let bytes = part(bytes, at..at + 2)?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// UDP 10.0.0.1:1 -> 10.0.0.2:2, two bytes of payload.
    const DATAGRAM: [u8; 44] = [
        0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 8, 0, // Ethernet
        0x45, 0, 0, 30, 0, 1, 0, 0, 64, 17, 0x66, 0xcc, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
        0, 1, 0, 2, 0, 10, 0x8a, 0x72, // UDP
        0x61, 0x62,
    ];

    #[test]
    fn a_right_frame_is_accepted() {
        assert_eq!(check(&DATAGRAM).ok(), Some(Verdict::Udp));
    }

    #[test]
    fn one_changed_byte_anywhere_behind_ethernet_is_noticed() {
        // Not the version, the lengths and the protocol, which change what is checked.
        for at in (18..20).chain(22..23).chain(24..38).chain(40..DATAGRAM.len()) {
            let mut wrong = DATAGRAM;
            wrong[at] ^= 0x10;
            assert!(check(&wrong).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_tag_does_not_hide_a_packet() {
        let mut tagged = DATAGRAM[..12].to_vec();
        tagged.extend([0x81, 0, 0, 7]);
        tagged.extend(&DATAGRAM[12..]);
        assert_eq!(check(&tagged).ok(), Some(Verdict::Udp));
    }
}
