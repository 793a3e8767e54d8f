//! Spans of time as users write them: `500ms`, `2s`, `1h30m`, or a number of seconds.

use std::{fmt, str::FromStr, time::Duration};

use humantime::DurationError;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A span of time, whole milliseconds, at most 31 days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

/// A text that is no span of time, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a span of time: {reason}; write 500ms, 2s, 1h30m or 1d, up to 31d")]
pub struct NoPeriod {
    text: String,
    reason: String,
}

const DAY: u64 = 86_400_000;
const LONGEST: u64 = 31 * DAY;

/// What the parser takes for 30.44 and for 365.25 days; `M` is easily meant as minutes.
const CALENDAR: [&str; 8] = ["M", "month", "months", "y", "yr", "yrs", "year", "years"];

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
        let span = match decimal(text) {
            Some(span) => span,
            None => spelled(text),
        };
        span.and_then(|span| {
            if span > Duration::from_millis(LONGEST) {
                Err("it is longer than 31d".to_owned())
            } else {
                Ok(Self(span))
            }
        })
        .map_err(|reason| NoPeriod {
            text: text.to_owned(),
            reason,
        })
    }
}

/// A number of seconds, or a fraction of one unit (`1.5s`), to the nearest millisecond. The parser of spans takes neither a
/// number without a unit nor a fraction that does not come out whole.
fn decimal(text: &str) -> Option<Result<Duration, String>> {
    let text = text.trim();
    let split = text.find(|character: char| !character.is_ascii_digit() && character != '.');
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let unit = match unit.trim_start() {
        "ms" => 1.0,
        "s" | "" => 1_000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => DAY as f64,
        _ => return None,
    };
    if split.is_some() && !number.contains('.') {
        return None;
    }
    let millis = number.parse::<f64>().ok()? * unit;
    Some(if millis <= LONGEST as f64 {
        Ok(Duration::from_millis(millis.round() as u64))
    } else {
        Err("it is longer than 31d".to_owned())
    })
}

/// One number with a unit, or several: `90s`, `1h30m`, `1h 30min`.
fn spelled(text: &str) -> Result<Duration, String> {
    if !text.is_ascii() {
        return Err("it has characters other than ASCII".to_owned());
    }
    if text.trim_start().starts_with('-') {
        return Err("it is negative".to_owned());
    }
    // So few digits in so short a text cannot overflow the parser's sums.
    let longest_number = text
        .split(|character: char| !character.is_ascii_digit())
        .map(str::len)
        .max();
    if text.len() > 64 || longest_number.is_some_and(|digits| digits > 10) {
        return Err("it has too many digits".to_owned());
    }
    let mut units = text.split(|character: char| !character.is_ascii_alphabetic());
    if let Some(unit) = units.find(|unit| CALENDAR.contains(unit)) {
        return Err(format!(
            "`{unit}` is a month or a year, which differ in length (minutes are `m`)"
        ));
    }
    let span = humantime::parse_duration(text).map_err(|error| match error {
        DurationError::Empty => "it is empty".to_owned(),
        DurationError::InvalidCharacter(at) | DurationError::NumberExpected(at) => {
            match text.get(at..).and_then(|rest| rest.chars().next()) {
                Some(found) => format!("it has `{found}` where a number or a unit is expected"),
                None => "it ends where a number is expected".to_owned(),
            }
        }
        DurationError::UnknownUnit { unit, value, .. } if unit.is_empty() => format!("{value} has no unit"),
        DurationError::UnknownUnit { unit, .. } => format!("there is no unit `{unit}`"),
        DurationError::NumberOverflow => "a number in it is too large or too small".to_owned(),
    })?;
    if span.subsec_nanos() % 1_000_000 == 0 {
        Ok(span)
    } else {
        Err("it is not a whole number of milliseconds".to_owned())
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
    fn a_period_can_be_made_of_several_units_and_is_written_in_one() {
        for (text, written) in [
            ("1h30m", "90m"),
            ("1h 30m", "90m"),
            ("1d12h", "36h"),
            ("2w", "14d"),
            ("1m30s", "90s"),
            ("1m", "1m"),
            ("1min", "1m"),
            ("2 hours 1 second", "7201s"),
            ("1s500ms", "1500ms"),
            ("1000us", "1ms"),
            ("1h0.5m", "3630s"),
            ("30d23h59m60s", "31d"),
        ] {
            let period: Period = text.parse().unwrap();
            assert_eq!(period.to_string(), written, "{text}");
            assert_eq!(written.parse(), Ok(period));
        }
    }

    #[test]
    fn what_was_a_period_before_there_were_several_units_still_is() {
        for (text, millis) in [
            ("0", 0),
            ("300", 300_000),
            ("0.25", 250),
            ("0.30000000000000004", 300),
            ("1.5ms", 2),
            ("0.0001h", 360),
            (".5s", 500),
            ("1.s", 1_000),
            ("5 m", 300_000),
            ("5m ", 300_000),
            ("2678400000ms", LONGEST),
            ("744h", LONGEST),
        ] {
            assert_eq!(text.parse(), Ok(Period::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_period_is_refused() {
        for text in ["", "s", "-1s", "32d", "745h", "1e9", "NaN", "2 s x", "1.2.3s"] {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Period>("-1").is_err());
    }

    #[test]
    fn a_refusal_says_what_and_why_and_what_to_write() {
        for (text, reason) in [
            ("", "it is empty"),
            (" ", "it is empty"),
            ("-1s", "it is negative"),
            ("-1", "it is negative"),
            ("soon", "it has `s` where a number or a unit is expected"),
            ("1h-5m", "it has `-` where"),
            ("1h 5", "5 has no unit"),
            ("5min3", "3 has no unit"),
            ("5x", "there is no unit `x`"),
            ("1M", "`M` is a month or a year"),
            ("1y", "`y` is a month or a year"),
            ("1h2years", "`years` is a month or a year"),
            ("2 months", "`months` is a month or a year"),
            ("5\u{b5}s", "it has characters other than ASCII"),
            ("\u{661}s", "it has characters other than ASCII"),
            ("1\u{a0}h", "it has characters other than ASCII"),
            ("32d", "it is longer than 31d"),
            ("31d1ms", "it is longer than 31d"),
            ("99999999999999999999", "it is longer than 31d"),
            ("18446744073709551615s 1000ms", "it has too many digits"),
            ("9999999999w9999999999w9999999999w", "it is longer than 31d"),
            ("1ns", "it is not a whole number of milliseconds"),
            ("1s0.0005s", "it is not a whole number of milliseconds"),
        ] {
            let message = text.parse::<Period>().unwrap_err().to_string();
            let start = format!("`{text}` is not a span of time: {reason}");
            assert!(message.starts_with(&start), "{message:?} does not start with {start:?}");
            assert!(
                message.ends_with("; write 500ms, 2s, 1h30m or 1d, up to 31d"),
                "{message}"
            );
        }
    }
}
