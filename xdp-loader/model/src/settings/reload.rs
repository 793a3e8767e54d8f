//! Settings that are read again by a daemon that runs: which take effect at once, and which wait for a restart.

use super::{HealthSettings, Settings};

/// What a running daemon makes of settings that were read again.
#[derive(Debug, PartialEq, Eq)]
pub struct Reload {
    /// The settings that hold from now on.
    pub settings: Settings,
    /// The names of those that are others than before.
    pub changed: Vec<&'static str>,
    /// The names of those that differ in the file, and take effect with the next start.
    pub waiting: Vec<&'static str>,
}

impl Settings {
    /// What becomes of these settings when `read` are read.
    #[must_use]
    pub fn reload(&self, read: &Self) -> Reload {
        // Every field is named here, so that a new one is put where it belongs.
        let Self {
            interfaces,
            xdp_mode,
            vip_interface,
            state_dir,
            pin_dir,
            socket,
            metrics,
            flows_v4,
            flows_v6,
            max_services,
            max_backends,
            timeouts,
            unknown_fragments,
            health:
                HealthSettings {
                    // Is where `state_dir` is.
                    state_dir: _,
                    probe_addresses,
                    pick,
                    pick_rate,
                    notify,
                    exec_allow,
                },
            overrides: _,
        } = read;
        let changed = [
            ("metrics", *metrics != self.metrics),
            ("timeouts", *timeouts != self.timeouts),
            ("unknown_fragments", *unknown_fragments != self.unknown_fragments),
            ("health.pick", *pick != self.health.pick),
            ("health.pick_rate", *pick_rate != self.health.pick_rate),
            ("health.notify", *notify != self.health.notify),
        ];
        let waiting = [
            ("interfaces", *interfaces != self.interfaces),
            ("xdp_mode", *xdp_mode != self.xdp_mode),
            ("vip_interface", *vip_interface != self.vip_interface),
            ("state_dir", *state_dir != self.state_dir),
            ("pin_dir", *pin_dir != self.pin_dir),
            ("socket", *socket != self.socket),
            ("flows_v4", *flows_v4 != self.flows_v4),
            ("flows_v6", *flows_v6 != self.flows_v6),
            ("max_services", *max_services != self.max_services),
            ("max_backends", *max_backends != self.max_backends),
            (
                "health.probe_addresses",
                *probe_addresses != self.health.probe_addresses,
            ),
            ("health.exec_allow", *exec_allow != self.health.exec_allow),
        ];
        Reload {
            settings: Self {
                metrics: *metrics,
                timeouts: *timeouts,
                unknown_fragments: *unknown_fragments,
                health: HealthSettings {
                    pick: *pick,
                    pick_rate: *pick_rate,
                    notify: notify.clone(),
                    ..self.health.clone()
                },
                ..self.clone()
            },
            changed: names(&changed),
            waiting: names(&waiting),
        }
    }
}

/// The names of those that differ.
fn names(settings: &[(&'static str, bool)]) -> Vec<&'static str> {
    settings
        .iter()
        .filter(|(_, differs)| *differs)
        .map(|(name, _)| *name)
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;
    use crate::settings::Overrides;

    fn read(text: &str) -> Settings {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let config = Some(file.path().to_owned());
        let settings = Settings::load(Overrides {
            config,
            ..Overrides::default()
        });
        Settings {
            overrides: Overrides::default(),
            ..settings.unwrap()
        }
    }

    #[test]
    fn what_is_the_same_changes_nothing() {
        let before = read("interfaces = [\"eth0\"]\n");
        let reload = before.reload(&before);
        assert_eq!((reload.changed.len(), reload.waiting.len()), (0, 0));
        assert_eq!(reload.settings, before);
    }

    #[test]
    fn what_can_take_effect_does_and_the_rest_is_named_and_stays() {
        let before = read("interfaces = [\"eth0\"]\nflows_v4 = 100\n");
        let reload = before.reload(&read(
            "interfaces = [\"eth0\", \"eth1\"]\nflows_v4 = 200\nmetrics = \"127.0.0.1:9105\"\nunknown_fragments = \"drop\"\n\
             [timeouts]\nudp = \"10s\"\n[health]\npick_rate = 3\nprobe_addresses = [\"10.0.0.250/24\"]\n",
        ));
        assert_eq!(
            reload.changed,
            ["metrics", "timeouts", "unknown_fragments", "health.pick_rate"]
        );
        assert_eq!(reload.waiting, ["interfaces", "flows_v4", "health.probe_addresses"]);
        let now = reload.settings;
        assert_eq!((now.interfaces.len(), now.flows_v4, now.health.pick_rate), (1, 100, 3));
        assert_eq!(now.timeouts.udp, Some("10s".parse().unwrap()));
        assert!(now.metrics.is_some() && now.health.probe_addresses.is_empty());
    }

    #[test]
    fn what_goes_from_the_file_goes_back_to_its_default() {
        let before = read("metrics = \"127.0.0.1:9105\"\n[timeouts]\nudp = \"10s\"\n");
        let reload = before.reload(&read(""));
        assert_eq!(reload.changed, ["metrics", "timeouts"]);
        assert_eq!(reload.settings, read(""));
    }
}
