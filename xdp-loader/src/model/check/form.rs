//! A probe as it is written in documents, in the state file and in the API, and what makes it valid.

use std::{fmt, net::IpAddr, path::PathBuf};

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{Check, Period, Statuses};

/// Memory that a compiled pattern may take, in bytes: what a pattern such as `(.{1000}){1000}` would need is refused.
pub const PATTERN_LIMIT: usize = 256 * 1024;

/// The longest text in a check, in bytes.
const TEXT_LIMIT: usize = 4_096;

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

        impl CheckForm {
            /// A form with nothing but its type.
            pub fn new(kind: CheckType) -> Self {
                Self { kind, $($field: None,)* }
            }

            /// The first field that its type does not have.
            fn foreign_field(&self) -> Option<&'static str> {
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
    /// The program and its arguments.
    command: Vec<String>, [Exec];
    /// Where in a JSON body the load is: a JSON pointer such as `/load`.
    load_field: String, [Http, Https];
    /// The value of `load_field` that means full load.
    load_full: Positive, [Http, Https];
    /// The load, in percent, from which a backend gets no new connections.
    load_limit: u32, [Http, Https, Agent];
    /// The weight that is left under load, in percent of the configured one.
    load_floor: u32, [Http, Https, Agent];
}

/// What is asked: what clients reach, or the backend itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeTo {
    /// The VIP, at this backend: what a client of a `dr` service reaches.
    Vip,
    /// The backend's own address.
    Address,
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
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|character| !character.is_whitespace())
        .map(|character| character.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    if digits.len() % 2 != 0 {
        return None;
    }
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

impl CheckForm {
    /// Checks everything that can be checked without the service.
    pub(super) fn validate(&self) -> Result<(), CheckError> {
        self.fault().map_or(Ok(()), |reason| {
            Err(CheckError {
                kind: self.kind,
                reason,
            })
        })
    }

    fn fault(&self) -> Option<String> {
        if let Some(field) = self.foreign_field() {
            return Some(format!("has no field `{field}`: remove it, or choose another type"));
        }
        self.timing_fault()
            .or_else(|| self.text_fault())
            .or_else(|| self.type_fault())
    }

    fn timing_fault(&self) -> Option<String> {
        let check = Check(self.clone());
        let (interval, timeout) = (check.interval(), check.timeout());
        let shortest = Period::from_millis(10);
        if interval < shortest {
            return Some(format!("interval {interval} is too short: 10ms is the least"));
        }
        if timeout.is_zero() {
            return Some("timeout 0s leaves no time to answer: 1ms is the least".into());
        }
        if timeout > interval {
            return Some(format!(
                "timeout {timeout} is longer than the interval {interval}: probes would overlap; shorten it"
            ));
        }
        if check.retry() < timeout {
            return Some(format!(
                "delay_before_retry {} is shorter than the timeout {timeout}: probes would overlap; raise it",
                check.retry()
            ));
        }
        for (name, count) in [("rise", check.rise()), ("fall", check.fall())] {
            if !(1..=1_000).contains(&count) {
                return Some(format!("{name} {count} is out of range: it must be 1 to 1000"));
            }
        }
        if check.jitter() > 50 {
            return Some(format!(
                "jitter {} is out of range: it must be 0 to 50 percent",
                check.jitter()
            ));
        }
        if self.port == Some(0) {
            return Some("port 0: ports are 1 to 65535; leave it out to use the backend's".into());
        }
        for (name, percent) in [("load_limit", self.load_limit), ("load_floor", self.load_floor)] {
            if percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
                return Some(format!("{name} is out of range: it must be 1 to 100 percent"));
            }
        }
        None
    }

    fn text_fault(&self) -> Option<String> {
        let texts = [
            ("send", &self.send),
            ("send_hex", &self.send_hex),
            ("expect", &self.expect),
            ("expect_hex", &self.expect_hex),
            ("expect_regex", &self.expect_regex),
            ("method", &self.method),
            ("path", &self.path),
            ("host", &self.host),
            ("body", &self.body),
            ("body_regex", &self.body_regex),
            ("sni", &self.sni),
            ("name", &self.name),
            ("answer", &self.answer),
            ("grpc_service", &self.grpc_service),
            ("load_field", &self.load_field),
        ];
        for (name, text) in texts {
            let Some(text) = text else { continue };
            if text.len() > TEXT_LIMIT {
                return Some(format!("{name} is longer than {TEXT_LIMIT} bytes: shorten it"));
            }
            if text.is_empty() && name != "grpc_service" {
                return Some(format!("{name} is empty: leave it out"));
            }
        }
        for (name, pattern) in [("expect_regex", &self.expect_regex), ("body_regex", &self.body_regex)] {
            if let Some(Err(reason)) = pattern.as_deref().map(compile) {
                return Some(format!("{name} {reason}"));
            }
        }
        for (name, hex) in [("send_hex", &self.send_hex), ("expect_hex", &self.expect_hex)] {
            if hex.as_deref().is_some_and(|hex| from_hex(hex).is_none()) {
                return Some(format!(
                    "{name} is not hexadecimal: write two digits per byte, such as \"0a ff\""
                ));
            }
        }
        let pairs = [
            ("send", self.send.is_some(), "send_hex", self.send_hex.is_some()),
            ("body", self.body.is_some(), "body_regex", self.body_regex.is_some()),
        ];
        for (first, has_first, second, has_second) in pairs {
            if has_first && has_second {
                return Some(format!("has both {first} and {second}: keep one"));
            }
        }
        let expectations = [&self.expect, &self.expect_hex, &self.expect_regex];
        if expectations.iter().filter(|text| text.is_some()).count() > 1 {
            return Some("has more than one of expect, expect_hex and expect_regex: keep one".into());
        }
        None
    }

    fn type_fault(&self) -> Option<String> {
        match self.kind {
            CheckType::Http | CheckType::Https => self.http_fault(),
            CheckType::Dns => self.dns_fault(),
            CheckType::Exec => match self.command.as_deref() {
                None | Some([]) => Some("needs a command: command = [\"/path/of/program\", \"argument\"]".into()),
                Some([program, ..]) if !program.starts_with('/') => Some(format!(
                    "command `{program}` is not an absolute path: the daemon has no working directory to rely on"
                )),
                Some(words) if words.iter().any(|word| word.contains('\0')) => Some("command has a zero byte".into()),
                Some(words) if words.iter().map(String::len).sum::<usize>() > TEXT_LIMIT => {
                    Some(format!("command is longer than {TEXT_LIMIT} bytes: put it in a script"))
                }
                Some(_) => None,
            },
            CheckType::Agent if self.port.is_none() => {
                Some("needs the port that the agent listens on: port = 9777".into())
            }
            CheckType::Grpc
                if self.tls != Some(true) && (self.sni.is_some() || self.verify.is_some() || self.ca.is_some()) =>
            {
                Some("has sni, verify or ca without TLS: add tls = true".into())
            }
            CheckType::Udp => match (&self.send, &self.send_hex) {
                (None, None) => Some("needs something to send: send = \"...\" or send_hex = \"...\"".into()),
                _ => None,
            },
            CheckType::Icmp | CheckType::Tcp | CheckType::Agent | CheckType::Grpc => None,
        }
    }

    fn http_fault(&self) -> Option<String> {
        if let Some(path) = &self.path
            && (!path.starts_with('/') || path.parse::<hyper::Uri>().is_err())
        {
            return Some(format!(
                "path `{path}` is not a path: it begins with `/` and has no spaces"
            ));
        }
        if let Some(method) = &self.method
            && hyper::Method::from_bytes(method.as_bytes()).is_err()
        {
            return Some(format!(
                "method `{method}` is not an HTTP method: write GET, HEAD, OPTIONS ..."
            ));
        }
        if let Some(host) = &self.host
            && hyper::header::HeaderValue::from_str(host).is_err()
        {
            return Some(format!("host `{}` cannot be sent as a header", host.escape_debug()));
        }
        if let Some(pointer) = &self.load_field
            && !pointer.starts_with('/')
        {
            return Some(format!(
                "load_field `{pointer}` is not a JSON pointer: write /load or /system/load"
            ));
        }
        let needs_field = self.load_full.is_some() || self.load_limit.is_some() || self.load_floor.is_some();
        if needs_field && self.load_field.is_none() {
            return Some("has load_full, load_limit or load_floor without load_field: say where the load is".into());
        }
        None
    }

    fn dns_fault(&self) -> Option<String> {
        use hickory_proto::rr::{Name, RecordType};
        let Some(name) = &self.name else {
            return Some("needs a name to query: name = \"example.org\"".into());
        };
        if Name::from_ascii(name).is_err() {
            return Some(format!("name `{name}` is not a domain name"));
        }
        if let Some(record) = &self.record
            && record.to_ascii_uppercase().parse::<RecordType>().is_err()
        {
            return Some(format!(
                "record `{record}` is not a record type: write A, AAAA, TXT, SOA ..."
            ));
        }
        if let Some(rcode) = &self.rcode
            && crate::model::check::rcode(rcode).is_none()
        {
            return Some(format!(
                "rcode `{rcode}` is not known: write noerror, nxdomain, servfail, refused, notimp or formerr"
            ));
        }
        None
    }
}

/// One check or a list of them: `[service.health]` and `[[service.health]]`.
pub(in crate::model) fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Check>, D::Error> {
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

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
