//! Reports: status, counters, the flow table.

use std::{convert::Infallible, io};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
};
use futures::stream;
use tokio::sync::mpsc;

use super::Api;
use crate::error::{ApiError, Body as JsonBody, Params};
use lvx_api::{
    Conn, ConnCount, ConnFilter, FlushRequest, Flushed, Stats, Status,
    health::{HealthQuery, HealthReport},
};
use lvx_control::ChangeError;

/// How many entries of the flow table go into one piece of the answer at most.
const CONNS_PER_CHUNK: usize = 512;

pub(super) async fn status(State(api): State<Api>) -> Json<Status> {
    Json(api.controller.dataplane().status().await)
}

pub(super) async fn health(
    State(api): State<Api>,
    Params(query): Params<HealthQuery>,
) -> Result<Json<HealthReport>, ApiError> {
    if let Some(service) = query.service {
        api.controller.desired().service(service)?;
    }
    Ok(Json(api.controller.dataplane().health(query.service).await))
}

pub(super) async fn stats(State(api): State<Api>) -> Json<Stats> {
    Json(api.controller.dataplane().stats().await)
}

/// One JSON object per line, sent as the table is read: a full table is never in memory.
pub(super) async fn conns(State(api): State<Api>, Params(filter): Params<ConnFilter>) -> impl IntoResponse {
    let conns = api.controller.dataplane().conns(filter);
    let chunks = stream::unfold(conns, |mut conns| async move {
        let chunk = next_chunk(&mut conns).await.ok()?;
        (!chunk.is_empty()).then(|| (Ok::<_, Infallible>(Bytes::from(chunk)), conns))
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(chunks))
}

pub(super) async fn count(
    State(api): State<Api>,
    Params(filter): Params<ConnFilter>,
) -> Result<Json<ConnCount>, ApiError> {
    let count = api.controller.dataplane().count(filter).await;
    Ok(Json(count.map_err(ChangeError::Dataplane)?))
}

pub(super) async fn flush(
    State(api): State<Api>,
    JsonBody(request): JsonBody<FlushRequest>,
) -> Result<Json<Flushed>, ApiError> {
    let FlushRequest { filter, all } = request;
    match (all, filter.is_everything()) {
        (false, true) => Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "nothing says which connections to flush: name a service, backend, state or client, or give --all",
        )),
        (true, false) => Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "flush either all connections or those that a filter names: leave out one of the two",
        )),
        _ => {
            let flushed = api.controller.dataplane().flush(filter).await;
            let flushed = flushed.map_err(ChangeError::Dataplane)?;
            tracing::info!(flushed, ?filter, "connections were flushed");
            Ok(Json(Flushed { flushed }))
        }
    }
}

async fn next_chunk(conns: &mut mpsc::Receiver<Conn>) -> io::Result<Vec<u8>> {
    let mut batch = Vec::with_capacity(CONNS_PER_CHUNK);
    conns.recv_many(&mut batch, CONNS_PER_CHUNK).await;
    let mut chunk = Vec::new();
    for conn in batch {
        serde_json::to_writer(&mut chunk, &conn)?;
        chunk.push(b'\n');
    }
    Ok(chunk)
}
