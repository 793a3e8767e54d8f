//! A probe as it is written in documents, in the state file and in the API.

use std::{fmt, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{Check, Period, Statuses};
use crate::{change::or_none, names::named};

/// What a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckType {
    /// ICMP echo.
    Icmp,
    /// A TCP connection, and what is said over it.
    Tcp,
    /// An HTTP/1.1 request.
    Http,
    /// The same over TLS.
    Https,
    /// A DNS query over UDP.
    Dns,
    /// A UDP datagram and its answer.
    Udp,
    /// The gRPC health checking protocol.
    Grpc,
    /// A program's exit status.
    Exec,
    /// HAProxy's agent-check: a TCP connection that is answered with a line of text.
    Agent,
}

impl CheckType {
    /// Every type, in the order in which they are shown to users.
    pub const ALL: &[Self] = &[
        Self::Icmp,
        Self::Tcp,
        Self::Http,
        Self::Https,
        Self::Dns,
        Self::Udp,
        Self::Grpc,
        Self::Exec,
        Self::Agent,
    ];

    /// The name that users write.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Https => "https",
            Self::Dns => "dns",
            Self::Udp => "udp",
            Self::Grpc => "grpc",
            Self::Exec => "exec",
            Self::Agent => "agent",
        }
    }
}

impl fmt::Display for CheckType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why a check cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("health check {kind}: {reason}")]
pub struct CheckError {
    /// Its type.
    pub kind: CheckType,
    /// What is wrong and what to do.
    pub reason: String,
}

macro_rules! form {
    ($($(#[$doc:meta])* $field:ident: $type:ty, [$($kind:ident),*];)*) => {
        /// A probe as it is written; see [`Check`].
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct CheckForm {
            /// What is asked.
            #[serde(rename = "type")]
            pub kind: CheckType,
            $($(#[$doc])* #[serde(default, skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }

        /// What to change in a probe; what is absent stays, null in JSON puts a field back to its default.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct CheckChange {
            $(
                $(#[$doc])*
                #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_none")]
                pub $field: Option<Option<$type>>,
            )*
        }

        impl CheckChange {
            /// Changes what is named and keeps the rest.
            pub fn apply_to(&self, form: &mut CheckForm) {
                $(if let Some(new) = &self.$field {
                    form.$field.clone_from(new);
                })*
            }
        }

        impl CheckForm {
            /// A form with nothing but its type.
            pub fn new(kind: CheckType) -> Self {
                Self { kind, $($field: None,)* }
            }

            /// The first field that its type does not have.
            pub(super) fn foreign_field(&self) -> Option<&'static str> {
                use CheckType::*;
                // A field without a list belongs to every type.
                $({
                    let kinds: &[CheckType] = &[$($kind),*];
                    if self.$field.is_some() && !kinds.is_empty() && !kinds.contains(&self.kind) {
                        return Some(stringify!($field));
                    }
                })*
                None
            }
        }
    };
}

form! {
    /// Time from the start of one probe to the start of the next.
    interval: Period, [];
    /// How long one probe may take.
    timeout: Period, [];
    /// Successes in a row that make a backend up.
    rise: u32, [];
    /// Failures in a row that make it down.
    fall: u32, [];
    /// By how many percent an interval may be shortened at random.
    jitter: u32, [];
    /// Time from the start of a probe that failed to the start of the next.
    delay_before_retry: Period, [];
    /// Whether one probe is asked for all services that have the same check of the same backend.
    share: bool, [];
    /// The port to ask at, where it is not the backend's.
    port: u16, [Tcp, Http, Https, Dns, Udp, Grpc, Exec, Agent];
    /// The address to ask from.
    source: IpAddr, [Icmp, Tcp, Http, Https, Dns, Udp, Grpc, Agent];
    /// Whether to ask what clients reach (`vip`) or the backend's own address (`address`).
    to: ProbeTo, [Icmp, Tcp, Http, Https, Dns, Udp, Grpc, Agent];
    /// Text to send.
    send: String, [Tcp, Udp, Agent];
    /// Bytes to send, in hexadecimal.
    send_hex: String, [Tcp, Udp];
    /// Text that the answer must contain.
    expect: String, [Tcp, Udp];
    /// Bytes that the answer must contain, in hexadecimal.
    expect_hex: String, [Tcp, Udp];
    /// A pattern that the answer must match.
    expect_regex: String, [Tcp, Udp];
    /// The request's method.
    method: String, [Http, Https];
    /// The request's path.
    path: String, [Http, Https];
    /// The request's Host.
    host: String, [Http, Https, Grpc];
    /// The statuses that mean healthy.
    status: Statuses, [Http, Https];
    /// The statuses that mean "drain me".
    drain_status: Statuses, [Http, Https];
    /// Text that the body must contain.
    body: String, [Http, Https];
    /// A pattern that the body must match.
    body_regex: String, [Http, Https];
    /// Whether to speak TLS.
    tls: bool, [Grpc];
    /// The name to send in TLS, and to verify.
    sni: String, [Https, Grpc];
    /// Whether to verify the certificate.
    verify: bool, [Https, Grpc];
    /// A file of CA certificates (PEM) to verify with, instead of the system's.
    ca: PathBuf, [Https, Grpc];
    /// The name to query.
    name: String, [Dns];
    /// The record type to query.
    record: String, [Dns];
    /// The response code that means healthy.
    rcode: String, [Dns];
    /// The text of a record that must be in the answer.
    answer: String, [Dns];
    /// The gRPC service whose health is asked for.
    grpc_service: String, [Grpc];
    /// How the connection ends: `fin`, which is the default where something is said over it, or `rst`, which leaves nothing behind.
    close: CloseBy, [Tcp];
    /// The program and its arguments.
    command: Vec<String>, [Exec];
    /// Whether an exit status from 2 on is a weight, less 2 (keepalived's `misc_dynamic`); else all but 0 are failures.
    weight_from_status: bool, [Exec];
    /// Whether the program is a Nagios plugin: 0 up, 1 degraded, 2 down, 3 unknown.
    nagios: bool, [Exec];
    /// Where in a JSON body the load is: a JSON pointer such as `/load`.
    load_field: String, [Http, Https];
    /// The value of `load_field` that means full load.
    load_full: Positive, [Http, Https];
    /// The load, in percent, from which a backend gets no new connections.
    load_limit: u32, [Http, Https, Agent];
    /// The weight that is left under load, in percent of the configured one.
    load_floor: u32, [Http, Https, Agent];
}

named! {
    /// How a probe's connection ends.
    CloseBy, "end of a connection" {
        /// As a client's does.
        #[default]
        Fin = "fin",
        /// By a reset.
        Rst = "rst",
    }
}

named! {
    /// What is asked: what clients reach, or the backend itself.
    ProbeTo, "target of a probe" {
        /// The VIP, at this backend: what a client of a `dr` service reaches.
        #[default]
        Vip = "vip",
        /// The backend's own address.
        Address = "address",
    }
}

/// A number greater than zero; equality is of its bits, as it only ever comes from a document.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Positive(f64);

impl PartialEq for Positive {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Positive {}

impl From<Positive> for f64 {
    fn from(positive: Positive) -> Self {
        positive.0
    }
}

impl TryFrom<f64> for Positive {
    type Error = String;

    fn try_from(number: f64) -> Result<Self, String> {
        if number.is_finite() && number > 0.0 {
            Ok(Self(number))
        } else {
            Err(format!("{number} is not a number greater than 0"))
        }
    }
}

/// One check or a list of them: `[service.health]` and `[[service.health]]`.
pub(crate) fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Check>, D::Error> {
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Vec<Check>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a health check or a list of them")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<Check>, A::Error> {
            let mut checks = Vec::new();
            while let Some(check) = sequence.next_element()? {
                checks.push(check);
            }
            Ok(checks)
        }

        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Vec<Check>, A::Error> {
            Check::deserialize(de::value::MapAccessDeserializer::new(map)).map(|check| vec![check])
        }
    }
    deserializer.deserialize_any(Visitor)
}
