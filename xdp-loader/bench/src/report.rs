//! What was measured, in the form that `cargo xtask bench` reads.

use std::fs;

use anyhow::Result;
use serde::Serialize;

/// The measurements of one bench.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The bench's name.
    pub bench: &'static str,
    /// What was measured, in a sentence.
    pub title: String,
    /// Where it was measured.
    pub machine: String,
    /// The unit of all rows that name none.
    pub unit: &'static str,
    /// The measurements.
    pub rows: Vec<Row>,
    /// What they show.
    pub checks: Vec<Check>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

/// A measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What it belongs to.
    pub group: String,
    /// What was measured.
    pub case: String,
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// The unit, where it is not the report's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<&'static str>,
    /// The median with everything that is not the program's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gross: Option<f64>,
    /// What it is to be at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<f64>,
    /// What is particular about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Something that the measurements are to show.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What.
    pub what: String,
    /// What was measured.
    pub measured: f64,
    /// What it is to be, at most or at least.
    pub bound: f64,
    /// Whether the bound is an upper one.
    pub at_most: bool,
    /// Whether it is kept.
    pub met: bool,
}

impl Check {
    /// `measured` is to be at most `bound`.
    pub fn at_most(what: impl Into<String>, measured: f64, bound: f64) -> Self {
        Self {
            what: what.into(),
            measured,
            bound,
            at_most: true,
            met: measured <= bound,
        }
    }

    /// `measured` is to be at least `bound`.
    pub fn at_least(what: impl Into<String>, measured: f64, bound: f64) -> Self {
        Self {
            what: what.into(),
            measured,
            bound,
            at_most: false,
            met: measured >= bound,
        }
    }
}

impl Report {
    /// A report of nothing yet.
    pub fn new(bench: &'static str, title: impl Into<String>, unit: &'static str) -> Self {
        Self {
            bench,
            title: title.into(),
            machine: machine(),
            unit,
            rows: Vec::new(),
            checks: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Writes it to standard output.
    pub fn print(&self) -> Result<()> {
        println!("{}", serde_json::to_string_pretty(self)?);
        Ok(())
    }
}

/// The processor, how many there are, and the kernel.
fn machine() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = processors
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, model)| model)
        .collect();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{} x {}, Linux {}",
        models.len(),
        models.first().unwrap_or(&"CPU"),
        release.trim()
    )
}

/// The median of `values`; the mean of the middle two where their number is even; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}
