//! The node's settings of health: `[health]` in `lvx.toml`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use http::Uri;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};

/// What the health of a node is made with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthSettings {
    /// Where results are kept over a restart; nowhere if none.
    pub state_dir: Option<PathBuf>,
    /// Addresses that VIPs are probed from, one per network of `dr` backends.
    pub probe_addresses: Vec<ProbeAddress>,
    /// Where `GET /v1/pick` is served, if anywhere.
    pub pick: Option<SocketAddr>,
    /// Picks per second at most.
    pub pick_rate: u32,
    /// Whom to tell of changes.
    pub notify: Vec<Hook>,
    /// Programs that `exec` probes may run, whoever gave the probe: absolute paths.
    pub exec_allow: Vec<String>,
}

/// `[health]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HealthFile {
    probe_addresses: Vec<ProbeAddress>,
    pick: Option<SocketAddr>,
    pick_rate: std::num::NonZeroU32,
    notify: Vec<HookFile>,
    exec_allow: Vec<Program>,
}

impl Default for HealthFile {
    fn default() -> Self {
        Self {
            probe_addresses: Vec::new(),
            pick: None,
            pick_rate: std::num::NonZeroU32::MIN.saturating_add(9_999),
            notify: Vec::new(),
            exec_allow: Vec::new(),
        }
    }
}

impl HealthFile {
    /// As it is used.
    pub(crate) fn settings(self, state_dir: PathBuf) -> HealthSettings {
        HealthSettings {
            state_dir: Some(state_dir),
            probe_addresses: self.probe_addresses,
            pick: self.pick,
            pick_rate: self.pick_rate.get(),
            notify: self.notify.into_iter().map(|file| file.0).collect(),
            exec_allow: self.exec_allow.into_iter().map(|program| program.0).collect(),
        }
    }
}

/// The absolute path of a program.
#[derive(Debug)]
struct Program(String);

impl<'de> Deserialize<'de> for Program {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = String::deserialize(deserializer)?;
        if path.starts_with('/') {
            Ok(Self(path))
        } else {
            Err(de::Error::custom(format!(
                "`{path}` is not the absolute path of a program, as the command of a probe names it"
            )))
        }
    }
}

/// Whom to tell: `[[health.notify]]` in `lvx.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A program and its arguments, run without a shell; the notice is on its standard input, as JSON.
    Command(Vec<String>),
    /// `http://HOST:PORT/PATH`; the notice is posted, as JSON.
    Url(Uri),
}

impl Hook {
    /// The program, or the URL.
    pub fn name(&self) -> String {
        match self {
            Self::Command(words) => words.first().cloned().unwrap_or_default(),
            Self::Url(url) => url.to_string(),
        }
    }
}

/// An address of the balancer for probes alone, with the length of its network's prefix: `10.0.0.250/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeAddress(IpNet);

impl ProbeAddress {
    /// The address.
    pub fn ip(&self) -> IpAddr {
        self.0.addr()
    }

    /// The length of its network's prefix, in bits.
    pub fn prefix_len(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether an address is on the same network.
    pub fn reaches(&self, other: IpAddr) -> bool {
        self.0.contains(&other)
    }
}

impl fmt::Display for ProbeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ProbeAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usable = |network: &IpNet| {
            let ip = network.addr();
            let is_host = !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST);
            is_host && network.prefix_len() > 0
        };
        text.parse().ok().filter(usable).map(Self).ok_or_else(|| {
            format!(
                "`{text}` is no probe address: write an unused address of the backends' network, such as 10.0.0.250/24"
            )
        })
    }
}

impl<'de> Deserialize<'de> for ProbeAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// `[[health.notify]]`: a command or a URL.
#[derive(Debug)]
struct HookFile(Hook);

impl<'de> Deserialize<'de> for HookFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Form {
            command: Option<Vec<String>>,
            url: Option<String>,
        }
        let form = Form::deserialize(deserializer)?;
        let hook = match (form.command, form.url) {
            (Some(words), None) => match words.first() {
                Some(program) if program.starts_with('/') => Ok(Hook::Command(words)),
                _ => Err("a notify command begins with the absolute path of a program".to_owned()),
            },
            (None, Some(url)) => match url.parse::<Uri>() {
                Ok(uri) if uri.scheme_str() == Some("http") && uri.host().is_some() => Ok(Hook::Url(uri)),
                _ => Err(format!("`{url}` is no URL to notify: write http://HOST:PORT/PATH")),
            },
            _ => Err("a notify hook has either a command or a url".to_owned()),
        };
        hook.map(HookFile).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;

    #[test]
    fn settings_are_read() {
        let text = "probe_addresses = [\"10.0.0.250/24\", \"2001:db8::250/64\"]\npick = \"127.0.0.1:9107\"\n\
                    exec_allow = [\"/bin/check\"]\n[[notify]]\ncommand = [\"/bin/tell\", \"me\"]\n[[notify]]\nurl = \"http://10.0.0.1:8080/hook\"\n";
        let settings = toml::from_str::<HealthFile>(text).unwrap().settings("/state".into());
        assert_eq!(
            (
                settings.probe_addresses.len(),
                settings.notify.len(),
                settings.pick_rate
            ),
            (2, 2, 10_000)
        );
        assert_eq!(settings.exec_allow, ["/bin/check"]);
        let four = settings.probe_addresses[0];
        assert!(four.reaches([10, 0, 0, 1].into()) && !four.reaches([10, 0, 1, 1].into()));
        let six = settings.probe_addresses[1];
        assert!(six.reaches("2001:db8::9".parse().unwrap()) && !six.reaches("2001:db8:1::9".parse().unwrap()));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for text in [
            "probe_addresses = [\"10.0.0.250\"]",
            "probe_addresses = [\"0.0.0.0/0\"]",
            "probe_addresses = [\"10.0.0.1/33\"]",
            "notify = [{ command = [\"tell\"] }]",
            "notify = [{ url = \"https://a/\" }]",
            "notify = [{}]",
            "pick_rate = 0",
            "exec_allow = [\"check\"]",
            "exec_allow = \"/bin/check\"",
            "picks = 1",
        ] {
            assert!(toml::from_str::<HealthFile>(text).is_err(), "{text}");
        }
    }
}
