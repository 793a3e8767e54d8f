//! Generations: every daemon makes a dataplane of its own, pinned in a directory of its own below that of all pins. Only links
//! to interfaces are pinned once, and their program is replaced.
//!
//! A generation whose packets still go to its predecessor ([`Control::WAITING`]) has not taken over: the newest other one is
//! the dataplane in force.

use std::{
    fs, io,
    os::{fd::AsFd as _, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
};

use aya::maps::MapData;
use xdp_common::layout::Control;

use crate::{Error, memory::Memory, pins::remove};

/// What the name of a generation's directory begins with.
const PREFIX: &str = "generation_";

/// The programs that are pinned with the maps: the one that is attached, and those that a successor needs.
pub const PROGRAMS: [&str; 3] = ["lvx", "lvx_find", "lvx_tell"];

/// The pins of a dataplane.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation {
    number: u64,
    path: PathBuf,
}

impl Generation {
    /// All that are there, the oldest first.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read.
    pub fn all(pins: &Path) -> Result<Vec<Self>, Error> {
        let entries = match fs::read_dir(pins) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(failed("read", pins, source)),
        };
        let mut all: Vec<Self> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let number = name.strip_prefix(PREFIX)?.parse().ok()?;
                Some(Self {
                    number,
                    path: entry.path(),
                })
            })
            .collect();
        all.sort();
        Ok(all)
    }

    /// The one in force, of all that are there.
    #[must_use]
    pub fn in_force(all: &[Self]) -> Option<&Self> {
        all.iter().rev().find(|generation| !generation.is_waiting())
    }

    /// Makes the directory of the next one.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn next(pins: &Path, all: &[Self]) -> Result<Self, Error> {
        let number = all.last().map_or(1, |last| last.number + 1);
        let path = pins.join(format!("{PREFIX}{number}"));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|source| failed("create", &path, source))?;
        Ok(Self { number, path })
    }

    /// The pin of a map.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The pin of a program.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.path.join(format!("program_{name}"))
    }

    /// Its [`Control::mode`].
    fn mode(&self) -> Option<u64> {
        let map = MapData::from_pin(self.map("CONTROL")).ok()?;
        // The first word of the map, in every version.
        let words: Memory<u64> = Memory::map(map.fd().as_fd(), 0, 1).ok()?;
        Some(words.read(0))
    }

    /// Whether it has not taken over: its packets go to its predecessor, or it was not completed.
    fn is_waiting(&self) -> bool {
        match self.mode() {
            Some(mode) => mode & Control::WAITING != 0,
            // The programs are pinned last: where they are, somebody has removed the map's pin.
            None => !self.program("lvx").exists(),
        }
    }

    /// Whether flows may be its predecessor's: its daemon died before it had copied all.
    #[must_use]
    pub fn is_succeeding(&self) -> bool {
        self.mode().is_some_and(|mode| mode & Control::SUCCEEDING != 0)
    }

    /// Removes its pins. What nobody uses any more is then gone from the kernel.
    ///
    /// # Errors
    ///
    /// If a pin cannot be removed.
    pub fn remove(&self) -> Result<(), Error> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(failed("read", &self.path, source)),
        };
        for entry in entries.flatten() {
            remove(&entry.path())?;
        }
        match fs::remove_dir(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed("remove", &self.path, source)),
            _ => Ok(()),
        }
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Pins {
        action,
        path: path.to_owned(),
        source,
    }
}
