//! Changes: what is asked for beside services and backends themselves, and what is answered.

use lvx_model::{diff::Change, document::Format};
use serde::{Deserialize, Serialize};

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

/// Body of `POST .../drain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// True to stop giving the backend new connections, false to give it some again.
    pub drain: bool,
}
