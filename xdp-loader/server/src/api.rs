//! The control API: HTTP/JSON on a Unix socket, under `/v1`.
//!
//! Handlers translate between HTTP and [`Controller`]; what may be done and what it means is decided there.

mod apply;
mod reports;
mod services;
pub mod socket;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{Method, StatusCode, Uri},
    response::IntoResponse,
    routing::{get, patch, post},
};
use tokio::sync::watch;

use crate::end::End;
use lvx_api::BODY_LIMIT;
use lvx_control::{ChangeError, Controller};

/// What every handler may use.
#[derive(Clone)]
pub struct Api {
    /// The owner of the desired state.
    pub controller: Controller,
    /// Says how the daemon is to end, when it is.
    pub stop: watch::Sender<Option<End>>,
}

/// The API's routes.
pub fn router(api: Api) -> Router {
    let backend = "/v1/services/{service}/backends/{backend}";
    Router::new()
        .route("/v1/status", get(reports::status))
        .route("/v1/health", get(reports::health))
        .route("/v1/stats", get(reports::stats))
        .route("/v1/conns", get(reports::conns))
        .route("/v1/conns/count", get(reports::count))
        .route("/v1/conns/flush", post(reports::flush))
        .route("/v1/services", get(services::list).post(services::add))
        .route(
            "/v1/services/{service}",
            get(services::show).patch(services::set).delete(services::del),
        )
        .route("/v1/services/{service}/backends", post(services::add_backend))
        .route(backend, patch(services::set_backend).delete(services::del_backend))
        .route(&format!("{backend}/drain"), post(services::drain))
        .route("/v1/apply", post(apply::apply))
        .route("/v1/export", get(apply::export))
        .route("/v1/stop", post(stop))
        .route("/v1/detach", post(detach))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(api)
}

/// Asks the daemon to stop as SIGTERM does: the dataplane goes on.
async fn stop(axum::extract::State(api): axum::extract::State<Api>) -> StatusCode {
    api.stop.send_replace(Some(End::Stopped));
    StatusCode::ACCEPTED
}

/// Takes everything down, in the daemon's own network namespace, and ends the daemon.
async fn detach(axum::extract::State(api): axum::extract::State<Api>) -> Result<StatusCode, crate::error::ApiError> {
    // No change begins any more: what it would write to is going away.
    api.controller.finish().await;
    let detached = api.controller.dataplane().detach().await;
    api.stop.send_replace(Some(End::Detached));
    detached.map_err(ChangeError::Dataplane)?;
    Ok(StatusCode::OK)
}

async fn unknown(method: Method, uri: Uri) -> impl IntoResponse {
    crate::error::ApiError::new(
        StatusCode::NOT_FOUND,
        format!("{method} {}: there is nothing here", uri.path()),
    )
}

async fn wrong_method(method: Method, uri: Uri) -> impl IntoResponse {
    crate::error::ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} {}: not this method", uri.path()),
    )
}

#[cfg(test)]
mod tests;
