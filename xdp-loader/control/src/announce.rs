//! Announcing: the VIPs that this node offers are put on interfaces, told to the network, and taken off again.

use std::{collections::BTreeSet, net::IpAddr};

use lvx_api::{VipState, VipStatus};
use lvx_netlink::{self as netlink, LinkTable, Places, VipError, Vips, Wish};

use crate::offer::Role;

/// Announces VIPs.
pub(crate) struct Announcer {
    vips: Vips,
    /// The interface for VIPs that are of no attached interface's network; none adds no VIP anywhere.
    interface: Option<String>,
}

impl Announcer {
    /// Announces on this interface, if any.
    ///
    /// # Errors
    /// If addresses cannot be managed.
    pub(crate) async fn start(interface: Option<String>) -> Result<Self, VipError> {
        Ok(Self {
            vips: Vips::start().await?,
            interface,
        })
    }

    /// What this node is, as far as its settings say.
    pub(crate) fn role(&self) -> Role {
        match self.interface {
            Some(_) => Role::Active,
            None => Role::Silent,
        }
    }

    /// The interface for VIPs that are of no attached interface's network.
    pub(crate) fn interface(&self) -> Option<&str> {
        self.interface.as_deref()
    }

    /// Makes the interfaces have the VIPs that are offered, and no others of ours. A VIP that cannot be added is told in
    /// [`Self::report`].
    ///
    /// # Errors
    /// If the kernel's tables cannot be read.
    pub(crate) async fn announce(&self, addresses: BTreeSet<IpAddr>, places: Places) -> Result<(), VipError> {
        self.vips.ensure(Wish { addresses, places }).await
    }

    /// Where VIPs are, as users are told.
    pub(crate) fn report(&self, links: &LinkTable) -> impl Fn(IpAddr) -> Option<VipStatus> {
        let states = self.vips.states();
        move |address| {
            let (interface, added_by_lvx, state, reason) = match states.get(&address)? {
                Ok(netlink::VipState::Added { ifindex }) => (Some(*ifindex), true, VipState::Present, None),
                Ok(netlink::VipState::AlreadyThere { ifindex }) => (Some(*ifindex), false, VipState::Present, None),
                Err(error @ VipError::Conflict { .. }) => (None, false, VipState::Conflict, Some(error.to_string())),
                Err(error) => (None, false, VipState::Missing, Some(error.to_string())),
            };
            Some(VipStatus {
                address,
                interface: interface.map(|ifindex| links.name(ifindex)),
                added_by_lvx,
                state,
                reason,
            })
        }
    }

    /// Waits until the task that manages the VIPs has ended.
    pub(crate) async fn stopped(&self) {
        self.vips.stopped().await;
    }

    /// Takes all VIPs off.
    ///
    /// # Errors
    /// If the kernel refuses one.
    pub(crate) async fn withdraw_all(&self) -> Result<(), VipError> {
        self.vips.remove_all().await
    }
}
