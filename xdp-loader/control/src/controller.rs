//! The one place where the desired state changes: validated whole, persisted, reconciled, and only then acknowledged.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};
use tokio::sync::{Mutex, mpsc, watch};

use crate::{
    store::{Store, StoreError},
    tasks::TaskDied,
};
use lvx_api::{Conn, ConnCount, ConnFilter, Stats, Status, health::HealthReport};
use lvx_model::{
    Desired, Refusal, ServiceAddress,
    diff::{Change, diff},
    document::Document,
    exec::Author,
    health::HealthView,
    settings::Settings,
};

/// What the control plane knows of the kernel.
pub trait Dataplane: Send + Sync + 'static {
    /// Makes maps and VIPs as `desired` says; returns when they are.
    ///
    /// # Errors
    /// When it cannot; what packets meet is then as it was before, as far as the kernel allowed.
    fn reconcile(&self, desired: Arc<Desired>) -> BoxFuture<'_, Result<(), DataplaneError>>;

    /// Takes in what of the node's settings can be changed while the daemon runs.
    ///
    /// # Errors
    /// When the maps cannot be made to follow; it is tried again.
    fn configure<'a>(&'a self, settings: &'a Settings) -> BoxFuture<'a, Result<(), DataplaneError>>;

    /// Waits until one of the tasks has ended that it cannot do without.
    fn died(&self) -> BoxFuture<'_, TaskDied>;

    /// Has a new value again and again, for as long as the reconciler gets on.
    fn heartbeat(&self) -> watch::Receiver<()>;

    /// Takes the program off the interfaces and removes pins and VIPs; the daemon ends after it.
    ///
    /// # Errors
    /// When something cannot be removed; what could be is.
    fn detach(&self) -> BoxFuture<'_, Result<(), DataplaneError>>;

    /// Undoes what a start that has failed attached, pinned and added, where nothing was there before it.
    fn take_back(&self) -> BoxFuture<'_, ()>;

    /// What is attached and healthy.
    fn status(&self) -> BoxFuture<'_, Status>;

    /// What is known of the health of a service's backends, or of all.
    fn health(&self, service: Option<ServiceAddress>) -> BoxFuture<'_, HealthReport>;

    /// Who takes new connections, with a new value whenever that changes.
    fn health_view(&self) -> watch::Receiver<Arc<HealthView>>;

    /// What was counted.
    fn stats(&self) -> BoxFuture<'_, Stats>;

    /// The flow table's entries that the filter admits, as they are read; the channel closes after the last. Reading
    /// ends when the receiver is dropped.
    fn conns(&self, filter: ConnFilter) -> mpsc::Receiver<Conn>;

    /// How many entries the filter admits, now.
    ///
    /// # Errors
    /// When the flow table cannot be read.
    fn count(&self, filter: ConnFilter) -> BoxFuture<'_, Result<ConnCount, DataplaneError>>;

    /// Forgets the entries that the filter admits, and says how many they were.
    ///
    /// # Errors
    /// When the flow table cannot be read.
    fn flush(&self, filter: ConnFilter) -> BoxFuture<'_, Result<u64, DataplaneError>>;
}

/// Why the dataplane could not be made as desired.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataplaneError {
    /// The maps have no room.
    #[error("no room for more than {limit} {what} on this node: raise `{setting}` in lvx.toml, and restart lvx")]
    Full {
        /// What there is too much of, in the plural.
        what: &'static str,
        /// How many fit.
        limit: u32,
        /// The setting that says so.
        setting: &'static str,
    },
    /// The kernel refused something.
    #[error("{0}")]
    Kernel(String),
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The model refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could not be persisted.
    #[error("nothing was changed: {0}")]
    Store(#[from] StoreError),
    /// It was written and could not be synced: what is on disk is not certain.
    #[error("{0}")]
    Unsynced(String),
    /// The dataplane refused it, and everything is as it was.
    #[error("nothing was changed: {0}")]
    Dataplane(#[from] DataplaneError),
    /// The dataplane refused it, and the file has it.
    #[error("not in force: {cause}; but it stands in the file of the state, from which it cannot be removed: {source}")]
    Torn {
        /// Why the change failed.
        cause: DataplaneError,
        /// Why the file is not what it was.
        source: Box<StoreError>,
    },
    /// The task that made the change died.
    #[error("the change was interrupted: {0}")]
    Interrupted(String),
}

/// The owner of the desired state.
#[derive(Clone)]
pub struct Controller {
    shared: Arc<Shared>,
}

struct Shared {
    /// Held over the whole of a change, so that changes are one after the other.
    store: Mutex<Arc<Store>>,
    /// The state that was last acknowledged; read without waiting for a change in progress.
    desired: watch::Sender<Arc<Desired>>,
    dataplane: Arc<dyn Dataplane>,
    /// Programs that probes may run, whoever gave them.
    exec_allow: Vec<String>,
    /// The change that panicked, if one has.
    died: watch::Sender<Option<TaskDied>>,
}

impl Controller {
    /// Brings the dataplane to the state that was loaded from the store and takes over from there.
    ///
    /// # Errors
    /// When the dataplane cannot be made as that state says.
    pub async fn start(
        store: Store,
        desired: Desired,
        dataplane: Arc<dyn Dataplane>,
        exec_allow: Vec<String>,
    ) -> Result<Self, DataplaneError> {
        let desired = Arc::new(desired);
        dataplane.reconcile(Arc::clone(&desired)).await?;
        let shared = Shared {
            store: Mutex::new(Arc::new(store)),
            desired: watch::Sender::new(desired),
            dataplane,
            exec_allow,
            died: watch::Sender::new(None),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The state that was last acknowledged.
    pub fn desired(&self) -> Arc<Desired> {
        Arc::clone(&self.shared.desired.borrow())
    }

    /// The state that was last acknowledged, with a new value whenever that changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Desired>> {
        self.shared.desired.subscribe()
    }

    /// What the reports are read from.
    pub fn dataplane(&self) -> &Arc<dyn Dataplane> {
        &self.shared.dataplane
    }

    /// Waits until a task has died that the daemon cannot do without.
    pub async fn died(&self) -> TaskDied {
        let mut died = self.shared.died.subscribe();
        let panicked = async {
            match died.wait_for(Option::is_some).await.ok().and_then(|died| died.clone()) {
                Some(died) => died,
                // The sender is ours, and never dropped before.
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            died = panicked => died,
            died = self.shared.dataplane.died() => died,
        }
    }

    /// Waits for a change in progress; none begins after.
    pub async fn finish(&self) {
        let store = self.shared.store.lock().await;
        // Never released: the daemon is ending.
        std::mem::forget(store);
    }

    /// Makes a change and returns what the closure returned once the change is persisted and in the maps.
    ///
    /// It is carried to its end even if the caller goes away meanwhile, so that a client that hangs up never leaves
    /// the file and the maps apart.
    ///
    /// # Errors
    /// When the model, the disk or the dataplane refuses it. The desired state is then the previous one, in memory, in the maps
    /// and, unless [`ChangeError::Torn`] says otherwise, on disk.
    pub async fn change<T: Send + 'static>(
        &self,
        author: Author,
        edit: impl FnOnce(&mut Desired) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, ChangeError> {
        let shared = Arc::clone(&self.shared);
        let change = tokio::spawn(async move {
            let made = AssertUnwindSafe(shared.change(author, edit)).catch_unwind().await;
            made.unwrap_or_else(|panic| {
                // Nobody knows what it left half done: the daemon is not to go on with it.
                let died = TaskDied::panicked("change", &*panic);
                let interrupted = ChangeError::Interrupted(died.to_string());
                shared.died.send_replace(Some(died));
                Err(interrupted)
            })
        });
        change
            .await
            .map_err(|error| ChangeError::Interrupted(error.to_string()))?
    }

    /// Makes the desired state equal to a document and returns the difference; with `dry_run`, only returns it.
    ///
    /// # Errors
    /// As [`Controller::change`].
    pub async fn apply(&self, author: Author, document: Document, dry_run: bool) -> Result<Vec<Change>, ChangeError> {
        let mut new = Desired::from_document(document)?;
        if author == Author::Root {
            // All of it is root's, also what was there before.
            new.grant_all();
        }
        if dry_run {
            let now = self.desired();
            new.admit_commands(&now, author, &self.shared.exec_allow)?;
            return Ok(diff(&now, &new));
        }
        self.change(author, move |desired| {
            new.share(desired);
            let changes = diff(desired, &new);
            *desired = new;
            Ok(changes)
        })
        .await
    }
}

impl Shared {
    async fn change<T>(
        &self,
        author: Author,
        edit: impl FnOnce(&mut Desired) -> Result<T, Refusal>,
    ) -> Result<T, ChangeError> {
        let store = self.store.lock().await;
        let before = Arc::clone(&self.desired.borrow());
        let mut edited = (*before).clone();
        let answer = edit(&mut edited)?;
        edited.admit_commands(&before, author, &self.exec_allow)?;
        if edited == *before {
            return Ok(answer);
        }
        let after = Arc::new(edited);
        if let Err(error) = save(&store, &after).await {
            return Err(take_back(&store, &before, error).await);
        }
        match self.dataplane.reconcile(Arc::clone(&after)).await {
            Ok(()) => {
                log(&before, &after);
                self.desired.send_replace(after);
                Ok(answer)
            }
            Err(cause) => Err(self.restore(&store, before, cause).await),
        }
    }

    /// Goes back to the previous state after the dataplane refused the next. What packets meet has never been another; the
    /// dataplane is told what to follow again.
    async fn restore(&self, store: &Arc<Store>, before: Arc<Desired>, cause: DataplaneError) -> ChangeError {
        tracing::warn!(%cause, "a change was refused by the dataplane");
        if let Err(error) = self.dataplane.reconcile(Arc::clone(&before)).await {
            tracing::warn!(%error, "the dataplane stays as it was before that change, and does not follow what changes around it");
        }
        match save(store, &before).await {
            Err(ChangeError::Store(source)) => ChangeError::Torn {
                cause,
                source: Box::new(source),
            },
            Err(other) => other,
            Ok(()) => ChangeError::Dataplane(cause),
        }
    }
}

/// Tells the log what changed, in the words of `lvx apply`; a large change only by its size.
fn log(before: &Desired, after: &Desired) {
    const LINES: usize = 20;
    let changes = diff(before, after);
    for change in changes.iter().take(LINES) {
        tracing::info!("{change}");
    }
    if changes.len() > LINES {
        tracing::info!("and {} changes more", changes.len() - LINES);
    }
}

/// Puts the previous state back on disk where the next one could not be saved for certain.
async fn take_back(store: &Arc<Store>, before: &Arc<Desired>, error: ChangeError) -> ChangeError {
    let ChangeError::Store(unsynced @ StoreError::Unsynced { .. }) = error else {
        return error;
    };
    match save(store, before).await {
        Ok(()) => ChangeError::Store(unsynced),
        Err(ChangeError::Store(StoreError::Unsynced { .. })) => ChangeError::Unsynced(format!(
            "the change was taken back, but after a power cut it may be there (look at `lvx service list` then): {unsynced}"
        )),
        Err(again) => ChangeError::Unsynced(format!(
            "the change is not in force, but on disk, and will be when lvx is started again: {unsynced} ({again})"
        )),
    }
}

/// Saves without holding up the threads that serve requests: syncing a disk takes its time.
async fn save(store: &Arc<Store>, desired: &Arc<Desired>) -> Result<(), ChangeError> {
    let (store, desired) = (Arc::clone(store), Arc::clone(desired));
    let saved = tokio::task::spawn_blocking(move || store.save(&desired)).await;
    saved
        .map_err(|error| ChangeError::Interrupted(error.to_string()))?
        .map_err(ChangeError::Store)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;
    use crate::recording::Recording;
    use lvx_model::Service;

    fn address(text: &str) -> ServiceAddress {
        text.parse().unwrap()
    }

    async fn controller(dir: &std::path::Path, limit: usize) -> (Controller, Arc<Recording>) {
        let recording = Arc::new(Recording::with_room_for(limit));
        let store = Store::open(dir).unwrap();
        let desired = store.load().unwrap();
        let controller = Controller::start(store, desired, Arc::clone(&recording) as Arc<dyn Dataplane>, Vec::new())
            .await
            .unwrap();
        (controller, recording)
    }

    async fn add(controller: &Controller, text: &str) -> Result<(), ChangeError> {
        let service = Service::new(address(text));
        let add = move |desired: &mut Desired| desired.add_service(service);
        controller.change(Author::Root, add).await
    }

    #[tokio::test]
    async fn a_change_is_on_disk_and_in_the_maps_when_it_is_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let (controller, recording) = controller(dir.path(), 9).await;
        add(&controller, "tcp://10.0.0.100:80").await.unwrap();
        assert_eq!(recording.last(), controller.desired());
        let on_disk = std::fs::read_to_string(dir.path().join("state.json")).unwrap();
        assert!(on_disk.contains("tcp://10.0.0.100:80"), "{on_disk}");
    }

    #[tokio::test]
    async fn a_new_daemon_begins_where_the_last_one_was() {
        let dir = tempfile::tempdir().unwrap();
        let (first, _) = controller(dir.path(), 9).await;
        add(&first, "tcp://10.0.0.100:80").await.unwrap();
        let expected = first.desired();
        drop(first);
        let (second, recording) = controller(dir.path(), 9).await;
        assert_eq!((second.desired(), recording.last()), (Arc::clone(&expected), expected));
    }

    #[tokio::test]
    async fn a_change_that_cannot_be_persisted_never_reaches_the_maps() {
        let dir = tempfile::tempdir().unwrap();
        let (controller, recording) = controller(dir.path(), 9).await;
        std::fs::create_dir(dir.path().join("state.json.tmp")).unwrap();
        let error = add(&controller, "tcp://10.0.0.100:80").await.unwrap_err();
        assert!(
            error.to_string().starts_with("nothing was changed: cannot write"),
            "{error}"
        );
        assert_eq!(*controller.desired(), Desired::default());
        assert_eq!(recording.count(), 1);
    }

    #[tokio::test]
    async fn a_change_that_cannot_be_synced_is_taken_back_and_says_that_it_may_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let recording = Arc::new(Recording::with_room_for(9));
        let mut store = Store::open(dir.path()).unwrap();
        store.break_sync();
        let dataplane = Arc::clone(&recording) as Arc<dyn Dataplane>;
        let controller = Controller::start(store, Desired::default(), dataplane, Vec::new())
            .await
            .unwrap();
        let message = add(&controller, "tcp://10.0.0.100:80").await.unwrap_err().to_string();
        assert!(!message.contains("nothing was changed"), "{message}");
        assert!(
            message.contains("cannot sync") && message.contains("power cut"),
            "{message}"
        );
        assert_eq!((controller.desired().services().len(), recording.count()), (0, 1));
        let on_disk = std::fs::read_to_string(dir.path().join("state.json")).unwrap();
        assert!(!on_disk.contains("10.0.0.100"), "{on_disk}");
    }

    #[tokio::test]
    async fn a_change_that_the_dataplane_refuses_is_undone_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (controller, recording) = controller(dir.path(), 1).await;
        add(&controller, "tcp://10.0.0.100:80").await.unwrap();
        let error = add(&controller, "tcp://10.0.0.101:80").await.unwrap_err();
        assert!(
            matches!(error, ChangeError::Dataplane(DataplaneError::Full { limit: 1, .. })),
            "{error}"
        );
        assert_eq!(controller.desired().services().len(), 1);
        assert_eq!(recording.last(), controller.desired());
        assert!(
            !std::fs::read_to_string(dir.path().join("state.json"))
                .unwrap()
                .contains("10.0.0.101")
        );
    }

    #[tokio::test]
    async fn a_refused_change_leaves_everything_as_it_was_also_where_the_dataplane_takes_nothing_more() {
        let dir = tempfile::tempdir().unwrap();
        let (controller, recording) = controller(dir.path(), 1).await;
        add(&controller, "tcp://10.0.0.100:80").await.unwrap();
        let before = controller.desired();
        // What is in force stays in force, and could not be put there again.
        recording.shrink_to(0);
        let error = add(&controller, "tcp://10.0.0.101:80").await.unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("nothing was changed: no room for more than"),
            "{error}"
        );
        assert_eq!((controller.desired(), recording.last()), (Arc::clone(&before), before));
        let on_disk = std::fs::read_to_string(dir.path().join("state.json")).unwrap();
        assert!(
            on_disk.contains("10.0.0.100") && !on_disk.contains("10.0.0.101"),
            "{on_disk}"
        );
    }

    #[tokio::test]
    async fn a_change_goes_to_its_end_when_its_client_hangs_up() {
        let dir = tempfile::tempdir().unwrap();
        let (controller, recording) = controller(dir.path(), 9).await;
        let service = Service::new(address("tcp://10.0.0.100:80"));
        let change = controller.change(Author::Root, move |desired| desired.add_service(service));
        // Polled once, so that it has begun, and then dropped.
        assert!(change.now_or_never().is_none());
        add(&controller, "tcp://10.0.0.101:80").await.unwrap();
        assert_eq!(controller.desired().services().len(), 2);
        assert_eq!(recording.last(), controller.desired());
    }

    #[tokio::test]
    async fn a_change_that_panics_is_the_daemons_end() {
        let dir = tempfile::tempdir().unwrap();
        let (controller, _) = controller(dir.path(), 9).await;
        let error = controller
            .change::<()>(Author::Root, |_| panic!("a bug"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("a bug"), "{error}");
        assert_eq!(controller.died().await.task, "change");
    }

    #[tokio::test]
    async fn a_change_that_changes_nothing_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (controller, recording) = controller(dir.path(), 9).await;
        assert_eq!(
            controller
                .apply(Author::Root, Document::default(), false)
                .await
                .unwrap(),
            []
        );
        assert_eq!(recording.count(), 1);
        assert!(!dir.path().join("state.json").exists());
    }

    #[tokio::test]
    async fn a_dry_run_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (controller, recording) = controller(dir.path(), 9).await;
        let document = Document {
            services: vec![Service::new(address("tcp://10.0.0.100:80"))],
        };
        assert_eq!(controller.apply(Author::Root, document, true).await.unwrap().len(), 1);
        assert_eq!((controller.desired().services().len(), recording.count()), (0, 1));
    }
}
