//! What answers are compared with: patterns within bounds, and bytes in hexadecimal.

use regex::bytes::{Regex, RegexBuilder};

/// Memory that a compiled pattern may take, in bytes: what a pattern such as `(.{1000}){1000}` would need is refused.
pub const PATTERN_LIMIT: usize = 256 * 1024;

/// Compiles a pattern within [`PATTERN_LIMIT`].
///
/// # Errors
/// When it is not a regular expression or would take more memory; one line.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(PATTERN_LIMIT)
        .dfa_size_limit(PATTERN_LIMIT)
        .nest_limit(50)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => {
                format!("`{pattern}` would need more than {PATTERN_LIMIT} bytes when compiled: make it simpler")
            }
            other => {
                let text = other.to_string();
                let last = text.lines().last().unwrap_or("not a regular expression").to_owned();
                format!("`{pattern}`: {}", last.trim_start_matches("error: "))
            }
        })
}

/// The bytes that a text in hexadecimal stands for; spaces are allowed between them.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|character| !character.is_whitespace())
        .map(|character| character.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
