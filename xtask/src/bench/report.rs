//! What a measuring program says.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The measurements of one bench.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The bench's name.
    pub bench: String,
    /// What was measured, in a sentence.
    pub title: String,
    /// Where it was measured: processor and kernel.
    pub machine: String,
    /// The unit of all rows that name none.
    pub unit: String,
    /// The measurements.
    pub rows: Vec<Row>,
    /// What they are to show.
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
    /// The median of several runs.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// The unit, where it is not the report's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The median with everything that is not the program's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gross: Option<f64>,
    /// What it is to be at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<f64>,
    /// What is particular about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
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

impl Report {
    /// The report in what a program has printed: the JSON document after whatever else there is.
    pub fn read(printed: &str) -> Result<Self> {
        let start = printed
            .find("\n{")
            .map(|end_of_line| end_of_line + 1)
            .filter(|_| !printed.starts_with('{'))
            .unwrap_or(0);
        let mut documents = serde_json::Deserializer::from_str(&printed[start..]).into_iter::<Self>();
        documents
            .next()
            .context("the measuring program printed no report")?
            .context("the measuring program's report cannot be read")
    }

    /// The unit of a row.
    pub fn unit<'a>(&'a self, row: &'a Row) -> &'a str {
        row.unit.as_deref().unwrap_or(&self.unit)
    }
}

/// A measurement in as many digits as mean something.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => grouped(&format!("{value:.0}")),
    }
}

/// Digits with a comma before each three.
fn grouped(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let mut text = sign.to_owned();
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
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    const REPORT: &str = r#"{"bench":"b","title":"t","machine":"m","unit":"ns","rows":[],"checks":[],"notes":[]}"#;

    #[test]
    fn a_report_is_found_after_what_a_machine_says_when_it_boots() {
        for before in ["", "vm-run: Linux 6.1\nsome {thing}\n"] {
            assert_eq!(Report::read(&format!("{before}{REPORT}\n")).unwrap().unit, "ns");
        }
        assert!(Report::read("nothing").is_err());
    }

    #[test]
    fn numbers_have_as_many_digits_as_mean_something() {
        assert_eq!(
            [1.234, 12.34, 123.4, 1_234_567.0, -5.0].map(number),
            ["1.23", "12.3", "123", "1,234,567", "-5.00"]
        );
    }
}
