//! The form in which services are written in files: TOML (`[[service]]`, `[[service.backend]]`) or the same as JSON.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    Service,
    located::{LocatedError, without_bom},
};

/// A list of services, syntactically right but not yet validated: see [`crate::Desired::from_document`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The services.
    #[serde(rename = "service")]
    pub services: Vec<Service>,
}

/// How a document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// TOML.
    Toml,
    /// JSON.
    Json,
}

impl Format {
    /// The format of a file, by its extension if that says it, else by its first character.
    pub fn detect(path: Option<&Path>, text: &str) -> Self {
        match path.and_then(Path::extension).and_then(|extension| extension.to_str()) {
            Some("toml") => Self::Toml,
            Some("json") => Self::Json,
            _ if without_bom(text).trim_start().starts_with('{') => Self::Json,
            _ => Self::Toml,
        }
    }
}

impl Document {
    /// Reads a document; `file` is what errors call it.
    ///
    /// # Errors
    /// When the text is not in that format, has a field that does not exist, or a value that cannot be; with the line.
    pub fn parse(text: &str, format: Format, file: &str) -> Result<Self, LocatedError> {
        let text = without_bom(text);
        let parsed = match format {
            Format::Toml => toml::from_str(text).map_err(|error| LocatedError::from_toml(file, text, &error)),
            Format::Json => serde_json::from_str(text).map_err(|error| LocatedError::from_json(file, &error)),
        };
        // An empty file is more often an accident than a wish to remove every service.
        parsed.map_err(|error| match error.message.as_str() {
            "missing field `service`" => LocatedError {
                line: None,
                message: "no service in it: write [[service]] entries, or `service = []` to remove every service"
                    .into(),
                ..error
            },
            _ => error,
        })
    }

    /// Writes the document so that [`Document::parse`] reads the same.
    pub fn render(&self, format: Format) -> String {
        // A document is made of texts, integers and booleans: neither writer can fail on it.
        match format {
            Format::Toml => toml::to_string(self).unwrap_or_default(),
            Format::Json => serde_json::to_string_pretty(self).unwrap_or_default() + "\n",
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;
    use crate::{Desired, Forward, HashBy, Scheduler};

    const FULL: &str = r#"
[[service]]
address = "tcp://10.0.0.100:80"
forward = "nat"
scheduler = "wrr"
mh_slots = 251

[[service.backend]]
address = "10.0.0.11"
weight = 2

[[service.backend]]
address = "10.0.0.12:8080"
drain = true
forward = "nat"

[[service]]
address = "udp://[2001:db8::1]:53"
"#;

    fn toml_error(text: &str) -> String {
        Document::parse(text, Format::Toml, "services.toml")
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_example_of_the_design_is_read() {
        let document = Document::parse(FULL, Format::Toml, "services.toml").unwrap();
        let desired = Desired::from_document(document).unwrap();
        let web = desired.service("tcp://10.0.0.100:80".parse().unwrap()).unwrap();
        assert_eq!(
            (web.forward, web.scheduler, web.mh_slots),
            (Forward::Nat, Scheduler::Wrr, 251)
        );
        assert_eq!((web.backends[0].weight, web.backends[1].weight), (2, 1));
        assert!(web.backends[1].drain);
    }

    #[test]
    fn what_is_written_is_read_back_the_same_in_both_formats() {
        let document = Document::parse(FULL, Format::Toml, "services.toml").unwrap();
        let desired = Desired::from_document(document).unwrap();
        for format in [Format::Toml, Format::Json] {
            let text = desired.to_document().render(format);
            let back = Document::parse(&text, Format::detect(None, &text), "export").unwrap();
            assert_eq!(Desired::from_document(back).unwrap(), desired, "{text}");
        }
        for format in [Format::Toml, Format::Json] {
            let text = Document::default().render(format);
            assert_eq!(
                Document::parse(&text, format, "export").unwrap(),
                Document::default(),
                "{text}"
            );
        }
    }

    const HEALTH: &str = r#"
[[service]]
address = "tcp://10.0.0.100:80"

[service.availability]
combine = "any"
slow_start = "30s"
quorum = 2
quorum_hysteresis = 1
fail_open = true

[[service.health]]
type = "http"
path = "/healthz"
status = "200-299"
interval = "500ms"

[[service.health]]
type = "tcp"

[[service.backend]]
address = "10.0.0.11"

[[service.backend.health]]
type = "exec"
command = ["/bin/check", "it"]

[[service.backend]]
address = "10.0.0.12"
sorry = true
health = []

[[service.backend]]
address = "10.0.0.13"
disabled = true
[service.backend.health]
type = "icmp"

[[service]]
address = "udp://10.0.0.100:53"
[service.health]
type = "dns"
name = "example.org"
"#;

    #[test]
    fn health_is_read_one_by_one_and_as_lists_and_written_back_the_same() {
        let document = Document::parse(HEALTH, Format::Toml, "services.toml").unwrap();
        let desired = Desired::from_document(document).unwrap();
        let web = desired.service("tcp://10.0.0.100:80".parse().unwrap()).unwrap();
        assert_eq!((web.health.len(), web.availability.quorum), (2, 2));
        let checks: Vec<_> = web.backends.iter().map(|backend| backend.checks(web).len()).collect();
        assert_eq!(checks, [1, 0, 1]);
        assert!(web.backends[1].sorry && web.backends[2].disabled);
        let weights: Vec<_> = web.backends.iter().map(crate::Backend::scheduled_weight).collect();
        assert_eq!(weights, [1, 0, 0]);
        for format in [Format::Toml, Format::Json] {
            let text = desired.to_document().render(format);
            let back = Document::parse(&text, format, "export").unwrap();
            assert_eq!(Desired::from_document(back).unwrap(), desired, "{text}");
        }
    }

    const CONNECTIONS: &str = r#"
[[service]]
address = "tcp://10.0.0.100:80"
scheduler = "mh"
hash = "source"
persistence = "300s"
netmask = "255.255.255.0"
mark = 1
on_loss = "drop"
overload = "sorry"
on_none = "drop"
timeouts = { established = "1h", udp = 30 }

[[service.backend]]
address = "10.0.0.11"
upper = 1000
lower = 800

[[service]]
address = "udp://10.0.0.100:53"
one_packet = true
"#;

    #[test]
    fn what_is_kept_of_connections_is_read_and_written_back_the_same() {
        let document = Document::parse(CONNECTIONS, Format::Toml, "services.toml").unwrap();
        let desired = Desired::from_document(document).unwrap();
        let web = desired.service("tcp://10.0.0.100:80".parse().unwrap()).unwrap();
        assert_eq!(
            (web.netmask, web.mark, web.hash_by()),
            (Some(24), Some(1), HashBy::Source)
        );
        assert_eq!((web.backends[0].upper, web.backends[0].lower), (1_000, 800));
        for format in [Format::Toml, Format::Json] {
            let text = desired.to_document().render(format);
            let back = Document::parse(&text, format, "export").unwrap();
            assert_eq!(Desired::from_document(back).unwrap(), desired, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_health_is_said_with_its_line() {
        let service = "[[service]]\naddress = \"tcp://10.0.0.100:80\"\n";
        let cases = [
            (
                "[service.health]\ntype = \"http\"\npaht = \"/\"\n",
                "services.toml:5: unknown field `paht`",
            ),
            (
                "[[service.health]]\ntype = \"tcp\"\npath = \"/\"\n",
                "services.toml:3: health check tcp: has no field `path`",
            ),
            (
                "[service.availability]\nquorom = 2\n",
                "services.toml:4: unknown field `quorom`",
            ),
            ("health = \"tcp\"\n", "services.toml:3: invalid type"),
        ];
        for (text, start) in cases {
            let message = toml_error(&format!("{service}{text}"));
            assert!(message.starts_with(start), "{message:?} does not start with {start:?}");
        }
        for (text, part) in [
            (
                "[service.availability]\nquorum = 2\nquorum_hysteresis = 2\n",
                "must be less than the quorum 2",
            ),
            (
                "[service.health]\ntype = \"tcp\"\nsource = \"::1\"\n",
                "must be of one address family",
            ),
        ] {
            let document = Document::parse(&format!("{service}{text}"), Format::Toml, "services.toml").unwrap();
            let message = Desired::from_document(document).unwrap_err().to_string();
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
    }

    #[test]
    fn a_misspelt_field_is_named_with_file_and_line() {
        let message = toml_error(
            "[[service]]\naddress = \"tcp://10.0.0.100:80\"\n\n[[service.backend]]\naddress = \"10.0.0.11\"\nwieght = 2\n",
        );
        assert!(
            message.starts_with("services.toml:6: unknown field `wieght`"),
            "{message}"
        );
        let message = toml_error("[[service]]\naddress = \"tcp://10.0.0.100:80\"\nscheduller = \"mh\"\n");
        assert!(
            message.starts_with("services.toml:3: unknown field `scheduller`"),
            "{message}"
        );
        let message = toml_error("[[services]]\naddress = \"tcp://10.0.0.100:80\"\n");
        assert!(
            message.starts_with("services.toml:1: unknown field `services`"),
            "{message}"
        );
    }

    #[test]
    fn an_impossible_value_is_named_with_file_and_line() {
        let service = "[[service]]\naddress = \"tcp://10.0.0.100:80\"\n";
        let cases = [
            (
                "[[service]]\naddress = \"tcp://10.0.0.300:80\"\n".to_owned(),
                "services.toml:2: `tcp://10.0.0.300:80`",
            ),
            (
                format!("{service}forward = \"fullnat\"\n"),
                "services.toml:3: unknown variant `fullnat`",
            ),
            (
                format!("{service}[[service.backend]]\naddress = \"web1\"\n"),
                "services.toml:4: `web1` is not a backend",
            ),
            (
                format!("{service}[[service.backend]]\naddress = \"10.0.0.1\"\nweight = 70000\n"),
                "services.toml:3: weight 70000",
            ),
            (format!("{service}oops\n"), "services.toml:3: "),
        ];
        for (text, start) in cases {
            let message = toml_error(&text);
            assert!(message.starts_with(start), "{message:?} does not start with {start:?}");
            assert!(!message.contains('\n'), "{message:?}");
        }
    }

    #[test]
    fn an_error_in_json_has_its_line_too() {
        let text = "{\"service\": [\n{\"address\": \"tcp://10.0.0.100:80\",\n\"forwrad\": \"dr\"}]}";
        let message = Document::parse(text, Format::Json, "services.json")
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with("services.json:3: unknown field `forwrad`"),
            "{message}"
        );
    }

    #[test]
    fn an_empty_file_does_not_remove_every_service() {
        assert!(toml_error("").contains("`service = []`"));
        let error = Document::parse("{}", Format::Json, "a.json").unwrap_err();
        assert!(error.to_string().contains("`service = []`"), "{error}");
    }

    #[test]
    fn the_format_is_told_by_extension_or_first_character() {
        let detect = |path: Option<&str>, text| Format::detect(path.map(Path::new), text);
        assert_eq!(detect(Some("a.json"), ""), Format::Json);
        assert_eq!(detect(Some("a.toml"), "{"), Format::Toml);
        assert_eq!(detect(Some("a.conf"), " \n{"), Format::Json);
        assert_eq!(detect(None, "[[service]]"), Format::Toml);
    }
}
