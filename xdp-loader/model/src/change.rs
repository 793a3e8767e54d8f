//! How a change is written: what is absent stays, and null puts a field back to its default (RFC 7396, JSON merge patch).

use serde::{Deserialize, Deserializer};

/// A field whose default is a value like any other.
pub(crate) fn or_default<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de> + Default,
    D: Deserializer<'de>,
{
    or(deserializer, T::default())
}

/// The same, with a default that is not its type's.
pub(crate) fn or<'de, T, D>(deserializer: D, default: T) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Some(Option::deserialize(deserializer)?.unwrap_or(default)))
}

/// A field that is absent by default.
pub(crate) fn or_none<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Some)
}
