//! What the reconciler reports: what is attached and healthy, and what was counted.

use std::{collections::BTreeMap, net::SocketAddr};

use tracing::error;
use xdp_common::{layout::BackendCounters, verdict::Verdict};

use super::{
    Shared,
    interfaces::{Interface, Interfaces},
    snapshot::Snapshot,
};
use lvx_api::{
    BackendState, BackendStats, BackendStatus, FlowTables, InterfaceStats, InterfaceStatus, ServiceStats,
    ServiceStatus, Stats, Status, TableUse, Traffic, VerdictCount, health::BackendReport,
};
use lvx_dataplane::{Error, attach::Attachment, census::FlowCount, counters};
use lvx_model::{Backend, BackendKey, Overload, Service, health::State};
use lvx_netlink::LinkTable;

/// What is attached and healthy.
pub(super) async fn status(shared: &Shared) -> Status {
    let snapshot = shared.published.get();
    let health = shared.health.brief().await;
    let health: BTreeMap<_, _> = health
        .services
        .into_iter()
        .map(|service| (service.address, service))
        .collect();
    let desired = snapshot.desired.clone().unwrap_or_default();
    let sizes = shared.maps.sizes();
    let links = shared.links.table();
    let vip = shared.announcer.report(&links);
    // Without thresholds nothing is said of loads; and a backend whose load cannot be read is taken for not full.
    let connections = shared.maps.connections.whole().ok();
    let is_full = |service: &Service, backend: &Backend| {
        let number = snapshot.tables.backends.get(&backend.key(service));
        let counted = number
            .zip(connections.as_ref())
            .map(|(number, connections)| connections.read(*number as usize));
        backend.upper > 0 && counted.is_some_and(|counted| counted.overloaded != 0)
    };
    let services = desired.services().values().map(|service| ServiceStatus {
        address: service.address,
        forward: service.forward,
        scheduler: service.scheduler,
        serving: health
            .get(&service.address)
            .map(|health| health.serving)
            .unwrap_or_default(),
        quorum_lost: health.get(&service.address).is_some_and(|health| health.quorum_lost),
        vip: vip(service.address.ip),
        error: snapshot.tables.left_out.services.get(&service.address).cloned(),
        backends: service
            .backends
            .iter()
            .zip(snapshot.health.effective_weights(service))
            .map(|(backend, weight)| {
                let address = SocketAddr::new(backend.address, backend.port(service));
                let health = health
                    .get(&service.address)
                    .and_then(|health| health.backends.iter().find(|backend| backend.address == address));
                let full = is_full(service, backend);
                backend_status(&snapshot, service, (backend, weight), health, full)
            })
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
            .interfaces
            .get()
            .iter()
            .map(|it| interface_status(it, &links, &shared.interfaces))
            .collect(),
        losses: shared.recent_losses(),
        losses_uncounted: shared.losses.uncounted.clone(),
        reconcile_failure: shared.retry.report(),
        vip_interface: shared.announcer.interface().map(str::to_owned),
        services: services.collect(),
        flows: FlowTables {
            v4: table(sizes.flows_v4, snapshot.census.v4),
            v6: table(sizes.flows_v6, snapshot.census.v6),
        },
    }
}

/// An interface that the settings name, and the program on it.
fn interface_status(interface: &Interface, links: &LinkTable, all: &Interfaces) -> InterfaceStatus {
    let attachment = interface.attachment.as_ref();
    let link = attachment.and_then(|attachment| links.get(attachment.ifindex).ok());
    let name = link.map_or(&interface.name, |link| &link.name);
    let renamed = (*name != interface.name).then(|| format!("{} in the settings, renamed since", interface.name));
    let notes = attachment.and_then(|attachment| attachment.note.clone()).into_iter();
    let offloads = attachment.and_then(|attachment| all.offload_note(attachment.ifindex));
    let notes: Vec<_> = notes.chain(all.note.clone()).chain(renamed).chain(offloads).collect();
    InterfaceStatus {
        name: name.clone(),
        ifindex: attachment.map(|attachment| attachment.ifindex),
        mode: attachment.map(|attachment| attachment.mode),
        note: (!notes.is_empty()).then(|| notes.join("; ")),
        error: interface.error.clone(),
        link_up: link.is_some_and(|link| link.up),
    }
}

/// The state of a backend.
fn backend_status(
    snapshot: &Snapshot,
    service: &Service,
    (backend, weight): (&Backend, f64),
    health: Option<&BackendReport>,
    full: bool,
) -> BackendStatus {
    let left_out = &snapshot.tables.left_out;
    let left_out = left_out
        .backends
        .get(&backend.key(service))
        .or_else(|| left_out.services.get(&service.address));
    let unreachable = match snapshot.hops.0.get(&backend.address) {
        _ if left_out.is_some() => left_out.cloned(),
        Some(Ok(_)) => None,
        Some(Err(error)) => Some(error.to_string()),
        None => Some("its next hop is being looked up".to_owned()),
    };
    let healthy = health.map_or(State::Up, |health| health.state);
    let why = || health.and_then(|health| health.reason.clone());
    let (state, reason) = match (unreachable, healthy) {
        _ if backend.disabled => (BackendState::Disabled, Some("disabled by the operator".to_owned())),
        _ if backend.drain => (BackendState::Drained, Some("asked to drain".to_owned())),
        (Some(words), _) => (BackendState::Unreachable, Some(words)),
        (None, State::Down) => (BackendState::Down, why()),
        (None, State::Draining) => (BackendState::Drained, why()),
        (None, State::Unknown) => (BackendState::Unknown, why()),
        (None, State::Disabled) => (BackendState::Disabled, why()),
        (None, _) if backend.sorry && health.is_some_and(|health| !health.takes_new) => {
            let when = match service.overload {
                Overload::Sorry => "serves when the quorum is lost or others are full",
                Overload::Next | Overload::Drop => "serves when the quorum is lost",
            };
            (BackendState::Standby, Some(when.to_owned()))
        }
        (None, _) if full => {
            let upper = backend.upper;
            (
                BackendState::Full,
                Some(format!("has reached its upper threshold of {upper} connections")),
            )
        }
        (None, State::Degraded) => (BackendState::Degraded, why()),
        (None, State::Up) => (BackendState::Up, None),
    };
    let load = load(snapshot, &backend.key(service));
    let forward = backend.forward(service);
    let unseen = forward.unseen().filter(|_| state == BackendState::Drained);
    BackendStatus {
        address: SocketAddr::new(backend.address, backend.port(service)),
        weight: backend.weight,
        effective_weight: match state {
            BackendState::Unreachable | BackendState::Full => 0.0,
            _ => weight,
        },
        forward,
        state,
        reason,
        unseen: unseen.map(str::to_owned),
        active_flows: Some(load.active + load.inactive),
        active_connections: Some(load.active),
        inactive_connections: Some(load.inactive),
    }
}

/// What of a backend's was in the tables at the last count.
fn load(snapshot: &Snapshot, key: &BackendKey) -> FlowCount {
    let number = snapshot.tables.backends.get(key);
    let load = number.and_then(|number| snapshot.census.backends.get(number));
    load.copied().unwrap_or_default()
}

/// What was counted.
pub(super) fn stats(shared: &Shared) -> Stats {
    read(shared, &shared.published.get()).unwrap_or_else(|error| {
        error!(%error, "the counters could not be read");
        Stats::default()
    })
}

/// Reads the counters.
fn read(shared: &Shared, snapshot: &Snapshot) -> Result<Stats, Error> {
    let desired = snapshot.desired.clone().unwrap_or_default();
    let mut interfaces = Vec::new();
    let attached = shared.interfaces.get();
    let attachments: Vec<&Attachment> = attached.iter().filter_map(|it| it.attachment.as_ref()).collect();
    for attachment in &attachments {
        if let Some(slot) = snapshot.tables.interfaces.get(&attachment.ifindex) {
            interfaces.push(interface_stats(
                &attachment.name,
                &counters::verdicts(&shared.maps, *slot)?,
            ));
        }
    }
    // Packets may leave by others too: those are told of when some of these were lost.
    let links = shared.links.table();
    for (ifindex, slot) in &snapshot.tables.interfaces {
        if attachments.iter().all(|attachment| attachment.ifindex != *ifindex)
            && let Ok(link) = links.get(*ifindex)
        {
            let verdicts = counters::verdicts(&shared.maps, *slot)?;
            if verdicts
                .iter()
                .any(|(verdict, packets)| Verdict::LOST.contains(verdict) && *packets > 0)
            {
                interfaces.push(interface_stats(&link.name, &verdicts));
            }
        }
    }
    let counted = counters::backends(&shared.maps, snapshot.tables.backends.values().copied())?;
    let services = desired.services().values().map(|service| {
        let departed = snapshot.tables.departed.get(&service.address);
        let mut sum = departed.copied().unwrap_or_default();
        let mut active_flows = 0;
        let backends = service
            .backends
            .iter()
            .map(|backend| {
                let key = backend.key(service);
                let counted = snapshot
                    .tables
                    .backends
                    .get(&key)
                    .and_then(|number| counted.get(number))
                    .copied();
                let counted = counted.unwrap_or_default();
                sum = counters::add(sum, counted);
                let FlowCount { active, inactive, .. } = load(snapshot, &key);
                let flows = active + inactive;
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

/// What was counted on an interface.
fn interface_stats(name: &str, verdicts: &[(Verdict, u64)]) -> InterfaceStats {
    let verdicts = verdicts.iter().map(|(verdict, packets)| VerdictCount {
        verdict: verdict.name().to_owned(),
        packets: *packets,
    });
    InterfaceStats {
        name: name.to_owned(),
        verdicts: verdicts.collect(),
    }
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
