//! Listening to the kernel: the rtnetlink multicast groups, with lost messages reported.

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols};
use rtnetlink::MulticastGroup;
use tracing::debug;

use super::NetlinkError;

/// The kernel's largest netlink datagram is 32 KiB (`NLMSG_GOODSIZE` of its dumps; notifications are smaller).
const DATAGRAM: usize = 64 * 1024;

/// Room for some ten thousand notifications while a full resynchronisation runs. Bytes.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// `RTM_NEWNEXTHOP`, `RTM_DELNEXTHOP` (`linux/rtnetlink.h`): unknown to netlink-packet-route.
const NEXT_HOP_OBJECT: std::ops::RangeInclusive<u16> = 104..=105;

/// Something that the kernel announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link, neighbour, address, route or rule came, changed or went.
    Changed(Box<RouteNetlinkMessage>),
    /// A nexthop object (`ip nexthop`) changed, and with it any route that uses it.
    NextHopObject,
    /// Messages were lost or not understood: what was followed must be dumped anew.
    Lost,
}

/// A subscription to rtnetlink multicast groups.
pub struct Events {
    socket: TokioSocket,
    datagram: Vec<u8>,
}

impl Events {
    /// Subscribes, in the network namespace of the calling thread. Subscribe first and dump second: then nothing
    /// that happens in between is missed.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Open`] if the kernel gives no socket or no membership.
    pub fn subscribe(groups: &[MulticastGroup]) -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = TokioSocket::new(protocols::NETLINK_ROUTE)?;
            // Needs CAP_NET_ADMIN; without it the default buffer only means more frequent resynchronisations.
            if let Err(error) =
                rustix::net::sockopt::set_socket_recv_buffer_size_force(socket_fd(&socket), RECEIVE_BUFFER)
            {
                debug!(%error, "the netlink receive buffer keeps its default size");
            }
            socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
            for group in groups {
                socket.socket_ref().add_membership(*group as u32)?;
            }
            Ok(socket)
        };
        Ok(Self {
            socket: open().map_err(NetlinkError::Open)?,
            datagram: Vec::with_capacity(DATAGRAM),
        })
    }

    /// The next events, in the kernel's order; at least one. Cancelling the future loses nothing.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Read`] if the socket is broken; lost messages are no error but [`Event::Lost`].
    pub async fn next(&mut self) -> Result<Vec<Event>, NetlinkError> {
        loop {
            self.datagram.clear();
            match self.socket.recv_from(&mut self.datagram).await {
                // Port 0 is the kernel; other processes may write to the group too.
                Ok(sender) if sender.port_number() != 0 => {}
                Ok(_) => {
                    let events = parse(&self.datagram);
                    if !events.is_empty() {
                        return Ok(events);
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    debug!("the kernel dropped netlink notifications for us");
                    self.drain();
                    return Ok(vec![Event::Lost]);
                }
                Err(error) => return Err(NetlinkError::Read(error)),
            }
        }
    }

    /// Discards what is queued. From the first lost message on the kernel drops all others, without another word, until
    /// the queue was empty once (`NETLINK_S_CONGESTED` in `net/netlink/af_netlink.c`): a dump before that would miss
    /// what changes after it, and a dump after it makes what is queued superfluous.
    fn drain(&mut self) {
        loop {
            self.datagram.clear();
            match self.socket.socket_ref().recv_from(&mut self.datagram, 0) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                // Empty; or broken, which the next read reports.
                Err(_) => return,
            }
        }
    }
}

fn socket_fd(socket: &TokioSocket) -> std::os::fd::BorrowedFd<'_> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the descriptor belongs to `socket`, which outlives the borrow.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// The messages of one datagram.
fn parse(mut datagram: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while !datagram.is_empty() {
        let (length, kind) = match NetlinkBuffer::new_checked(datagram) {
            Ok(header) => (header.length() as usize, header.message_type()),
            Err(error) => {
                debug!(%error, "truncated netlink datagram");
                events.push(Event::Lost);
                break;
            }
        };
        if NEXT_HOP_OBJECT.contains(&kind) {
            events.push(Event::NextHopObject);
        } else {
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&datagram[..length]) {
                Ok(message) => match message.payload {
                    NetlinkPayload::InnerMessage(message) => {
                        events.push(Event::Changed(Box::new(message)));
                    }
                    NetlinkPayload::Overrun(_) => events.push(Event::Lost),
                    _ => {}
                },
                Err(error) => {
                    debug!(%error, kind, "netlink message not understood");
                    events.push(Event::Lost);
                }
            }
        }
        // NLMSG_ALIGN: messages start at multiples of 4.
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    events
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    fn message(payload: RouteNetlinkMessage) -> Vec<u8> {
        let mut message = NetlinkMessage::from(payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn a_datagram_with_two_messages_gives_two_events_in_order() {
        let first = RouteNetlinkMessage::NewLink(LinkMessage::default());
        let second = RouteNetlinkMessage::DelLink(LinkMessage::default());
        let datagram = [message(first.clone()), message(second.clone())].concat();
        assert_eq!(
            parse(&datagram),
            [Event::Changed(Box::new(first)), Event::Changed(Box::new(second))]
        );
    }

    #[test]
    fn a_truncated_datagram_counts_as_lost_messages() {
        let mut datagram = message(RouteNetlinkMessage::NewLink(LinkMessage::default()));
        datagram.truncate(datagram.len() - 1);
        assert_eq!(parse(&datagram), [Event::Lost]);
    }

    #[test]
    fn a_nexthop_object_is_recognised_although_the_parser_does_not_know_it() {
        let mut datagram = message(RouteNetlinkMessage::NewLink(LinkMessage::default()));
        datagram[4..6].copy_from_slice(&104_u16.to_ne_bytes());
        assert_eq!(parse(&datagram), [Event::NextHopObject]);
    }
}
