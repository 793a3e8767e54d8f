//! The listeners that the settings name, metrics and picks: they start, move and go as the settings say, while the daemon runs.

use std::{net::SocketAddr, sync::Arc};

use lvx_control::{Controller, tasks::Tasks};
use lvx_model::settings::Settings;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    listener::until_dropped,
    metrics::{self, MetricsError},
    pick::{self, PickError, Rate},
};

/// Why something of it is not served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// Picks.
    #[error(transparent)]
    Pick(#[from] PickError),
}

/// A listener that is served until this is dropped.
#[derive(Debug)]
struct Served {
    /// The address of the settings.
    address: SocketAddr,
    _stop: watch::Sender<()>,
}

/// What is listened on, and not served yet.
#[derive(Debug)]
pub(crate) struct Bound {
    metrics: Option<(SocketAddr, TcpListener)>,
    picks: Option<(SocketAddr, TcpListener)>,
}

impl Bound {
    /// Listens where the settings say.
    ///
    /// # Errors
    /// When an address is not this node's or is taken.
    pub(crate) fn to(settings: &Settings) -> Result<Self, ListenError> {
        Ok(Self {
            metrics: settings.metrics.map(bind_metrics).transpose()?,
            picks: settings.health.pick.map(bind_picks).transpose()?,
        })
    }

    /// Where metrics are served, if they are.
    pub(crate) fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
            .as_ref()
            .and_then(|(_, listener)| listener.local_addr().ok())
    }
}

fn bind_metrics(address: SocketAddr) -> Result<(SocketAddr, TcpListener), ListenError> {
    Ok((address, metrics::listen(address)?))
}

fn bind_picks(address: SocketAddr) -> Result<(SocketAddr, TcpListener), ListenError> {
    Ok((address, pick::listen(address)?))
}

/// What is served.
pub(crate) struct Listeners {
    controller: Controller,
    metrics: Option<Served>,
    picks: Option<Served>,
    rate: Arc<Rate>,
}

impl Listeners {
    /// Serves what is listened on.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn start(
        bound: Bound,
        settings: &Settings,
        controller: Controller,
        tasks: &mut Tasks,
    ) -> Result<Self, ListenError> {
        let mut listeners = Self {
            controller,
            metrics: None,
            picks: None,
            rate: Arc::new(Rate::new(settings.health.pick_rate)),
        };
        listeners.metrics = bound
            .metrics
            .map(|bound| listeners.serve_metrics(bound, tasks))
            .transpose()?;
        listeners.picks = bound.picks.map(|bound| listeners.serve_picks(bound, tasks));
        Ok(listeners)
    }

    /// Serves where the settings say now. What cannot be is said, and served where it was.
    pub(crate) fn follow(&mut self, settings: &Settings, tasks: &mut Tasks) -> Vec<ListenError> {
        self.rate.set(settings.health.pick_rate);
        let mut failed = Vec::new();
        if let Some(wanted) = moved(settings.metrics, self.metrics.as_ref()) {
            let served = wanted.map(|address| self.serve_metrics(bind_metrics(address)?, tasks));
            match served.transpose() {
                Ok(served) => self.metrics = served,
                Err(error) => failed.push(error),
            }
        }
        if let Some(wanted) = moved(settings.health.pick, self.picks.as_ref()) {
            let served = wanted.map(|address| Ok(self.serve_picks(bind_picks(address)?, tasks)));
            match served.transpose() {
                Ok(served) => self.picks = served,
                Err(error) => failed.push(error),
            }
        }
        failed
    }

    fn serve_metrics(
        &self,
        (address, listener): (SocketAddr, TcpListener),
        tasks: &mut Tasks,
    ) -> Result<Served, ListenError> {
        let (stop, stopped) = watch::channel(());
        let dataplane = Arc::clone(self.controller.dataplane());
        let ended = metrics::start(listener, dataplane, stopped).map_err(|source| MetricsError { address, source })?;
        // The thread says nothing if it panics.
        tasks.spawn_ending("metrics", async { ended.await.is_ok() });
        Ok(Served { address, _stop: stop })
    }

    fn serve_picks(&self, (address, listener): (SocketAddr, TcpListener), tasks: &mut Tasks) -> Served {
        let (stop, stopped) = watch::channel(());
        let source = pick::Source {
            view: self.controller.dataplane().health_view(),
            desired: self.controller.subscribe(),
            rate: Arc::clone(&self.rate),
        };
        tasks.spawn_ending("picks", async {
            pick::serve(listener, source, until_dropped(stopped)).await;
            true
        });
        Served { address, _stop: stop }
    }
}

/// Where is to be served, if it is elsewhere than now.
fn moved(wanted: Option<SocketAddr>, served: Option<&Served>) -> Option<Option<SocketAddr>> {
    (wanted != served.map(|served| served.address)).then_some(wanted)
}
