//! The form in which services are written in files: TOML (`[[service]]`, `[[service.backend]]`) or the same as JSON.

use serde::{Deserialize, Serialize};

use crate::model::Service;

/// A list of services, syntactically right but not yet validated: see [`crate::model::Desired::from_document`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The services.
    #[serde(rename = "service", default)]
    pub services: Vec<Service>,
}
