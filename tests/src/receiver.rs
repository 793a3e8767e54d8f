//! An XDP program that passes everything, at the switch's end of the balancer's cables.
//!
//! What an XDP program transmits back into a virtual interface (`XDP_TX`) waits at the other end until somebody wakes
//! the receiver there, and the kernel does so only if that end has an XDP program too (`veth_xdp_flush` in
//! `drivers/net/veth.c`): receive merging, which is enough for redirected frames, leaves these lying until another
//! packet comes. A real cable needs none of this.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use rustix::net::netdevice::name_to_index;

use crate::Namespace;

// <linux/bpf.h>, <linux/if_link.h>
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 4;

/// `r0 = XDP_PASS; exit`
static PROGRAM: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
static LICENSE: &CStr = c"Dual MIT/GPL";

/// The attached program; dropping it detaches it.
#[derive(Debug)]
pub struct Receiver {
    _link: OwnedFd,
}

impl Receiver {
    /// Attaches the program natively to `interface` in `namespace`.
    pub fn attach(namespace: &Namespace, interface: &str) -> Result<Self> {
        let link = namespace
            .inside(|| attach(interface))?
            .with_context(|| format!("cannot attach an XDP program to {interface}"))?;
        Ok(Self { _link: link })
    }
}

fn attach(interface: &str) -> io::Result<OwnedFd> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let index = name_to_index(&socket, interface)?;
    let mut load = Vec::new();
    load.extend(BPF_PROG_TYPE_XDP.to_ne_bytes());
    load.extend(2_u32.to_ne_bytes());
    load.extend((PROGRAM.as_ptr() as u64).to_ne_bytes());
    load.extend((LICENSE.as_ptr() as u64).to_ne_bytes());
    let program = bpf(BPF_PROG_LOAD, &load)?;
    let mut create = Vec::new();
    // The kernel's descriptors are never negative.
    create.extend(program.as_raw_fd().to_ne_bytes());
    for number in [index, BPF_XDP, XDP_FLAGS_DRV_MODE] {
        create.extend(number.to_ne_bytes());
    }
    bpf(BPF_LINK_CREATE, &create)
}

/// A call of bpf(2) that returns a descriptor.
fn bpf(command: libc::c_long, attributes: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `attributes` and no more than their length, and for these commands writes nothing
    // through them; what they point to is static.
    let descriptor = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), attributes.len()) };
    let descriptor = i32::try_from(descriptor).unwrap_or(-1);
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
