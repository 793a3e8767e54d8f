//! How answers are printed: for people or for programs, with colours on a terminal only.

use std::io::{self, IsTerminal as _, Write};

use serde::Serialize;

use super::{
    args::Form,
    colour::{Colour, RESET, wants_colours},
    table::Table,
};

/// Where answers go and in which form.
#[derive(Debug)]
pub(super) struct Output<W> {
    out: W,
    form: Form,
    colours: bool,
    /// Whether somebody sees a line being overwritten.
    live: bool,
}

impl Output<io::BufWriter<io::Stdout>> {
    pub(super) fn stdout(form: Form) -> Self {
        let live = io::stdout().is_terminal();
        Self {
            out: io::BufWriter::new(io::stdout()),
            form,
            colours: live && wants_colours(),
            live,
        }
    }
}

impl<W: Write> Output<W> {
    #[cfg(test)]
    pub(super) fn new(out: W, form: Form, colours: bool) -> Self {
        Self {
            out,
            form,
            colours,
            live: false,
        }
    }

    /// Prints JSON if that is asked for; else what `people` writes.
    pub(super) fn answer(
        &mut self,
        value: &impl Serialize,
        people: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        if self.form == Form::Json {
            serde_json::to_writer_pretty(&mut self.out, value).map_err(io::Error::from)?;
            self.line("")?;
        } else {
            people(self)?;
        }
        Ok(self.out.flush()?)
    }

    pub(super) fn is_json(&self) -> bool {
        self.form == Form::Json
    }

    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    /// Shows how far something is: on a terminal in place of what was shown before, else as a line; nothing with JSON.
    pub(super) fn progress(&mut self, text: &str) -> io::Result<()> {
        match (self.is_json(), self.live) {
            (true, _) => return Ok(()),
            // Erase in line, ECMA-48 8.3.41.
            (false, true) => write!(self.out, "\r{text}\x1b[K")?,
            (false, false) => self.line(text)?,
        }
        self.out.flush()
    }

    /// Ends what [`Output::progress`] has shown.
    pub(super) fn progressed(&mut self) -> io::Result<()> {
        if self.live && !self.is_json() {
            self.line("")?;
        }
        Ok(())
    }

    pub(super) fn coloured(&mut self, colour: Colour, text: &str) -> io::Result<()> {
        if self.colours {
            writeln!(self.out, "{}{text}{RESET}", colour.code())
        } else {
            self.line(text)
        }
    }

    pub(super) fn table(&mut self, table: &Table) -> io::Result<()> {
        table.write(&mut self.out, self.colours)
    }

    /// Bytes as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;

    fn shown(form: Form, live: bool) -> String {
        let mut output = Output {
            live,
            ..Output::new(Vec::new(), form, false)
        };
        output.progress("2 left").unwrap();
        output.progress("1 left").unwrap();
        output.progressed().unwrap();
        String::from_utf8(output.out).unwrap()
    }

    #[test]
    fn progress_is_one_line_on_a_terminal_lines_on_a_pipe_and_nothing_in_json() {
        assert_eq!(shown(Form::Table, true), "\r2 left\x1b[K\r1 left\x1b[K\n");
        assert_eq!(shown(Form::Table, false), "2 left\n1 left\n");
        assert_eq!(shown(Form::Json, true), "");
    }
}
