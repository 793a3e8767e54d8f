//! What somebody may do to BPF objects behind the daemon's back, as `bpftool` would.

use std::{
    ffi::CString,
    io,
    mem::size_of,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context, Result};

/// Commands of bpf(2) (linux/bpf.h).
const OBJ_GET: libc::c_long = 7;
const LINK_DETACH: libc::c_long = 34;

/// Detaches the link that is pinned there: `bpftool link detach pinned PATH`.
pub fn detach_link(pin: &Path) -> Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let descriptor =
        bpf(OBJ_GET, [path.as_ptr() as u64, 0]).with_context(|| format!("cannot open {}", pin.display()))?;
    // SAFETY: the kernel has just made the descriptor, and nobody else has it.
    let link = unsafe { OwnedFd::from_raw_fd(descriptor) };
    bpf(LINK_DETACH, [u64::try_from(link.as_raw_fd())?, 0])
        .with_context(|| format!("cannot detach {}", pin.display()))?;
    Ok(())
}

/// bpf(2) with the first words of its attributes.
fn bpf(command: libc::c_long, attributes: [u64; 2]) -> io::Result<i32> {
    // SAFETY: the attributes, and the path that they may point to, are readable and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of::<[u64; 2]>()) };
    match i32::try_from(result) {
        Ok(result @ 0..) => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
