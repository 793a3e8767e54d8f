//! `lvx backend`.

use std::io::Write;

use hyper::Method;
use serde::Serialize;

use super::{
    args::BackendCommand,
    client::{Client, segment},
    drain,
    output::Output,
    service,
    table::Table,
};
use lvx_api::DrainRequest;
use lvx_model::{Backend, BackendAddress, BackendForm, Service, ServiceAddress};

pub(super) async fn run(
    command: BackendCommand,
    client: &Client,
    output: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    match command {
        BackendCommand::Add {
            service,
            backend,
            port,
            fields,
        } => {
            let form = BackendForm {
                port,
                ..Backend::new(backend).into()
            };
            let mut body = Backend::try_from(form)?;
            body.change(&fields.change()?)?;
            let path = format!("{}/backends", service::path(service));
            let added: Backend = client.send(Method::POST, &path, &body).await?;
            say(output, "added", service, &added)
        }
        BackendCommand::Set {
            service,
            backend,
            fields,
        } => {
            let body = fields.change()?;
            let changed: Backend = client.send(Method::PATCH, &path(service, backend), &body).await?;
            say(output, "changed", service, &changed)
        }
        BackendCommand::Drain {
            service,
            backend,
            undo: true,
            ..
        } => {
            let resumed = drain(client, service, backend, false).await?;
            say(output, "resumed", service, &resumed)
        }
        BackendCommand::Drain {
            service,
            backend,
            wait,
            timeout,
            ..
        } => {
            let drained = drain(client, service, backend, true).await?;
            drain::run(service, &drained, wait.then_some(timeout), client, output).await
        }
        BackendCommand::Del {
            service,
            backend,
            drain: first,
            timeout,
        } => {
            let mut unseen = None;
            if first {
                let drained = drain(client, service, backend, true).await?;
                unseen = drain::unseen(service, &drained, client).await?;
                drain::before_removal(service, &drained, timeout, client, output).await?;
            }
            let remaining = drain::remaining(service, backend, client).await?;
            let removed: Backend = client.delete(&path(service, backend)).await?;
            let note = match remaining {
                0 => drain::besides(unseen),
                1 => ", which had 1 connection: --drain would have waited for it".to_owned(),
                _ => format!(", which had {remaining} connections: --drain would have waited for them"),
            };
            output.answer(&removed, |output| {
                output.line(&format!("removed backend {} of {service}{note}", removed.name()))
            })
        }
        BackendCommand::List { service } => {
            let services: Vec<Service> = match service {
                Some(service) => vec![client.get(&service::path(service)).await?],
                None => client.get("/v1/services").await?,
            };
            let rows = services.iter().flat_map(|service| {
                service.backends.iter().map(|backend| Row {
                    service: service.address,
                    backend,
                })
            });
            output.answer(&rows.collect::<Vec<_>>(), |output| {
                output.table(&table(&services))?;
                unseen(&services).try_for_each(|line| output.line(&line))
            })
        }
    }
}

/// What `lvx backend list` prints as JSON for a backend: its service, and its fields as in documents.
#[derive(Debug, Serialize)]
struct Row<'a> {
    service: ServiceAddress,
    #[serde(flatten)]
    backend: &'a Backend,
}

/// Asks for a backend to drain, or to be given new connections again.
async fn drain(
    client: &Client,
    service: ServiceAddress,
    backend: BackendAddress,
    drain: bool,
) -> anyhow::Result<Backend> {
    let path = format!("{}/drain", path(service, backend));
    client.send(Method::POST, &path, &DrainRequest { drain }).await
}

fn path(service: ServiceAddress, backend: BackendAddress) -> String {
    format!("{}/backends/{}", service::path(service), segment(backend))
}

fn say(output: &mut Output<impl Write>, verb: &str, service: ServiceAddress, backend: &Backend) -> anyhow::Result<()> {
    let forward = backend
        .forward
        .map_or(String::new(), |forward| format!(" forward={forward}"));
    let line = format!(
        "{verb} backend {} of {service} weight={}{forward}",
        backend.name(),
        backend.weight
    );
    output.answer(backend, |output| output.line(&line))
}

/// A line for each backend of whose drain not all is seen.
fn unseen(services: &[Service]) -> impl Iterator<Item = String> {
    services.iter().flat_map(|service| {
        let draining = service.backends.iter().filter(|backend| backend.drain);
        draining.filter_map(|backend| {
            let words = backend.forward(service).unseen()?;
            Some(format!(
                "backend {} of {} drains: {words}",
                backend.name(),
                service.address
            ))
        })
    })
}

fn table(services: &[Service]) -> Table {
    let mut table = Table::new(&["SERVICE", "BACKEND", ">WEIGHT", "FORWARD", "DRAIN"]);
    for service in services {
        for backend in &service.backends {
            table.row([
                service.address.into(),
                backend.name().into(),
                backend.weight.into(),
                backend.forward(service).into(),
                if backend.drain { "yes" } else { "no" }.into(),
            ]);
        }
    }
    table
}
