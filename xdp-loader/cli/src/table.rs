//! Plain tables: columns as wide as their widest cell, two spaces between them, no borders, so that `awk` can read them.

use std::io::{self, Write};

use super::colour::{Colour, RESET};

/// A table under construction.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Debug)]
struct Column {
    title: &'static str,
    right: bool,
}

/// What stands in one row and column.
#[derive(Debug)]
pub(super) struct Cell {
    text: String,
    colour: Option<Colour>,
}

impl Cell {
    pub(super) fn coloured(text: impl ToString, colour: Colour) -> Self {
        Self {
            text: text.to_string(),
            colour: Some(colour),
        }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self {
            text: text.to_string(),
            colour: None,
        }
    }
}

impl Table {
    /// A table with these columns; those whose title begins with `>` are set to the right, as numbers are.
    pub(super) fn new(titles: &[&'static str]) -> Self {
        let column = |title: &&'static str| match title.strip_prefix('>') {
            Some(title) => Column { title, right: true },
            None => Column { title, right: false },
        };
        Self {
            columns: titles.iter().map(column).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn write(&self, out: &mut impl Write, colours: bool) -> io::Result<()> {
        let width = |at: usize, column: &Column| {
            let cells = self
                .rows
                .iter()
                .filter_map(|row| row.get(at))
                .map(|cell| cell.text.chars().count());
            cells.max().unwrap_or(0).max(column.title.len())
        };
        let widths: Vec<_> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| width(at, column))
            .collect();
        let titles: Vec<Cell> = self.columns.iter().map(|column| column.title.into()).collect();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let last = row.iter().rposition(|cell| !cell.text.is_empty()).unwrap_or(0);
            for (at, ((cell, column), width)) in row.iter().zip(&self.columns).zip(&widths).enumerate().take(last + 1) {
                let gap = width - cell.text.chars().count();
                let (before, after) = if column.right { (gap, 0) } else { (0, gap) };
                // Nothing is written after the last cell of a line.
                let after = if at == last { 0 } else { after + 2 };
                match cell.colour.filter(|_| colours) {
                    Some(colour) => write!(out, "{:before$}{}{}{RESET}{:after$}", "", colour.code(), cell.text, "")?,
                    None => write!(out, "{:before$}{}{:after$}", "", cell.text, "")?,
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", ">SIZE", "NOTE"]);
        table.row(["eth0".into(), 7.into(), "".into()]);
        table.row([
            Cell::coloured("a longer name", Colour::Bad),
            12_345.into(),
            "yes".into(),
        ]);
        table
    }

    fn written(colours: bool) -> String {
        let mut out = Vec::new();
        table().write(&mut out, colours).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        assert_eq!(
            written(false),
            "NAME            SIZE  NOTE\neth0               7\na longer name  12345  yes\n"
        );
    }

    #[test]
    fn colours_do_not_move_columns() {
        let plain = written(true).replace(Colour::Bad.code(), "").replace(RESET, "");
        assert_eq!(plain, written(false));
    }
}
