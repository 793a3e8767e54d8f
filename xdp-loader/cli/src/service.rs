//! `lvx service`.

use std::io::{self, Write};

use hyper::Method;

use super::{
    args::ServiceCommand,
    client::{Client, segment},
    output::Output,
    table::Table,
};
use lvx_model::{DEFAULT_MH_SLOTS, OnLoss, OnNone, Overload, Service, ServiceAddress, TimeoutOf};

const PATH: &str = "/v1/services";

pub(super) async fn run(
    command: ServiceCommand,
    client: &Client,
    output: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    match command {
        ServiceCommand::Add { service, fields } => {
            let mut body = Service::new(service);
            body.change(&fields.change()?)?;
            let added: Service = client.send(Method::POST, PATH, &body).await?;
            output.answer(&added, |output| {
                output.line(&format!("added service {}", summary(&added)))
            })
        }
        ServiceCommand::Set { service, fields } => {
            let body = fields.change()?;
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
    connections(output, service)?;
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
    let limited = service.backends.iter().any(|backend| backend.upper != 0);
    let columns: &[_] = &["BACKEND", ">WEIGHT", "FORWARD", "DRAIN", ">UPPER", ">LOWER"];
    let mut table = Table::new(&columns[..if limited { 6 } else { 4 }]);
    for backend in &service.backends {
        let drain = if backend.drain { "yes" } else { "no" };
        let mut row = vec![
            backend.name().into(),
            backend.weight.into(),
            backend.forward(service).into(),
            drain.into(),
        ];
        if limited {
            row.extend([backend.upper.into(), backend.lower.into()]);
        }
        table.row(row);
    }
    output.table(&table)
}

/// What is kept of connections, where that is not as usual.
fn connections(output: &mut Output<impl Write>, service: &Service) -> io::Result<()> {
    if let Some(hash) = service.hash {
        output.line(&format!("hash       {hash}"))?;
    }
    if let Some(period) = service.persistence {
        output.line(&format!("persistent {period}, netmask {}", service.netmask()))?;
    }
    if let Some(mark) = service.mark {
        output.line(&format!("mark       {mark}"))?;
    }
    if service.one_packet {
        output.line("one-packet yes")?;
    }
    if service.on_loss != OnLoss::default() {
        output.line(&format!("on loss    {}", service.on_loss))?;
    }
    if service.overload != Overload::default() {
        output.line(&format!("overload   {}", service.overload))?;
    }
    if service.on_none != OnNone::default() {
        output.line(&format!("on none    {}", service.on_none))?;
    }
    for of in TimeoutOf::ALL {
        if let Some(period) = service.timeouts.get(*of) {
            output.line(&format!("timeout    {of} {period}"))?;
        }
    }
    Ok(())
}
