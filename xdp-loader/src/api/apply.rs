//! The running configuration as a whole: making it equal to a document, and writing it as one.

use axum::{Json, extract::State, http::header::CONTENT_TYPE, response::IntoResponse};
use serde::{Deserialize, Serialize};

use super::{
    Api,
    error::{ApiError, Params, Text},
};
use crate::{
    diff::Change,
    document::{Document, Format},
};

/// Query of `POST /v1/apply`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyQuery {
    /// Whether only to tell the difference.
    #[serde(default)]
    pub dry_run: bool,
}

/// Query of `GET /v1/export`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportQuery {
    /// How to write the document; TOML unless told.
    #[serde(default = "toml")]
    pub format: Format,
}

fn toml() -> Format {
    Format::Toml
}

/// Answer to `POST /v1/apply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Whether the changes were made; false after a dry run.
    pub applied: bool,
    /// The difference between what was and what the document says.
    pub changes: Vec<Change>,
}

pub(super) async fn apply(
    State(api): State<Api>,
    Params(query): Params<ApplyQuery>,
    Text(text): Text,
) -> Result<Json<Applied>, ApiError> {
    let document = Document::parse(&text, Format::detect(None, &text), "body")?;
    let changes = api.controller.apply(document, query.dry_run).await?;
    Ok(Json(Applied {
        applied: !query.dry_run,
        changes,
    }))
}

pub(super) async fn export(
    State(api): State<Api>,
    Params(query): Params<ExportQuery>,
) -> impl IntoResponse {
    let content_type = match query.format {
        Format::Toml => "application/toml",
        Format::Json => "application/json",
    };
    (
        [(CONTENT_TYPE, content_type)],
        api.controller.desired().to_document().render(query.format),
    )
}
