//! Links: the interfaces of this network namespace, by name and index, followed as they change.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
};
use rtnetlink::MulticastGroup;
use thiserror::Error;
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tracing::error;

use super::{Event, Events, Kernel, NetlinkError, socket::answers};

/// Why there is no such link.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkError {
    /// No interface has that name.
    #[error("there is no interface {name:?}; the interfaces here are: {}", existing.join(", "))]
    NoSuchName {
        /// The name asked for.
        name: String,
        /// The names that exist, sorted.
        existing: Vec<String>,
    },
    /// No interface has that index.
    #[error("there is no interface with index {index}; the interfaces here are: {}", existing.join(", "))]
    NoSuchIndex {
        /// The index asked for.
        index: u32,
        /// The names that exist, sorted.
        existing: Vec<String>,
    },
}

/// An interface, as far as forwarding needs to know it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its name, which may change while its index stays.
    pub name: String,
    /// The kernel's index, unique in the namespace and never used twice in a row.
    pub index: u32,
    /// Its Ethernet address; `None` if it is not an Ethernet interface (loopback, tun, ipip).
    pub mac: Option<[u8; 6]>,
    /// Largest layer-3 packet, in bytes.
    pub mtu: u32,
    /// Whether it can carry frames: administratively up, and with a carrier.
    pub up: bool,
    /// Whether it is administratively up (`ip link set IF up`), whatever the carrier says.
    pub admin_up: bool,
    /// The device that it is a port of (a bridge, a bond).
    pub master: Option<u32>,
    /// The device in this network namespace that it stands on (a VLAN, a macvlan) or is paired with (veth).
    pub base: Option<u32>,
    /// The same if that device is in another network namespace: the number that the namespace has in this one, and the device's
    /// index there.
    pub elsewhere: Option<(i32, u32)>,
    /// Up to so many bytes segments that were received are merged (GRO).
    pub gro_max: u32,
    /// What kind of device it is (`veth`, `bridge`, `vlan`, ...), `loopback`, or `physical` for what has no kind.
    pub kind: String,
}

impl Link {
    fn from_message(message: &LinkMessage) -> Self {
        let mut link = Self {
            name: String::new(),
            index: message.header.index,
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
            admin_up: message.header.flags.contains(LinkFlags::Up),
            master: None,
            base: None,
            elsewhere: None,
            gro_max: 0,
            kind: if message.header.flags.contains(LinkFlags::Loopback) {
                "loopback".to_owned()
            } else {
                "physical".to_owned()
            },
        };
        let mut namespace = None;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(bytes) if message.header.link_layer_type == LinkLayerType::Ether => {
                    link.mac = bytes.as_slice().try_into().ok();
                }
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        if let LinkInfo::Kind(kind) = info {
                            link.kind = kind.to_string();
                        }
                    }
                }
                LinkAttribute::Controller(index) => link.master = Some(*index).filter(|index| *index != 0),
                LinkAttribute::Link(index) => link.base = Some(*index).filter(|index| *index != 0),
                LinkAttribute::LinkNetNsId(number) => namespace = Some(*number),
                LinkAttribute::GroMaxSize(bytes) | LinkAttribute::GroIpv4MaxSize(bytes) => {
                    link.gro_max = link.gro_max.max(*bytes);
                }
                _ => {}
            }
        }
        link.elsewhere = namespace.zip(link.base);
        link.base = link.base.filter(|_| namespace.is_none());
        link
    }

    /// Whether it gets the frames that come in by another device and are addressed to its own MAC.
    fn is_above(&self, other: &Self) -> bool {
        let is_on = self.base == Some(other.index) && matches!(self.kind.as_str(), "vlan" | "macvlan" | "ipvlan");
        let has_port = other.master == Some(self.index) && matches!(self.kind.as_str(), "bridge" | "bond" | "team");
        is_on || has_port
    }
}

/// All links at one moment, by index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkTable(BTreeMap<u32, Link>);

impl LinkTable {
    /// Asks the kernel for all links.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub async fn dump(kernel: &Kernel) -> Result<Self, NetlinkError> {
        let messages = answers("list the interfaces", kernel.requests().link().get().execute()).await?;
        Ok(Self(
            messages
                .iter()
                .map(|message| (message.header.index, Link::from_message(message)))
                .collect(),
        ))
    }

    /// Takes in what the kernel announced. Whether a link changed.
    pub fn apply(&mut self, message: &RouteNetlinkMessage) -> bool {
        match message {
            // Bridges and IPv6 announce their own aspects of a link under the same message types.
            RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message)
                if message.header.interface_family != AddressFamily::Unspec =>
            {
                false
            }
            RouteNetlinkMessage::NewLink(message) => {
                let link = Link::from_message(message);
                self.0.insert(link.index, link.clone()).as_ref() != Some(&link)
            }
            RouteNetlinkMessage::DelLink(message) => self.0.remove(&message.header.index).is_some(),
            _ => false,
        }
    }

    /// The link of that name.
    ///
    /// # Errors
    ///
    /// [`LinkError::NoSuchName`], with the names that there are.
    pub fn find(&self, name: &str) -> Result<&Link, LinkError> {
        self.iter()
            .find(|link| link.name == name)
            .ok_or_else(|| LinkError::NoSuchName {
                name: name.to_owned(),
                existing: self.names(),
            })
    }

    /// The link of that index.
    ///
    /// # Errors
    ///
    /// [`LinkError::NoSuchIndex`], with the names that there are.
    pub fn get(&self, index: u32) -> Result<&Link, LinkError> {
        self.0.get(&index).ok_or_else(|| LinkError::NoSuchIndex {
            index,
            existing: self.names(),
        })
    }

    /// The MACs to which frames that come in by a link are this host's: its own, and those of the devices above it in this
    /// network namespace (a bridge that it is a port of, a VLAN or macvlan on it, VRRP's virtual MAC).
    #[must_use]
    pub fn host_macs(&self, index: u32) -> BTreeSet<[u8; 6]> {
        let mut found: Vec<&Link> = self.0.get(&index).into_iter().collect();
        let mut next = 0;
        while let Some(link) = found.get(next).copied() {
            for above in self.iter().filter(|other| other.is_above(link)) {
                if !found.iter().any(|known| known.index == above.index) {
                    found.push(above);
                }
            }
            next += 1;
        }
        found.iter().filter_map(|link| link.mac).collect()
    }

    /// All links, by index.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.0.values()
    }

    /// The name of a link, or `interface N` if it is gone, for messages.
    #[must_use]
    pub fn name(&self, index: u32) -> String {
        self.0
            .get(&index)
            .map_or_else(|| format!("interface {index}"), |link| link.name.clone())
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.iter().map(|link| link.name.clone()).collect();
        names.sort_unstable();
        names
    }
}

impl FromIterator<Link> for LinkTable {
    fn from_iter<I: IntoIterator<Item = Link>>(links: I) -> Self {
        Self(links.into_iter().map(|link| (link.index, link)).collect())
    }
}

/// The links of this network namespace, followed until it is dropped.
pub struct Links {
    table: watch::Receiver<Arc<LinkTable>>,
    _task: JoinSet<()>,
}

impl Links {
    /// Reads all links and starts following them.
    ///
    /// # Errors
    ///
    /// If the kernel's links cannot be read.
    pub async fn follow() -> Result<Self, NetlinkError> {
        let (events, table) = start().await?;
        let (sender, receiver) = watch::channel(Arc::new(table));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut started = Some(events);
            loop {
                let failed = match started.take() {
                    Some(events) => follow(events, &sender).await,
                    None => match start().await {
                        Ok((events, table)) => {
                            publish(&sender, &table);
                            started = Some(events);
                            continue;
                        }
                        Err(error) => error,
                    },
                };
                error!(error = %failed, "following the links failed, starting again in a second");
                sleep(Duration::from_secs(1)).await;
            }
        });
        Ok(Self {
            table: receiver,
            _task: task,
        })
    }

    /// The link of that name, now.
    ///
    /// # Errors
    ///
    /// [`LinkError::NoSuchName`], with the names that there are.
    pub fn find(&self, name: &str) -> Result<Link, LinkError> {
        self.table.borrow().find(name).cloned()
    }

    /// The link of that index, now.
    ///
    /// # Errors
    ///
    /// [`LinkError::NoSuchIndex`], with the names that there are.
    pub fn get(&self, index: u32) -> Result<Link, LinkError> {
        self.table.borrow().get(index).cloned()
    }

    /// All links, now.
    #[must_use]
    pub fn table(&self) -> Arc<LinkTable> {
        Arc::clone(&self.table.borrow())
    }

    /// All links, with a new value whenever one of them changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<LinkTable>> {
        self.table.clone()
    }
}

async fn start() -> Result<(Events, LinkTable), NetlinkError> {
    let events = Events::subscribe(&[MulticastGroup::Link])?;
    let table = LinkTable::dump(&Kernel::connect()?).await?;
    Ok((events, table))
}

/// Follows until something fails, which it returns.
async fn follow(mut events: Events, sender: &watch::Sender<Arc<LinkTable>>) -> NetlinkError {
    loop {
        let batch = match events.next().await {
            Ok(batch) => batch,
            Err(error) => return error,
        };
        let mut table = LinkTable::clone(&sender.borrow());
        for event in &batch {
            match event {
                Event::Changed(message) => {
                    table.apply(message);
                }
                Event::NextHopObject => {}
                Event::Lost => {
                    let dumped = match Kernel::connect() {
                        Ok(kernel) => LinkTable::dump(&kernel).await,
                        Err(error) => Err(error),
                    };
                    match dumped {
                        Ok(dumped) => table = dumped,
                        Err(error) => return error,
                    }
                }
            }
        }
        publish(sender, &table);
    }
}

fn publish(sender: &watch::Sender<Arc<LinkTable>>, table: &LinkTable) {
    sender.send_if_modified(|current| {
        let changed = **current != *table;
        if changed {
            *current = Arc::new(table.clone());
        }
        changed
    });
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use netlink_packet_route::link::{InfoKind, LinkHeader};

    use super::*;

    fn message(index: u32, name: &str, flags: LinkFlags) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header = LinkHeader {
            index,
            link_layer_type: LinkLayerType::Ether,
            flags,
            ..LinkHeader::default()
        };
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
        ];
        message
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_names_that_there_are() {
        let mut table = LinkTable::default();
        table.apply(&RouteNetlinkMessage::NewLink(message(2, "eth0", LinkFlags::empty())));
        table.apply(&RouteNetlinkMessage::NewLink(message(1, "lo", LinkFlags::empty())));
        assert_eq!(
            table.find("eth9").unwrap_err().to_string(),
            r#"there is no interface "eth9"; the interfaces here are: eth0, lo"#
        );
    }

    #[test]
    fn a_link_is_up_only_with_a_carrier() {
        let link = Link::from_message(&message(2, "eth0", LinkFlags::Up));
        assert!(link.admin_up && !link.up);
        let link = Link::from_message(&message(2, "eth0", LinkFlags::Up | LinkFlags::LowerUp));
        assert!(link.up);
        assert_eq!(
            (link.mac, link.mtu, link.kind.as_str()),
            (Some([2, 0, 0, 0, 0, 1]), 1500, "veth")
        );
    }

    #[test]
    fn a_loopback_has_no_ethernet_address() {
        let mut lo = message(1, "lo", LinkFlags::Loopback);
        lo.header.link_layer_type = LinkLayerType::Loopback;
        lo.attributes.pop();
        let link = Link::from_message(&lo);
        assert_eq!((link.mac, link.kind.as_str()), (None, "loopback"));
    }

    #[test]
    fn a_repeated_announcement_is_no_change_and_a_bridge_port_leaving_is_no_deletion() {
        let mut table = LinkTable::default();
        let eth0 = message(2, "eth0", LinkFlags::Up);
        assert!(table.apply(&RouteNetlinkMessage::NewLink(eth0.clone())));
        assert!(!table.apply(&RouteNetlinkMessage::NewLink(eth0.clone())));
        let mut port = eth0.clone();
        port.header.interface_family = AddressFamily::Bridge;
        assert!(!table.apply(&RouteNetlinkMessage::DelLink(port)));
        assert!(table.get(2).is_ok());
        assert!(table.apply(&RouteNetlinkMessage::DelLink(eth0)));
        assert!(table.get(2).is_err());
    }
}
