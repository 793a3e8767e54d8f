//! `lvx status`.

use std::io::{self, Write};

use super::{
    client::Client,
    colour::Colour,
    output::Output,
    table::{Cell, Table},
};
use lvx_api::{BackendState, BackendStatus, InterfaceStatus, Loss, ReconcileFailure, ServiceStatus, Status, VipState};
use lvx_model::{health::Serving, settings::AttachMode};

pub(super) async fn run(client: &Client, output: &mut Output<impl Write>) -> anyhow::Result<()> {
    let status: Status = client.get("/v1/status").await?;
    output.answer(&status, |output| show(output, &status))
}

fn show(output: &mut Output<impl Write>, status: &Status) -> io::Result<()> {
    output.line(&format!(
        "lvx {}, pid {}, up {}",
        status.version,
        status.pid,
        duration(status.uptime_seconds)
    ))?;
    let (v4, v6) = (status.flows.v4, status.flows.v6);
    output.line(&format!(
        "flows: IPv4 {} of {}, IPv6 {} of {}",
        v4.used, v4.capacity, v6.used, v6.capacity
    ))?;
    if let Some(failure) = &status.reconcile_failure {
        output.coloured(Colour::Bad, &not_in_place(failure))?;
    }
    output.line("")?;
    output.table(&interfaces(&status.interfaces))?;
    for loss in &status.losses {
        output.coloured(Colour::Bad, &lost(loss))?;
    }
    if let Some(reason) = &status.losses_uncounted {
        output.coloured(
            Colour::Notable,
            &format!("packets that the kernel fails to transmit are not all counted: {reason}"),
        )?;
    }
    if status.services.is_empty() {
        return output.line("\nno services: add one with `lvx service add`");
    }
    output.line("")?;
    output.table(&services(&status.services))?;
    for service in &status.services {
        if let Some(words) = serving(service) {
            output.coloured(Colour::Bad, &format!("{}: {words}", service.address))?;
        }
        let vip = service.vip.as_ref().and_then(|vip| vip.reason.as_ref());
        for reason in service.error.iter().chain(vip) {
            output.coloured(Colour::Bad, &format!("{}: {reason}", service.address))?;
        }
    }
    output.line("")?;
    output.table(&backends(&status.services))
}

fn not_in_place(failure: &ReconcileFailure) -> String {
    let (since, next) = (duration(failure.since_seconds), failure.retry_seconds.ceil() as u64);
    let (error, times) = (&failure.error, failure.failures);
    format!("what is desired is not in place for {since}, tried {times} times, again in {next}s: {error}")
}

fn lost(loss: &Loss) -> String {
    let Loss {
        interface,
        packets,
        reason,
        ..
    } = loss;
    let ago = duration(loss.last_seconds);
    format!("{interface}: {packets} packets lost within 5 minutes, the last {ago} ago: {reason}")
}

fn interfaces(interfaces: &[InterfaceStatus]) -> Table {
    let mut table = Table::new(&["INTERFACE", "XDP", "LINK", "NOTE"]);
    for interface in interfaces {
        let mode = match interface.mode {
            Some(mode @ AttachMode::Native) => mode.name().into(),
            Some(mode @ AttachMode::Generic) => Cell::coloured(mode.name(), Colour::Notable),
            None => Cell::coloured("none", Colour::Bad),
        };
        let link = if interface.link_up {
            "up".into()
        } else {
            Cell::coloured("down", Colour::Bad)
        };
        table.row([
            (&interface.name).into(),
            mode,
            link,
            interface
                .error
                .as_deref()
                .or(interface.note.as_deref())
                .unwrap_or_default()
                .into(),
        ]);
    }
    table
}

fn services(services: &[ServiceStatus]) -> Table {
    let mut table = Table::new(&["SERVICE", "FORWARD", "SCHEDULER", ">BACKENDS", ">UP", "VIP ON"]);
    for service in services {
        let up = service
            .backends
            .iter()
            .filter(|backend| matches!(backend.state, BackendState::Up | BackendState::Degraded))
            .count();
        table.row([
            service.address.into(),
            service.forward.into(),
            service.scheduler.into(),
            service.backends.len().into(),
            if up == 0 {
                Cell::coloured(up, Colour::Bad)
            } else {
                up.into()
            },
            vip(service),
        ]);
    }
    table
}

/// Where a service's VIP is.
fn vip(service: &ServiceStatus) -> Cell {
    let Some(vip) = &service.vip else {
        return "none".into();
    };
    match (vip.state, &vip.interface) {
        (VipState::Present, Some(interface)) if vip.added_by_lvx => interface.into(),
        (VipState::Present, Some(interface)) => format!("{interface} (was there before)").into(),
        (VipState::Conflict, _) => Cell::coloured("conflict", Colour::Bad),
        (VipState::Missing | VipState::Present, _) => Cell::coloured("missing", Colour::Bad),
    }
}

/// What is to be known of who serves, if anything is.
fn serving(service: &ServiceStatus) -> Option<&'static str> {
    match service.serving {
        _ if service.backends.is_empty() => None,
        Serving::Sorry => Some("quorum lost: the sorry backends serve"),
        Serving::FailOpen => Some("no backend is healthy: fails open, all get connections"),
        Serving::None => Some("no backend is healthy: none gets connections"),
        Serving::Healthy if service.quorum_lost => Some("quorum lost, and there is no sorry backend"),
        Serving::Unproven | Serving::Healthy => None,
    }
}

fn backends(services: &[ServiceStatus]) -> Table {
    let mut table = Table::new(&[
        "SERVICE",
        "BACKEND",
        ">WEIGHT",
        "FORWARD",
        "STATE",
        ">ACTIVE",
        ">INACTIVE",
        "REASON",
    ]);
    for service in services {
        for backend in &service.backends {
            table.row([
                service.address.into(),
                backend.address.into(),
                weight(backend).into(),
                backend.forward.into(),
                state(backend),
                count(backend.active_connections).into(),
                count(backend.inactive_connections).into(),
                reason(backend).into(),
            ]);
        }
    }
    table
}

/// The weight in effect, and the configured one where that differs.
fn weight(backend: &BackendStatus) -> String {
    let (configured, effective) = (backend.weight, backend.effective_weight);
    if effective == f64::from(configured) {
        configured.to_string()
    } else if effective.fract() == 0.0 {
        format!("{effective:.0} of {configured}")
    } else {
        format!("{effective:.2} of {configured}")
    }
}

fn count(connections: Option<u64>) -> String {
    connections.map_or("-".to_owned(), |connections| connections.to_string())
}

/// Why a backend is in its state, and what is not seen of it.
fn reason(backend: &BackendStatus) -> String {
    let words: Vec<_> = backend.reason.iter().chain(&backend.unseen).cloned().collect();
    words.join("; ")
}

fn state(backend: &BackendStatus) -> Cell {
    let colour = match backend.state {
        BackendState::Up => Colour::Good,
        BackendState::Unreachable | BackendState::Down => Colour::Bad,
        BackendState::Degraded
        | BackendState::Unknown
        | BackendState::Disabled
        | BackendState::Standby
        | BackendState::Full
        | BackendState::Drained => Colour::Notable,
    };
    Cell::coloured(backend.state.name(), colour)
}

/// The two largest units of a duration.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}
