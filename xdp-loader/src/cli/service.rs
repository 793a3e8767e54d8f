//! `lvx service`.

use std::io::{self, Write};

use hyper::Method;

use super::{
    args::{ServiceCommand, ServiceFields},
    client::{Client, segment},
    output::Output,
    table::Table,
};
use crate::model::{DEFAULT_MH_SLOTS, Service, ServiceAddress, ServiceChange};

const PATH: &str = "/v1/services";

pub(super) async fn run(
    command: ServiceCommand,
    client: &Client,
    output: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    match command {
        ServiceCommand::Add { service, fields } => {
            let body = Service {
                forward: fields.forward.unwrap_or_default(),
                scheduler: fields.scheduler.unwrap_or_default(),
                mh_slots: fields.mh_slots.unwrap_or(DEFAULT_MH_SLOTS),
                health: fields.health.checks()?.unwrap_or_default(),
                ..Service::new(service)
            };
            let added: Service = client.send(Method::POST, PATH, &body).await?;
            output.answer(&added, |output| {
                output.line(&format!("added service {}", summary(&added)))
            })
        }
        ServiceCommand::Set { service, fields } => {
            let ServiceFields {
                forward,
                scheduler,
                mh_slots,
                health,
            } = fields;
            let body = ServiceChange {
                forward,
                scheduler,
                mh_slots,
                health: health.checks()?,
                ..ServiceChange::default()
            };
            let changed: Service = client.send(Method::PATCH, &path(service), &body).await?;
            output.answer(&changed, |output| {
                output.line(&format!("changed service {}", summary(&changed)))
            })
        }
        ServiceCommand::Del { service } => {
            let removed: Service = client.delete(&path(service)).await?;
            output.answer(&removed, |output| {
                output.line(&format!("removed service {}", removed.address))
            })
        }
        ServiceCommand::Show { service } => {
            let service: Service = client.get(&path(service)).await?;
            output.answer(&service, |output| show(output, &service))
        }
        ServiceCommand::List => {
            let services: Vec<Service> = client.get(PATH).await?;
            output.answer(&services, |output| {
                let mut table = Table::new(&["SERVICE", "FORWARD", "SCHEDULER", ">BACKENDS"]);
                for service in &services {
                    let Service {
                        address,
                        forward,
                        scheduler,
                        ..
                    } = service;
                    table.row([
                        address.into(),
                        forward.into(),
                        scheduler.into(),
                        service.backends.len().into(),
                    ]);
                }
                output.table(&table)
            })
        }
    }
}

pub(super) fn path(service: ServiceAddress) -> String {
    format!("{PATH}/{}", segment(service))
}

fn summary(service: &Service) -> String {
    format!(
        "{} forward={} scheduler={}",
        service.address, service.forward, service.scheduler
    )
}

fn show(output: &mut Output<impl Write>, service: &Service) -> io::Result<()> {
    output.line(&format!("service    {}", service.address))?;
    output.line(&format!("forward    {}", service.forward))?;
    output.line(&format!("scheduler  {}", service.scheduler))?;
    if service.mh_slots != DEFAULT_MH_SLOTS {
        output.line(&format!("mh_slots   {}", service.mh_slots))?;
    }
    for check in &service.health {
        output.line(&format!(
            "health     {} every {}, timeout {}, rise {}, fall {}",
            check.kind(),
            check.interval(),
            check.timeout(),
            check.rise(),
            check.fall()
        ))?;
    }
    if service.backends.is_empty() {
        return output.line("no backends: add one with `lvx backend add`");
    }
    output.line("")?;
    let mut table = Table::new(&["BACKEND", ">WEIGHT", "FORWARD", "DRAIN"]);
    for backend in &service.backends {
        let drain = if backend.drain { "yes" } else { "no" };
        table.row([
            backend.name().into(),
            backend.weight.into(),
            backend.forward(service).into(),
            drain.into(),
        ]);
    }
    output.table(&table)
}
