//! What is typed for a field of a service or a backend: a value, or `default`.

use std::{error::Error as StdError, ffi::OsStr, str::FromStr};

use clap::{
    Arg, Command, Error,
    builder::{BoolValueParser, PossibleValue, PossibleValuesParser, TypedValueParser},
};

/// What a field is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting<T> {
    /// Its default.
    Default,
    /// A value.
    To(T),
}

impl<T> Setting<T> {
    /// The value, where the default is that there is none.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Default => None,
            Self::To(value) => Some(value),
        }
    }

    /// The value, where the default is a value too.
    pub fn or(self, default: T) -> T {
        self.value().unwrap_or(default)
    }
}

impl<T: Default> Setting<T> {
    /// The value, where the default is its type's.
    pub fn or_default(self) -> T {
        self.or(T::default())
    }
}

/// Reads `default`, or what another parser reads.
#[derive(Clone)]
pub struct OrDefault<P>(P);

/// Reads `default`, or what `parser` reads.
pub fn setting<P: TypedValueParser>(parser: P) -> OrDefault<P> {
    OrDefault(parser)
}

/// Reads `default`, or a value as it stands in documents.
pub fn typed<T>() -> OrDefault<impl TypedValueParser<Value = T>>
where
    T: FromStr<Err: Into<Box<dyn StdError + Send + Sync>>> + Clone + Send + Sync + 'static,
{
    OrDefault(|text: &str| text.parse::<T>())
}

/// Reads `default`, `true` or `false`.
pub fn boolean() -> OrDefault<BoolValueParser> {
    OrDefault(BoolValueParser::new())
}

/// Reads the name of one of a few things.
pub fn named<T: Copy + Send + Sync>(
    all: &'static [T],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    let names = PossibleValuesParser::new(all.iter().map(|known| name(*known)));
    names.try_map(move |typed| {
        let known = all.iter().find(|known| name(**known) == typed);
        known.copied().ok_or("no such name")
    })
}

const DEFAULT: &str = "default";

impl<P: TypedValueParser> TypedValueParser for OrDefault<P> {
    type Value = Setting<P::Value>;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Self::Value, Error> {
        if value == DEFAULT {
            Ok(Setting::Default)
        } else {
            self.0.parse_ref(command, arg, value).map(Setting::To)
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let values = self.0.possible_values()?;
        Some(Box::new(values.chain([PossibleValue::new(DEFAULT)])))
    }
}
