//! The running configuration as a whole: making it equal to a document, and writing it as one.

use axum::{Extension, Json, extract::State, http::header::CONTENT_TYPE, response::IntoResponse};
use lvx_api::{Applied, ApplyQuery, ExportQuery};

use super::Api;
use crate::error::{ApiError, Params, Text};
use lvx_model::{
    document::{Document, Format},
    exec::Author,
};

pub(super) async fn apply(
    State(api): State<Api>,
    Extension(author): Extension<Author>,
    Params(query): Params<ApplyQuery>,
    Text(text): Text,
) -> Result<Json<Applied>, ApiError> {
    let document = Document::parse(&text, Format::detect(None, &text), "body")?;
    let changes = api.controller.apply(author, document, query.dry_run).await?;
    Ok(Json(Applied {
        applied: !query.dry_run,
        changes,
    }))
}

pub(super) async fn export(State(api): State<Api>, Params(query): Params<ExportQuery>) -> impl IntoResponse {
    let content_type = match query.format {
        Format::Toml => "application/toml",
        Format::Json => "application/json",
    };
    (
        [(CONTENT_TYPE, content_type)],
        api.controller.desired().to_document().render(query.format),
    )
}
