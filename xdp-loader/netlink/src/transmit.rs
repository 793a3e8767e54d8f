//! Transmitting: through which interfaces a native XDP program can send what came in by another one.
//!
//! A driver that cannot loses such frames without a word, so it is asked before: the kernel tells the XDP features of devices over
//! generic netlink since 6.3 (Documentation/netlink/specs/netdev.yaml). Before that, the kind of a device has to do.

use std::{collections::BTreeMap, io};

use super::{
    Link,
    exchange::{DUMP, find, number},
    generic::Family,
};

/// `NETDEV_CMD_DEV_GET` and its attributes (linux/netdev.h).
const GET_DEVICE: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_NDO_XMIT`: the device transmits what a program on another one redirects to it.
const TRANSMITS: u64 = 4;

/// The XDP features of all devices, by index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XdpFeatures(Option<BTreeMap<u32, u64>>);

impl XdpFeatures {
    /// Asks the kernel, in the network namespace of the calling thread. A kernel that does not know such features says nothing of
    /// any device.
    #[must_use]
    pub fn ask() -> Self {
        Self(ask().ok())
    }

    /// Whether a native program on another interface can transmit through this one.
    #[must_use]
    pub fn transmits(&self, link: &Link) -> bool {
        let told = self.0.as_ref().and_then(|devices| devices.get(&link.index));
        told.map_or_else(|| transmits_by_kind(&link.kind), |features| features & TRANSMITS != 0)
    }
}

/// Whether devices of a kind have `ndo_xdp_xmit` at all.
#[must_use]
pub fn transmits_by_kind(kind: &str) -> bool {
    matches!(kind, "physical" | "veth" | "tun" | "bond")
}

fn ask() -> io::Result<BTreeMap<u32, u64>> {
    let answers = Family::of(b"netdev\0")?.ask(DUMP, GET_DEVICE, &[])?;
    let device = |answer: &Vec<u8>| {
        let index = u32::from_ne_bytes(number(find(answer, IFINDEX)?)?);
        let features = u64::from_ne_bytes(number(find(answer, XDP_FEATURES)?)?);
        Some((index, features))
    };
    Ok(answers.iter().filter_map(device).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, kind: &str) -> Link {
        Link {
            name: kind.to_owned(),
            index,
            mac: Some([2, 0, 0, 0, 0, 1]),
            up: true,
            kind: kind.to_owned(),
            ..Link::default()
        }
    }

    #[test]
    fn what_the_kernel_says_counts_and_else_the_kind() {
        let told = XdpFeatures(Some(BTreeMap::from([(2, TRANSMITS | 3), (3, 3)])));
        assert!(told.transmits(&link(2, "macvlan")));
        assert!(!told.transmits(&link(3, "veth")));
        let nothing = XdpFeatures::default();
        for (kind, transmits) in [
            ("physical", true),
            ("veth", true),
            ("macvlan", false),
            ("bridge", false),
        ] {
            assert_eq!(nothing.transmits(&link(4, kind)), transmits, "{kind}");
        }
    }
}
