//! What the kernel knows about links, routes, neighbours and addresses, asked and followed over rtnetlink.
//!
//! Everything here works in the network namespace of the thread that opened it (see `network_namespaces(7)`).
//!
//! Two kinds of sockets, never mixed: [`Kernel`] asks and is answered, [`Events`] only listens. A listener that falls
//! behind loses messages and is told so ([`Event::Lost`]); whoever follows something then dumps it anew.

mod address;
pub mod announce;
pub mod frame_socket;
pub mod freshness;
pub mod link;
pub mod neighbour;
pub mod nexthop;
pub mod route;
pub mod socket;
pub mod tracker;
pub mod vip;
pub mod watch;

pub use self::{
    address::OWNER,
    link::{Link, LinkError, LinkTable, Links},
    nexthop::{NextHop, NextHopError, NextHops},
    socket::{Kernel, NetlinkError},
    tracker::NextHopTracker,
    vip::{VipError, VipState, Vips},
    watch::{Event, Events},
};
