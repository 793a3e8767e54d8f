//! The node's settings: `lvx.toml` merged with the flags of `lvx run`, which win.

use std::{
    fs, io,
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize, de};

use self::health::HealthFile;
pub use self::{
    health::{HealthSettings, Hook, ProbeAddress},
    reload::Reload,
};
use crate::{
    Timeouts,
    located::{LocatedError, without_bom},
};

mod health;
mod reload;

/// Where settings are read from when no file is named; it need not exist.
pub const DEFAULT_CONFIG: &str = "/etc/lvx/lvx.toml";
/// Where the desired state is kept by default.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/lvx";
/// Where maps, programs and links are pinned by default.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/lvx";
/// Where the control API listens by default.
pub const DEFAULT_SOCKET: &str = "/run/lvx/lvx.sock";

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the settings in {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is not right.
    #[error(transparent)]
    Parse(#[from] LocatedError),
    /// An interface cannot have that name.
    #[error("{0}")]
    InterfaceName(String),
    /// An interface is listed twice.
    #[error("interface {0} is listed twice: name each once")]
    InterfaceTwice(String),
    /// No interface is listed.
    #[error(
        "no interface to attach to: name one with --interface IF, or as `interfaces = [\"IF\"]` in {DEFAULT_CONFIG}"
    )]
    NoInterface,
}

/// How to attach the program to interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver if it can, else in the stack, with a warning.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the stack.
    Generic,
}

/// Where in the receive path the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// In the kernel's stack, after the driver: slower.
    Generic,
}

impl AttachMode {
    /// The name as it stands in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// What happens to a fragment whose first fragment, which alone has the ports, was not seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownFragments {
    /// It is given to the kernel, as if it were not for a service.
    #[default]
    Pass,
    /// It is dropped.
    Drop,
    /// It goes where the addresses alone say: to the backend of a service with that VIP.
    Addresses,
}

/// What `lvx run` works with. Sizes are numbers of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The interfaces to attach to, each once.
    pub interfaces: Vec<String>,
    /// How to attach.
    pub xdp_mode: XdpMode,
    /// The interface that VIPs are added to; none adds them nowhere.
    pub vip_interface: Option<String>,
    /// Where the desired state is kept.
    pub state_dir: PathBuf,
    /// Where maps, programs and links are pinned; in a bpffs.
    pub pin_dir: PathBuf,
    /// Where the control API listens.
    pub socket: PathBuf,
    /// Where metrics are served over HTTP, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Room for IPv4 flows.
    pub flows_v4: u32,
    /// Room for IPv6 flows.
    pub flows_v6: u32,
    /// Room for services.
    pub max_services: u32,
    /// Room for backends, over all services.
    pub max_backends: u32,
    /// How long idle flows are kept, unless a service says otherwise; every one is given.
    pub timeouts: Timeouts,
    /// What happens to a fragment whose first fragment was not seen.
    pub unknown_fragments: UnknownFragments,
    /// How health is watched.
    pub health: HealthSettings,
    /// What the command line said, for when the file is read again.
    overrides: Overrides,
}

/// What the command line says; what is absent is left to the file or the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The file to read instead of [`DEFAULT_CONFIG`]; it must exist.
    pub config: Option<PathBuf>,
    /// Interfaces, in place of the file's if there are any.
    pub interfaces: Vec<String>,
    /// How to attach.
    pub xdp_mode: Option<XdpMode>,
    /// Where the desired state is kept.
    pub state_dir: Option<PathBuf>,
    /// Where to pin.
    pub pin_dir: Option<PathBuf>,
    /// Where the control API listens.
    pub socket: Option<PathBuf>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
}

/// `lvx.toml` as it is written; every field is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConfigFile {
    #[serde(deserialize_with = "interface_names")]
    interfaces: Vec<String>,
    xdp_mode: Option<XdpMode>,
    #[serde(deserialize_with = "interface_name")]
    vip_interface: Option<String>,
    state_dir: Option<PathBuf>,
    pin_dir: Option<PathBuf>,
    socket: Option<PathBuf>,
    metrics: Option<SocketAddr>,
    flows_v4: Option<NonZeroU32>,
    flows_v6: Option<NonZeroU32>,
    max_services: Option<NonZeroU16>,
    max_backends: Option<NonZeroU32>,
    unknown_fragments: UnknownFragments,
    #[serde(deserialize_with = "timeouts")]
    timeouts: Timeouts,
    health: HealthFile,
}

impl Settings {
    /// Reads the file and lets the command line win over it.
    ///
    /// # Errors
    /// When a file that was named does not exist, when the file has a field that does not exist or a value that cannot
    /// be (with its line), when an interface cannot be called that or is listed twice.
    pub fn load(overrides: Overrides) -> Result<Self, ConfigError> {
        let file = read(overrides.config.as_deref())?;
        let said = overrides.clone();
        let interfaces = if overrides.interfaces.is_empty() {
            file.interfaces
        } else {
            overrides.interfaces
        };
        for (at, name) in interfaces.iter().enumerate() {
            check_interface_name(name).map_err(ConfigError::InterfaceName)?;
            if interfaces[..at].contains(name) {
                return Err(ConfigError::InterfaceTwice(name.clone()));
            }
        }
        let vip_interface = match file.vip_interface {
            Some(none) if none == "none" => None,
            Some(name) => Some(name),
            None => interfaces.first().cloned(),
        };
        let path =
            |flag: Option<PathBuf>, file: Option<PathBuf>, default: &str| flag.or(file).unwrap_or(default.into());
        let state_dir = path(overrides.state_dir, file.state_dir, DEFAULT_STATE_DIR);
        Ok(Self {
            health: file.health.settings(state_dir.clone()),
            interfaces,
            xdp_mode: overrides.xdp_mode.or(file.xdp_mode).unwrap_or_default(),
            vip_interface,
            state_dir,
            pin_dir: path(overrides.pin_dir, file.pin_dir, DEFAULT_PIN_DIR),
            socket: path(overrides.socket, file.socket, DEFAULT_SOCKET),
            metrics: overrides.metrics.or(file.metrics),
            flows_v4: file.flows_v4.map_or(1_048_576, NonZeroU32::get),
            flows_v6: file.flows_v6.map_or(262_144, NonZeroU32::get),
            max_services: file.max_services.map_or(4_096, |services| services.get().into()),
            max_backends: file.max_backends.map_or(16_384, NonZeroU32::get),
            timeouts: file.timeouts.or(Timeouts::IPVS),
            unknown_fragments: file.unknown_fragments,
            overrides: said,
        })
    }

    /// Reads the file again and lets the same command line win over it.
    ///
    /// # Errors
    /// As [`Self::load`], and when no interface is named any more.
    pub fn read_again(&self) -> Result<Self, ConfigError> {
        let read = Self::load(self.overrides.clone())?;
        read.require_interface()?;
        Ok(read)
    }

    /// Checks that there is something to attach to.
    ///
    /// # Errors
    /// When no interface is named anywhere.
    pub fn require_interface(&self) -> Result<(), ConfigError> {
        if self.interfaces.is_empty() {
            Err(ConfigError::NoInterface)
        } else {
            Ok(())
        }
    }
}

fn read(named: Option<&Path>) -> Result<ConfigFile, ConfigError> {
    let path = named.unwrap_or(Path::new(DEFAULT_CONFIG));
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
            return Ok(ConfigFile::default());
        }
        Err(source) => {
            return Err(ConfigError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    parse(&text, &path.to_string_lossy()).map_err(ConfigError::Parse)
}

fn parse(text: &str, file: &str) -> Result<ConfigFile, LocatedError> {
    let text = without_bom(text);
    toml::from_str(text).map_err(|error| LocatedError::from_toml(file, text, &error))
}

/// What the kernel's `dev_valid_name` asks of a name (net/core/dev.c).
fn check_interface_name(name: &str) -> Result<(), String> {
    let possible = (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|character: char| character == '/' || character == ':' || character.is_whitespace());
    if possible {
        Ok(())
    } else {
        Err(format!(
            "no interface can be called `{name}`: names have 1 to 15 characters, no space, `/` or `:`"
        ))
    }
}

fn timeouts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timeouts, D::Error> {
    let timeouts = Timeouts::deserialize(deserializer)?;
    match timeouts.fault() {
        Some((of, period)) => Err(de::Error::custom(format!(
            "timeout {of} {period} is out of range: it must be 1s to 31d"
        ))),
        None => Ok(timeouts),
    }
}

fn interface_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    names
        .iter()
        .try_for_each(|name| check_interface_name(name))
        .map_err(de::Error::custom)?;
    Ok(names)
}

fn interface_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(deserializer)?;
    check_interface_name(&name).map_err(de::Error::custom)?;
    Ok(Some(name))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;

    fn load(text: &str, overrides: Overrides) -> Result<Settings, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lvx.toml");
        fs::write(&path, text).unwrap();
        Settings::load(Overrides {
            config: Some(path),
            ..overrides
        })
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let settings = load("", Overrides::default()).unwrap();
        assert_eq!((settings.flows_v4, settings.flows_v6), (1_048_576, 262_144));
        assert_eq!((settings.max_services, settings.max_backends), (4_096, 16_384));
        assert_eq!(
            (settings.xdp_mode, settings.vip_interface.as_deref()),
            (XdpMode::Auto, None)
        );
        assert_eq!(settings.socket, Path::new("/run/lvx/lvx.sock"));
        assert!(matches!(settings.require_interface(), Err(ConfigError::NoInterface)));
    }

    #[test]
    fn flags_win_over_the_file() {
        let text =
            "interfaces = [\"eth0\"]\nxdp_mode = \"native\"\nstate_dir = \"/a\"\nsocket = \"/b\"\nflows_v4 = 5\n";
        let flags = Overrides {
            interfaces: vec!["eth1".into(), "eth2".into()],
            state_dir: Some("/c".into()),
            xdp_mode: Some(XdpMode::Generic),
            ..Overrides::default()
        };
        let settings = load(text, flags).unwrap();
        assert_eq!(settings.interfaces, ["eth1", "eth2"]);
        assert_eq!(settings.vip_interface.as_deref(), Some("eth1"));
        assert_eq!((settings.state_dir, settings.socket), ("/c".into(), "/b".into()));
        assert_eq!((settings.xdp_mode, settings.flows_v4), (XdpMode::Generic, 5));
    }

    #[test]
    fn timeouts_are_those_of_ipvs_unless_the_file_says_otherwise() {
        let settings = load("", Overrides::default()).unwrap();
        assert_eq!(settings.timeouts, Timeouts::IPVS);
        assert_eq!(settings.unknown_fragments, UnknownFragments::Pass);
        let text = "unknown_fragments = \"addresses\"\n[timeouts]\nfin = \"5s\"\n";
        let settings = load(text, Overrides::default()).unwrap();
        assert_eq!(settings.timeouts.fin, Some("5s".parse().unwrap()));
        assert_eq!(settings.timeouts.udp, Timeouts::IPVS.udp);
        assert_eq!(settings.unknown_fragments, UnknownFragments::Addresses);
    }

    #[test]
    fn vips_can_go_to_another_interface_or_to_none() {
        let vip_interface = |text| load(text, Overrides::default()).unwrap().vip_interface;
        assert_eq!(
            vip_interface("interfaces = [\"eth0\"]\nvip_interface = \"lo\"").as_deref(),
            Some("lo")
        );
        assert_eq!(vip_interface("interfaces = [\"eth0\"]\nvip_interface = \"none\""), None);
    }

    #[test]
    fn what_is_wrong_in_the_file_is_named_with_its_line() {
        let cases = [
            (
                "xdp_mode = \"auto\"\nflows_v5 = 1\n",
                "lvx.toml:2: unknown field `flows_v5`",
            ),
            ("\nxdp_mode = \"fast\"\n", "lvx.toml:2: unknown variant `fast`"),
            ("metrics = \"nowhere\"\n", "lvx.toml:1: invalid socket address"),
            ("metrics = \"10.0.0.300:9100\"\n", "lvx.toml:1: invalid socket address"),
            ("flows_v4 = 0\n", "lvx.toml:1: invalid value: integer `0`"),
            ("max_services = 70000\n", "lvx.toml:1: invalid value: integer `70000`"),
            (
                "\ninterfaces = [\"a name that is too long\"]\n",
                "lvx.toml:2: no interface can be called",
            ),
            ("interfaces = \"eth0\"\n", "lvx.toml:1: invalid type"),
            ("interfaces = [\n", "lvx.toml:1: "),
            ("[health]\npicks = 1\n", "lvx.toml:2: unknown field `picks`"),
            ("[timeouts]\nsin = \"1s\"\n", "lvx.toml:2: unknown field `sin`"),
            (
                "[timeouts]\nudp = \"0s\"\n",
                "lvx.toml:1: timeout udp 0s is out of range",
            ),
            ("unknown_fragments = \"keep\"\n", "lvx.toml:1: unknown variant `keep`"),
            (
                "[health]\nprobe_addresses = [\"10.0.0.1\"]\n",
                "lvx.toml:2: `10.0.0.1` is no probe address",
            ),
        ];
        for (text, part) in cases {
            let message = load(text, Overrides::default()).unwrap_err().to_string();
            assert!(message.contains(part), "{message:?} does not say {part:?}");
            assert!(!message.contains('\n'), "{message:?}");
        }
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        let missing = Overrides {
            config: Some("/nonexistent/lvx.toml".into()),
            ..Overrides::default()
        };
        let message = Settings::load(missing).unwrap_err().to_string();
        assert!(
            message.starts_with("cannot read the settings in /nonexistent/lvx.toml"),
            "{message}"
        );
    }

    #[test]
    fn an_interface_is_named_once() {
        let twice = Overrides {
            interfaces: vec!["eth0".into(), "eth0".into()],
            ..Overrides::default()
        };
        assert!(matches!(load("", twice), Err(ConfigError::InterfaceTwice(_))));
    }
}
