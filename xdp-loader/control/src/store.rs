//! Where the desired state outlives the daemon: `STATE_DIR/state.json`.
//!
//! The file is only ever replaced whole: written beside, synced, renamed over, and the directory synced, so that after a
//! crash it is either the old state or the new one. One daemon at a time owns a directory, by a lock on `STATE_DIR/lock`.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufWriter, IntoInnerError},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use lvx_model::{
    Desired, Refusal, Service,
    document::Document,
    exec,
    located::{LocatedError, without_bom},
};

/// The form of the state file; a daemon refuses one that is newer than its own.
const VERSION: u32 = 1;

/// Bytes of the state file that are written at a time.
const WRITE_AT_ONCE: usize = 1 << 16;

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory could not be used.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The new state is in place of the old one, but the directory could not be synced.
    #[error("cannot sync {dir}: {source}; is the disk full, or broken?")]
    Unsynced {
        /// The directory.
        dir: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is something else where the state file should be.
    #[error("{0} is a directory, where lvx keeps its state in a file: move it away to start with no services")]
    Directory(PathBuf),
    /// Another process holds the directory's lock.
    #[error("another lvx daemon uses {0}: a node has one daemon; stop that one first")]
    Locked(PathBuf),
    /// The state file is not what a daemon wrote.
    #[error(
        "{0}: the state file is damaged; it was left as it is: repair it, or move it away to start with no services"
    )]
    Corrupt(LocatedError),
    /// The state file is from a newer lvx.
    #[error("{path} has version {found}, this lvx reads up to {VERSION}: run the lvx that wrote it, or a newer one")]
    Version {
        /// The state file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The state file contains what no daemon would have accepted.
    #[error("{path}: {refusal}; the file was left as it is: correct it, or move it away to start with no services")]
    Invalid {
        /// The state file.
        path: PathBuf,
        /// What is wrong.
        refusal: Refusal,
    },
}

/// The state file as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile<S> {
    version: u32,
    #[serde(rename = "service")]
    services: Vec<S>,
    /// Commands of exec probes that root gave.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    exec_granted: BTreeSet<exec::Command>,
}

/// Only the version: read first, because a newer file may have fields that this lvx does not know.
#[derive(Deserialize)]
struct StateVersion {
    version: u32,
}

/// A state directory that this process owns while the value lives.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// Syncs a directory.
    sync: fn(&Path) -> io::Result<()>,
    /// Open and locked; the kernel drops the lock with the process, however it ends.
    _lock: File,
}

impl Store {
    /// Takes a state directory, creating it where it is missing.
    ///
    /// # Errors
    /// When it cannot be created or another daemon has it.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .map_err(failed("create the state directory", dir))?;
        let path = dir.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                dir: dir.to_owned(),
                sync: |dir| File::open(dir)?.sync_all(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked(dir.to_owned())),
            Err(TryLockError::Error(source)) => Err(failed("lock", &path)(source)),
        }
    }

    /// The state file.
    pub fn path(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    /// Reads the state; a file that is not there is the empty state.
    ///
    /// # Errors
    /// When the file is there and is not a valid state. It is never changed by reading.
    pub fn load(&self) -> Result<Desired, StoreError> {
        let path = self.path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Desired::default()),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => return Err(StoreError::Directory(path)),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let text = String::from_utf8(bytes)
            .map_err(|error| StoreError::Corrupt(LocatedError::not_utf8(&path.to_string_lossy(), &error)))?;
        let text = without_bom(&text);
        let corrupt = |error| StoreError::Corrupt(LocatedError::from_json(&path.to_string_lossy(), &error));
        let found = serde_json::from_str::<StateVersion>(text).map_err(corrupt)?.version;
        if found > VERSION {
            return Err(StoreError::Version { path, found });
        }
        let file: StateFile<Service> = serde_json::from_str(text).map_err(corrupt)?;
        Desired::from_document(Document {
            services: file.services,
        })
        .map(|desired| desired.with_granted(file.exec_granted))
        .map_err(|refusal| StoreError::Invalid { path, refusal })
    }

    /// Writes the state and returns when it would survive a power cut.
    ///
    /// # Errors
    /// When it could not be written; the file then still holds what it held, unless it is [`StoreError::Unsynced`].
    pub fn save(&self, desired: &Desired) -> Result<(), StoreError> {
        let path = self.path();
        let file = StateFile {
            version: VERSION,
            services: desired.services().values().map(Arc::as_ref).collect::<Vec<&Service>>(),
            exec_granted: desired.granted().clone(),
        };
        // A fixed name: a leftover of a crash is overwritten by the next save, and never read.
        let beside = self.dir.join("state.json.tmp");
        write_synced(&beside, &file).map_err(failed("write", &beside))?;
        fs::rename(&beside, &path).map_err(failed("replace", &path))?;
        (self.sync)(&self.dir).map_err(|source| StoreError::Unsynced {
            dir: self.dir.clone(),
            source,
        })
    }

    /// Has syncing the directory fail from now on.
    #[cfg(test)]
    pub(crate) fn break_sync(&mut self) {
        self.sync = |_| Err(io::ErrorKind::StorageFull.into());
    }
}

fn write_synced(path: &Path, state: &impl Serialize) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    // A large state is written as it is worked out, so that it is never in memory a second time.
    let mut buffered = BufWriter::with_capacity(WRITE_AT_ONCE, file);
    serde_json::to_writer_pretty(&mut buffered, state)?;
    buffered.into_inner().map_err(IntoInnerError::into_error)?.sync_all()
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;
    use lvx_model::Backend;

    fn some() -> Desired {
        let mut service = Service::new("tcp://10.0.0.100:80".parse().unwrap());
        service.backends.push(Backend::new("10.0.0.11".parse().unwrap()));
        Desired::from_document(Document {
            services: vec![service],
        })
        .unwrap()
    }

    #[test]
    fn a_missing_file_is_the_empty_state_and_the_directory_is_created() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("a/b")).unwrap();
        assert_eq!(store.load().unwrap(), Desired::default());
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(&some()).unwrap();
        assert_eq!(store.load().unwrap(), some());
        let granted = some().with_granted([vec!["/bin/check".to_owned(), "-H".to_owned()]].into());
        store.save(&granted).unwrap();
        assert_eq!(store.load().unwrap(), granted);
        assert!(fs::read_to_string(store.path()).unwrap().contains("\"version\": 1"));
    }

    #[test]
    fn a_crash_between_write_and_rename_leaves_the_old_state() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(&some()).unwrap();
        fs::write(dir.path().join("state.json.tmp"), "{\"version\": 1, \"serv").unwrap();
        assert_eq!(store.load().unwrap(), some());
        store.save(&Desired::default()).unwrap();
        assert_eq!(store.load().unwrap(), Desired::default());
    }

    #[test]
    fn a_state_that_is_no_text_or_no_file_is_named_and_left() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        fs::write(store.path(), b"{\n\xff}").unwrap();
        let message = store.load().unwrap_err().to_string();
        assert!(message.contains("state.json:2: not UTF-8 text"), "{message}");
        assert!(message.contains("move it away"), "{message}");
        fs::remove_file(store.path()).unwrap();
        fs::create_dir(store.path()).unwrap();
        let message = store.load().unwrap_err().to_string();
        assert!(
            message.contains("is a directory") && message.contains("move it away"),
            "{message}"
        );
    }

    #[test]
    fn a_state_with_a_byte_order_mark_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(&some()).unwrap();
        let text = fs::read_to_string(store.path()).unwrap();
        fs::write(store.path(), format!("\u{feff}{text}")).unwrap();
        assert_eq!(store.load().unwrap(), some());
    }

    #[test]
    fn a_failed_save_leaves_the_old_state() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(&some()).unwrap();
        fs::create_dir(dir.path().join("state.json.tmp")).unwrap();
        assert!(store.save(&Desired::default()).is_err());
        assert_eq!(store.load().unwrap(), some());
    }

    #[test]
    fn a_damaged_file_is_named_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for text in [
            "",
            "{",
            "[]",
            "{\"version\": 1}",
            "{\"version\": 1, \"service\": [], \"extra\": 1}",
        ] {
            fs::write(store.path(), text).unwrap();
            let message = store.load().unwrap_err().to_string();
            assert!(message.contains(&*store.path().to_string_lossy()), "{message}");
            assert!(message.contains("damaged"), "{message}");
            assert_eq!(fs::read_to_string(store.path()).unwrap(), text);
        }
    }

    #[test]
    fn a_file_of_a_newer_lvx_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        fs::write(store.path(), "{\"version\": 2, \"new\": true}").unwrap();
        let message = store.load().unwrap_err().to_string();
        assert!(message.contains("has version 2, this lvx reads up to 1"), "{message}");
    }

    #[test]
    fn a_directory_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(dir.path()).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(StoreError::Locked(_))));
        drop(first);
        assert!(Store::open(dir.path()).is_ok());
    }
}
