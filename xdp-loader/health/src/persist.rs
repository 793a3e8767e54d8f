//! What survives a restart: `STATE_DIR/health.json`, written now and then and at the end, read at the start.
//!
//! Nothing here is worth refusing to start for: a file that cannot be read is told to the log and forgotten.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions, Permissions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{load::LoadShare, quorum::Quorum, state::Remembered, verdict::Streak};
use lvx_model::{BackendKey, ServiceAddress};

/// The form of the file; another one is forgotten.
const VERSION: u32 = 1;

/// Who may read the file.
const MODE: u32 = 0o600;

/// A backend as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    service: ServiceAddress,
    backend: IpAddr,
    port: u16,
    /// Its state machine.
    pub machine: Remembered,
    /// Its reported load.
    pub load: LoadShare,
    /// Its probes' streaks, in the order of its checks.
    pub streaks: Vec<Streak>,
    /// Why it is in its state.
    pub reason: Option<String>,
}

impl Kept {
    /// Keeps a backend.
    pub fn new(
        key: BackendKey,
        machine: Remembered,
        load: LoadShare,
        streaks: Vec<Streak>,
        reason: Option<String>,
    ) -> Self {
        let (service, backend, port) = key;
        Self {
            service,
            backend,
            port,
            machine,
            load,
            streaks,
            reason,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    saved_unix_ms: u64,
    backends: Vec<Kept>,
    quorums: Vec<(ServiceAddress, Quorum)>,
}

/// What was read: the age of it, backends and quorums.
#[derive(Debug, Default)]
pub struct Recalled {
    /// How long ago it was written.
    pub ago: Duration,
    /// Backends.
    pub backends: BTreeMap<BackendKey, Kept>,
    /// Quorums.
    pub quorums: BTreeMap<ServiceAddress, Quorum>,
}

/// The file.
#[derive(Clone, Debug)]
pub struct ResultsFile {
    path: PathBuf,
}

impl ResultsFile {
    /// The file in a state directory.
    pub fn in_directory(directory: &std::path::Path) -> Self {
        Self {
            path: directory.join("health.json"),
        }
    }

    /// Reads it; what cannot be read is nothing.
    pub fn load(&self) -> Recalled {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Recalled::default(),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the health of before cannot be read; probing anew");
                return Recalled::default();
            }
        };
        let file: File = match serde_json::from_slice(&text) {
            Ok(file) => file,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the health of before is damaged; probing anew");
                return Recalled::default();
            }
        };
        if file.version != VERSION {
            return Recalled::default();
        }
        Recalled {
            ago: Duration::from_millis(unix_ms().saturating_sub(file.saved_unix_ms)),
            backends: file
                .backends
                .into_iter()
                .map(|kept| ((kept.service, kept.backend, kept.port), kept))
                .collect(),
            quorums: file.quorums.into_iter().collect(),
        }
    }

    /// Replaces it. Blocks.
    ///
    /// # Errors
    /// When the disk refuses; the file is then as it was.
    pub fn save(&self, backends: Vec<Kept>, quorums: Vec<(ServiceAddress, Quorum)>) -> io::Result<()> {
        let file = File {
            version: VERSION,
            saved_unix_ms: unix_ms(),
            backends,
            quorums,
        };
        let beside = self.path.with_extension("json.tmp");
        // As the state file: what backends say is for whoever may ask the daemon.
        let mut written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(MODE)
            .open(&beside)?;
        // One that a crash left behind keeps its mode.
        written.set_permissions(Permissions::from_mode(MODE))?;
        written.write_all(&serde_json::to_vec(&file)?)?;
        // Not synced: after a power cut every probe begins anew, and that is all.
        fs::rename(&beside, &self.path)
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;
    use crate::state::Machine;
    use lvx_model::{
        Availability,
        health::{ProbeVerdict, State},
    };

    #[test]
    fn what_is_saved_is_recalled() {
        let directory = tempfile::tempdir().unwrap();
        let memory = ResultsFile::in_directory(directory.path());
        assert!(memory.load().backends.is_empty());
        let service = "tcp://10.0.0.100:80".parse().unwrap();
        let key = (service, [10, 0, 0, 11].into(), 80);
        let mut machine = Machine::default();
        machine.observe(ProbeVerdict::Up, Duration::ZERO, &Availability::default());
        let kept = Kept::new(
            key,
            machine.remember(Duration::ZERO),
            LoadShare::default(),
            vec![Streak::begin(ProbeVerdict::Up)],
            None,
        );
        memory
            .save(vec![kept.clone()], vec![(service, Quorum::default())])
            .unwrap();
        let recalled = memory.load();
        assert_eq!(recalled.backends[&key], kept);
        assert_eq!(recalled.quorums.len(), 1);
        let machine = Machine::recall(kept.machine, recalled.ago, Duration::ZERO);
        assert_eq!(machine.state(), State::Up);
    }

    #[test]
    fn the_file_is_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let memory = ResultsFile::in_directory(directory.path());
        let (path, beside) = (
            directory.path().join("health.json"),
            directory.path().join("health.json.tmp"),
        );
        fs::write(&beside, "left by a crash").unwrap();
        fs::set_permissions(&beside, Permissions::from_mode(0o644)).unwrap();
        for _ in 0..2 {
            memory.save(Vec::new(), Vec::new()).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        }
    }

    #[test]
    fn a_damaged_file_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let memory = ResultsFile::in_directory(directory.path());
        for text in ["", "{", "[]", "{\"version\": 9}"] {
            fs::write(directory.path().join("health.json"), text).unwrap();
            assert!(memory.load().backends.is_empty());
        }
    }
}
