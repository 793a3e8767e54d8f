//! The daemon without a kernel, for tests of the API and the command line: everything else is real.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    daemon::{Daemon, DaemonError},
    end::End,
    signals::Told,
};
use lvx_control::{Dataplane, recording::Recording};
use lvx_model::settings::{Overrides, Settings};

/// A daemon that serves on a socket of its own.
pub struct TestDaemon {
    dir: TempDir,
    /// What its dataplane was asked for.
    pub recording: Arc<Recording>,
    metrics: SocketAddr,
    tell: mpsc::Sender<Told>,
    served: JoinHandle<Result<End, DaemonError>>,
}

impl TestDaemon {
    /// Room for that many services.
    pub fn start(limit: usize) -> Self {
        Self::start_in(TempDir::new().expect("a temporary directory"), limit)
    }

    fn start_in(dir: TempDir, limit: usize) -> Self {
        let daemon = Daemon::claim(&settings(dir.path())).expect("a free directory");
        let metrics = daemon.metrics_address().expect("metrics were asked for");
        let recording = Arc::new(Recording::with_room_for(limit));
        let dataplane = Arc::clone(&recording) as Arc<dyn Dataplane>;
        let (tell, told) = mpsc::channel(1);
        let served = tokio::spawn(daemon.serve_until(dataplane, told));
        Self {
            dir,
            recording,
            metrics,
            tell,
            served,
        }
    }

    /// Where its API listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run/lvx.sock")
    }

    /// The directory that has its state and its socket.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What it was started with.
    pub fn settings(&self) -> Settings {
        settings(self.path())
    }

    /// Replaces its `lvx.toml`, and has it read that again.
    pub async fn reload(&self, text: &str) {
        std::fs::write(self.dir.path().join("lvx.toml"), text).expect("a writable directory");
        self.tell.send(Told::Reload).await.expect("a running daemon");
    }

    /// Waits until it ends by itself.
    pub async fn ended(self) -> Result<TempDir, DaemonError> {
        self.served.await.expect("no panic").map(|_| self.dir)
    }

    /// Where its metrics are.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    /// Stops it and starts another in its place.
    pub async fn restart(self, limit: usize) -> Self {
        self.tell.send(Told::Stop("the test")).await.expect("a running daemon");
        self.served.await.expect("no panic").expect("a clean end");
        Self::start_in(self.dir, limit)
    }
}

fn settings(dir: &Path) -> Settings {
    // An empty file of its own: the machine's /etc/lvx/lvx.toml is none of the test's business.
    let config = dir.join("lvx.toml");
    std::fs::write(&config, "").expect("a writable directory");
    Settings::load(Overrides {
        config: Some(config),
        state_dir: Some(dir.join("state")),
        socket: Some(dir.join("run/lvx.sock")),
        // Port 0: the kernel chooses one that is free.
        metrics: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        ..Overrides::default()
    })
    .expect("right settings")
}
