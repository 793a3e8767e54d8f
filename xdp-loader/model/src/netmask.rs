//! Netmasks as users write them: a prefix's length, `24`, or the mask itself, `255.255.255.0`.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Family;

/// The length of a prefix, in bits: how much of a client's address tells it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Netmask(pub u8);

/// A text that is no netmask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no netmask: write the length of a prefix (24; up to 32 for IPv4, 128 for IPv6) or 255.255.255.0")]
pub struct NoNetmask(String);

impl Netmask {
    /// The mask that tells every address of a family from every other.
    pub const fn full(family: Family) -> Self {
        match family {
            Family::V4 => Self(32),
            Family::V6 => Self(128),
        }
    }
}

/// Reads the length of a prefix, however it is written.
pub(super) fn some_length<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    Netmask::deserialize(deserializer).map(|Netmask(length)| Some(length))
}

impl fmt::Display for Netmask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Netmask {
    type Err = NoNetmask;

    fn from_str(text: &str) -> Result<Self, NoNetmask> {
        let refuse = || NoNetmask(text.to_owned());
        let length = match text.parse::<Ipv4Addr>() {
            Ok(mask) => ipnet::ipv4_mask_to_prefix(mask).map_err(|_| refuse())?,
            Err(_) => text.strip_prefix('/').unwrap_or(text).parse().map_err(|_| refuse())?,
        };
        if (1..=128).contains(&length) {
            Ok(Self(length))
        } else {
            Err(refuse())
        }
    }
}

impl Serialize for Netmask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.0)
    }
}

impl<'de> Deserialize<'de> for Netmask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Netmask;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a netmask such as 24 or \"255.255.255.0\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Netmask, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, length: u64) -> Result<Netmask, E> {
                self.visit_str(&length.to_string())
            }

            fn visit_i64<E: de::Error>(self, length: i64) -> Result<Netmask, E> {
                self.visit_str(&length.to_string())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_netmask_is_a_length_or_a_mask() {
        for (text, length) in [
            ("24", 24),
            ("/24", 24),
            ("255.255.255.0", 24),
            ("255.255.255.255", 32),
            ("56", 56),
        ] {
            assert_eq!(text.parse(), Ok(Netmask(length)), "{text}");
        }
    }

    #[test]
    fn what_is_no_netmask_is_refused() {
        for text in [
            "0",
            "129",
            "-1",
            "255.0.255.0",
            "0.0.0.0",
            "10.0.0.1",
            "ffff::",
            "",
            "24.0",
        ] {
            assert!(text.parse::<Netmask>().is_err(), "{text}");
        }
    }
}
