//! The claim on a directory of pins: one daemon at a time has the dataplane that is pinned there.
//!
//! It is a lock (flock(2)) on the directory itself: whoever sees the pins sees the lock, from whatever network namespace and with
//! whatever socket and state directory; and the kernel drops it with the process, however that ends.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use crate::{Error, pins::prepare};

/// A directory of pins that is this process's while the value lives.
#[derive(Debug)]
pub struct Claim {
    directory: File,
}

impl Claim {
    /// Claims a directory, which is made where it is missing.
    ///
    /// # Errors
    ///
    /// If another daemon has it, or it cannot be made or is not on a BPF file system.
    pub fn take(pins: &Path) -> Result<Self, Error> {
        loop {
            let is_new = !pins.exists();
            prepare(pins)?;
            match Self::of(pins) {
                Ok(Some(claim)) => return Ok(claim),
                Ok(None) => {}
                Err(error) => {
                    if is_new && !matches!(error, Error::Claimed { .. }) {
                        let _ = fs::remove_dir(pins);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Claims a directory that may be there; nothing where it is not.
    ///
    /// # Errors
    ///
    /// If another daemon has it.
    pub fn of(pins: &Path) -> Result<Option<Self>, Error> {
        let failed = |action| {
            move |source| Error::Pins {
                action,
                path: pins.to_owned(),
                source,
            }
        };
        let directory = match File::open(pins) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed("open"))?,
        };
        match directory.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Claimed {
                    pins: pins.to_owned(),
                    holder: holder(&directory).map_or_else(String::new, |pid| format!(" (pid {pid})")),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
        }
        // Whoever had it may have removed it before the lock was ours.
        let claim = Self { directory };
        Ok(claim.is_of(pins).then_some(claim))
    }

    /// Whether it is a claim on the directory that is there: not on one that was removed since.
    #[must_use]
    pub fn is_of(&self, pins: &Path) -> bool {
        let there = fs::metadata(pins).map(|it| (it.dev(), it.ino()));
        let claimed = self.directory.metadata().map(|it| (it.dev(), it.ino()));
        matches!((there, claimed), (Ok(there), Ok(claimed)) if there == claimed)
    }
}

/// Who has the lock on a file, if the kernel tells (proc_locks(5)): `1: FLOCK ADVISORY WRITE 4242 00:1f:7 0 EOF`.
fn holder(file: &File) -> Option<u32> {
    let inode = file.metadata().ok()?.ino().to_string();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (kind, pid, place) = (words.next()?, words.nth(2)?, words.next()?);
        (kind == "FLOCK" && place.rsplit(':').next() == Some(&inode)).then(|| pid.parse().ok())?
    })
}
