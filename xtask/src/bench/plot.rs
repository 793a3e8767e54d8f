//! A report as a plot: a bar for each row, its range, and its bound.

use std::fmt::Write as _;

use lvx_bench_report::{Report, Row, number};

/// Height of a row, in pixels.
const ROW: u32 = 20;
/// Where bars begin.
const LEFT: u32 = 400;
/// Width of the longest bar.
const BARS: u32 = 440;
/// Room for the numbers at the end of the bars.
const RIGHT: u32 = 140;
/// Room above the first row.
const TOP: u32 = 64;

const STYLE: &str = "text{font-family:'DejaVu Sans',Verdana,sans-serif;font-size:12px;fill:#222}\
    .title{font-size:15px;font-weight:bold}.machine{fill:#777}.group{font-weight:bold}\
    .bar{fill:#4878a8}.over{fill:#b8604a}.range{stroke:#222;stroke-width:1}.bound{stroke:#c8961e;stroke-width:2}\
    .value{fill:#444;font-size:11px}";

/// The plot as an SVG document. Each group whose rows have the same unit has a scale of its own.
pub fn svg(report: &Report) -> String {
    let mut body = String::new();
    let mut y = TOP;
    for rows in report
        .rows
        .chunk_by(|a, b| a.group == b.group && report.unit(a) == report.unit(b))
    {
        text(&mut body, 10, y + 14, "group", "start", &rows[0].group);
        y += ROW;
        let greatest = rows
            .iter()
            .flat_map(|row| [row.max, row.bound.unwrap_or_default()])
            .fold(f64::MIN_POSITIVE, f64::max);
        for row in rows {
            bar(&mut body, y, row, greatest, report.unit(row));
            y += ROW;
        }
        y += ROW / 2;
    }
    let width = LEFT + BARS + RIGHT;
    let mut head = String::new();
    text(&mut head, 10, 24, "title", "start", &report.title);
    text(&mut head, 10, 44, "machine", "start", &report.machine);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">\n<style>{STYLE}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{head}{body}</svg>\n",
        height = y + 10,
    )
}

/// The bar of a row.
fn bar(body: &mut String, y: u32, row: &Row, greatest: f64, unit: &str) {
    let at = |value: f64| f64::from(LEFT) + (value.max(0.0) / greatest) * f64::from(BARS);
    let class = match row.bound {
        Some(bound) if row.median > bound => "over",
        _ => "bar",
    };
    text(body, LEFT - 8, y + 14, "case", "end", &row.case);
    let middle = y + ROW / 2;
    // Writing into a string does not fail.
    let _ = writeln!(
        body,
        "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{}\" width=\"{:.1}\" height=\"{}\"/>",
        y + 3,
        at(row.median) - f64::from(LEFT),
        ROW - 6
    );
    let _ = writeln!(
        body,
        "<line class=\"range\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>",
        at(row.min),
        at(row.max)
    );
    if let Some(bound) = row.bound {
        let _ = writeln!(
            body,
            "<line class=\"bound\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1}\" y2=\"{2}\"/>",
            at(bound),
            y + 1,
            y + ROW - 1
        );
    }
    let end = at(row.max.max(row.median).max(row.bound.unwrap_or_default())) as u32 + 6;
    let value = format!("{} {unit}", number(row.median));
    text(body, end, y + 14, "value", "start", &value);
}

/// A line of text.
fn text(body: &mut String, x: u32, y: u32, class: &str, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        body,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_above_its_bound_is_marked_and_names_are_escaped() {
        let mut report = Report::new("b", "t", "ns");
        report.rows = vec![Row::new("g", "a<b", &[19.0, 20.0, 21.0]).bound(10.0)];
        let svg = svg(&report);
        assert!(svg.contains("class=\"over\"") && svg.contains("a&lt;b") && svg.contains("class=\"bound\""));
    }
}
