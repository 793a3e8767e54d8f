//! The interfaces that packets come in by and go out of, in a network namespace of the test's own. The frames of the
//! tests never touch them: they only have to be there.
//!
//! Hundreds of tests need one each and start no program inside, so these have no name, unlike the test kit's: a thread
//! moves into a new one, which ends with it.

use std::{fs::File, net::IpAddr, os::fd::AsFd as _, process::Command};

use lvx_netlink::{Link, LinkTable, NextHop};
use lvx_test_kit::{
    network::{HOST, INSIDE, OUTSIDE, VETH, backend_mac, behind, mac},
    process::finish,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// What the index of the device above an interface is more than the interface's. No packet comes in by it.
const ABOVE: u32 = 100;

/// The next hop of a backend.
pub fn next_hop(address: IpAddr) -> NextHop {
    let ifindex = behind(address);
    NextHop {
        ifindex,
        source_mac: mac(ifindex),
        mac: backend_mac(address),
        mtu: 1500,
    }
}

/// A network namespace with the interfaces, for as long as this or a thread inside exists.
pub struct Namespace {
    file: File,
    pub links: LinkTable,
}

impl Namespace {
    /// A new one, with this thread in it.
    pub fn new() -> Self {
        let links = enter();
        let file = File::open("/proc/thread-self/ns/net").unwrap();
        Self { file, links }
    }

    /// Moves this thread into it.
    pub fn enter(&self) {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }
}

/// Moves this thread into a new network namespace with the interfaces, and tells of them.
pub fn enter() -> LinkTable {
    assert!(
        rustix::process::geteuid().is_root(),
        "the program tests need root (BPF, network namespaces): sudo -E cargo test -p lvx-program --test program"
    );
    // SAFETY: only the network namespace changes, which no descriptor of another thread depends on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    let links = [
        (OUTSIDE, "outside", "bridge"),
        (INSIDE, "inside", "bridge"),
        (VETH, "veth", "veth"),
    ];
    links
        .into_iter()
        .flat_map(|(index, name, kind)| {
            let mac = mac(index);
            add(index, name, kind, mac);
            let link = Link {
                name: name.to_owned(),
                index,
                mac: Some(mac),
                mtu: 1500,
                up: true,
                admin_up: true,
                kind: kind.to_owned(),
                master: None,
                base: None,
                elsewhere: None,
                gro_max: 0,
            };
            let above = Link {
                name: format!("vrrp.{name}"),
                index: index + ABOVE,
                mac: Some(HOST),
                kind: "macvlan".to_owned(),
                base: Some(index),
                ..link.clone()
            };
            [link, above]
        })
        .collect()
}

pub fn add(index: u32, name: &str, kind: &str, mac: [u8; 6]) {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    finish(
        Command::new("ip")
            .args(["link", "add", "name", name, "index", &index.to_string()])
            .args(["address", &mac, "type", kind]),
    )
    .unwrap();
}
