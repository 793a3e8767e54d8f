//! Addresses of this machine: which are ours, and what must change for the wanted ones to be there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo},
};

use super::{Kernel, NetlinkError, socket::answers};

/// The address protocol (`ip address show`: `proto 0x4c`) of the addresses that LVX added: "L".
pub const OWNER: u8 = 0x4c;

/// A lifetime without an end, in `ifa_cacheinfo`.
const FOREVER: u32 = u32::MAX;

/// An address on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Present {
    pub address: IpAddr,
    pub prefix_length: u8,
    pub ifindex: u32,
    /// Whether it carries our mark.
    pub ours: bool,
}

impl Present {
    /// All addresses in the namespace.
    pub async fn dump(kernel: &Kernel) -> Result<Vec<Self>, NetlinkError> {
        let request = kernel.requests().address().get();
        let messages = answers("list the addresses", request.execute()).await?;
        Ok(messages.iter().filter_map(Self::from_message).collect())
    }

    pub fn from_message(message: &AddressMessage) -> Option<Self> {
        let (mut local, mut address, mut ours) = (None, None, false);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Protocol(protocol) => ours = u8::from(*protocol) == OWNER,
                _ => {}
            }
        }
        Some(Self {
            // On point-to-point links IFA_ADDRESS is the other end's.
            address: local.or(address)?,
            prefix_length: message.header.prefix_len,
            ifindex: message.header.index,
            ours,
        })
    }

    pub fn to_message(self) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = match self.address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.prefix_len = self.prefix_length;
        message.header.index = self.ifindex;
        message.attributes = vec![
            AddressAttribute::Local(self.address),
            AddressAttribute::Address(self.address),
        ];
        message
    }
}

/// The message that adds a VIP.
pub(super) fn addition(address: IpAddr, ifindex: u32) -> AddressMessage {
    let prefix_length = if address.is_ipv4() { 32 } else { 128 };
    let mut message = Present {
        address,
        prefix_length,
        ifindex,
        ours: true,
    }
    .to_message();
    message
        .attributes
        .push(AddressAttribute::Protocol(AddressProtocol::Other(OWNER)));
    if address.is_ipv6() {
        // No duplicate address detection: the backends have the same address under direct routing, and traffic shall
        // flow at once. No preferred lifetime: never this machine's source address (RFC 6724, rule 3).
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        message.attributes.push(AddressAttribute::Flags(flags));
        let mut lifetimes = CacheInfo::default();
        lifetimes.ifa_valid = FOREVER;
        message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
    }
    message
}

/// What to do so that the wanted addresses, and no others of ours, are on their interfaces. Numbers are interfaces' indices.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub add: BTreeMap<IpAddr, u32>,
    pub remove: BTreeSet<Present>,
    /// Ours and where they should be.
    pub keep: BTreeMap<IpAddr, u32>,
    /// Somebody else's.
    pub foreign: BTreeMap<IpAddr, u32>,
    /// Wanted, and no interface is for them.
    pub homeless: BTreeSet<IpAddr>,
}

/// `want` has each address's interface; none where there is no interface for it.
pub(super) fn plan(want: &BTreeMap<IpAddr, Option<u32>>, present: &[Present]) -> Plan {
    let mut plan = Plan::default();
    for there in present {
        match (there.ours, want.get(&there.address)) {
            (true, Some(Some(ifindex))) if there.ifindex == *ifindex => {
                plan.keep.insert(there.address, there.ifindex);
            }
            (true, _) => {
                plan.remove.insert(*there);
            }
            (false, Some(_)) => {
                plan.foreign.insert(there.address, there.ifindex);
            }
            (false, None) => {}
        }
    }
    plan.foreign.retain(|address, _| !plan.keep.contains_key(address));
    for (address, place) in want {
        if plan.keep.contains_key(address) || plan.foreign.contains_key(address) {
            continue;
        }
        match place {
            Some(ifindex) => drop(plan.add.insert(*address, *ifindex)),
            None => drop(plan.homeless.insert(*address)),
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    const ETH0: u32 = 2;
    const ETH1: u32 = 3;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn there(address: &str, prefix_length: u8, ifindex: u32, ours: bool) -> Present {
        Present {
            address: ip(address),
            prefix_length,
            ifindex,
            ours,
        }
    }

    #[test]
    fn what_is_added_is_recognised_as_ours() {
        for address in ["10.0.0.100", "2001:db8::100"].map(ip) {
            let present = Present::from_message(&addition(address, ETH0)).unwrap();
            assert!(present.ours);
            assert_eq!((present.address, present.ifindex), (address, ETH0));
        }
        let foreign = there("10.0.0.1", 24, ETH0, false);
        assert_eq!(Present::from_message(&foreign.to_message()), Some(foreign));
    }

    #[test]
    fn on_a_point_to_point_link_our_end_counts() {
        let mut message = there("10.0.0.1", 32, ETH0, false).to_message();
        message.attributes = vec![
            AddressAttribute::Address(ip("10.0.0.2")),
            AddressAttribute::Local(ip("10.0.0.1")),
        ];
        let present = Present::from_message(&message).unwrap();
        assert_eq!(present.address, ip("10.0.0.1"));
    }

    fn want(address: &str, ifindex: u32) -> BTreeMap<IpAddr, Option<u32>> {
        BTreeMap::from([(ip(address), Some(ifindex))])
    }

    #[test]
    fn an_address_that_somebody_else_has_on_any_interface_is_neither_added_nor_removed() {
        let present = [there("10.0.0.100", 24, ETH1, false)];
        let wanted = plan(&want("10.0.0.100", ETH0), &present);
        assert_eq!(wanted.foreign, BTreeMap::from([(ip("10.0.0.100"), ETH1)]));
        assert!(wanted.add.is_empty() && wanted.remove.is_empty());
        assert_eq!(plan(&BTreeMap::new(), &present), Plan::default());
    }

    #[test]
    fn ours_stay_while_wanted_and_go_when_not() {
        let ours = there("10.0.0.100", 32, ETH0, true);
        let kept = plan(&want("10.0.0.100", ETH0), &[ours]);
        assert_eq!(kept.keep, BTreeMap::from([(ours.address, ETH0)]));
        assert!(kept.add.is_empty() && kept.remove.is_empty());
        let gone = plan(&BTreeMap::new(), &[ours]);
        assert_eq!(gone.remove, BTreeSet::from([ours]));
    }

    #[test]
    fn ours_on_another_interface_move() {
        let ours = there("10.0.0.100", 32, ETH0, true);
        let moved = plan(&want("10.0.0.100", ETH1), &[ours]);
        assert_eq!(moved.add, BTreeMap::from([(ours.address, ETH1)]));
        assert_eq!(moved.remove, BTreeSet::from([ours]));
    }

    #[test]
    fn ours_go_while_there_is_no_interface_for_them() {
        let ours = there("10.0.0.100", 32, ETH0, true);
        let homeless = plan(&BTreeMap::from([(ours.address, None)]), &[ours]);
        assert_eq!(homeless.remove, BTreeSet::from([ours]));
        assert_eq!(homeless.homeless, BTreeSet::from([ours.address]));
        assert!(homeless.add.is_empty() && homeless.keep.is_empty());
    }

    #[test]
    fn ours_stay_ours_when_somebody_adds_the_same_elsewhere() {
        let present = [
            there("10.0.0.100", 32, ETH0, true),
            there("10.0.0.100", 24, ETH1, false),
        ];
        let kept = plan(&want("10.0.0.100", ETH0), &present);
        assert_eq!(kept.keep, BTreeMap::from([(ip("10.0.0.100"), ETH0)]));
        assert!(kept.foreign.is_empty() && kept.add.is_empty() && kept.remove.is_empty());
    }
}
