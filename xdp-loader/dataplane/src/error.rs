//! What can go wrong between the daemon and the kernel's maps and programs.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, pin::PinError, programs::ProgramError, programs::links::LinkError};
use thiserror::Error;

/// Why the dataplane could not be opened or changed.
#[derive(Debug, Error)]
pub enum Error {
    /// There is no BPF file system where the pins should be.
    #[error("{} is not on a BPF file system: mount one (mount -t bpf bpf /sys/fs/bpf) or name another --pin-dir", .0.display())]
    NoBpffs(PathBuf),
    /// A directory or file of the pins could not be made or removed.
    #[error("cannot {action} {}: {source}", .path.display())]
    Pins {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another daemon has the pins.
    #[error("another lvx daemon{holder} has the dataplane that is pinned in {}: a node has one daemon; stop that one first", .pins.display())]
    Claimed {
        /// The directory of the pins.
        pins: PathBuf,
        /// Its process, in brackets, if the kernel tells.
        holder: String,
    },
    /// The process may not do what it must.
    #[error("lvx run may not {0}: run it as root, or give it CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW and CAP_PERFMON")]
    NotPermitted(&'static str),
    /// The kernel did not take the program.
    #[error("the kernel does not load the XDP program: {0} (it takes Linux 6.1 or later with BPF and its JIT)")]
    Load(String),
    /// The dataplane in force does not say what it is.
    #[error("the dataplane in force cannot be asked: {0}")]
    Predecessor(String),
    /// The kernel gave no timer.
    #[error("the kernel gives the XDP program no timer")]
    NoTimer,
    /// A map of the program is missing: the program and the loader do not belong together.
    #[error("the XDP program has no map {0}: the build is broken, build again")]
    NoMap(&'static str),
    /// Attaching failed.
    #[error("cannot attach to {interface} in {mode} mode: {reason}")]
    Attach {
        /// The interface.
        interface: String,
        /// The mode that was asked for.
        mode: &'static str,
        /// Why, and what to do.
        reason: String,
    },
    /// There are too many interfaces.
    #[error(
        "{interface} is one too many: packets go through at most {limit} interfaces, those that lead to backends included"
    )]
    TooManyInterfaces {
        /// The one that has no slot.
        interface: String,
        /// How many there can be.
        limit: u32,
    },
    /// The place that an interface's index chooses in the table of slots is taken.
    #[error(
        "the index of {interface}, {ifindex}, cannot be used beside those of {others}: their place in a table is the same; give it \
         another index: make the interface again, or move it to another network namespace and back"
    )]
    IndexTaken {
        /// The interface.
        interface: String,
        /// Its index.
        ifindex: u32,
        /// Those that have the place.
        others: String,
    },
    /// The maps have no room.
    #[error("no room for more than {limit} {what}: raise `{setting}` in lvx.toml, and restart lvx")]
    Full {
        /// What there is too much of, in the plural.
        what: &'static str,
        /// How many fit.
        limit: u32,
        /// The setting that says so.
        setting: &'static str,
    },
    /// VIPs could not be removed.
    #[error("{0}")]
    Vips(String),
    /// An operation on a map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// An operation on a program.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// An operation on a link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// An operation on a pin.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// Mapping a map into memory.
    #[error("cannot map {map} into memory: {source}")]
    Memory {
        /// Which map.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl From<EbpfError> for Error {
    fn from(error: EbpfError) -> Self {
        Self::Load(chain(&error))
    }
}

/// An error and what caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text.lines().next().unwrap_or_default().to_owned()
}

/// Whether an error comes from the kernel's refusal for want of privileges.
pub(crate) fn permission(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            return true;
        }
        cause = error.source();
    }
    false
}
