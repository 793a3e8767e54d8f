//! What a test that was killed could not remove itself: its namespaces, what runs in them, its pins, its files.
//!
//! The names of all these begin with `lvx-PID-`, the process that made them. When that process is gone, they are
//! nobody's.

use std::{
    env, fs,
    path::Path,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Result;

use crate::netns;

/// Where the BPF file system is mounted.
pub const BPFFS: &str = "/sys/fs/bpf";

/// What the names of one lab or test begin with: `lvx-PID-NUMBER`, another one for each call.
pub fn prefix() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("lvx-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Removes the namespaces, pins and files of tests whose process has ended. Calling it while other tests run is safe.
pub fn remove() -> Result<()> {
    for name in orphans(Path::new(netns::DIRECTORY)) {
        netns::delete(&name)?;
    }
    for place in [Path::new(BPFFS), &env::temp_dir()] {
        for name in orphans(place) {
            // Another test that starts now may be removing the same.
            let _ = fs::remove_dir_all(place.join(name));
        }
    }
    Ok(())
}

/// The entries of `directory` that belong to a test whose process has ended.
fn orphans(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| maker(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()))
        .collect()
}

/// The process that made what has this name.
fn maker(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix("lvx-")?.split_once('-')?;
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_labs_have_a_maker() {
        assert_eq!(maker(&format!("{}-client", prefix())), Some(process::id()));
        assert_eq!(maker("lvx-4711-0-client"), Some(4711));
        assert_eq!(maker("lvx"), None);
        assert_eq!(maker("lvx-lab"), None);
        assert_eq!(maker("lvx-exp-1"), None);
        assert_eq!(maker("other-4711-0"), None);
    }
}
