//! The daemon's life: claim what one daemon may own, bring the dataplane up, serve the API, stop.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::FusedFuture as _};
use sd_notify::NotifyState;
use tokio::sync::{mpsc, watch};

use crate::{
    api::{
        self, Api,
        socket::{Socket, SocketError},
    },
    end::End,
    listener::{self, Limits},
    listeners::{Bound, ListenError, Listeners},
    reload::reload,
    signals::{self, Hangup, Told},
    watchdog,
};
use lvx_control::{
    Controller, Dataplane, DataplaneError,
    reconcile::StartError,
    store::{Store, StoreError},
    tasks::{TaskDied, Tasks},
};
use lvx_model::{
    Desired,
    settings::{ConfigError, Settings},
};

/// How long requests that are being answered may take once the daemon was told to stop.
const GRACE: Duration = Duration::from_secs(3);

/// What clients of the control API may take. A list of the flow table, or of events, may take long.
const LIMITS: Limits = Limits {
    connections: 512,
    header_bytes: 64 * 1024,
    header_time: Duration::from_secs(30),
    life: Duration::from_secs(24 * 60 * 60),
};

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The state cannot be read or is another daemon's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The control API cannot listen.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The dataplane cannot be made as the state says.
    #[error("the desired state could not be put in place: {0}")]
    Dataplane(#[from] DataplaneError),
    /// Metrics or picks cannot be served.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Signals cannot be caught.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    /// The settings do not do.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The dataplane cannot be brought up or taken down.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A task has ended that the daemon cannot do without.
    #[error(transparent)]
    Task(#[from] TaskDied),
}

/// A daemon that owns its state directory and its socket, and does not serve yet.
///
/// Claimed before anything is attached, so that a second daemon fails before it touches the first one's dataplane.
#[derive(Debug)]
pub struct Daemon {
    store: Store,
    desired: Desired,
    socket: Socket,
    bound: Bound,
    settings: Settings,
}

impl Daemon {
    /// Claims the state directory and the socket, and loads the desired state.
    ///
    /// # Errors
    /// When another daemon has them, when the state is damaged, when the kernel refuses.
    pub fn claim(settings: &Settings) -> Result<Self, DaemonError> {
        // The lock first: of two that start at the same moment, one never gets as far as the other's socket.
        let store = Store::open(&settings.state_dir)?;
        let desired = store.load()?;
        Ok(Self {
            store,
            desired,
            socket: Socket::bind(&settings.socket)?,
            bound: Bound::to(settings)?,
            settings: settings.clone(),
        })
    }

    /// The state that the last daemon acknowledged.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// Where metrics are served, if they are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.bound.metrics_address()
    }

    /// Reconciles, serves the API and tells systemd, until SIGTERM, SIGINT, `POST /v1/stop` or `POST /v1/detach`. SIGHUP has the
    /// settings read again.
    ///
    /// # Errors
    /// When the first reconcile fails, the API cannot be served, or a task dies.
    pub async fn serve(self, dataplane: Arc<dyn Dataplane>, hangup: Hangup) -> Result<End, DaemonError> {
        match signals::follow(hangup) {
            Ok(told) => self.serve_until(dataplane, told).await,
            Err(error) => {
                dataplane.take_back().await;
                Err(DaemonError::Signals(error))
            }
        }
    }

    /// [`Daemon::serve`] with something else in the place of signals.
    pub async fn serve_until(
        self,
        dataplane: Arc<dyn Dataplane>,
        mut told: mpsc::Receiver<Told>,
    ) -> Result<End, DaemonError> {
        let mut settings = self.settings;
        let exec_allow = settings.health.exec_allow.clone();
        let services = self.desired.services().len();
        let (listener, socket_file) = self.socket.into_parts();
        let mut tasks = Tasks::default();
        let begun = async {
            let controller = Controller::start(self.store, self.desired, Arc::clone(&dataplane), exec_allow).await?;
            let listeners = Listeners::start(self.bound, &settings, controller.clone(), &mut tasks)?;
            Ok((controller, listeners))
        };
        let (controller, mut listeners) = match begun.await {
            Ok(begun) => begun,
            Err(error) => {
                dataplane.take_back().await;
                return Err(error);
            }
        };
        let heartbeat = controller.dataplane().heartbeat();
        tasks.spawn(
            "watchdog",
            watchdog::feed(heartbeat, || notify(&[NotifyState::Watchdog])),
        );

        let (stop, stopping) = watch::channel(None);
        let router = api::router(Api {
            controller: controller.clone(),
            stop: stop.clone(),
        });
        let told_to_stop = stopped(stop.subscribe()).map(drop);
        let server = listener::serve(listener, router, LIMITS, told_to_stop).fuse();
        let mut server = std::pin::pin!(server);
        notify(&[NotifyState::Ready]);
        tracing::info!(services, "ready");
        let ended = loop {
            tokio::select! {
                // It ends by itself only when it is told to.
                () = &mut server => break stopping.borrow().map_or(Err(TaskDied::returned("API")), |end| Ok(("a request", end))),
                died = tasks.died() => break Err(died),
                died = controller.died() => break Err(died),
                told = told.recv() => match told {
                    Some(Told::Reload) => {
                        notify_reloading();
                        reload(&mut settings, &mut listeners, &**controller.dataplane(), &mut tasks).await;
                        notify(&[NotifyState::Ready]);
                    }
                    Some(Told::Stop(reason)) => break Ok((reason, End::Stopped)),
                    None => break Ok(("nobody can tell it to any more", End::Stopped)),
                },
                end = stopped(stopping.clone()) => break Ok(("a request", end)),
            }
        };
        match &ended {
            Ok((reason, End::Stopped)) => tracing::info!(reason, "stopping; the dataplane goes on forwarding"),
            Ok((reason, End::Detached)) => tracing::info!(reason, "stopping; the dataplane is taken down"),
            Err(died) => tracing::error!("{died}"),
        }
        notify(&[NotifyState::Stopping]);
        drop(socket_file);
        stop.send_if_modified(|stop| stop.is_none() && stop.replace(End::Stopped).is_none());
        let (_, end) = ended?;
        if !server.is_terminated() {
            let _ = tokio::time::timeout(GRACE, server).await;
        }
        // Already finished, if the daemon was told to detach.
        let _ = tokio::time::timeout(GRACE, controller.finish()).await;
        Ok(end)
    }
}

/// Waits until the daemon is told to end, and how.
async fn stopped(mut stop: watch::Receiver<Option<End>>) -> End {
    // An error means that the sender is gone, and with it the daemon.
    let stop = stop.wait_for(Option::is_some).await;
    stop.ok().and_then(|stop| *stop).unwrap_or(End::Stopped)
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, state) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// Tells systemd that the settings are read again. It wants to know when that began.
fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "systemd could not be told"),
    }
}
