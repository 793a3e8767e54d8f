//! `lvx run` and `lvx detach`: what works on this node instead of asking the daemon.

use std::{
    io::{self, IsTerminal as _},
    os::fd::OwnedFd,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{anyhow, bail};
use hyper::{Method, body::Bytes};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
    runtime,
};
use tracing_subscriber::EnvFilter;

use lvx_cli::{
    Client,
    args::{Detach, Run},
    one_line, wants_colours,
};
use lvx_control::reconcile::{self, Reconciler};
use lvx_model::settings::{Overrides, Settings};
use lvx_server::{
    daemon::{Daemon, DaemonError},
    end::End,
    signals::Hangup,
};

use crate::{descriptors, heap};

/// How long a daemon that was asked to stop may take, and how often to look.
const STOPPING: (u32, Duration) = (100, Duration::from_millis(100));

/// The exit status of a daemon that was told to detach: whoever starts daemons again is not to start this one.
const DETACHED: u8 = 6;

pub(super) fn run(run: Run, socket: Option<PathBuf>) -> anyhow::Result<ExitCode> {
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
    heap::give_back();
    descriptors::raise();
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    let end = runtime
        .block_on(serve(settings))
        .map_err(|error| as_root(error.into()))?;
    Ok(match end {
        End::Stopped => ExitCode::SUCCESS,
        End::Detached => ExitCode::from(DETACHED),
    })
}

/// Makes a dataplane and serves until told to stop.
async fn serve(settings: Settings) -> Result<End, DaemonError> {
    let hangup = Hangup::catch().map_err(DaemonError::Signals)?;
    // What one daemon may own comes first: a second one fails before it touches the first one's dataplane.
    let daemon = Daemon::claim(&settings)?;
    let desired = Arc::new(daemon.desired().clone());
    let dataplane = Reconciler::start(lvx_program::LVX, &settings, &desired).await?;
    daemon.serve(Arc::new(dataplane), hangup).await
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
            if !ask_daemon(&settings).await? {
                reconcile::detach(&settings)
                    .await
                    .map_err(|error| as_root(error.into()))?;
            }
            Ok(())
        })
}

/// Has the daemon take everything down and end, if one answers at the socket: it knows what it attached, and where.
async fn ask_daemon(settings: &Settings) -> anyhow::Result<bool> {
    let Ok(stream) = UnixStream::connect(&settings.socket).await else {
        return Ok(false);
    };
    let process = process_of(&stream);
    // The daemon waits for its connections when it ends.
    drop(stream);
    let client = Client::new(Some(settings.socket.clone()));
    drop(client.request(Method::POST, "/v1/detach", Bytes::new()).await?);
    let (times, pause) = STOPPING;
    for _ in 0..times {
        if UnixStream::connect(&settings.socket).await.is_err() {
            // The program leaves an interface with the last descriptor of its link: with the process.
            if let Some(process) = process {
                let _ = tokio::time::timeout(pause * times, process.readable()).await;
            }
            return Ok(true);
        }
        tokio::time::sleep(pause).await;
    }
    bail!(
        "the daemon at {} has detached and was asked to stop, but goes on: stop it by hand",
        settings.socket.display()
    )
}

/// Something that becomes readable when the process at the other end of a socket has ended (pidfd_open(2)); none where the
/// kernel does not say who that is.
fn process_of(stream: &UnixStream) -> Option<AsyncFd<OwnedFd>> {
    let pid = Pid::from_raw(stream.peer_cred().ok()?.pid()?)?;
    let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // SAFETY: the descriptor is owned by what is returned.
    unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) }.ok()
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
    // The netlink library warns of every attribute that is longer than it knows, which newer kernels' are.
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,netlink_packet_route=error"));
    let colours = io::stderr().is_terminal() && wants_colours();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colours)
        .init();
}
