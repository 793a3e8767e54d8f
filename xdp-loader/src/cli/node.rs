//! `lvx run` and `lvx detach`: what works on this node instead of asking the daemon.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::{anyhow, bail};
use hyper::{Method, body::Bytes};
use tokio::runtime;
use tracing_subscriber::EnvFilter;

use super::{
    args::{Detach, Run},
    client::Client,
    one_line,
    output::wants_colours,
};
use crate::{
    config::{Overrides, Settings},
    daemon,
    store::{Store, StoreError},
};

/// How long a daemon that was asked to stop may take, and how often to look.
const STOPPING: (u32, Duration) = (100, Duration::from_millis(100));

pub(super) fn run(run: Run, socket: Option<PathBuf>) -> anyhow::Result<()> {
    let settings = Settings::load(Overrides {
        config: run.config,
        interfaces: run.interfaces,
        xdp_mode: run.xdp_mode.map(Into::into),
        state_dir: run.state_dir,
        pin_dir: run.pin_dir,
        socket,
        metrics: run.metrics,
    })?;
    settings.require_interface()?;
    log_to_stderr();
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime
        .block_on(daemon::run(settings))
        .map_err(|error| as_root(error.into()))
}

pub(super) fn detach(detach: Detach, socket: Option<PathBuf>) -> anyhow::Result<()> {
    let overrides = Overrides {
        config: detach.config,
        state_dir: detach.state_dir,
        pin_dir: detach.pin_dir,
        socket,
        ..Overrides::default()
    };
    let settings = Settings::load(overrides)?;
    log_to_stderr();
    runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async {
            stop_daemon(&settings).await?;
            daemon::detach(settings)
                .await
                .map_err(|error| as_root(error.into()))
        })
}

/// Stops the daemon that answers at the socket, if one does: it would go on writing maps that are being removed.
async fn stop_daemon(settings: &Settings) -> anyhow::Result<()> {
    if tokio::net::UnixStream::connect(&settings.socket)
        .await
        .is_err()
    {
        return Ok(());
    }
    let client = Client::new(Some(settings.socket.clone()));
    drop(
        client
            .request(Method::POST, "/v1/stop", Bytes::new())
            .await?,
    );
    let (times, pause) = STOPPING;
    for _ in 0..times {
        match Store::open(&settings.state_dir) {
            Err(StoreError::Locked(_)) => tokio::time::sleep(pause).await,
            other => return Ok(other.map(drop)?),
        }
    }
    bail!(
        "the daemon at {} was asked to stop and goes on: stop it by hand",
        settings.socket.display()
    )
}

/// Says the way out when the kernel refused something for want of privileges.
fn as_root(error: anyhow::Error) -> anyhow::Error {
    let refused = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| {
            // EPERM and EACCES.
            error.kind() == io::ErrorKind::PermissionDenied
        });
    if refused {
        anyhow!("{}; run lvx as root", one_line(&error))
    } else {
        error
    }
}

fn log_to_stderr() {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .from_env_lossy();
    let colours = io::stderr().is_terminal() && wants_colours();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colours)
        .init();
}
