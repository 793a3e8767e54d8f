//! Waiting for a backend that drains: how many connections it still has, until it has none.

use std::{io::Write, time::Duration};

use anyhow::bail;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{client::Client, conns, output::Output, service};
use lvx_api::ConnFilter;
use lvx_model::{Backend, BackendAddress, Period, Service, ServiceAddress};

/// How often it is looked again.
const LOOK: Duration = Duration::from_secs(1);

/// What `lvx backend drain` prints as JSON: the backend's fields as in documents, and what is left.
#[derive(Debug, Serialize)]
struct Draining<'a> {
    #[serde(flatten)]
    backend: &'a Backend,
    /// Connections that it still has.
    remaining: u64,
    /// What is not seen of their end; null where all is.
    unseen: Option<&'static str>,
}

/// Shows what a backend that drains has left; waits for its end if a period is given.
///
/// # Errors
/// When it has connections left at the end of the period.
pub(super) async fn run(
    service: ServiceAddress,
    backend: &Backend,
    wait: Option<Period>,
    client: &Client,
    output: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    let name = backend.name();
    let unseen = unseen(service, backend, client).await?;
    let remaining = match wait {
        None => remaining(service, name, client).await?,
        Some(limit) => until_none(service, name, limit, client, output).await?,
    };
    let text = match wait {
        Some(_) if remaining > 0 => None,
        Some(_) => Some(format!("drained backend {name} of {service}: {}", remain(remaining))),
        None => Some(format!("draining backend {name} of {service}: {}", remain(remaining))),
    };
    let answer = Draining {
        backend,
        remaining,
        unseen,
    };
    output.answer(&answer, |output| match text {
        Some(text) => output.line(&(text + &besides(unseen))),
        None => Ok(()),
    })?;
    match wait {
        Some(limit) if remaining > 0 => bail!(
            "backend {name} of {service} is still draining after {limit}: {}; wait longer with --timeout, or end them with \
             `lvx backend del`",
            remain(remaining)
        ),
        _ => Ok(()),
    }
}

/// Waits until a backend that drains may be removed.
///
/// # Errors
/// When it has connections left at the end of the period.
pub(super) async fn before_removal(
    service: ServiceAddress,
    backend: &Backend,
    limit: Period,
    client: &Client,
    output: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    let name = backend.name();
    match until_none(service, name, limit, client, output).await? {
        0 => Ok(()),
        remaining => bail!(
            "backend {name} of {service} was not removed: it is still draining after {limit}, {}; wait longer with --timeout, or \
             remove it without --drain",
            remain(remaining)
        ),
    }
}

/// Looks until no connections remain or the time is up, and shows how many there are; returns how many are left.
async fn until_none(
    service: ServiceAddress,
    backend: BackendAddress,
    limit: Period,
    client: &Client,
    output: &mut Output<impl Write>,
) -> anyhow::Result<u64> {
    let end = Instant::now() + limit.get();
    loop {
        let left = remaining(service, backend, client).await?;
        if left == 0 || Instant::now() >= end {
            output.progressed()?;
            return Ok(left);
        }
        output.progress(&format!("backend {backend}: {}", remain(left)))?;
        sleep(LOOK.min(end - Instant::now())).await;
    }
}

/// What is not seen of a backend's connections.
pub(super) async fn unseen(
    service: ServiceAddress,
    backend: &Backend,
    client: &Client,
) -> anyhow::Result<Option<&'static str>> {
    let service: Service = client.get(&service::path(service)).await?;
    Ok(backend.forward(&service).unseen())
}

/// That, as the end of a line.
pub(super) fn besides(unseen: Option<&str>) -> String {
    unseen.map_or(String::new(), |words| format!("; {words}"))
}

/// `no connections remain`, `1 connection remains`, `2 connections remain`.
fn remain(count: u64) -> String {
    match count {
        0 => "no connections remain".to_owned(),
        1 => "1 connection remains".to_owned(),
        _ => format!("{count} connections remain"),
    }
}

/// How many connections a backend still has to do with.
pub(super) async fn remaining(
    service: ServiceAddress,
    backend: BackendAddress,
    client: &Client,
) -> anyhow::Result<u64> {
    let filter = ConnFilter {
        service: Some(service),
        backend: Some(BackendAddress {
            port: Some(backend.effective_port(&service)),
            ..backend
        }),
        ..ConnFilter::default()
    };
    Ok(conns::count(filter, client).await?.remaining)
}
