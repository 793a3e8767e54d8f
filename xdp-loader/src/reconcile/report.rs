//! What the reconciler reports: what is attached and healthy, and what was counted.

use std::net::{IpAddr, SocketAddr};

use tracing::error;
use xdp_common::layout::BackendCounters;

use super::{Known, Shared};
use crate::{
    dataplane::{
        Error, counters,
        flows::Load,
        image::{self, BackendKey, Names},
        tables::Tables,
    },
    model::{Backend, Service},
    netlink::VipState,
    report::{
        BackendState, BackendStats, BackendStatus, FlowTables, InterfaceStats, InterfaceStatus, ServiceStats,
        ServiceStatus, Stats, Status, TableUse, Traffic, VerdictCount, VipStatus,
    },
};

/// What is attached and healthy.
pub(super) async fn status(shared: &Shared) -> Status {
    let known = shared.known();
    let desired = known.desired.clone().unwrap_or_default();
    let sizes = shared.maps.sizes();
    let tables = shared.tables.lock().await;
    let services = desired.services().values().map(|service| ServiceStatus {
        address: service.address,
        forward: service.forward,
        scheduler: service.scheduler,
        vip: vip(shared, &known, service.address.ip),
        backends: service
            .backends
            .iter()
            .map(|backend| backend_status(&known, tables.names(), service, backend))
            .collect(),
    });
    // Half of a table's places are what it promises to hold; see `Sizes`.
    let table = |places: u32, used| TableUse {
        capacity: u64::from(places / 2),
        used,
    };
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: shared.started.elapsed().as_secs(),
        interfaces: shared
            .attachments
            .iter()
            .map(|attachment| InterfaceStatus {
                name: attachment.name.clone(),
                ifindex: attachment.ifindex,
                mode: attachment.mode,
                note: attachment.note.clone(),
                link_up: shared.links.get(attachment.ifindex).is_ok_and(|link| link.up),
            })
            .collect(),
        vip_interface: shared.vip_interface.clone(),
        services: services.collect(),
        flows: FlowTables {
            v4: table(sizes.flows_v4, known.census.v4),
            v6: table(sizes.flows_v6, known.census.v6),
        },
    }
}

/// Where a VIP is.
fn vip(shared: &Shared, known: &Known, address: IpAddr) -> Option<VipStatus> {
    let state = known.vips.get(&address)?;
    Some(VipStatus {
        address,
        interface: match state {
            VipState::Added => shared.vip_interface.clone()?,
            VipState::AlreadyThere { interface } => interface.clone(),
        },
        added_by_lvx: *state == VipState::Added,
    })
}

/// The state of a backend.
fn backend_status(known: &Known, names: &Names, service: &Service, backend: &Backend) -> BackendStatus {
    let unreachable = match known.hops.0.get(&backend.address) {
        Some(Ok(_)) => None,
        Some(Err(error)) => Some(error.to_string()),
        None => Some("its next hop is being looked up".to_owned()),
    };
    let state = match (&unreachable, backend.drain) {
        (_, true) => BackendState::Drained,
        (Some(_), false) => BackendState::Unreachable,
        (None, false) => BackendState::Up,
    };
    let reason = match state {
        BackendState::Drained => Some("asked to drain".to_owned()),
        _ => unreachable,
    };
    let key = image::backend_key(service, backend);
    BackendStatus {
        address: SocketAddr::new(backend.address, backend.port(service)),
        weight: backend.weight,
        forward: backend.forward(service),
        state,
        reason,
        active_flows: Some(flows(known, names, &key)),
    }
}

/// Flows of a backend in the tables at the last count.
fn flows(known: &Known, names: &Names, key: &BackendKey) -> u64 {
    let load = names
        .backends
        .get(key)
        .and_then(|number| known.census.backends.get(&number));
    load.map_or(0, |Load { active, inactive }| active + inactive)
}

/// What was counted.
pub(super) async fn stats(shared: &Shared) -> Stats {
    let known = shared.known();
    let mut tables = shared.tables.lock().await;
    read(shared, &known, &mut tables).unwrap_or_else(|error| {
        error!(%error, "the counters could not be read");
        Stats::default()
    })
}

/// Reads the counters.
fn read(shared: &Shared, known: &Known, tables: &mut Tables) -> Result<Stats, Error> {
    let desired = known.desired.clone().unwrap_or_default();
    let mut interfaces = Vec::new();
    for attachment in &shared.attachments {
        let port = tables.port(attachment.ifindex)?;
        let verdicts = counters::verdicts(&shared.maps, port)?
            .into_iter()
            .map(|(verdict, packets)| VerdictCount {
                verdict: verdict.name().to_owned(),
                packets,
            })
            .collect();
        interfaces.push(InterfaceStats {
            name: attachment.name.clone(),
            verdicts,
        });
    }
    let names = tables.names();
    let counted = counters::backends(&shared.maps, names.backends.iter().map(|(_, number)| number))?;
    let services = desired.services().values().map(|service| {
        let mut sum = tables.departed(&service.address);
        let mut active_flows = 0;
        let backends = service
            .backends
            .iter()
            .map(|backend| {
                let key = image::backend_key(service, backend);
                let counted = names
                    .backends
                    .get(&key)
                    .and_then(|number| counted.get(&number))
                    .copied();
                let counted = counted.unwrap_or_default();
                sum = counters::add(sum, counted);
                let flows = flows(known, names, &key);
                active_flows += flows;
                BackendStats {
                    address: SocketAddr::new(backend.address, backend.port(service)),
                    traffic: traffic(counted, flows),
                }
            })
            .collect();
        ServiceStats {
            address: service.address,
            traffic: traffic(sum, active_flows),
            backends,
        }
    });
    Ok(Stats {
        services: services.collect(),
        interfaces,
    })
}

/// Counters as reported.
fn traffic(counted: BackendCounters, active_flows: u64) -> Traffic {
    Traffic {
        packets_in: counted.packets_in,
        bytes_in: counted.bytes_in,
        packets_out: counted.packets_out,
        bytes_out: counted.bytes_out,
        connections: counted.connections,
        active_flows,
    }
}
