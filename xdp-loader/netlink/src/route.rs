//! Routes: which way the kernel would send a packet to an address (as `ip route get`), and whom a change concerns.

use std::{collections::BTreeSet, net::IpAddr};

use netlink_packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType, RouteVia},
};

use super::{Kernel, NetlinkError, socket::answers};

/// The way to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Index of the interface that the packet leaves through.
    pub ifindex: u32,
    /// The router on that interface; `None` if the address itself is on the link.
    pub gateway: Option<IpAddr>,
    /// The route's own limit on the packet's length, in bytes, if it has one.
    pub mtu: Option<u32>,
}

impl Route {
    /// The address whose Ethernet address is needed to send to `target`.
    #[must_use]
    pub fn neighbour(&self, target: IpAddr) -> IpAddr {
        self.gateway.unwrap_or(target)
    }
}

/// Why there is no way to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteError {
    /// The kernel has no route, or one that refuses; its own words.
    None(String),
    /// The address is one of this machine's own.
    Local,
    /// The address is a broadcast, multicast or anycast address.
    NotUnicast,
    /// The kernel could not be asked; why.
    Unanswered(String),
}

/// Asks the kernel for its ways to `target`, now: the one that it would take, and the other next hops of that route. Of these the
/// kernel takes one by a hash, whether its router lives or not.
///
/// # Errors
///
/// Why there is none.
pub async fn lookup(kernel: &Kernel, target: IpAddr) -> Result<Vec<Route>, RouteError> {
    let request = kernel.requests().route().get(question(target, RouteFlags::empty()));
    let chosen = match answers("look up a route", request.execute()).await {
        Ok(replies) => replies.first().map_or_else(
            || Err(RouteError::Unanswered("the kernel's answer was empty".to_owned())),
            answer,
        )?,
        Err(NetlinkError::Refused { source, .. }) => return Err(RouteError::None(reason(&source))),
        Err(error) => return Err(RouteError::Unanswered(error.to_string())),
    };
    let mut ways = vec![chosen];
    if chosen.gateway.is_some() {
        let request = kernel.requests().route().get(question(target, RouteFlags::FibMatch));
        // Who does not tell of the whole route has told of the way that it takes.
        let replies = answers("look up a whole route", request.execute())
            .await
            .unwrap_or_default();
        let others = replies.first().map(next_hops).unwrap_or_default();
        ways.extend(
            others
                .into_iter()
                .filter(|other| (other.ifindex, other.gateway) != (chosen.ifindex, chosen.gateway)),
        );
    }
    Ok(ways)
}

/// The next hops of a route that has several.
fn next_hops(message: &RouteMessage) -> Vec<Route> {
    let mtu = mtu(&message.attributes);
    let several = message.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    several
        .flatten()
        .map(|hop| Route {
            ifindex: hop.interface_index,
            gateway: gateway(&hop.attributes),
            mtu,
        })
        .collect()
}

fn question(target: IpAddr, flags: RouteFlags) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.flags = flags;
    (message.header.address_family, message.header.destination_prefix_length) = match target {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.attributes.push(RouteAttribute::Destination(target.into()));
    message
}

fn answer(message: &RouteMessage) -> Result<Route, RouteError> {
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Err(RouteError::Local),
        RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast => {
            return Err(RouteError::NotUnicast);
        }
        RouteType::BlackHole => {
            return Err(RouteError::None("the route is a blackhole".to_owned()));
        }
        RouteType::Prohibit => return Err(RouteError::None("the route prohibits it".to_owned())),
        RouteType::Unreachable => {
            return Err(RouteError::None("the route says unreachable".to_owned()));
        }
        other => return Err(RouteError::None(format!("the route is of type {other:?}"))),
    }
    let ifindex = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    Ok(Route {
        ifindex: ifindex.ok_or_else(|| RouteError::None("the route names no interface".to_owned()))?,
        gateway: gateway(&message.attributes),
        mtu: mtu(&message.attributes),
    })
}

/// The router of a route or of one of its next hops.
fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)) | RouteAttribute::Via(RouteVia::Inet(gateway)) => {
            Some((*gateway).into())
        }
        RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) | RouteAttribute::Via(RouteVia::Inet6(gateway)) => {
            Some((*gateway).into())
        }
        _ => None,
    })
}

/// The limit of a route on the packet's length, if it has one.
fn mtu(attributes: &[RouteAttribute]) -> Option<u32> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
            _ => None,
        }),
        _ => None,
    })
}

/// The kernel's words for an error, without the "(os error N)".
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// Those of `targets` whose way may change when this route comes or goes.
pub fn concerned(targets: &BTreeSet<IpAddr>, changed: &RouteMessage) -> Vec<IpAddr> {
    // Clones are the kernel's cache (exceptions), made by lookups rather than changing them.
    if changed.header.flags.contains(RouteFlags::Cloned) {
        return Vec::new();
    }
    let network = changed.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(network)) => Some(IpAddr::from(*network)),
        RouteAttribute::Destination(RouteAddress::Inet6(network)) => Some(IpAddr::from(*network)),
        _ => None,
    });
    let length = u32::from(changed.header.destination_prefix_length);
    match (network, changed.header.address_family) {
        (Some(IpAddr::V4(network)), _) => {
            let host = u32::MAX.checked_shr(length).unwrap_or(0);
            let first = network.to_bits() & !host;
            let range = IpAddr::V4(first.into())..=IpAddr::V4((first | host).into());
            targets.range(range).copied().collect()
        }
        (Some(IpAddr::V6(network)), _) => {
            let host = u128::MAX.checked_shr(length).unwrap_or(0);
            let first = network.to_bits() & !host;
            let range = IpAddr::V6(first.into())..=IpAddr::V6((first | host).into());
            targets.range(range).copied().collect()
        }
        // The default route has no destination.
        (None, AddressFamily::Inet) => targets.iter().copied().filter(IpAddr::is_ipv4).collect(),
        (None, AddressFamily::Inet6) => targets.iter().copied().filter(IpAddr::is_ipv6).collect(),
        (None, _) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn reply(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.kind = kind;
        message.attributes = attributes;
        message
    }

    fn prefix(text: &str, length: u8) -> RouteMessage {
        let mut message = RouteMessage::default();
        let network = ip(text);
        message.header.destination_prefix_length = length;
        message.header.address_family = match network {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        if length > 0 {
            message.attributes.push(RouteAttribute::Destination(network.into()));
        }
        message
    }

    #[test]
    fn a_gateway_of_the_other_family_is_understood() {
        let via = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
        let route = answer(&reply(RouteType::Unicast, vec![RouteAttribute::Oif(3), via])).unwrap();
        assert_eq!((route.ifindex, route.gateway), (3, Some(ip("fe80::1"))));
        assert_eq!(route.neighbour(ip("192.0.2.1")), ip("fe80::1"));
    }

    #[test]
    fn an_on_link_route_has_no_gateway_and_keeps_its_mtu() {
        let mtu = RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]);
        let route = answer(&reply(RouteType::Unicast, vec![RouteAttribute::Oif(3), mtu])).unwrap();
        assert_eq!(route.neighbour(ip("10.0.0.1")), ip("10.0.0.1"));
        assert_eq!(route.mtu, Some(1400));
    }

    #[test]
    fn routes_that_do_not_lead_to_another_machine_are_errors() {
        assert_eq!(answer(&reply(RouteType::Local, vec![])), Err(RouteError::Local));
        assert_eq!(
            answer(&reply(RouteType::Broadcast, vec![])),
            Err(RouteError::NotUnicast)
        );
        assert!(matches!(
            answer(&reply(RouteType::BlackHole, vec![])),
            Err(RouteError::None(_))
        ));
    }

    #[test]
    fn a_changed_route_concerns_the_targets_in_its_prefix_only() {
        let targets: BTreeSet<_> = ["10.0.0.11", "10.0.1.11", "2001:db8::11", "2001:db8:1::11"]
            .map(ip)
            .into();
        assert_eq!(concerned(&targets, &prefix("10.0.0.0", 24)), [ip("10.0.0.11")]);
        assert_eq!(concerned(&targets, &prefix("10.0.0.0", 16)).len(), 2);
        assert_eq!(concerned(&targets, &prefix("10.0.1.11", 32)), [ip("10.0.1.11")]);
        assert_eq!(concerned(&targets, &prefix("0.0.0.0", 0)).len(), 2);
        assert_eq!(concerned(&targets, &prefix("2001:db8:1::", 48)), [ip("2001:db8:1::11")]);
        assert_eq!(concerned(&targets, &prefix("2001:db8::11", 128)), [ip("2001:db8::11")]);
        assert_eq!(concerned(&targets, &prefix("::", 0)).len(), 2);
        assert!(concerned(&targets, &prefix("172.16.0.0", 12)).is_empty());
    }
}
