//! A measurement.

use serde::{Deserialize, Serialize};

use crate::{median, range};

/// A measurement: a line of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What it belongs to.
    pub group: String,
    /// What was measured.
    pub case: String,
    /// The median of several runs.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// The unit, where it is not the report's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The median with everything that is not what is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gross: Option<f64>,
    /// What it is to be at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<f64>,
    /// What is particular about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Row {
    /// The row of these runs.
    pub fn new(group: &str, case: impl Into<String>, runs: &[f64]) -> Self {
        let (min, max) = range(runs);
        Self {
            group: group.to_owned(),
            case: case.into(),
            median: median(runs),
            min,
            max,
            unit: None,
            gross: None,
            bound: None,
            note: None,
        }
    }

    /// In another unit than the report's.
    #[must_use]
    pub fn unit(self, unit: &str) -> Self {
        Self {
            unit: Some(unit.to_owned()),
            ..self
        }
    }

    /// To be at most `bound`, in the row's unit.
    #[must_use]
    pub fn bound(self, bound: f64) -> Self {
        Self {
            bound: Some(bound),
            ..self
        }
    }

    /// With a remark.
    #[must_use]
    pub fn note(self, note: impl Into<String>) -> Self {
        Self {
            note: Some(note.into()),
            ..self
        }
    }
}
