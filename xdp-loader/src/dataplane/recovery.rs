//! Recovery: who has which number, as the maps that were taken over tell.

use std::{collections::BTreeMap, net::IpAddr};

use xdp_common::layout::{Backend, Method, Target, any_port};

use super::{
    Error, Maps, Numbers,
    image::{self, BackendKey, Group, Names},
    tables::place,
    words,
};
use crate::model::{Protocol, ServiceAddress};

/// The numbers of services, backends and groups that this bank tells of.
///
/// # Errors
///
/// If the kernel does not map a table.
pub(super) fn names(maps: &Maps, bank: u32) -> Result<Names, Error> {
    let entries = maps.services.whole()?;
    let mut services: BTreeMap<ServiceAddress, u32> = BTreeMap::new();
    let mut enter = |ip: IpAddr, port_protocol: u32, target: Target| {
        if let Some(number) = target.service()
            && port_protocol != any_port(port_protocol as u8)
            && let Some(protocol) = protocol(port_protocol as u8)
        {
            let port = u16::from_be((port_protocol >> 16) as u16);
            services.insert(ServiceAddress { protocol, ip, port }, number);
        }
    };
    let endpoints_v4 = maps.endpoints_v4.whole()?;
    let endpoints_v6 = maps.endpoints_v6.whole()?;
    for bucket in 0..maps.sizes().endpoint_buckets() {
        for endpoint in endpoints_v4.read(place(bucket, bank)) {
            enter(
                words::v4((endpoint.key >> 32) as u32),
                endpoint.key as u32,
                endpoint.target,
            );
        }
        for endpoint in endpoints_v6.read(place(bucket, bank)) {
            enter(words::v6(endpoint.address), endpoint.port_protocol, endpoint.target);
        }
    }
    let groups = services
        .iter()
        .map(|(service, number)| {
            let entry = entries.read(place(*number, bank));
            (
                Group::of(*service, Some(entry.mark).filter(|mark| *mark != 0)),
                entry.group,
            )
        })
        .collect();
    let mut backends: BTreeMap<BackendKey, u32> = BTreeMap::new();
    let entries = maps.backends.whole()?;
    for number in 1..=maps.sizes().backends {
        let entry = entries.read(place(number, bank));
        if entry.method == Method::NONE {
            continue;
        }
        let ip = |address: [u64; 2]| match entry.flags & Backend::IPV6 {
            0 => words::v4(address[0] as u32),
            _ => words::v6(address),
        };
        if let Some(protocol) = protocol(entry.protocol) {
            let service = ServiceAddress {
                protocol,
                ip: ip(entry.vip),
                port: entry.vport.get(),
            };
            backends.insert((service, ip(entry.address), entry.port.get()), number);
        }
    }
    Ok(Names {
        services: Numbers::recovered(maps.sizes().services + 1, services),
        backends: Numbers::recovered(maps.sizes().backends + 1, backends),
        groups: Numbers::recovered(maps.sizes().services + 1, groups),
    })
}

/// The protocol with IP's number.
fn protocol(number: u8) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .find(|protocol| image::protocol_number(*protocol) == number)
}
