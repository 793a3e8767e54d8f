//! Pins: the directory in BPF's file system that has them, and what is removed from it.

use std::{fs, io, os::unix::fs::DirBuilderExt as _, path::Path};

use crate::Error;

/// What the name of a link's pin begins with.
pub(crate) const LINK: &str = "link_";

/// Makes the directory of the pins.
///
/// # Errors
///
/// If it is not on a BPF file system, or cannot be made.
pub(crate) fn prepare(pins: &Path) -> Result<(), Error> {
    const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
    let existing = pins.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let found = rustix::fs::statfs(existing).map_err(|error| Error::Pins {
        action: "look at",
        path: existing.to_owned(),
        source: error.into(),
    })?;
    if found.f_type as u64 != BPF_FS_MAGIC {
        return Err(Error::NoBpffs(pins.to_owned()));
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(pins)
        .map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => Error::NotPermitted("write to the BPF file system"),
            _ => Error::Pins {
                action: "create",
                path: pins.to_owned(),
                source,
            },
        })
}

/// Removes what is pinned in the directory itself and is no link: the maps of versions before generations.
///
/// # Errors
///
/// If a pin is there and cannot be removed.
pub(crate) fn remove_ungrouped(pins: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(pins).into_iter().flatten().flatten() {
        let is_map = entry.file_type().is_ok_and(|kind| kind.is_file())
            && !entry.file_name().to_string_lossy().starts_with(LINK);
        if is_map {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Pins {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
