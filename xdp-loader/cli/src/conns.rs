//! `lvx conns`: the flow table, printed as it is read.

use std::io::Write;

use http_body_util::BodyExt as _;
use hyper::{Method, body::Bytes};

use super::{
    args::{Conns, ConnsCommand},
    client::{Client, segment},
    output::Output,
};
use lvx_api::{Conn, ConnCount, ConnFilter, FlushRequest, Flushed};

pub(super) async fn run(conns: Conns, client: &Client, output: &mut Output<impl Write>) -> anyhow::Result<()> {
    match conns.command {
        Some(ConnsCommand::Flush { filter, all }) => {
            let request = FlushRequest {
                filter: filter.into(),
                all,
            };
            let Flushed { flushed } = client.send(Method::POST, "/v1/conns/flush", &request).await?;
            output.answer(&Flushed { flushed }, |output| {
                let plural = if flushed == 1 { "" } else { "s" };
                output.line(&format!("flushed {flushed} connection{plural}"))
            })
        }
        None if conns.count => {
            let count = count(conns.filter.into(), client).await?;
            output.answer(&count, |output| output.line(&count.total.to_string()))
        }
        None => list(conns.filter.into(), client, output).await,
    }
}

/// How many connections the filter admits.
pub(super) async fn count(filter: ConnFilter, client: &Client) -> anyhow::Result<ConnCount> {
    client.get(&format!("/v1/conns/count{}", query(filter))).await
}

async fn list(filter: ConnFilter, client: &Client, output: &mut Output<impl Write>) -> anyhow::Result<()> {
    let mut body = client
        .request(Method::GET, &format!("/v1/conns{}", query(filter)), Bytes::new())
        .await?;
    if !output.is_json() {
        output.line(&line("SERVICE", "CLIENT", "BACKEND", "FORWARD", "STATE", "IDLE"))?;
        output.raw(&[])?;
    }
    // The pieces of the answer are not cut at line ends by any promise of HTTP.
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        rest.extend_from_slice(&data);
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else {
            continue;
        };
        print(output, &rest[..=end])?;
        rest.drain(..=end);
    }
    Ok(output.raw(&[])?)
}

fn print(output: &mut Output<impl Write>, lines: &[u8]) -> anyhow::Result<()> {
    if output.is_json() {
        return Ok(output.raw(lines)?);
    }
    for text in lines.split(|byte| *byte == b'\n').filter(|text| !text.is_empty()) {
        let conn: Conn = serde_json::from_slice(text)?;
        let (service, client, backend) = (
            conn.service.to_string(),
            conn.client.to_string(),
            conn.backend.to_string(),
        );
        let idle = format!("{}s", conn.idle_seconds);
        output.line(&line(
            &service,
            &client,
            &backend,
            conn.forward.name(),
            conn.state.name(),
            &idle,
        ))?;
    }
    // What has come is shown, however long the rest may take.
    Ok(output.raw(&[])?)
}

/// The table may have millions of rows, so its columns are as wide as IPv4 needs and do not wait for the widest cell.
fn line(service: &str, client: &str, backend: &str, forward: &str, state: &str, idle: &str) -> String {
    format!("{service:<27} {client:<21} {backend:<21} {forward:<7} {state:<11} {idle}")
}

fn query(filter: ConnFilter) -> String {
    let ConnFilter {
        service,
        backend,
        state,
        client,
        limit,
    } = filter;
    let terms = [
        service.map(|value| format!("service={}", segment(value))),
        backend.map(|value| format!("backend={}", segment(value))),
        state.map(|value| format!("state={}", value.name())),
        client.map(|value| format!("client={}", segment(value))),
        limit.map(|value| format!("limit={value}")),
    ];
    let terms: Vec<_> = terms.into_iter().flatten().collect();
    if terms.is_empty() {
        String::new()
    } else {
        format!("?{}", terms.join("&"))
    }
}
