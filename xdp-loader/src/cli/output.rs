//! How answers are printed: for people or for programs, with colours on a terminal only.

use std::{
    env,
    io::{self, IsTerminal as _, Write},
};

use serde::Serialize;

use super::{args::Form, table::Table};

/// Where answers go and in which form.
#[derive(Debug)]
pub(super) struct Output<W> {
    out: W,
    form: Form,
    colours: bool,
    /// Whether somebody sees a line being overwritten.
    live: bool,
}

/// The colours that carry a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    /// Red.
    Bad,
    /// Green.
    Good,
    /// Yellow.
    Notable,
}

impl Colour {
    /// Select Graphic Rendition, ECMA-48 8.3.117.
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::Bad => "\x1b[31m",
            Self::Good => "\x1b[32m",
            Self::Notable => "\x1b[33m",
        }
    }
}

/// Back to the terminal's own colours.
pub(super) const RESET: &str = "\x1b[0m";

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

/// See <https://no-color.org>: set and not empty means none.
pub(super) fn wants_colours() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
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
