//! `lvx.toml` is read again: what can change while the daemon runs does, and what waits for a restart is named.

use lvx_control::{Dataplane, tasks::Tasks};
use lvx_model::settings::{Reload, Settings};
use tracing::{error, info, warn};

use crate::listeners::Listeners;

/// Reads the settings again and makes those that can be the ones in force.
pub(crate) async fn reload(
    settings: &mut Settings,
    listeners: &mut Listeners,
    dataplane: &dyn Dataplane,
    tasks: &mut Tasks,
) {
    let read = match settings.read_again() {
        Ok(read) => read,
        Err(error) => {
            return error!(%error, "the settings were read again, and are not right: those of before stay in force");
        }
    };
    let Reload {
        settings: now,
        changed,
        waiting,
    } = settings.reload(&read);
    *settings = now;
    for error in listeners.follow(settings, tasks) {
        error!(%error, "a listener stays where it was");
    }
    if let Err(error) = dataplane.configure(settings).await {
        error!(%error, "settings that were read again are not in the maps yet");
    }
    info!(changed = changed.join(", "), "the settings were read again");
    if !waiting.is_empty() {
        warn!(
            settings = waiting.join(", "),
            "settings have changed that take effect when lvx is started again: `systemctl restart lvx`"
        );
    }
}
