//! The fragments of a datagram.

use crate::frame::{FRAGMENT, Frame, IP, seal_ipv4};

/// The fragments of a frame's datagram, so many bytes of its payload in each (a multiple of 8).
pub fn fragments(frame: &Frame, size: usize, identification: u16) -> Vec<Vec<u8>> {
    let whole = frame.bytes();
    let v4 = frame.source.is_ipv4();
    let header = IP + if v4 { 20 } else { 40 };
    let pieces: Vec<&[u8]> = whole[header..].chunks(size).collect();
    let fragment = |(number, piece): (usize, &&[u8])| {
        let more = u16::from(number + 1 < pieces.len());
        let offset = (number * size) as u16;
        let mut bytes = whole[..header].to_vec();
        if v4 {
            bytes[IP + 2..IP + 4].copy_from_slice(&(20 + piece.len() as u16).to_be_bytes());
            bytes[IP + 4..IP + 6].copy_from_slice(&identification.to_be_bytes());
            bytes[IP + 6..IP + 8].copy_from_slice(&((more << 13) | (offset / 8)).to_be_bytes());
            seal_ipv4(&mut bytes);
        } else {
            bytes[IP + 4..IP + 6].copy_from_slice(&(8 + piece.len() as u16).to_be_bytes());
            let next = std::mem::replace(&mut bytes[IP + 6], FRAGMENT);
            bytes.extend([next, 0]);
            bytes.extend((offset | more).to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(identification.to_be_bytes());
        }
        bytes.extend_from_slice(piece);
        bytes
    };
    pieces.iter().enumerate().map(fragment).collect()
}
