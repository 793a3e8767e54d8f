//! Where in a file something is wrong.

use std::{fmt, string::FromUtf8Error};

/// What is wrong in a text, and where, in one line: `lvx.toml:3: unknown field ...`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct LocatedError {
    /// The file's name, or what stands for it.
    pub file: String,
    /// The line, from 1; none when the error has no place.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for LocatedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

impl LocatedError {
    /// Places an error of the TOML parser in the text that it was given.
    pub fn from_toml(file: &str, text: &str, error: &toml::de::Error) -> Self {
        let line = error.span().map(|span| {
            let before = text.as_bytes().iter().take(span.start);
            1 + before.filter(|byte| **byte == b'\n').count()
        });
        Self {
            file: file.to_owned(),
            line,
            message: one_line(error.message()),
        }
    }

    /// Places the first byte that is no text.
    pub fn not_utf8(file: &str, error: &FromUtf8Error) -> Self {
        let text = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        Self {
            file: file.to_owned(),
            line: Some(1 + text.filter(|byte| **byte == b'\n').count()),
            message: "not UTF-8 text".to_owned(),
        }
    }

    /// Places an error of the JSON parser.
    pub fn from_json(file: &str, error: &serde_json::Error) -> Self {
        let line = Some(error.line()).filter(|line| *line > 0);
        Self {
            file: file.to_owned(),
            line,
            message: json_message(error),
        }
    }
}

/// A text without the byte order mark that some editors write before it. RFC 8259, section 8.1, lets a reader ignore it.
pub fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// What a JSON error says, without the place that serde_json appends.
pub fn json_message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    one_line(text.strip_suffix(&place).unwrap_or(&text))
}

/// The parsers' messages may span lines; ours are one.
fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}
