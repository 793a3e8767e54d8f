//! Spans of time as users write them: `500ms`, `2s`, `1m`, or a number of seconds.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A span of time, whole milliseconds, at most 31 days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

/// A text that is no span of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a span of time: write 500ms, 2s, 1m, 1h or 1d, up to 31d")]
pub struct NoPeriod(String);

const DAY: u64 = 86_400_000;
const LONGEST: u64 = 31 * DAY;

impl Period {
    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// The same as the standard library's type.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Whether it is no time at all.
    pub const fn is_zero(&self) -> bool {
        self.0.is_zero()
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            0 => f.pad("0s"),
            millis if millis > u128::from(DAY) && millis % u128::from(DAY) == 0 => {
                f.pad(&format!("{}d", millis / u128::from(DAY)))
            }
            millis if millis % 3_600_000 == 0 => f.pad(&format!("{}h", millis / 3_600_000)),
            millis if millis % 60_000 == 0 => f.pad(&format!("{}m", millis / 60_000)),
            millis if millis % 1_000 == 0 => f.pad(&format!("{}s", millis / 1_000)),
            millis => f.pad(&format!("{millis}ms")),
        }
    }
}

impl FromStr for Period {
    type Err = NoPeriod;

    fn from_str(text: &str) -> Result<Self, NoPeriod> {
        let refuse = || NoPeriod(text.to_owned());
        let split = text
            .find(|character: char| !character.is_ascii_digit() && character != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit: f64 = match unit.trim() {
            "ms" => 1.0,
            "s" | "" => 1_000.0,
            "m" => 60_000.0,
            "h" => 3_600_000.0,
            "d" => DAY as f64,
            _ => return Err(refuse()),
        };
        let millis = number.parse::<f64>().map_err(|_| refuse())? * unit;
        if millis.is_finite() && millis >= 0.0 && millis <= LONGEST as f64 {
            Ok(Self::from_millis(millis.round() as u64))
        } else {
            Err(refuse())
        }
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Period;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a span of time such as \"500ms\" or \"2s\", or a number of seconds")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Period, E> {
                self.visit_str(&seconds.to_string())
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Period, E> {
                self.visit_str(&seconds.to_string())
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Period, E> {
                self.visit_str(&seconds.to_string())
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
    fn a_period_is_read_and_written_the_same() {
        for text in ["0s", "500ms", "2s", "90s", "3m", "1h", "24h", "31d", "1500ms"] {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), text);
        }
        assert_eq!("1.5s".parse::<Period>().unwrap(), Period::from_millis(1_500));
        assert_eq!(serde_json::from_str::<Period>("2").unwrap(), Period::from_millis(2_000));
        assert_eq!(
            serde_json::from_str::<Period>("0.25").unwrap(),
            Period::from_millis(250)
        );
    }

    #[test]
    fn what_is_no_period_is_refused() {
        for text in ["", "s", "-1s", "32d", "745h", "1e9", "NaN", "2 s x", "1.2.3s"] {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Period>("-1").is_err());
    }
}
