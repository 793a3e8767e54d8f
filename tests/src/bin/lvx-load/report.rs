//! What was measured, in the form that `cargo xtask bench` reads.

use std::fs;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// The measurements of one bench.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The bench's name.
    pub bench: String,
    /// What was measured, in a sentence.
    pub title: String,
    /// Where it was measured.
    pub machine: String,
    /// The unit of all rows that name none.
    pub unit: String,
    /// The measurements.
    pub rows: Vec<Row>,
    /// What they show.
    pub checks: Vec<Check>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

/// A measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    pub fn new(group: &str, case: impl Into<String>, values: &[f64]) -> Self {
        Self {
            group: group.to_owned(),
            case: case.into(),
            median: median(values),
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            unit: None,
            gross: None,
            bound: None,
            note: None,
        }
    }

    /// In another unit than the report's.
    pub fn unit(self, unit: &str) -> Self {
        Self {
            unit: Some(unit.to_owned()),
            ..self
        }
    }

    /// With a remark.
    pub fn note(self, note: impl Into<String>) -> Self {
        Self {
            note: Some(note.into()),
            ..self
        }
    }
}

/// Something that the measurements are to show.
#[derive(Debug, Serialize, Deserialize)]
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
    pub fn new(bench: &str, title: &str, unit: &str) -> Self {
        Self {
            bench: bench.to_owned(),
            title: title.to_owned(),
            machine: machine(),
            unit: unit.to_owned(),
            rows: Vec::new(),
            checks: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a row, and tells whoever waits.
    pub fn add(&mut self, row: Row) {
        let unit = row.unit.as_ref().unwrap_or(&self.unit);
        eprintln!("{:>12.1} {unit}  {}: {}", row.median, row.group, row.case);
        self.rows.push(row);
    }

    /// A row with a bound, and whether it is kept.
    pub fn add_bounded(&mut self, row: Row, bound: f64) {
        let unit = row.unit.as_ref().unwrap_or(&self.unit);
        let what = format!("{}: {}, {unit}", row.group, row.case);
        self.checks.push(Check::at_most(what, row.median, bound));
        self.add(Row {
            bound: Some(bound),
            ..row
        });
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

/// A number with a comma before each three digits.
pub fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_and_digits_come_in_threes() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!([7, 1_000, 1_234_567].map(grouped), ["7", "1,000", "1,234,567"]);
    }
}
