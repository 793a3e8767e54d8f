//! A pin that is held: a descriptor of what it pins goes on when somebody removes the pin, and can be pinned again.

use std::{
    ffi::CString,
    fs, io,
    mem::size_of,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    },
    path::{Path, PathBuf},
};

use aya_obj::generated::bpf_cmd;

use crate::Error;

/// A pin and a descriptor of what it pins.
#[derive(Debug)]
pub struct Pin {
    path: PathBuf,
    held: OwnedFd,
}

impl Pin {
    /// Holds what is pinned there.
    ///
    /// # Errors
    ///
    /// If nothing is, or it may not be opened.
    pub fn hold(path: &Path) -> Result<Self, Error> {
        let descriptor = bpf(bpf_cmd::BPF_OBJ_GET, path, 0).map_err(|source| failed("open", path, source))?;
        // SAFETY: the kernel has just made the descriptor, and nobody else has it.
        let held = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self {
            path: path.to_owned(),
            held,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the pin back if somebody has removed it, its directory too. Whether it was gone.
    ///
    /// # Errors
    ///
    /// If it cannot be put back.
    pub fn restore(&self) -> Result<bool, Error> {
        if self.path.exists() {
            return Ok(false);
        }
        if let Some(directory) = self.path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(|source| failed("create", directory, source))?;
        }
        bpf(bpf_cmd::BPF_OBJ_PIN, &self.path, self.held.as_raw_fd())
            .map_err(|source| failed("pin", &self.path, source))?;
        Ok(true)
    }

    /// The index of the interface that a link is on: 0 if it has been detached, or its interface is gone. None if that cannot be
    /// told.
    #[must_use]
    pub fn interface(&self) -> Option<u32> {
        // `bpf_xdp_link_show_fdinfo` in net/core/dev.c.
        let told = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.held.as_raw_fd())).ok()?;
        let index = told.lines().find_map(|line| line.strip_prefix("ifindex:"))?;
        index.trim().parse().ok()
    }
}

/// The part of `union bpf_attr` that is for `BPF_OBJ_GET` and `BPF_OBJ_PIN` (linux/bpf.h).
#[repr(C)]
struct Attributes {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `BPF_OBJ_GET` and `BPF_OBJ_PIN` (bpf(2)).
fn bpf(command: bpf_cmd, path: &Path, descriptor: i32) -> io::Result<i32> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Attributes {
        pathname: path.as_ptr() as u64,
        bpf_fd: descriptor.cast_unsigned(),
        file_flags: 0,
    };
    // SAFETY: the attributes and the path that they point to are readable, and outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_ulong,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    match i32::try_from(result) {
        Ok(result @ 0..) => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Pins {
        action,
        path: path.to_owned(),
        source,
    }
}
