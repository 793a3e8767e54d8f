//! Offloads: what the kernel spares itself because a device would do it, and an XDP program then sees undone. Asked over ethtool's
//! netlink, since 5.6 (Documentation/networking/ethtool-netlink.rst).

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    os::unix::fs::MetadataExt as _,
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

use netlink_sys::protocols;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{
    Link,
    exchange::{Exchange, attribute, attributes, find, number},
    generic::Family,
};

/// `ETHTOOL_MSG_FEATURES_GET`, and its attributes (linux/ethtool_netlink.h).
const GET_FEATURES: u8 = 11;
const HEADER: u16 = 1;
const HEADER_INDEX: u16 = 1;
const HEADER_NAME: u16 = 2;
const ACTIVE: u16 = 4;
const SET_BITS: u16 = 3;
const BIT_NAME: u16 = 2;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// `RTM_GETNSID`, and its attributes (linux/net_namespace.h).
const GET_NAMESPACE: u16 = 90;
const NAMESPACE_NUMBER: u16 = 1;
const NAMESPACE_FD: u16 = 3;

/// What of a device's offloads matters to an XDP program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offloads {
    /// The device's name.
    pub name: String,
    /// Transmit checksum offload: what this machine's own sockets send leaves with unfinished checksums, and over TCP in pieces
    /// longer than the MTU. A network card finishes both; a veth hands it to its other end as it is.
    pub unfinished: bool,
    /// Generic receive offload (GRO): segments that were received are merged.
    pub merging: bool,
}

impl Offloads {
    /// Those of the device with this index, in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// If there is no such device, or the kernel does not tell.
    pub fn of(index: u32) -> io::Result<Self> {
        let header = attribute(HEADER_INDEX, &index.to_ne_bytes());
        let answers = Family::of(b"ethtool\0")?.ask(0, GET_FEATURES, &attribute(HEADER | NESTED, &header))?;
        let offloads = answers.first().and_then(|answer| Self::read(answer));
        offloads.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Those that an answer tells: it lists the names of all that are on.
    fn read(answer: &[u8]) -> Option<Self> {
        let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
        let bits = find(find(answer, ACTIVE)?, SET_BITS)?;
        let on: BTreeSet<String> = attributes(bits)
            .filter_map(|(_, bit)| Some(text(find(bit, BIT_NAME)?)))
            .collect();
        let is_on = |names: &[&str]| names.iter().any(|name| on.contains(*name));
        Some(Self {
            name: text(find(find(answer, HEADER)?, HEADER_NAME)?),
            unfinished: is_on(&["tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6"]),
            merging: is_on(&["rx-gro"]),
        })
    }

    /// Those of the other end of a veth; none if that is in a network namespace that this process cannot enter or find. It looks
    /// for one among those that have a name (`ip netns`) or a process.
    #[must_use]
    pub fn of_other_end(link: &Link) -> Option<Self> {
        match (link.base, link.elsewhere) {
            (Some(index), _) => Self::of(index).ok(),
            (None, Some((namespace, index))) => inside(find_namespace(namespace)?.as_fd(), || Self::of(index))?.ok(),
            (None, None) => None,
        }
    }
}

/// The network namespace that has this number in the one of the calling thread.
fn find_namespace(wanted: i32) -> Option<File> {
    let names = |directory: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let is_process = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit())
    };
    let processes = names("/proc").into_iter().filter(is_process);
    let candidates = names("/run/netns")
        .into_iter()
        .chain(processes.map(|path| path.join("ns/net")));
    let socket = Exchange::over(protocols::NETLINK_ROUTE).ok()?;
    let mut seen = BTreeSet::new();
    candidates
        .filter(|path| inode(path).is_some_and(|inode| seen.insert(inode)))
        .filter_map(|path| File::open(path).ok())
        .find(|namespace| number_of(&socket, namespace.as_fd()) == Some(wanted))
}

fn inode(path: &Path) -> Option<u64> {
    Some(fs::metadata(path).ok()?.ino())
}

/// The number that a network namespace has in the socket's.
fn number_of(socket: &Exchange, namespace: BorrowedFd<'_>) -> Option<i32> {
    // `struct rtgenmsg`, padded.
    let body = [
        vec![0; 4],
        attribute(NAMESPACE_FD, &namespace.as_raw_fd().to_ne_bytes()),
    ]
    .concat();
    let answer = socket.ask(GET_NAMESPACE, 0, &body).ok()?.pop()?;
    Some(i32::from_ne_bytes(number(find(answer.get(4..)?, NAMESPACE_NUMBER)?)?))
}

/// Does some work in a network namespace, on a thread that ends with it; nothing if the namespace cannot be entered.
fn inside<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Option<T> {
    thread::scope(|scope| {
        let work = scope.spawn(move || {
            move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network)).ok()?;
            Some(work())
        });
        work.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use lvx_test_kit::Namespace;

    use super::*;
    use crate::{Kernel, LinkTable};

    #[test]
    fn the_offloads_of_both_ends_of_a_veth_are_told_wherever_they_are() {
        let [here, there] = ["here", "there"].map(|role| Namespace::unique(role).unwrap());
        here.ip(&format!(
            "link add name near type veth peer name far netns {}\nlink add name one type veth peer name two\n",
            there.name()
        ))
        .unwrap();
        let other_end = |name: &str| {
            let links = here.block_on(|| async { LinkTable::dump(&Kernel::connect().unwrap()).await.unwrap() });
            here.inside(|| Offloads::of_other_end(links.find(name).unwrap()))
                .unwrap()
                .unwrap()
        };
        for (name, other, namespace) in [("near", "far", &there), ("one", "two", &here)] {
            let before = other_end(name);
            assert_eq!((before.name.as_str(), before.unfinished), (other, true));
            namespace.offload(other, &["tx", "off", "gro", "on"]).unwrap();
            let after = other_end(name);
            assert_eq!((after.unfinished, after.merging), (false, true));
        }
    }
}
