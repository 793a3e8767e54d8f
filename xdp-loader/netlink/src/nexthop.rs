//! Next hops: the Ethernet frame's way to a backend, put together from its route, its neighbour and its link.

use std::{collections::BTreeMap, net::IpAddr};

use thiserror::Error;
use tokio::time::Instant;

use super::{
    LinkTable,
    neighbour::{Neighbour, NeighbourTable},
    route::{Route, RouteError},
};

/// How a frame for a backend must look, and where it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the interface that the frame leaves through.
    pub ifindex: u32,
    /// The frame's source: that interface's address.
    pub source_mac: [u8; 6],
    /// The frame's destination: the backend's address, or its router's.
    pub mac: [u8; 6],
    /// Largest layer-3 packet that fits, in bytes.
    pub mtu: u32,
}

/// Why frames cannot be sent to a backend now. The messages are for operators.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NextHopError {
    /// No route.
    #[error("no route to {target}: {reason}")]
    NoRoute {
        /// The backend.
        target: IpAddr,
        /// The kernel's words.
        reason: String,
    },
    /// The neighbour did not answer, or not yet.
    #[error("no answer to {} for {}{neighbour} on {interface}{}", protocol(neighbour), if neighbour == target { "" } else { "gateway " }, of(neighbour, target))]
    Unresolved {
        /// The backend.
        target: IpAddr,
        /// Who was asked: the backend, or the gateway before it.
        neighbour: IpAddr,
        /// Where.
        interface: String,
    },
    /// The kernel would not even ask the neighbour.
    #[error("the kernel cannot resolve {neighbour} on {interface}: {reason}")]
    Refused {
        /// Who was to be asked.
        neighbour: IpAddr,
        /// Where.
        interface: String,
        /// The kernel's words and, if there is one, the way out.
        reason: String,
    },
    /// The interface is administratively down.
    #[error("{interface}, which leads to {target}, is down")]
    InterfaceDown {
        /// The backend.
        target: IpAddr,
        /// Its interface.
        interface: String,
    },
    /// The interface has no carrier.
    #[error("{interface}, which leads to {target}, has no carrier")]
    NoCarrier {
        /// The backend.
        target: IpAddr,
        /// Its interface.
        interface: String,
    },
    /// The interface is gone.
    #[error("the interface that led to {target} is gone")]
    InterfaceGone {
        /// The backend.
        target: IpAddr,
    },
    /// The backend is this machine.
    #[error(
        "{target} is an address of this machine, and LVX only sends out of interfaces; put the server on another machine, or, \
         under nat, in a network namespace of this one"
    )]
    Local {
        /// The backend.
        target: IpAddr,
    },
    /// The address is not one machine's.
    #[error("{target} is a broadcast, multicast or anycast address; a backend needs a unicast address")]
    NotUnicast {
        /// The backend.
        target: IpAddr,
    },
    /// The interface has no Ethernet address.
    #[error("{interface}, which leads to {target}, is not an Ethernet interface")]
    NotEthernet {
        /// The backend.
        target: IpAddr,
        /// Its interface.
        interface: String,
    },
    /// The kernel could not be asked.
    #[error("cannot look up the route to {target}: {reason}")]
    Unanswered {
        /// The backend.
        target: IpAddr,
        /// Why.
        reason: String,
    },
}

fn protocol(neighbour: &IpAddr) -> &'static str {
    match neighbour {
        IpAddr::V4(_) => "ARP",
        IpAddr::V6(_) => "neighbour discovery",
    }
}

fn of(neighbour: &IpAddr, target: &IpAddr) -> String {
    if neighbour == target {
        String::new()
    } else {
        format!(" (the way to {target})")
    }
}

/// The next hops of all targets at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NextHops(pub BTreeMap<IpAddr, Result<NextHop, NextHopError>>);

/// The neighbour that must be resolved to send to `target`, if its way is open so far.
#[must_use]
pub fn neighbour(target: IpAddr, route: &Route, links: &LinkTable) -> Option<Neighbour> {
    let link = links.get(route.ifindex).ok()?;
    (link.up && link.mac.is_some()).then(|| Neighbour {
        ifindex: route.ifindex,
        address: route.neighbour(target),
    })
}

/// Puts the next hop of `target` together by the first of its routes that leads there. `refused` says why the kernel would not resolve
/// a neighbour, if it would not.
///
/// # Errors
///
/// What is missing on the first of them.
pub fn resolve_first<'a>(
    target: IpAddr,
    routes: &Result<Vec<Route>, RouteError>,
    links: &LinkTable,
    neighbours: &NeighbourTable,
    refused: impl Fn(Neighbour) -> Option<&'a str>,
    now: Instant,
) -> Result<NextHop, NextHopError> {
    let routes = routes.as_ref().map_err(|error| no_way(target, error))?;
    let mut hops = routes.iter().map(|route| {
        let refused = neighbour(target, route, links).and_then(&refused);
        resolve(target, *route, links, neighbours, refused, now)
    });
    let first = hops.next().unwrap_or(Err(NextHopError::InterfaceGone { target }));
    first.or_else(|missing| hops.find_map(Result::ok).ok_or(missing))
}

/// Puts the next hop of `target` by a route together. `refused` is why the kernel would not resolve the neighbour, if it would not.
///
/// # Errors
///
/// The first thing on the way that is missing.
fn resolve(
    target: IpAddr,
    route: Route,
    links: &LinkTable,
    neighbours: &NeighbourTable,
    refused: Option<&str>,
    now: Instant,
) -> Result<NextHop, NextHopError> {
    let Ok(link) = links.get(route.ifindex) else {
        return Err(NextHopError::InterfaceGone { target });
    };
    let interface = || link.name.clone();
    if link.kind == "loopback" {
        return Err(NextHopError::Local { target });
    }
    let Some(source_mac) = link.mac else {
        return Err(NextHopError::NotEthernet {
            target,
            interface: interface(),
        });
    };
    if !link.admin_up {
        return Err(NextHopError::InterfaceDown {
            target,
            interface: interface(),
        });
    }
    if !link.up {
        return Err(NextHopError::NoCarrier {
            target,
            interface: interface(),
        });
    }
    let address = route.neighbour(target);
    let neighbour = Neighbour {
        ifindex: link.index,
        address,
    };
    match (neighbours.mac(neighbour, now), refused) {
        (Some(mac), _) => Ok(NextHop {
            ifindex: link.index,
            source_mac,
            mac,
            mtu: route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
        }),
        (None, Some(reason)) => Err(NextHopError::Refused {
            neighbour: address,
            interface: interface(),
            reason: reason.to_owned(),
        }),
        (None, None) => Err(NextHopError::Unresolved {
            target,
            neighbour: address,
            interface: interface(),
        }),
    }
}

fn no_way(target: IpAddr, error: &RouteError) -> NextHopError {
    match error {
        RouteError::None(reason) => NextHopError::NoRoute {
            target,
            reason: reason.clone(),
        },
        RouteError::Local => NextHopError::Local { target },
        RouteError::NotUnicast => NextHopError::NotUnicast { target },
        RouteError::Unanswered(reason) => NextHopError::Unanswered {
            target,
            reason: reason.clone(),
        },
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use netlink_packet_route::{RouteNetlinkMessage, neighbour::NeighbourState};

    use super::*;
    use crate::{Link, neighbour::tests::message};

    const SOURCE: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn eth0() -> Link {
        Link {
            name: "eth0".to_owned(),
            index: 2,
            mac: Some(SOURCE),
            mtu: 1500,
            up: true,
            admin_up: true,
            kind: "veth".to_owned(),
            master: None,
            base: None,
            elsewhere: None,
            gro_max: 0,
        }
    }

    fn known(address: &str) -> NeighbourTable {
        let mut table = NeighbourTable::default();
        let neighbour = Neighbour {
            ifindex: 2,
            address: ip(address),
        };
        table.apply(
            &RouteNetlinkMessage::NewNeighbour(message(neighbour, NeighbourState::Stale, Some(MAC))),
            Instant::now(),
        );
        table
    }

    fn way(gateway: Option<&str>) -> Result<Route, RouteError> {
        Ok(Route {
            ifindex: 2,
            gateway: gateway.map(ip),
            mtu: None,
        })
    }

    fn resolved(
        target: &str,
        route: Result<Route, RouteError>,
        link: Link,
        neighbours: &NeighbourTable,
    ) -> Result<NextHop, NextHopError> {
        let links = LinkTable::from_iter([link]);
        let routes = route.map(|route| vec![route]);
        resolve_first(ip(target), &routes, &links, neighbours, |_| None, Instant::now())
    }

    #[test]
    fn a_next_hop_has_the_links_and_the_neighbours_addresses() {
        let hop = resolved("10.0.0.11", way(None), eth0(), &known("10.0.0.11")).unwrap();
        assert_eq!(
            hop,
            NextHop {
                ifindex: 2,
                source_mac: SOURCE,
                mac: MAC,
                mtu: 1500
            }
        );
        let hop = resolved("192.0.2.7", way(Some("10.0.0.1")), eth0(), &known("10.0.0.1")).unwrap();
        assert_eq!(hop.mac, MAC);
    }

    #[test]
    fn a_routes_mtu_counts_when_it_is_the_smaller() {
        let mut route = way(None);
        route.as_mut().unwrap().mtu = Some(1400);
        assert_eq!(
            resolved("10.0.0.11", route, eth0(), &known("10.0.0.11")).unwrap().mtu,
            1400
        );
    }

    #[test]
    fn of_several_routers_one_that_answers_is_taken() {
        let links = LinkTable::from_iter([eth0()]);
        let routes = |gateways: &[&str]| Ok(gateways.iter().map(|it| way(Some(it)).unwrap()).collect());
        let hop = |gateways: &[&str]| {
            let known = known("10.0.0.2");
            resolve_first(
                ip("192.0.2.7"),
                &routes(gateways),
                &links,
                &known,
                |_| None,
                Instant::now(),
            )
        };
        assert_eq!(hop(&["10.0.0.1", "10.0.0.2"]).unwrap().mac, MAC);
        assert_eq!(hop(&["10.0.0.2", "10.0.0.1"]).unwrap().mac, MAC);
        assert_eq!(
            hop(&["10.0.0.1", "10.0.0.3"]).unwrap_err().to_string(),
            "no answer to ARP for gateway 10.0.0.1 on eth0 (the way to 192.0.2.7)"
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let nobody = NeighbourTable::default();
        let says = |result: Result<NextHop, NextHopError>| result.unwrap_err().to_string();
        assert_eq!(
            says(resolved("10.0.0.11", way(None), eth0(), &nobody)),
            "no answer to ARP for 10.0.0.11 on eth0"
        );
        assert_eq!(
            says(resolved("192.0.2.7", way(Some("10.0.0.1")), eth0(), &nobody)),
            "no answer to ARP for gateway 10.0.0.1 on eth0 (the way to 192.0.2.7)"
        );
        assert_eq!(
            says(resolved("2001:db8::11", way(None), eth0(), &nobody)),
            "no answer to neighbour discovery for 2001:db8::11 on eth0"
        );
        let down = Link {
            up: false,
            admin_up: false,
            ..eth0()
        };
        assert_eq!(
            says(resolved("10.0.0.11", way(None), down, &known("10.0.0.11"))),
            "eth0, which leads to 10.0.0.11, is down"
        );
        let unplugged = Link { up: false, ..eth0() };
        assert_eq!(
            says(resolved("10.0.0.11", way(None), unplugged, &known("10.0.0.11"))),
            "eth0, which leads to 10.0.0.11, has no carrier"
        );
        let tun = Link { mac: None, ..eth0() };
        assert_eq!(
            says(resolved("10.0.0.11", way(None), tun, &nobody)),
            "eth0, which leads to 10.0.0.11, is not an Ethernet interface"
        );
        assert_eq!(
            says(resolved("10.0.0.11", Err(RouteError::Local), eth0(), &nobody)),
            "10.0.0.11 is an address of this machine, and LVX only sends out of interfaces; put the server on another machine, or, \
                 under nat, in a network namespace of this one"
        );
        let unreachable = Err(RouteError::None("Network is unreachable".to_owned()));
        assert_eq!(
            says(resolved("10.9.9.9", unreachable, eth0(), &nobody)),
            "no route to 10.9.9.9: Network is unreachable"
        );
    }
}
