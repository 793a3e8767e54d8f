//! Exchange: a request over a netlink socket of its own and its answers, at once, for what the netlink libraries do not know.

use std::{io, time::Duration};

use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// A request that is answered by a list (`NLM_F_DUMP`, linux/netlink.h).
pub(crate) const DUMP: u16 = 0x300;
const REQUEST: u16 = 1;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Of a netlink header.
const HEADER: usize = 16;
/// How long the kernel may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The socket.
pub(crate) struct Exchange(Socket);

impl Exchange {
    /// Over this protocol, in the network namespace of the calling thread.
    pub(crate) fn over(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        set_socket_timeout(borrowed(&socket), Timeout::Recv, Some(ANSWER_WITHIN))?;
        socket.bind_auto()?;
        Ok(Self(socket))
    }

    /// Sends a request and returns the bodies of the messages that answer it.
    pub(crate) fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let request = message(kind, flags, body);
        self.0.send_to(&request, &SocketAddr::new(0, 0), 0)?;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.0.recv_from_full()?;
            for (kind, body) in messages(&datagram) {
                match kind {
                    DONE => return Ok(answers),
                    ERROR => {
                        let errno = number(body).map_or(0, |errno| -i32::from_ne_bytes(errno));
                        return Err(io::Error::from_raw_os_error(errno));
                    }
                    _ => answers.push(body.to_vec()),
                }
            }
            if flags & DUMP == 0 {
                return Ok(answers);
            }
        }
    }
}

fn borrowed(socket: &Socket) -> std::os::fd::BorrowedFd<'_> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the descriptor belongs to `socket`, which outlives the borrow.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// A request as a message.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = (HEADER + body.len()) as u32;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((REQUEST | flags).to_ne_bytes());
    // Sequence number and port: one request is under way at a time.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// An attribute, padded to a multiple of 4.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut attribute = (length as u16).to_ne_bytes().to_vec();
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(length.next_multiple_of(4), 0);
    attribute
}

/// The types and bodies of the messages in a datagram.
fn messages(mut datagram: &[u8]) -> Vec<(u16, &[u8])> {
    let mut messages = Vec::new();
    while let Some((length, kind)) = header(datagram) {
        let Some(body) = datagram.get(HEADER..length) else {
            break;
        };
        messages.push((kind, body));
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

fn header(datagram: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(number(datagram)?);
    let kind = u16::from_ne_bytes(number(datagram.get(4..)?)?);
    Some((length as usize, kind))
}

/// The attributes: their types and values.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// `NLA_TYPE_MASK`: without the flags for nested values and byte order.
    const TYPE: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(number(rest)?));
        let kind = u16::from_ne_bytes(number(rest.get(2..)?)?) & TYPE;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of an attribute.
pub(crate) fn find(all: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(all)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// The first bytes, as many as a number has.
pub(crate) fn number<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_whatever_stands_before_them() {
        let both = [attribute(7, &[1, 2, 3]), attribute(9, &9_u32.to_ne_bytes())].concat();
        assert_eq!(find(&both, 9), Some(&9_u32.to_ne_bytes()[..]));
        assert_eq!(find(&both, 8), None);
        assert_eq!(find(&both[..6], 7), None, "cut short");
    }

    #[test]
    fn a_datagram_that_is_cut_short_ends_with_its_last_whole_message() {
        let one = message(30, 0, &attribute(9, &9_u32.to_ne_bytes()));
        let two = [one.clone(), one.clone()].concat();
        assert_eq!(messages(&two).len(), 2);
        assert_eq!(messages(&two[..two.len() - 1]).len(), 1);
    }
}
