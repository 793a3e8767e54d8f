//! The daemon's life: claim what one daemon may own, bring the dataplane up, serve the API, stop.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    api::{
        self, Api,
        socket::{Socket, SocketError},
    },
    listener::{self, Limits},
    metrics::{self, MetricsError},
    pick::{self, PickError, Rate},
};
use lvx_control::{
    Controller, Dataplane, DataplaneError,
    reconcile::StartError,
    store::{Store, StoreError},
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
    /// Metrics cannot be served.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// Picks cannot be served.
    #[error(transparent)]
    Pick(#[from] PickError),
    /// Signals cannot be caught.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    /// The settings do not do.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The dataplane cannot be brought up or taken down.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A daemon that owns its state directory and its socket, and does not serve yet.
///
/// Claimed before anything is attached, so that a second daemon fails before it touches the first one's dataplane.
#[derive(Debug)]
pub struct Daemon {
    store: Store,
    desired: Desired,
    exec_allow: Vec<String>,
    socket: Socket,
    metrics: Option<TcpListener>,
    /// Where picks are served, and how many a second.
    picks: Option<(TcpListener, u32)>,
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
        let socket = Socket::bind(&settings.socket)?;
        let metrics = settings.metrics.map(metrics::listen).transpose()?;
        let picks = settings.health.pick.map(pick::listen).transpose()?;
        Ok(Self {
            store,
            desired,
            exec_allow: settings.health.exec_allow.clone(),
            socket,
            metrics,
            picks: picks.map(|listener| (listener, settings.health.pick_rate)),
        })
    }

    /// The state that the last daemon acknowledged.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// Where metrics are served, if they are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Reconciles, serves the API and tells systemd, until SIGTERM, SIGINT or `POST /v1/stop`; the dataplane goes on.
    ///
    /// # Errors
    /// When the first reconcile fails or the API cannot be served.
    pub async fn serve(self, dataplane: Arc<dyn Dataplane>) -> Result<(), DaemonError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
        let told = async move {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        self.serve_until(dataplane, told).await
    }

    /// [`Daemon::serve`] with something else in the place of signals; `told` ends with the reason to stop.
    pub async fn serve_until(
        self,
        dataplane: Arc<dyn Dataplane>,
        told: impl Future<Output = &'static str>,
    ) -> Result<(), DaemonError> {
        let services = self.desired.services().len();
        let controller = Controller::start(self.store, self.desired, dataplane, self.exec_allow).await?;
        let (listener, socket_file) = self.socket.into_parts();

        // These end with the process; nothing that they answer needs to be finished.
        if let Some(listener) = self.metrics {
            let address = listener.local_addr();
            metrics::start(listener, Arc::clone(controller.dataplane())).map_err(|source| MetricsError {
                address: address.unwrap_or(([0, 0, 0, 0], 0).into()),
                source,
            })?;
        }
        if let Some((listener, per_second)) = self.picks {
            let source = pick::Source {
                view: controller.dataplane().health_view(),
                desired: controller.subscribe(),
                rate: Rate::new(per_second),
            };
            tokio::spawn(pick::serve(listener, source));
        }

        let (stop, _) = watch::channel(false);
        let router = api::router(Api {
            controller: controller.clone(),
            stop: stop.clone(),
        });
        let server = listener::serve(listener, router, LIMITS, stopped(stop.subscribe()));
        let mut server = std::pin::pin!(server);
        notify(NotifyState::Ready);
        tracing::info!(services, "ready");
        let reason = tokio::select! {
            () = &mut server => "the control API ended",
            reason = told => reason,
            () = stopped(stop.subscribe()) => "a request to stop",
        };
        tracing::info!(reason, "stopping; the dataplane goes on forwarding");
        notify(NotifyState::Stopping);
        drop(socket_file);
        stop.send_replace(true);
        let _ = tokio::time::timeout(GRACE, server).await;
        // Already finished, if the daemon was told to detach.
        let _ = tokio::time::timeout(GRACE, controller.finish()).await;
        Ok(())
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it the daemon.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        tracing::warn!(%error, "systemd could not be told");
    }
}
