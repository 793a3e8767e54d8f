//! Occupant: the XDP program that is attached to an interface, whoever attached it.

use netlink_sys::protocols;

use super::exchange::{Exchange, find, number};

/// `RTM_GETLINK` and the attributes of its answer (linux/rtnetlink.h, linux/if_link.h).
const GET_LINK: u16 = 18;
const XDP: u16 = 43;
/// In the driver or, alone, in any mode; in the driver, in the stack, on the card, where several are.
const PROGRAMS: [u16; 4] = [4, 5, 6, 7];
/// Of `struct ifinfomsg`.
const INTERFACE_INFO: usize = 16;

/// The id of the program that is attached to an interface in the network namespace of the calling thread; none if there is none,
/// or the kernel does not say.
#[must_use]
pub fn occupant(ifindex: u32) -> Option<u32> {
    let mut request = [0; INTERFACE_INFO];
    request[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let answers = Exchange::over(protocols::NETLINK_ROUTE)
        .and_then(|socket| socket.ask(GET_LINK, 0, &request))
        .ok()?;
    let xdp = find(answers.first()?.get(INTERFACE_INFO..)?, XDP)?;
    let id = |attribute: &u16| Some(u32::from_ne_bytes(number(find(xdp, *attribute)?)?));
    PROGRAMS.iter().find_map(id).filter(|id| *id != 0)
}
