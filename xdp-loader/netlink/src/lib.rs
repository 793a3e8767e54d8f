//! What the kernel knows about links, routes, neighbours and addresses, asked and followed over rtnetlink.
//!
//! Everything here works in the network namespace of the thread that opened it (see `network_namespaces(7)`).
//!
//! Two kinds of sockets, never mixed: [`Kernel`] asks and is answered, [`Events`] only listens. A listener that falls
//! behind loses messages and is told so ([`Event::Lost`]); whoever follows something then dumps it anew.

mod address;
pub mod announce;
pub mod claims;
mod exchange;
pub mod frame_socket;
pub mod freshness;
mod generic;
pub mod link;
pub mod neighbour;
pub mod nexthop;
pub mod occupant;
pub mod offload;
mod placement;
pub mod route;
pub mod socket;
pub mod tracker;
pub mod transmit;
pub mod vip;
pub mod watch;

pub use self::{
    address::OWNER,
    link::{Link, LinkError, LinkTable, Links},
    neighbour::Move,
    nexthop::{NextHop, NextHopError, NextHops},
    placement::Places,
    socket::{Kernel, NetlinkError},
    tracker::NextHopTracker,
    vip::{VipError, VipState, VipStates, Vips, Wish},
    watch::{Event, Events},
};
