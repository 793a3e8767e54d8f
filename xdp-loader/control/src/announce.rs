//! Announcing: the VIPs that this node offers are put on an interface, told to the network, and taken off again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use lvx_api::VipStatus;
use lvx_netlink::{LinkTable, VipError, VipState, Vips};

use crate::{DataplaneError, offer::Role};

/// Where the VIPs stand.
#[derive(Clone, Default)]
struct Placed {
    states: Arc<BTreeMap<IpAddr, VipState>>,
    /// The index of the interface that they are on.
    index: Option<u32>,
}

/// Announces VIPs.
pub(crate) struct Announcer {
    vips: Vips,
    /// The interface that VIPs are added to; none adds them nowhere.
    interface: Option<String>,
    placed: RwLock<Placed>,
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
            placed: RwLock::default(),
        })
    }

    /// What this node is, as far as its settings say.
    pub(crate) fn role(&self) -> Role {
        match self.interface {
            Some(_) => Role::Active,
            None => Role::Silent,
        }
    }

    /// The interface that VIPs are added to.
    pub(crate) fn interface(&self) -> Option<&str> {
        self.interface.as_deref()
    }

    /// Makes the interface have the VIPs that are offered, and no others of ours.
    ///
    /// # Errors
    /// If the kernel refuses one.
    pub(crate) async fn announce(&self, offered: BTreeSet<IpAddr>, links: &LinkTable) -> Result<(), DataplaneError> {
        let kernel = |error: &dyn std::error::Error| DataplaneError::Kernel(error.to_string());
        let Some(name) = &self.interface else {
            return self.vips.remove_all().await.map_err(|error| kernel(&error));
        };
        let index = links.find(name).map_err(|error| kernel(&error))?.index;
        let states = self.vips.ensure(offered, index).await.map_err(|error| kernel(&error))?;
        let states: BTreeMap<_, _> = states
            .into_iter()
            .map(|(address, state)| Ok((address, state.map_err(|error| kernel(&error))?)))
            .collect::<Result<_, DataplaneError>>()?;
        *self.placed.write().unwrap_or_else(PoisonError::into_inner) = Placed {
            states: Arc::new(states),
            index: Some(index),
        };
        Ok(())
    }

    /// Whether the interface is another one than the VIPs were put on: it has gone and come back.
    pub(crate) fn has_moved(&self, links: &LinkTable) -> bool {
        let index = self.interface.as_ref().and_then(|name| links.find(name).ok());
        let placed = self.placed.read().unwrap_or_else(PoisonError::into_inner).index;
        index.is_some_and(|link| placed.is_some_and(|placed| placed != link.index))
    }

    /// Where VIPs are, as users are told.
    pub(crate) fn report(&self) -> impl Fn(IpAddr) -> Option<VipStatus> {
        let states = Arc::clone(&self.placed.read().unwrap_or_else(PoisonError::into_inner).states);
        let interface = self.interface.clone();
        move |address| {
            let state = states.get(&address)?;
            Some(VipStatus {
                address,
                interface: match state {
                    VipState::Added => interface.clone()?,
                    VipState::AlreadyThere { interface } => interface.clone(),
                },
                added_by_lvx: *state == VipState::Added,
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
