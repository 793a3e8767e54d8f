//! Taking the dataplane down: the program off the interfaces, pins and VIPs removed.

use std::path::Path;

use lvx_dataplane::{Error, attach, claim::Claim, succession};
use lvx_model::settings::Settings;
use lvx_netlink::{VipError, Vips};
use tokio::task::spawn_blocking;
use tracing::info;

use super::StartError;

/// Takes the program off all interfaces, and removes pins and VIPs, where no daemon runs.
///
/// # Errors
///
/// If a daemon runs, or something is there and cannot be removed.
pub async fn detach(settings: &Settings) -> Result<(), StartError> {
    let _claim = Claim::of(&settings.pin_dir)?;
    Ok(take_down(Vips::start().await?.remove_all(), &settings.pin_dir).await?)
}

/// Takes the program off all interfaces, and removes pins and VIPs. What can be removed is, whatever cannot.
pub(super) async fn take_down(vips: impl Future<Output = Result<(), VipError>>, pins: &Path) -> Result<(), Error> {
    let addresses = vips.await.map_err(|error| Error::Vips(error.to_string()));
    let pins = pins.to_owned();
    let interfaces = spawn_blocking(move || -> Result<_, Error> {
        let interfaces = attach::detach(&pins)?;
        succession::end(&pins)?;
        remove_directory(&pins)?;
        Ok(interfaces)
    })
    .await
    .map_err(|error| Error::Load(error.to_string()))??;
    info!(interfaces = interfaces.len(), "detached");
    addresses
}

/// Removes the directory of the pins, if it is there and empty.
fn remove_directory(pins: &Path) -> Result<(), Error> {
    match std::fs::remove_dir(pins) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::Pins {
            action: "remove",
            path: pins.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
