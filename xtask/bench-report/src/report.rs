//! The measurements of one bench.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::{Check, Row, number};

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

impl Report {
    /// A report without rows, of measurements on this machine.
    pub fn new(bench: &str, title: impl Into<String>, unit: &str) -> Self {
        Self {
            bench: bench.to_owned(),
            title: title.into(),
            machine: machine(),
            unit: unit.to_owned(),
            rows: Vec::new(),
            checks: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a row, and a check if it has a bound. Standard error tells whoever waits.
    pub fn add(&mut self, row: Row) {
        let unit = self.unit(&row);
        eprintln!("{:>12} {unit}  {}: {}", number(row.median), row.group, row.case);
        if let Some(bound) = row.bound {
            let what = format!("{}: {}, {unit}", row.group, row.case);
            self.checks.push(Check::at_most(what, row.median, bound));
        }
        self.rows.push(row);
    }

    /// Adds several, in their order.
    pub fn add_all(&mut self, rows: impl IntoIterator<Item = Row>) {
        rows.into_iter().for_each(|row| self.add(row));
    }

    /// The unit of a row.
    pub fn unit<'a>(&'a self, row: &'a Row) -> &'a str {
        row.unit.as_deref().unwrap_or(&self.unit)
    }

    /// Writes it to standard output, as JSON.
    ///
    /// # Errors
    ///
    /// None is expected: the error is `serde_json`'s.
    pub fn print(&self) -> serde_json::Result<()> {
        println!("{}", serde_json::to_string_pretty(self)?);
        Ok(())
    }

    /// The report in what a program has printed: the JSON document after whatever else there is.
    ///
    /// # Errors
    ///
    /// `printed` has no line that begins a report, or it is cut short or misses a field.
    pub fn read(printed: &str) -> serde_json::Result<Self> {
        let start = printed
            .find("\n{")
            .map(|end_of_line| end_of_line + 1)
            .filter(|_| !printed.starts_with('{'))
            .unwrap_or(0);
        // Not `from_str`: a virtual machine says something after it too.
        Self::deserialize(&mut serde_json::Deserializer::from_str(&printed[start..]))
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    const REPORT: &str = r#"{"bench":"b","title":"t","machine":"m","unit":"ns","rows":[],"checks":[],"notes":[]}"#;

    #[test]
    fn a_report_is_found_between_what_a_machine_says_when_it_boots_and_when_it_halts() {
        for before in ["", "vm-run: Linux 6.1\nsome {thing}\n"] {
            for after in ["", "\n", "\nreboot: Power down\n"] {
                let printed = format!("{before}{REPORT}{after}");
                assert_eq!(Report::read(&printed).unwrap().unit, "ns");
            }
        }
        assert!(Report::read("nothing").is_err());
        assert!(Report::read("").is_err());
    }

    #[test]
    fn a_row_s_bound_is_checked_in_its_unit() {
        let mut report = Report::new("b", "t", "ns");
        report.add(Row::new("g", "bounded", &[2.0]).bound(1.0));
        report.add(Row::new("g", "in another unit", &[2.0]).unit("MB").bound(3.0));
        report.add(Row::new("g", "without a bound", &[2.0]));
        let checks: Vec<(&str, bool)> = report.checks.iter().map(|check| (&*check.what, check.met)).collect();
        assert_eq!(checks, [("g: bounded, ns", false), ("g: in another unit, MB", true)]);
    }

    #[test]
    fn the_fields_of_its_json_are_what_readers_know() {
        let mut report = Report::new("b", "t", "ns");
        report.machine = "m".to_owned();
        report.add(Row::new("g", "c", &[1.0, 2.0, 3.0]));
        report.add(Row {
            gross: Some(9.0),
            ..Row::new("g", "d", &[4.0]).unit("MB").bound(5.0).note("n")
        });
        report.notes.push("o".to_owned());
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"bench":"b","title":"t","machine":"m","unit":"ns","rows":[{"group":"g","case":"c","median":2.0,"min":1.0,"max":3.0},{"group":"g","case":"d","median":4.0,"min":4.0,"max":4.0,"unit":"MB","gross":9.0,"bound":5.0,"note":"n"}],"checks":[{"what":"g: d, MB","measured":4.0,"bound":5.0,"at_most":true,"met":true}],"notes":["o"]}"#
        );
    }
}
