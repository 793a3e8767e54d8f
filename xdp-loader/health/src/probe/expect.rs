//! What an answer must contain.

use memchr::memmem;
use regex::bytes::Regex;

use lvx_model::check;

/// A text or a pattern.
#[derive(Debug)]
pub enum Expect {
    /// These bytes, anywhere.
    Text(Vec<u8>),
    /// A match, anywhere.
    Pattern(Regex),
}

impl Expect {
    /// These bytes.
    pub fn text(bytes: Vec<u8>) -> Self {
        Self::Text(bytes)
    }

    /// A pattern, within [`check::PATTERN_LIMIT`].
    ///
    /// # Errors
    /// When it does not compile within it.
    pub fn pattern(pattern: &str) -> Result<Self, String> {
        check::compile(pattern).map(Self::Pattern)
    }

    /// Whether the bytes contain it.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Text(text) => memmem::find(bytes, text).is_some(),
            Self::Pattern(pattern) => pattern.is_match(bytes),
        }
    }

    /// The same, where the bytes before `from` were looked at and did not contain it.
    pub fn is_in_from(&self, bytes: &[u8], from: usize) -> bool {
        match self {
            Self::Text(text) => self.is_in(&bytes[from.saturating_sub(text.len())..]),
            Self::Pattern(_) => self.is_in(bytes),
        }
    }
}

impl std::fmt::Display for Expect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "`{}`", text.escape_ascii()),
            Self::Pattern(pattern) => write!(f, "/{pattern}/"),
        }
    }
}
