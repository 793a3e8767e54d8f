//! A report as a table for people.

use lvx_bench_report::{Check, Report, Row, number};

/// Prints the report.
pub fn print(report: &Report) {
    println!("\n{}\n{}\n", report.title, report.machine);
    let mut group = "";
    for rows in report.rows.chunk_by(|a, b| a.group == b.group) {
        if rows[0].group != group {
            group = &rows[0].group;
            println!("{group}");
        }
        let lines: Vec<[String; 6]> = rows.iter().map(|row| line(report, row)).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 5] = std::array::from_fn(width);
        for [case, median, range, gross, bound, note] in &lines {
            let text = format!(
                "  {case:<0$}  {median:>1$}  {range:<2$}  {gross:<3$}  {bound:<4$}  {note}",
                widths[0], widths[1], widths[2], widths[3], widths[4]
            );
            println!("{}", text.trim_end());
        }
    }
    if !report.checks.is_empty() {
        println!("\nWhat it is to show");
    }
    for check in &report.checks {
        println!("  {}", verdict(check));
    }
    if !report.notes.is_empty() {
        println!();
    }
    for note in &report.notes {
        println!("{note}");
    }
    println!();
}

/// The columns of a row.
fn line(report: &Report, row: &Row) -> [String; 6] {
    [
        row.case.clone(),
        format!("{} {}", number(row.median), report.unit(row)),
        format!("({} to {})", number(row.min), number(row.max)),
        row.gross
            .map(|gross| format!("gross {}", number(gross)))
            .unwrap_or_default(),
        row.bound
            .map(|bound| format!("at most {}", number(bound)))
            .unwrap_or_default(),
        row.note.clone().unwrap_or_default(),
    ]
}

/// A check in a line.
fn verdict(check: &Check) -> String {
    format!(
        "{}  {}: {} ({} {})",
        if check.met { "yes" } else { "NO " },
        check.what,
        number(check.measured),
        if check.at_most { "at most" } else { "at least" },
        number(check.bound)
    )
}
