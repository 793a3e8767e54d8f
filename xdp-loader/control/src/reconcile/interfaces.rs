//! Interfaces: the program is kept on those that the settings name, as they go, come back, are renamed, and lose it.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use lvx_dataplane::{
    attach::{self, Attachment},
    claim::Claim,
};
use lvx_model::settings::XdpMode;
use lvx_netlink::{Link, LinkTable, Places};
use tokio::{sync::Mutex, task::spawn_blocking};
use tracing::{info, warn};

use super::{Shared, offloads::Notes};

/// How often it is looked whether the program is still there: nobody announces that a link was detached or a pin removed.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// How soon an interface that did not take the program is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// An interface that the settings name.
#[derive(Clone)]
pub(super) struct Interface {
    /// As the settings name it; it may have been renamed since.
    pub(super) name: String,
    /// The program on it.
    pub(super) attachment: Option<Attachment>,
    /// Why the program is not on it.
    pub(super) error: Option<String>,
    /// When it is tried next.
    try_at: Option<Instant>,
}

/// The interfaces that the settings name.
pub(super) struct Interfaces {
    mode: XdpMode,
    /// Why the mode is not the one that was asked for.
    pub(super) note: Option<String>,
    pins: PathBuf,
    list: RwLock<Arc<Vec<Interface>>>,
    /// What is to be said of their offloads.
    offloads: RwLock<Notes>,
    /// Whether they are kept; false once the dataplane is taken down. Locked while something is attached.
    kept: Mutex<bool>,
}

impl Interfaces {
    /// With these names, to which nothing is attached yet.
    pub(super) fn new(names: &[String], (mode, note): (XdpMode, Option<String>), pins: PathBuf) -> Self {
        let list = names.iter().map(|name| Interface {
            name: name.clone(),
            attachment: None,
            error: None,
            try_at: None,
        });
        Self {
            mode,
            note,
            pins,
            list: RwLock::new(Arc::new(list.collect())),
            offloads: RwLock::default(),
            kept: Mutex::new(true),
        }
    }

    /// How they are now.
    pub(super) fn get(&self) -> Arc<Vec<Interface>> {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is to be said of the offloads of an interface.
    pub(super) fn offload_note(&self, ifindex: u32) -> Option<String> {
        let notes = self.offloads.read().unwrap_or_else(PoisonError::into_inner);
        notes.get(&ifindex).cloned()
    }

    /// Has this be said of offloads; what was said before.
    pub(super) fn set_offload_notes(&self, notes: Notes) -> Notes {
        std::mem::replace(
            &mut *self.offloads.write().unwrap_or_else(PoisonError::into_inner),
            notes,
        )
    }

    fn set(&self, list: Vec<Interface>) {
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(list);
    }

    /// The program has been attached to those of them that are there; of the others it is known from the first moment on why it
    /// is not.
    pub(super) fn attached(&self, attachments: &[Attachment], links: &LinkTable) {
        let mut list = Vec::clone(&self.get());
        for interface in &mut list {
            interface.attachment = attachments.iter().find(|it| it.name == interface.name).cloned();
            if interface.attachment.is_none() {
                interface.error = links.find(&interface.name).err().map(|reason| reason.to_string());
            }
        }
        self.set(list);
    }

    /// Lets go of all of them: their programs may leave them.
    pub(super) async fn let_go(&self) {
        *self.kept.lock().await = false;
        self.set(Vec::new());
    }

    /// Where VIPs may stand: on interfaces that have the program, those of no such interface's network on `vip_interface`. That
    /// may be another one, as a bridge above an interface with the program is.
    pub(super) fn places(&self, vip_interface: &str, links: &LinkTable) -> Places {
        let list = self.get();
        let attached: Vec<u32> = list.iter().filter_map(Interface::ifindex).collect();
        let otherwise = match list.iter().find(|interface| interface.name == vip_interface) {
            Some(interface) => interface.ifindex(),
            None => links.find(vip_interface).ok().map(|link| link.index),
        };
        Places {
            otherwise: otherwise.filter(|_| !attached.is_empty()),
            interfaces: attached,
        }
    }
}

impl Interface {
    fn ifindex(&self) -> Option<u32> {
        self.attachment.as_ref().map(|attachment| attachment.ifindex)
    }

    /// The interface of that name; if there is none, the one that had it when the program was attached, under a name that is no
    /// other's of the settings.
    fn link<'a>(&self, all: &[Self], links: &'a LinkTable) -> Option<&'a Link> {
        let renamed = || links.get(self.ifindex()?).ok();
        links
            .find(&self.name)
            .ok()
            .or_else(|| renamed().filter(|link| all.iter().all(|other| other.name != link.name)))
    }

    fn has_program(&self, link: &Link) -> bool {
        let attachment = self.attachment.as_ref();
        attachment.is_some_and(|it| it.ifindex == link.index && it.is_in_place())
    }

    /// The program is not on it, for a reason that is told once.
    fn lose(&mut self, reason: String) {
        if self.error.as_ref() != Some(&reason) {
            warn!(interface = self.name, "the program is not attached: {reason}");
        }
        self.attachment = None;
        self.error = Some(reason);
    }
}

impl Shared {
    /// Attaches the program where it is missing, and puts back pins that were removed. Whether the program has come to an
    /// interface or left one.
    pub(super) async fn keep_attached(&self) -> bool {
        let kept = self.interfaces.kept.lock().await;
        if !*kept {
            return false;
        }
        self.restore_pins().await;
        let links = self.links.table();
        let before = self.interfaces.get();
        let mut list = Vec::clone(&before);
        let mut changed = false;
        for interface in &mut list {
            match interface.link(&before, &links) {
                Some(link) if interface.has_program(link) => {}
                Some(_) if interface.try_at.is_some_and(|at| at > Instant::now()) => {}
                Some(link) => {
                    if interface.ifindex() == Some(link.index) {
                        warn!(interface = link.name, "somebody has detached the program");
                    }
                    changed = true;
                    match self.attach(link).await {
                        Ok(attachment) => {
                            interface.attachment = Some(attachment);
                            (interface.error, interface.try_at) = (None, None);
                        }
                        Err(reason) => {
                            interface.lose(reason);
                            interface.try_at = Some(Instant::now() + TRY_AGAIN);
                        }
                    }
                }
                None => {
                    let reason = match links.find(&interface.name) {
                        Ok(_) => continue,
                        Err(reason) => reason.to_string(),
                    };
                    changed |= interface.attachment.is_some();
                    interface.lose(reason);
                    interface.try_at = None;
                }
            }
        }
        if changed {
            let indices: Vec<u32> = list.iter().filter_map(Interface::ifindex).collect();
            if let Err(error) = attach::release(&self.interfaces.pins, &indices) {
                warn!(%error, "an interface that is not asked for any more could not be left");
            }
        }
        self.interfaces.set(list);
        changed
    }

    /// Attaches the program to an interface. Before that the maps say what packets of it need.
    async fn attach(&self, link: &Link) -> Result<Attachment, String> {
        check(link).map_err(|reason| reason.to_string())?;
        self.tables
            .lock()
            .await
            .expect(link)
            .map_err(|error| error.to_string())?;
        self.make().await.map_err(|error| error.to_string())?;
        let mut tables = Arc::clone(&self.tables).lock_owned().await;
        let (pins, link, mode) = (self.interfaces.pins.clone(), link.clone(), self.interfaces.mode);
        let attached = spawn_blocking(move || tables.attach(&pins, &link, mode)).await;
        attached
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
    }

    /// Claims the directory of the pins again if somebody has removed it.
    async fn keep_claim(&self) {
        let mut claim = self.claim.lock().await;
        if !claim.is_of(&self.interfaces.pins) {
            match Claim::take(&self.interfaces.pins) {
                Ok(again) => *claim = again,
                Err(error) => {
                    warn!(%error, "the directory of the pins has been removed, and is not this daemon's any more");
                }
            }
        }
    }

    /// Puts back pins that somebody has removed: the next daemon takes over by them.
    async fn restore_pins(&self) {
        self.keep_claim().await;
        let tables = Arc::clone(&self.tables).lock_owned().await;
        let list = self.interfaces.get();
        let restored = spawn_blocking(move || {
            let links = list.iter().filter_map(|interface| interface.attachment.as_ref());
            let links = links.filter(|link| {
                link.restore_pin().unwrap_or_else(|error| {
                    warn!(%error, "the pin of a link has been removed, and cannot be put back");
                    false
                })
            });
            links.count() + tables.restore_pins()
        });
        if let Ok(pins @ 1..) = restored.await {
            info!(pins, "somebody had removed pins of the dataplane; they were put back");
        }
    }
}

/// Why the program cannot be on an interface.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsuitable {
    /// Its packets have no Ethernet header.
    #[error("{0} is not an Ethernet interface: name the one that clients' packets arrive on, as eth0")]
    NotEthernet(String),
    /// It is a bond.
    #[error(
        "{0} is a bond: name the interfaces below it, which `ip link show master {0}` lists, and leave the VIPs on the bond with vip_interface = \"{0}\""
    )]
    Bond(String),
    /// It is a VLAN.
    #[error(
        "{0} is a VLAN: name the interface below it, which `ip link show {0}` has after the @ (tags are kept), and leave the VIPs on the VLAN with vip_interface = \"{0}\""
    )]
    Vlan(String),
}

/// Whether the program can be on an interface.
///
/// # Errors
///
/// Why it cannot.
pub(super) fn check(link: &Link) -> Result<(), Unsuitable> {
    let name = link.name.clone();
    match link.kind.as_str() {
        "bond" => Err(Unsuitable::Bond(name)),
        "vlan" => Err(Unsuitable::Vlan(name)),
        "loopback" => Err(Unsuitable::NotEthernet(name)),
        _ if link.mac.is_none() => Err(Unsuitable::NotEthernet(name)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, kind: &str, mac: Option<[u8; 6]>) -> Link {
        Link {
            name: name.to_owned(),
            index: 2,
            mac,
            up: true,
            kind: kind.to_owned(),
            ..Link::default()
        }
    }

    #[test]
    fn what_carries_no_ethernet_and_what_stands_above_others_is_refused_with_the_way_out() {
        let mac = Some([2, 0, 0, 0, 0, 1]);
        let said = |link| check(&link).err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(said(link("eth0", "physical", mac)), "");
        assert_eq!(said(link("br0", "bridge", mac)), "");
        assert!(said(link("lo", "loopback", None)).starts_with("lo is not an Ethernet interface"));
        assert!(said(link("tun0", "tun", None)).starts_with("tun0 is not an Ethernet interface"));
        assert!(said(link("bond0", "bond", mac)).contains("ip link show master bond0"));
        assert!(said(link("eth0.100", "vlan", mac)).contains("vip_interface = \"eth0.100\""));
    }

    #[test]
    fn vips_stand_only_where_the_program_is() {
        let links = LinkTable::from_iter([link("eth0", "veth", None)]);
        let interfaces = Interfaces::new(&["eth0".to_owned()], (XdpMode::Auto, None), PathBuf::new());
        assert_eq!(interfaces.places("eth0", &links), Places::default());
    }
}
