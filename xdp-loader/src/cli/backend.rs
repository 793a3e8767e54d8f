//! `lvx backend`.

use std::io::Write;

use hyper::Method;

use super::{
    args::BackendCommand,
    client::{Client, segment},
    output::Output,
    service,
    table::Table,
};
use crate::{
    api::DrainRequest,
    model::{Backend, BackendAddress, BackendChange, BackendForm, Service, ServiceAddress},
};

pub(super) async fn run(
    command: BackendCommand,
    client: &Client,
    output: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    match command {
        BackendCommand::Add {
            service,
            backend,
            fields,
        } => {
            let mut body = BackendForm::from(Backend::new(backend));
            body.weight = fields.weight.unwrap_or(body.weight);
            body.forward = fields.forward;
            let path = format!("{}/backends", service::path(service));
            let added: Backend = client.send(Method::POST, &path, &body).await?;
            say(output, "added", service, &added)
        }
        BackendCommand::Set {
            service,
            backend,
            fields,
        } => {
            let body = BackendChange {
                weight: fields.weight,
                forward: fields.forward,
                drain: None,
            };
            let changed: Backend = client
                .send(Method::PATCH, &path(service, backend), &body)
                .await?;
            say(output, "changed", service, &changed)
        }
        BackendCommand::Drain {
            service,
            backend,
            undo,
        } => {
            let path = format!("{}/drain", path(service, backend));
            let drained: Backend = client
                .send(Method::POST, &path, &DrainRequest { drain: !undo })
                .await?;
            say(
                output,
                if undo { "resumed" } else { "draining" },
                service,
                &drained,
            )
        }
        BackendCommand::Del { service, backend } => {
            let removed: Backend = client.delete(&path(service, backend)).await?;
            output.answer(&removed, |output| {
                output.line(&format!("removed backend {} of {service}", removed.name()))
            })
        }
        BackendCommand::List {
            service: Some(service),
        } => {
            let service: Service = client.get(&service::path(service)).await?;
            output.answer(&service.backends, |output| output.table(&table([&service])))
        }
        BackendCommand::List { service: None } => {
            let services: Vec<Service> = client.get("/v1/services").await?;
            // Backends of several services are told apart by their service, so the services are the answer.
            output.answer(&services, |output| output.table(&table(&services)))
        }
    }
}

fn path(service: ServiceAddress, backend: BackendAddress) -> String {
    format!("{}/backends/{}", service::path(service), segment(backend))
}

fn say(
    output: &mut Output<impl Write>,
    verb: &str,
    service: ServiceAddress,
    backend: &Backend,
) -> anyhow::Result<()> {
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

fn table<'a>(services: impl IntoIterator<Item = &'a Service>) -> Table {
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
