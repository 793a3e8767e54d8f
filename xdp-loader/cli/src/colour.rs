//! Colours on a terminal.

use std::env;

/// The colours that carry a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    /// Red.
    Bad,
    /// Green.
    Good,
    /// Yellow.
    Notable,
}

impl Colour {
    /// Select Graphic Rendition, ECMA-48 8.3.117.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Bad => "\x1b[31m",
            Self::Good => "\x1b[32m",
            Self::Notable => "\x1b[33m",
        }
    }
}

/// Back to the terminal's own colours.
pub(crate) const RESET: &str = "\x1b[0m";

/// See <https://no-color.org>: set and not empty means none.
pub fn wants_colours() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
