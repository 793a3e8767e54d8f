//! The interfaces that packets come in by and go out of, in a network namespace of the test's own. The frames of the tests never touch them: they only have to be there.

use std::{fs::File, net::IpAddr, os::fd::AsFd as _, process::Command};

use lvx_netlink::{Link, LinkTable, NextHop};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// Where clients are. No veth, so packets may leave by the interface that they came in by.
pub const OUTSIDE: u32 = 10;
/// Where backends are.
pub const INSIDE: u32 = 11;
/// A veth.
pub const VETH: u32 = 12;

/// The MAC of an interface.
pub fn mac(ifindex: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0xff, ifindex as u8]
}

/// The MAC of a backend: of host H behind network N, as in `10.0.N.H` and `2001:db8:N::H`.
pub fn backend_mac(address: IpAddr) -> [u8; 6] {
    let (network, host) = match address {
        IpAddr::V4(address) => (address.octets()[2], address.octets()[3]),
        IpAddr::V6(address) => (address.octets()[5], address.octets()[15]),
    };
    [2, 0, 0, 0xbb, network, host]
}

/// The next hop of a backend: network 0 is outside, 1 inside, 2 behind the veth.
pub fn next_hop(address: IpAddr) -> NextHop {
    let mac_of = backend_mac(address);
    let ifindex = OUTSIDE + u32::from(mac_of[4]);
    NextHop {
        ifindex,
        source_mac: mac(ifindex),
        mac: mac_of,
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
        .map(|(index, name, kind)| {
            let mac = mac(index);
            add(index, name, kind, mac);
            Link {
                name: name.to_owned(),
                index,
                mac: Some(mac),
                mtu: 1500,
                up: true,
                admin_up: true,
                kind: kind.to_owned(),
            }
        })
        .collect()
}

fn add(index: u32, name: &str, kind: &str, mac: [u8; 6]) {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    let output = Command::new("ip")
        .args(["link", "add", "name", name, "index", &index.to_string()])
        .args(["address", &mac, "type", kind])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
