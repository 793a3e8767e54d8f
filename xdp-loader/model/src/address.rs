//! How services and backends are named: `tcp://10.0.0.100:80`, `10.0.0.11`, `[2001:db8::2]:8080`.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Transport protocols that LVX balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, protocol number 6.
    Tcp,
    /// UDP, protocol number 17.
    Udp,
}

impl Protocol {
    /// The protocol's number in an IP header (IANA, Assigned Internet Protocol Numbers).
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The protocol's name as it stands in a service's address.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family that an address belongs to.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Why a text is not the address of a service or backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseAddressError {
    /// The text does not begin with a protocol that LVX balances.
    #[error("`{0}` names no protocol: a service is written tcp://ADDRESS:PORT or udp://ADDRESS:PORT")]
    Protocol(String),
    /// What follows the protocol is not an address and a port.
    #[error(
        "`{0}` is not a service's address: write tcp://10.0.0.100:80 or udp://[2001:db8::1]:53 \
         (an IP address, not a name; port 1 to 65535; IPv6 in brackets)"
    )]
    Service(String),
    /// The text is neither an address nor an address and a port.
    #[error(
        "`{0}` is not a backend's address: write 10.0.0.11, 10.0.0.11:8080, 2001:db8::2 or [2001:db8::2]:8080 \
         (an IP address, not a name; port 1 to 65535)"
    )]
    Backend(String),
    /// An IPv6 address was written with a zone (`%eth0`).
    #[error("`{0}` has a zone (%...): LVX takes the interface from the kernel's routes; write the address without it")]
    Zone(String),
}

/// Where clients reach a service: protocol, virtual address and port, as in `tcp://10.0.0.100:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAddress {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The virtual IP address (VIP).
    pub ip: IpAddr,
    /// The port, 1 to 65535, in host order.
    pub port: u16,
}

impl ServiceAddress {
    /// The address family of the VIP, which is also that of every backend.
    pub const fn family(&self) -> Family {
        Family::of(self.ip)
    }
}

impl fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.protocol, SocketAddr::new(self.ip, self.port))
    }
}

impl FromStr for ServiceAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (protocol, rest) = match text.split_once("://") {
            Some(("tcp", rest)) => (Protocol::Tcp, rest),
            Some(("udp", rest)) => (Protocol::Udp, rest),
            _ => return Err(ParseAddressError::Protocol(text.to_owned())),
        };
        if rest.contains('%') {
            return Err(ParseAddressError::Zone(text.to_owned()));
        }
        match rest.parse::<SocketAddr>() {
            Ok(socket) if socket.port() != 0 => Ok(Self {
                protocol,
                ip: socket.ip(),
                port: socket.port(),
            }),
            _ => Err(ParseAddressError::Service(text.to_owned())),
        }
    }
}

/// What names a backend inside a service: an address, with a port where it differs from the service's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendAddress {
    /// The backend's own address.
    pub ip: IpAddr,
    /// The backend's port, 1 to 65535, in host order; none means the service's.
    pub port: Option<u16>,
}

impl BackendAddress {
    /// The port that packets for this backend carry.
    pub fn effective_port(&self, service: &ServiceAddress) -> u16 {
        self.port.unwrap_or(service.port)
    }
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}", SocketAddr::new(self.ip, port)),
            None => write!(f, "{}", self.ip),
        }
    }
}

impl FromStr for BackendAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('%') {
            return Err(ParseAddressError::Zone(text.to_owned()));
        }
        // `[2001:db8::2]` without a port is accepted too: it is how half of the world writes it.
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Some(ip) = bracketed.and_then(|inner| inner.parse::<Ipv6Addr>().ok()) {
            return Ok(Self {
                ip: ip.into(),
                port: None,
            });
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self { ip, port: None });
        }
        match text.parse::<SocketAddr>() {
            Ok(socket) if socket.port() != 0 => Ok(Self {
                ip: socket.ip(),
                port: Some(socket.port()),
            }),
            _ => Err(ParseAddressError::Backend(text.to_owned())),
        }
    }
}

macro_rules! serde_as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

serde_as_text!(ServiceAddress, BackendAddress);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;

    #[test]
    fn a_service_address_is_read_and_written_the_same() {
        for text in ["tcp://10.0.0.100:80", "udp://[2001:db8::1]:53", "tcp://1.2.3.4:65535"] {
            assert_eq!(text.parse::<ServiceAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_service_address_is_refused() {
        for text in [
            "10.0.0.100:80",
            "sctp://10.0.0.100:80",
            "tcp://10.0.0.100",
            "tcp://10.0.0.100:0",
            "tcp://10.0.0.100:65536",
            "tcp://example.org:80",
            "tcp://2001:db8::1:80",
            "tcp://[fe80::1%2]:80",
            "TCP://10.0.0.100:80",
            "tcp://10.0.0.100:80/",
            "",
        ] {
            assert!(text.parse::<ServiceAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_backend_address_is_read_and_written_the_same() {
        for text in ["10.0.0.11", "10.0.0.11:8080", "2001:db8::2", "[2001:db8::2]:8080"] {
            assert_eq!(text.parse::<BackendAddress>().unwrap().to_string(), text);
        }
        assert_eq!(
            "[2001:db8::2]".parse::<BackendAddress>().unwrap().to_string(),
            "2001:db8::2"
        );
    }

    #[test]
    fn what_is_not_a_backend_address_is_refused() {
        for text in [
            "nginx1",
            "10.0.0.11:0",
            "10.0.0.11:99999",
            "10.0.0.256",
            "fe80::1%eth0",
            "[10.0.0.1]",
            "",
        ] {
            assert!(text.parse::<BackendAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_texts_in_json() {
        let service: ServiceAddress = serde_json::from_str("\"udp://[2001:db8::1]:53\"").unwrap();
        assert_eq!(serde_json::to_string(&service).unwrap(), "\"udp://[2001:db8::1]:53\"");
        let error = serde_json::from_str::<BackendAddress>("\"nginx1\"").unwrap_err();
        assert!(
            error.to_string().contains("`nginx1` is not a backend's address"),
            "{error}"
        );
    }
}
