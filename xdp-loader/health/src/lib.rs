//! Health: whether backends can serve, found out by asking them.
//!
//! A result's way: [`probe`] asks, [`verdict`] waits for rise or fall, [`combine`] makes one verdict of several probes,
//! [`state`] decides whether that changes anything, [`quorum`] who serves, [`load`] with what share of its weight; what
//! follows is published as a [`HealthView`], from which the reconciler makes the scheduler's tables.

mod backend;
pub mod combine;
mod diagnosis;
mod engine;
pub mod history;
pub mod load;
pub mod notify;
pub mod persist;
pub mod probe;
mod process_group;
pub mod quorum;
pub mod schedule;
pub mod state;
mod troubles;
pub mod verdict;
pub mod vip_probe;

use std::{io, sync::Arc, thread};

use tokio::sync::{mpsc, oneshot, watch};

use self::{
    engine::{Command, Detail, Engine},
    persist::ResultsFile,
};
use lvx_api::health::HealthReport;
use lvx_model::{
    Desired, ServiceAddress,
    health::HealthView,
    settings::{HealthSettings, Hook},
};
use lvx_netlink::NextHops;

/// Why health cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// There is no thread or no runtime to be had.
    #[error("health cannot be watched: {0}")]
    Start(#[source] io::Error),
}

/// Watches the health of backends until it is dropped.
#[derive(Debug)]
pub struct Health {
    /// None only while it is dropped.
    commands: Option<mpsc::UnboundedSender<Command>>,
    view: watch::Receiver<Arc<HealthView>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Health {
    /// Starts with what was known before a restart, in the network namespace of the calling thread, watching nothing
    /// yet. `hops` say where the backends of `dr` services are.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(settings: HealthSettings, hops: watch::Receiver<Arc<NextHops>>) -> Result<Self, HealthError> {
        let (published, view) = watch::channel(Arc::default());
        let (commands, received) = mpsc::unbounded_channel();
        let memory = settings.state_dir.as_deref().map(ResultsFile::in_directory);
        let recalled = memory.map(|memory| memory.load()).unwrap_or_default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(HealthError::Start)?;
        let run = move || {
            runtime.block_on(async {
                let (engine, inbox) = Engine::new(settings, recalled, hops, published);
                engine.run(inbox, received).await;
            });
            // A program that a probe started may still be waited for.
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new()
            .name("lvx-health".into())
            .spawn(run)
            .map_err(HealthError::Start)?;
        Ok(Self {
            commands: Some(commands),
            view,
            thread: Some(thread),
        })
    }

    /// Watches the backends of these services from now on, and no others; returns when the view has them.
    pub async fn set_targets(&self, desired: Arc<Desired>) {
        self.ask(|done| Command::Targets(desired, done)).await;
    }

    /// Who takes new connections, with a new value whenever that changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<HealthView>> {
        self.view.clone()
    }

    /// What is known of a service, or of all.
    pub async fn report(&self, service: Option<ServiceAddress>) -> HealthReport {
        self.ask(|answer| Command::Report(Detail::Whole(service), answer))
            .await
            .unwrap_or_default()
    }

    /// How all backends are, without their probes and history.
    pub async fn brief(&self) -> HealthReport {
        self.ask(|answer| Command::Report(Detail::Brief, answer))
            .await
            .unwrap_or_default()
    }

    /// Tells these of changes from now on, in place of those before.
    pub fn set_hooks(&self, hooks: Vec<Hook>) {
        if let Some(commands) = &self.commands {
            // An engine that died is noticed by who follows its view.
            let _ = commands.send(Command::Hooks(hooks));
        }
    }

    /// Keeps what is known for a restart, now.
    pub async fn save(&self) {
        self.ask(Command::Save).await;
    }

    /// None only if the engine died.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        self.commands.as_ref()?.send(command(sender)).ok()?;
        answer.await.ok()
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        // The engine ends when nobody can ask any more, and keeps its results first: a matter of milliseconds.
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
