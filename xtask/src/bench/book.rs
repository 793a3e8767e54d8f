//! `cargo xtask bench book`: the latest reports as tables in the book's chapter of measurements.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result, ensure};
use lvx_bench_report::{Check, Report, Row, number};

/// The chapter that has the tables, below the root of the workspace.
pub const CHAPTER: &str = "docs/measurements.md";
/// Between these lines of the chapter stand the tables.
const BEGIN: &str = "<!-- what was measured: cargo xtask bench book -->";
const END: &str = "<!-- end of what was measured -->";
/// The reports, in the order of the tables.
const ORDER: [&str; 6] = ["program", "forward", "vm", "http", "connections", "control"];

/// Puts the reports in `directory` into the file `chapter`, and returns the benches that have one.
pub fn update(directory: &Path, chapter: &Path) -> Result<Vec<&'static str>> {
    let mut tables = String::new();
    let mut found = Vec::new();
    for bench in ORDER {
        let file = directory.join(format!("{bench}.json"));
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let report = serde_json::from_str(&text).with_context(|| format!("{} cannot be read", file.display()))?;
        tables.push_str(&markdown(&report));
        found.push(bench);
    }
    ensure!(
        !found.is_empty(),
        "nothing has been measured: {} has no report",
        directory.display()
    );
    let text = fs::read_to_string(chapter)?;
    let place = text
        .split_once(BEGIN)
        .and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = place.with_context(|| format!("{} has no place for tables: {BEGIN}", chapter.display()))?;
    fs::write(chapter, format!("{before}{BEGIN}\n{tables}\n{END}{after}"))?;
    Ok(found)
}

/// A report in Markdown.
fn markdown(report: &Report) -> String {
    let mut text = format!(
        "\n## `cargo xtask bench {}`\n\n{}. {}; {}.\n",
        report.bench,
        report.title,
        report.machine,
        report.notes.join("; ")
    );
    let groups: Vec<&[Row]> = report.rows.chunk_by(|a, b| a.group == b.group).collect();
    let cases = |rows: &[Row]| -> Vec<String> { rows.iter().map(|row| row.case.clone()).collect() };
    if groups.len() > 1 && groups.iter().all(|rows| cases(rows) == cases(groups[0])) {
        text.push_str(&crossed(report, &groups));
    } else {
        for rows in groups {
            let _ = write!(text, "\n{}:\n", rows[0].group);
            match rows.iter().all(|row| flows(row).is_some()) {
                true => text.push_str(&by_flows(report, rows)),
                false => text.push_str(&plain(report, rows)),
            }
        }
    }
    if !report.checks.is_empty() {
        text.push_str(&verdict(&report.checks));
    }
    text
}

/// A line for each case, a column for each group.
fn crossed(report: &Report, groups: &[&[Row]]) -> String {
    let heads = groups
        .iter()
        .map(|rows| format!("{}, {}", rows[0].group, report.unit(&rows[0])));
    let mut text = head(heads);
    for (place, row) in groups[0].iter().enumerate() {
        let cells: Vec<String> = groups.iter().map(|rows| number(rows[place].median)).collect();
        let _ = writeln!(text, "| {} | {} |", row.case, cells.join(" | "));
    }
    text
}

/// A line for each case, a column for each number of flows.
fn by_flows(report: &Report, rows: &[Row]) -> String {
    let numbers: BTreeSet<u64> = rows.iter().filter_map(|row| Some(flows(row)?.1)).collect();
    let unit = report.unit(&rows[0]);
    let heads = numbers.iter().map(|flows| {
        format!(
            "{} flow{}, {unit}",
            number(*flows as f64).replace(".00", ""),
            if *flows == 1 { "" } else { "s" }
        )
    });
    let mut text = head(heads);
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().filter_map(flows) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for name in names {
        let cell = |of: &u64| -> String {
            let row = rows.iter().find(|row| flows(row) == Some((name, *of)));
            row.map(|row| number(row.median)).unwrap_or_default()
        };
        let cells: Vec<String> = numbers.iter().map(cell).collect();
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    text
}

/// A line for each case.
fn plain(report: &Report, rows: &[Row]) -> String {
    let mut text = head(["median", "from, to"].map(str::to_owned));
    for row in rows {
        let _ = writeln!(
            text,
            "| {} | {} {} | {}, {} |",
            row.case,
            number(row.median),
            report.unit(row),
            number(row.min),
            number(row.max)
        );
    }
    text
}

/// The first lines of a table of cases.
fn head(columns: impl IntoIterator<Item = String>) -> String {
    let columns: Vec<String> = columns.into_iter().collect();
    format!(
        "\n| | {} |\n| --- |{}\n",
        columns.join(" | "),
        " --- |".repeat(columns.len())
    )
}

/// How many bounds are kept, and which are not.
fn verdict(checks: &[Check]) -> String {
    let missed: Vec<&Check> = checks.iter().filter(|check| !check.met).collect();
    let (all, kept) = (checks.len(), checks.len() - missed.len());
    if missed.is_empty() {
        return format!("\nAll {all} bounds are kept.\n");
    }
    let mut text = format!("\nOf {all} bounds {kept} are kept. Not kept:\n\n");
    for check in missed {
        let bound = if check.at_most { "at most" } else { "at least" };
        let _ = writeln!(
            text,
            "- {}: {}, to be {bound} {}",
            check.what,
            number(check.measured),
            number(check.bound)
        );
    }
    text
}

/// The name and the number of flows of a case like `DR UDP IPv4, 10,000 flows`.
fn flows(row: &Row) -> Option<(&str, u64)> {
    let named = row
        .case
        .strip_suffix(" flows")
        .or_else(|| row.case.strip_suffix(" flow"))?;
    let (name, flows) = named.rsplit_once(", ")?;
    Some((name, flows.replace(',', "").parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    fn row(group: &str, case: &str, median: f64) -> Row {
        Row {
            group: group.to_owned(),
            case: case.to_owned(),
            median,
            min: median,
            max: median,
            unit: None,
            gross: None,
            bound: None,
            note: None,
        }
    }

    fn report(rows: Vec<Row>) -> Report {
        Report {
            bench: "program".to_owned(),
            title: "t".to_owned(),
            machine: "m".to_owned(),
            unit: "ns".to_owned(),
            rows,
            checks: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn numbers_of_flows_become_columns() {
        let rows = vec![row("g", "DR, 1 flow", 1.0), row("g", "DR, 10,000 flows", 2.0)];
        let text = markdown(&report(rows));
        assert!(
            text.contains("| | 1 flow, ns | 10,000 flows, ns |\n| --- | --- | --- |\n| DR | 1.00 | 2.00 |"),
            "{text}"
        );
    }

    #[test]
    fn bounds_that_are_not_kept_are_told() {
        let check = |measured: f64| Check {
            what: "DR, ns".to_owned(),
            measured,
            bound: 30.0,
            at_most: true,
            met: measured <= 30.0,
        };
        assert_eq!(verdict(&[check(29.0)]), "\nAll 1 bounds are kept.\n");
        let text = verdict(&[check(29.0), check(31.0)]);
        assert!(text.contains("Of 2 bounds 1 are kept") && text.ends_with("- DR, ns: 31.0, to be at most 30.0\n"));
    }

    #[test]
    fn groups_of_the_same_cases_become_columns() {
        let rows = ["g", "h"]
            .map(|group| [row(group, "a", 1.0), row(group, "b", 2.0)])
            .concat();
        let text = markdown(&report(rows));
        assert!(text.contains("| | g, ns | h, ns |\n"), "{text}");
        assert!(text.contains("| b | 2.00 | 2.00 |"), "{text}");
    }

    #[test]
    fn only_what_stands_between_the_marks_changes() {
        let directory = std::env::temp_dir().join(format!("lvx-book-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let chapter = directory.join("measurements.md");
        fs::write(&chapter, format!("before\n{BEGIN}\nold\n{END}\nafter\n")).unwrap();
        let json = serde_json::to_string(&report(vec![row("g", "a", 1.0)])).unwrap();
        fs::write(directory.join("program.json"), json).unwrap();
        assert_eq!(update(&directory, &chapter).unwrap(), ["program"]);
        let text = fs::read_to_string(&chapter).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert!(
            text.starts_with("before\n") && text.ends_with("\nafter\n") && !text.contains("old"),
            "{text}"
        );
    }
}
