//! What is wrong with a probe as it is written, if anything is: all that can be said without the service.

use super::{
    Check, CheckError, CheckForm, CheckType, Period,
    pattern::{compile, from_hex},
};

/// The longest text in a check, in bytes.
const TEXT_LIMIT: usize = 4_096;

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
                Some(_) if self.nagios == Some(true) && self.weight_from_status == Some(true) => {
                    Some("has both nagios and weight_from_status, and an exit status cannot mean both: keep one".into())
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
            && (!path.starts_with('/') || path.parse::<http::Uri>().is_err())
        {
            return Some(format!(
                "path `{path}` is not a path: it begins with `/` and has no spaces"
            ));
        }
        if let Some(method) = &self.method
            && http::Method::from_bytes(method.as_bytes()).is_err()
        {
            return Some(format!(
                "method `{method}` is not an HTTP method: write GET, HEAD, OPTIONS ..."
            ));
        }
        if let Some(host) = &self.host
            && http::header::HeaderValue::from_str(host).is_err()
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
            && crate::check::rcode(rcode).is_none()
        {
            return Some(format!(
                "rcode `{rcode}` is not known: write noerror, nxdomain, servfail, refused, notimp or formerr"
            ));
        }
        None
    }
}
