//! The image: what the configuration maps must say, worked out from what is desired and what is known of the network.
//!
//! Pure: no map is touched here. [`super::Tables`] writes the image into the bank that is not in use.

use std::{cmp::Reverse, collections::BTreeMap};

use xdp_common::{
    hash,
    layout::{self, Limit, Method, Target, Underlay},
    load::Measure,
    wire::Be16,
};

use super::{
    Error, endpoints,
    ids::{Group, Ids},
    ring::RingMember,
    schedules::Schedule,
    timeouts::TimeoutSets,
    words,
};
use lvx_model::{
    Backend, BackendKey, Desired, Forward, HashBy, OnLoss, OnNone, Overload, Scheduler, Service, ServiceAddress,
    health::HealthView, settings::UnknownFragments,
};
use lvx_netlink::{LinkTable, NextHop, NextHops};

/// What the configuration maps must say.
pub struct Image {
    /// Services without their scheduling tables, by number.
    pub services: BTreeMap<u32, layout::Service>,
    /// What each service's scheduling table is to be, by number.
    pub schedules: BTreeMap<u32, Schedule>,
    /// Backends by number.
    pub backends: BTreeMap<u32, layout::Backend>,
    /// What both endpoint tables are laid out from.
    pub endpoints: endpoints::List,
    /// Backends whose number is new: their counters start at 0.
    pub new_backends: Vec<u32>,
    /// What only some packets ask for of backends that can be reached, by number.
    pub underlays: BTreeMap<u32, Underlay>,
    /// Thresholds of backends that have some, by number.
    pub limits: BTreeMap<u32, Limit>,
    /// Idle times of the node and of services.
    pub timeouts: TimeoutSets,
    /// What is not in it, and why.
    pub left_out: LeftOut,
}

/// What of the desired state is not in the maps, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Services that have no room; their backends are not there either.
    pub services: BTreeMap<ServiceAddress, String>,
    /// Backends that have no room, or whose interface cannot be used.
    pub backends: BTreeMap<BackendKey, String>,
}

/// What becomes of services and backends that have no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is to be room for all: it is an error.
    Demand,
    /// They are [left out](LeftOut), and the others are there.
    LeaveOut,
}

/// What the node's settings say of connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Node {
    /// How long idle flows are kept where their service does not say.
    pub timeouts: lvx_model::Timeouts,
    /// What becomes of fragments whose first fragment was not seen.
    pub unknown_fragments: UnknownFragments,
}

/// What an image is worked out from.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// What is desired.
    pub desired: &'a Desired,
    /// How backends are reached.
    pub hops: &'a NextHops,
    /// How they are.
    pub health: &'a HealthView,
    /// The interfaces.
    pub links: &'a LinkTable,
    /// The indices of interfaces that packets cannot leave through, and why.
    pub blocked: &'a BTreeMap<u32, String>,
    /// What becomes of services and backends that have no room.
    pub room: Room,
}

/// Works out the image. `slot_of` gives the slot of an interface that packets go out of; where it does not, the backend cannot be
/// reached.
///
/// # Errors
///
/// [`Error::Full`] if something has no room and that is [demanded](Room::Demand); `ids` may then have given out numbers that
/// nobody uses yet.
pub fn compile(
    world: &World<'_>,
    ids: &mut Ids,
    node: &Node,
    timeouts: TimeoutSets,
    mut slot_of: impl FnMut(u32) -> Result<u32, Error>,
) -> Result<Image, Error> {
    let World {
        desired,
        hops,
        health,
        links,
        blocked,
        room,
    } = world;
    let mut image = Image {
        limits: BTreeMap::new(),
        underlays: BTreeMap::new(),
        timeouts,
        services: BTreeMap::new(),
        schedules: BTreeMap::new(),
        backends: BTreeMap::new(),
        endpoints: endpoints::List::default(),
        new_backends: Vec::new(),
        left_out: LeftOut::default(),
    };
    if *room == Room::Demand && desired.services().len() > ids.services.limit() as usize {
        return Err(services_full(ids));
    }
    for service in desired.services().values() {
        let address = service.address;
        let (number, group, timeouts) = match (numbers(service, ids, &mut image.timeouts), room) {
            (Ok(numbered), _) => numbered,
            (Err(error), Room::Demand) => return Err(error),
            (Err(error), Room::LeaveOut) => {
                image.left_out.services.insert(address, error.to_string());
                continue;
            }
        };
        let protocol = words::protocol(address.protocol);
        let target = Target(number);
        let answers = |backend: &Backend| backend.forward(service) == Forward::Nat;
        let of_packets = match service.one_packet && service.backends.iter().any(answers) {
            true => Target::each_packet(number),
            false => target,
        };
        image.endpoints.add(address.ip, address.port, protocol, of_packets);
        if node.unknown_fragments != UnknownFragments::Pass {
            // Of several services at an address, fragments whose port is not known go to the one with the lowest port.
            image.endpoints.add_any_port(address.ip, protocol, target);
        }
        let measure = measure(service.scheduler);
        let counts = measure.counts() || service.backends.iter().any(|backend| backend.upper > 0);
        let mut sorry = 0;

        let mut members = Vec::with_capacity(service.backends.len());
        for (backend, healthy_weight) in service.backends.iter().zip(health.weights(service)) {
            let key = backend.key(service);
            let full = Error::Full {
                what: "backends",
                limit: ids.backends.limit(),
                setting: "max_backends",
            };
            let name = match (ids.backends.give(&key), room) {
                (Some(name), _) => name,
                (None, Room::Demand) => return Err(full),
                (None, Room::LeaveOut) => {
                    image.left_out.backends.insert(key, full.to_string());
                    continue;
                }
            };
            if name.is_new {
                image.new_backends.push(name.number);
            }
            let hop = hops.0.get(&backend.address).and_then(|hop| hop.as_ref().ok());
            let mut slot = |hop: &NextHop| match blocked.get(&hop.ifindex) {
                Some(reason) => Err(reason.clone()),
                None => slot_of(hop.ifindex).map_err(|error| error.to_string()),
            };
            let out = match hop.map(|hop| (hop, slot(hop))) {
                Some((hop, Ok(interface))) => Some(Out {
                    hop,
                    ifindex: wire_index(links, hop.ifindex),
                    interface,
                }),
                Some((hop, Err(reason))) => {
                    let reason = format!("packets cannot leave through {}: {reason}", links.name(hop.ifindex));
                    image.left_out.backends.insert(key, reason);
                    None
                }
                None => None,
            };
            let hop = out.map(|out| out.hop);
            // A backend that cannot be reached gets no new connections; nor does one that drains or is not healthy.
            let weight = if hop.is_some() { healthy_weight } else { 0 };
            let is_down = health.is_down(service, backend);
            let is_limited = backend.upper > 0;
            if backend.sorry && sorry == 0 && hop.is_some() && !is_down && !backend.drain && !backend.disabled {
                sorry = name.number;
            }
            let flags = [
                (layout::Backend::IPV6, address.ip.is_ipv6()),
                (layout::Backend::QUIESCED, weight == 0),
                (layout::Backend::ENDED, is_down && service.on_loss == OnLoss::Reschedule),
                (layout::Backend::DROPPING, is_down && service.on_loss == OnLoss::Drop),
                (layout::Backend::COUNTED, counts),
                (layout::Backend::PERSISTENT, service.persistence.is_some()),
                (layout::Backend::LIMITED, is_limited),
            ];
            let flags = flags
                .into_iter()
                .filter(|(_, is_set)| *is_set)
                .fold(0, |all, (flag, _)| all | flag);
            let flags = layout::Backend::flags(flags, timeouts);
            if let Some(hop) = hop {
                let underlay = Underlay {
                    mtu: u16::try_from(hop.mtu).unwrap_or(u16::MAX),
                    ..Underlay::default()
                };
                image.underlays.insert(name.number, underlay);
            }
            image
                .backends
                .insert(name.number, entry(service, backend, number, flags, out));
            if is_limited {
                let limit = Limit {
                    upper: backend.upper,
                    lower: backend.lower,
                };
                image.limits.insert(name.number, limit);
            }
            if backend.forward(service) == Forward::Nat {
                let port = backend.port(service);
                image.endpoints.add(backend.address, port, protocol, Target::REAL);
            }
            members.push((
                layout::Member::new(
                    name.number,
                    weight,
                    if is_limited { layout::Member::LIMITED } else { 0 },
                ),
                RingMember {
                    identity: identity(service, backend),
                    weight,
                },
            ));
        }
        if measure.heaviest != 0 {
            // The first that takes a connection is the best, however many there are.
            members.sort_by_key(|(member, _)| Reverse(member.weight()));
        }
        let entry = layout::Service {
            group,
            sorry,
            measure,
            ..service_entry(service)
        };
        image.services.insert(number, entry);
        image
            .schedules
            .insert(number, Schedule::new(service.scheduler, service.mh_slots, members));
    }
    mark_shared(&mut image.backends, &mut image.services);
    Ok(image)
}

/// Marks the backends whose answers come from an address and port from which those of another service's backend come too, and their
/// services.
fn mark_shared(backends: &mut BTreeMap<u32, layout::Backend>, services: &mut BTreeMap<u32, layout::Service>) {
    let answering = || {
        backends
            .iter()
            .filter(|(_, backend)| backend.method.has(Method::SEES_ANSWERS))
    };
    let mut numbers = answering().map(|(_, backend)| backend.service);
    let first = numbers.next();
    if numbers.all(|number| Some(number) == first) {
        return;
    }
    let mut ends: Vec<_> = answering()
        .map(|(number, backend)| (backend.address, backend.port.0, backend.protocol, *number))
        .collect();
    ends.sort_unstable();
    for shared in ends.chunk_by(|one, other| (one.0, one.1, one.2) == (other.0, other.1, other.2)) {
        if let [_, _, ..] = shared {
            for (.., number) in shared {
                if let Some(backend) = backends.get_mut(number) {
                    backend.flags |= layout::Backend::SHARED;
                    if let Some(service) = services.get_mut(&u32::from(backend.service)) {
                        service.flags |= layout::Service::SHARED;
                    }
                }
            }
        }
    }
}

/// The numbers of a service: its own, that of what it shares persistence with, and that of its idle times.
fn numbers(service: &Service, ids: &mut Ids, timeouts: &mut TimeoutSets) -> Result<(u32, u32, u8), Error> {
    let given = ids.services.give(&service.address);
    let number = given.ok_or_else(|| services_full(ids))?.number;
    let group = ids.groups.give(&Group::of(service.address, service.mark));
    let group = group.ok_or_else(|| services_full(ids))?.number;
    Ok((number, group, timeouts.number(service.timeouts, service.persistence)?))
}

fn services_full(ids: &Ids) -> Error {
    Error::Full {
        what: "services",
        limit: ids.services.limit(),
        setting: "max_services",
    }
}

/// What a backend is hashed by: the same on every node, whatever its number there.
fn identity(service: &Service, backend: &Backend) -> [u64; 2] {
    let [high, low] = words::wide(backend.address);
    [high ^ u64::from(backend.port(service)).rotate_left(32), low]
}

/// The seed of a service's client hash, from its address.
fn seed(address: ServiceAddress) -> u64 {
    let [high, low] = words::wide(address.ip);
    let port = u32::from(address.port) << 8 | u32::from(words::protocol(address.protocol));
    hash::mix(hash::fold_v6([high, low], port, 0))
}

/// What a scheduler compares backends by.
const fn measure(scheduler: Scheduler) -> Measure {
    match scheduler {
        Scheduler::Mh | Scheduler::Rr | Scheduler::Wrr | Scheduler::Sh | Scheduler::Dh => Measure::NONE,
        Scheduler::Lc => Measure::LEAST_CONNECTIONS,
        Scheduler::Wlc | Scheduler::P2c => Measure::WEIGHTED_LEAST_CONNECTIONS,
        Scheduler::Sed => Measure::SHORTEST_DELAY,
        Scheduler::Nq => Measure::NEVER_QUEUE,
        Scheduler::Fo => Measure::FAILOVER,
        Scheduler::Ovf => Measure::OVERFLOW,
    }
}

/// A service's entry, but for its scheduling table and what its backends tell.
fn service_entry(service: &Service) -> layout::Service {
    let flag = |flag: u8, is_set: bool| if is_set { flag } else { 0 };
    layout::Service {
        scheduler: match (service.scheduler, service.hash_by()) {
            (Scheduler::Mh | Scheduler::Sh, HashBy::SourcePort) => layout::Scheduler::SourcePort,
            (Scheduler::Mh | Scheduler::Sh, HashBy::Source) => layout::Scheduler::Source,
            (Scheduler::Dh, _) => layout::Scheduler::Destination,
            (Scheduler::Rr | Scheduler::Wrr, _) => layout::Scheduler::Turn,
            (Scheduler::P2c, _) => layout::Scheduler::Two,
            (Scheduler::Lc | Scheduler::Wlc | Scheduler::Sed | Scheduler::Nq | Scheduler::Fo | Scheduler::Ovf, _) => {
                layout::Scheduler::Compare
            }
        } as u8,
        flags: flag(layout::Service::ONE_PACKET, service.one_packet)
            | flag(layout::Service::PERSISTENT, service.persistence.is_some())
            | flag(layout::Service::REJECTS, service.on_none == OnNone::Reject),
        overload: match service.overload {
            Overload::Next => layout::Overload::Next,
            Overload::Sorry => layout::Overload::Sorry,
            Overload::Drop => layout::Overload::Drop,
        } as u8,
        prefix: service.netmask().0,
        slots: 0,
        members: layout::ChunkIndex::default(),
        ring: layout::ChunkIndex::default(),
        seed: seed(service.address),
        fingerprint: 0,
        members_length: 0,
        group: 0,
        mark: service.mark.unwrap_or(0),
        sorry: 0,
        measure: Measure::NONE,
        room: Default::default(),
    }
}

/// Where packets for a backend go out.
#[derive(Clone, Copy)]
struct Out<'a> {
    hop: &'a NextHop,
    /// As packets compare it: see [`wire_index`].
    ifindex: u32,
    interface: u32,
}

/// The index of an interface as packets compare it with the one that they came in by.
#[must_use]
pub fn wire_index(links: &LinkTable, ifindex: u32) -> u32 {
    match links.get(ifindex) {
        Ok(link) if link.kind == "veth" => layout::VIA_DEVMAP,
        _ => ifindex,
    }
}

/// A backend's entry.
fn entry(service: &Service, backend: &Backend, number: u32, flags: u16, out: Option<Out<'_>>) -> layout::Backend {
    let (vip, vport) = (service.address.ip, service.address.port);
    let port = backend.port(service);
    let mut macs = [Be16(0); 6];
    if let Some(Out { hop, .. }) = out {
        macs[..3].copy_from_slice(&words::mac(hop.mac));
        macs[3..].copy_from_slice(&words::mac(hop.source_mac));
    }
    layout::Backend {
        address: words::wide(backend.address),
        vip: words::wide(vip),
        macs,
        ifindex: out.map_or(0, |out| out.ifindex),
        port: Be16::new(port),
        vport: Be16::new(vport),
        method: match backend.forward(service) {
            Forward::Dr => Method::DR,
            Forward::Nat => Method::NAT,
        },
        protocol: words::protocol(service.address.protocol),
        interface: out.map_or(0, |out| out.interface as u16),
        address_delta: words::address_delta(vip, backend.address),
        endpoint_delta: words::endpoint_delta((vip, vport), (backend.address, port)),
        service: number as u16,
        flags,
    }
}
