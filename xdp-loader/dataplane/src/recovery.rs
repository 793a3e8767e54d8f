//! Recovery: who has which number in a predecessor, so that flows go on to mean the same.

use std::{collections::BTreeMap, net::IpAddr};

use xdp_common::{
    layout::{Backend, Method, Sizes},
    succession::BackendRecord,
};

use super::{
    Error, IdAllocator,
    ids::{Group, Ids},
    predecessor::Predecessor,
    words,
};
use lvx_model::{BackendKey, Protocol, ServiceAddress};

/// What goes on of a predecessor's services and backends.
pub(super) struct Inheritance {
    /// Their numbers.
    pub(super) ids: Ids,
    /// The entries of backends, as far as their flows need them, by number.
    pub(super) backends: BTreeMap<u32, Backend>,
    /// The keys that the predecessor's backends have, by the numbers that they have there.
    pub(super) keys: BTreeMap<u32, BackendKey>,
    /// What shares persistence, likewise.
    pub(super) groups: BTreeMap<u32, Group>,
}

impl Inheritance {
    /// Nothing.
    pub(super) fn none(sizes: Sizes) -> Self {
        let (services, backends) = (sizes.services + 1, sizes.backends + 1);
        Self {
            ids: Ids {
                services: IdAllocator::new(services),
                backends: IdAllocator::new(backends),
                groups: IdAllocator::new(services),
            },
            backends: BTreeMap::new(),
            keys: BTreeMap::new(),
            groups: BTreeMap::new(),
        }
    }

    /// What a predecessor tells. A number that is too high for these sizes does not go on. Numbers that have no owner wait for
    /// a sweep, as flows may know them, unless the flows are copied: those of nobody are not.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub(super) fn of(predecessor: &Predecessor, sizes: Sizes, are_copied: bool) -> Result<Self, Error> {
        let mut services: BTreeMap<ServiceAddress, u32> = BTreeMap::new();
        let mut backends = BTreeMap::new();
        let mut entries = BTreeMap::new();
        let records = predecessor.backends()?;
        let keys = keys(&records);
        for record in records {
            let Some(key) = keys.get(&record.number).copied() else {
                continue;
            };
            services.insert(key.0, record.service);
            if record.number <= sizes.backends {
                backends.insert(key, record.number);
                entries.insert(record.number, entry(&record));
            }
        }
        let mut groups = BTreeMap::new();
        for (service, number) in &services {
            if let Some(record) = predecessor.service(*number)? {
                let mark = Some(record.mark).filter(|mark| *mark != 0);
                groups.insert(Group::of(*service, mark), record.group);
            }
        }
        let group_keys = groups.iter().map(|(group, number)| (*number, *group)).collect();
        services.retain(|_, number| *number <= sizes.services);
        groups.retain(|_, number| *number <= sizes.services);
        let highest = u32::try_from(predecessor.facts().highest).unwrap_or(u32::MAX);
        let mut ids = Ids {
            services: IdAllocator::recovered(sizes.services + 1, services, 0),
            backends: IdAllocator::recovered(sizes.backends + 1, backends, highest),
            groups: IdAllocator::recovered(sizes.services + 1, groups, 0),
        };
        if are_copied {
            ids.services.release_all();
            ids.backends.release_all();
            ids.groups.release_all();
        }
        Ok(Self {
            ids,
            backends: entries,
            keys,
            groups: group_keys,
        })
    }
}

/// The keys of backends, by their numbers.
pub(super) fn keys(records: &[BackendRecord]) -> BTreeMap<u32, BackendKey> {
    records
        .iter()
        .filter_map(|record| Some((record.number, key(record)?)))
        .collect()
}

/// What a backend is told apart by.
fn key(record: &BackendRecord) -> Option<BackendKey> {
    let ip = |address: [u64; 2], is_v6: u8| -> IpAddr {
        match is_v6 {
            0 => words::v4(address[0] as u32),
            _ => words::v6(address),
        }
    };
    let service = ServiceAddress {
        protocol: protocol(record.protocol)?,
        ip: ip(record.vip, record.vip_v6),
        port: record.vport.get(),
    };
    Some((service, ip(record.address, record.address_v6), record.port.get()))
}

/// As much of a backend's entry as its flows need: to be dropped, if it is gone, or to go on while its next hop is looked up.
fn entry(record: &BackendRecord) -> Backend {
    Backend {
        address: record.address,
        vip: record.vip,
        port: record.port,
        vport: record.vport,
        protocol: record.protocol,
        method: Method(record.method),
        service: record.service as u16,
        flags: if record.address_v6 == 0 { 0 } else { Backend::IPV6 },
        macs: record.macs,
        interface: record.interface,
        ..Backend::NONE
    }
}

/// The protocol with IP's number.
fn protocol(number: u8) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .find(|protocol| words::protocol(*protocol) == number)
}
