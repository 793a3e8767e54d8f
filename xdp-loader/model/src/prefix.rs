//! Networks as users write them: `192.0.2.0/24`, or a single address.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Addresses that agree in their leading bits; one address, if in all. Written as it was read, host bits included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix(IpNet);

/// A text that is neither an address nor a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither an address nor a network: write 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32")]
pub struct NoPrefix(String);

impl Prefix {
    /// Whether an address is one of them.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip)
    }

    /// Whether all addresses that agree with this one in so many leading bits are among its own.
    pub fn contains_network(&self, ip: IpAddr, length: u8) -> bool {
        self.0.prefix_len() <= length && self.contains(ip)
    }
}

impl From<IpAddr> for Prefix {
    fn from(ip: IpAddr) -> Self {
        Self(ip.into())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

impl FromStr for Prefix {
    type Err = NoPrefix;

    fn from_str(text: &str) -> Result<Self, NoPrefix> {
        let address = || text.parse::<IpAddr>().map(Self::from);
        text.parse()
            .map(Self)
            .or_else(|_| address())
            .map_err(|_| NoPrefix(text.to_owned()))
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;

    #[test]
    fn a_network_contains_its_addresses_and_no_others() {
        let cases = [
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
        ];
        for (network, ip, inside) in cases {
            let prefix: Prefix = network.parse().unwrap();
            assert_eq!(prefix.contains(ip.parse().unwrap()), inside, "{ip} in {network}");
            assert_eq!(prefix.to_string(), network);
        }
    }

    #[test]
    fn a_network_contains_smaller_ones_and_itself() {
        let prefix: Prefix = "192.0.2.0/24".parse().unwrap();
        let contains = |ip: &str, length| prefix.contains_network(ip.parse().unwrap(), length);
        assert!(contains("192.0.2.0", 24) && contains("192.0.2.128", 25) && contains("192.0.2.7", 32));
        assert!(!contains("192.0.2.0", 23) && !contains("192.0.3.0", 24));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "192.0.2.0/33",
            "192.0.2.0/",
            "/24",
            "2001:db8::/129",
            "example.org",
            "192.0.2",
        ] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }
}
