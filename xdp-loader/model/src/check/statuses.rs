//! Sets of HTTP statuses: `200`, `"200-299,304"`.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Some of the statuses from 100 to 599; may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Vec<RangeInclusive<u16>>);

/// A text that is no set of statuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no set of HTTP statuses: write 200, \"200-299\" or \"200,204,301-308\" (100 to 599)")]
pub struct NoStatuses(String);

impl Statuses {
    /// The statuses of a range.
    pub fn range(range: RangeInclusive<u16>) -> Self {
        Self(vec![range])
    }

    /// Whether the status is one of them.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Statuses {
    type Err = NoStatuses;

    fn from_str(text: &str) -> Result<Self, NoStatuses> {
        if text.trim().is_empty() {
            return Ok(Self(Vec::new()));
        }
        let status = |text: &str| {
            text.trim()
                .parse::<u16>()
                .ok()
                .filter(|status| (100..600).contains(status))
        };
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (status(first)?, status(last)?);
            (first <= last).then_some(first..=last)
        };
        let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
        ranges.map(Self).ok_or_else(|| NoStatuses(text.to_owned()))
    }
}

impl Serialize for Statuses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Statuses;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a set of HTTP statuses such as 200 or \"200-299,304\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Statuses, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, status: u64) -> Result<Statuses, E> {
                self.visit_str(&status.to_string())
            }

            fn visit_i64<E: de::Error>(self, status: i64) -> Result<Statuses, E> {
                self.visit_str(&status.to_string())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;

    #[test]
    fn a_set_is_read_written_and_asked() {
        let set: Statuses = "200-299, 304".parse().unwrap();
        assert_eq!(set.to_string(), "200-299,304");
        assert!(set.contains(204) && set.contains(304) && !set.contains(301) && !set.contains(503));
        assert_eq!(serde_json::from_str::<Statuses>("204").unwrap().to_string(), "204");
        assert!(!"".parse::<Statuses>().unwrap().contains(200));
    }

    #[test]
    fn what_is_no_status_is_refused() {
        for text in ["ok", "99", "600", "299-200", "200-", "200,,204", "2xx"] {
            assert!(text.parse::<Statuses>().is_err(), "{text}");
        }
    }
}
