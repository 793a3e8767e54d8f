//! Egress: through which interfaces packets can leave. A program in a driver (native mode) hands frames for another interface to
//! that one's driver, which has to be able to transmit them; in generic mode the kernel's stack transmits, anywhere.

use std::collections::{BTreeMap, BTreeSet};

use lvx_model::settings::{AttachMode, XdpMode};
use lvx_netlink::{
    Link, LinkTable, NextHops,
    transmit::{XdpFeatures, transmits_by_kind},
};

use super::interfaces::Interface;

/// The mode for these interfaces, and why it is not the one that was asked for: where one of several cannot transmit, a program in
/// the others' drivers would lose what it sends there.
pub(super) fn mode(asked: XdpMode, interfaces: &[Link], features: &XdpFeatures) -> (XdpMode, Option<String>) {
    let cannot = |link: &&Link| !transmits_by_kind(&link.kind) && !features.transmits(link);
    match interfaces.iter().find(cannot) {
        Some(link) if asked == XdpMode::Auto && interfaces.len() > 1 => {
            let (name, kind) = (&link.name, &link.kind);
            let note =
                format!("generic mode on all interfaces, as {name} ({kind}) cannot transmit for a program in a driver");
            (XdpMode::Generic, Some(note))
        }
        _ => (asked, None),
    }
}

/// The interfaces to next hops that packets cannot leave through, and why.
pub(super) fn blocked(
    hops: &NextHops,
    links: &LinkTable,
    features: &XdpFeatures,
    interfaces: &[Interface],
) -> BTreeMap<u32, String> {
    let native: Vec<u32> = interfaces
        .iter()
        .filter_map(|interface| interface.attachment.as_ref())
        .filter(|attachment| attachment.mode == AttachMode::Native)
        .map(|attachment| attachment.ifindex)
        .collect();
    let egress: BTreeSet<u32> = hops.0.values().flatten().map(|hop| hop.ifindex).collect();
    egress
        .into_iter()
        .filter_map(|ifindex| Some((ifindex, why_blocked(links.get(ifindex).ok()?, features, &native)?)))
        .collect()
}

/// Why packets cannot leave through an interface, if the program is in the drivers of these.
fn why_blocked(link: &Link, features: &XdpFeatures, native: &[u32]) -> Option<String> {
    // What came in by the same interface leaves it by XDP_TX, but not a veth: see `wire_index`.
    let is_redirected = native
        .iter()
        .any(|ifindex| *ifindex != link.index || link.kind == "veth");
    if !is_redirected || features.transmits(link) {
        return None;
    }
    let way_out = match link.kind.as_str() {
        "veth" => "switch GRO on at its other end (ethtool -K IF gro on)",
        "physical" => "name it with --interface too, or use --xdp-mode generic",
        _ => "use --xdp-mode generic",
    };
    Some(format!(
        "its driver ({}) does not transmit for a program in another driver; {way_out}",
        link.kind
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, kind: &str) -> Link {
        Link {
            name: format!("{kind}0"),
            index,
            mac: Some([2, 0, 0, 0, 0, 1]),
            up: true,
            kind: kind.to_owned(),
            ..Link::default()
        }
    }

    #[test]
    fn beside_an_interface_that_cannot_transmit_all_are_generic() {
        let features = XdpFeatures::default();
        let mode = |asked, kinds: &[&str]| {
            let links: Vec<Link> = (2..).zip(kinds).map(|(index, kind)| link(index, kind)).collect();
            mode(asked, &links, &features).0
        };
        assert_eq!(mode(XdpMode::Auto, &["veth", "physical"]), XdpMode::Auto);
        assert_eq!(mode(XdpMode::Auto, &["macvlan", "veth"]), XdpMode::Generic);
        assert_eq!(mode(XdpMode::Auto, &["veth", "bridge"]), XdpMode::Generic);
        assert_eq!(mode(XdpMode::Native, &["macvlan", "veth"]), XdpMode::Native);
        assert_eq!(mode(XdpMode::Auto, &["bridge"]), XdpMode::Auto, "it leaves as it came");
    }

    #[test]
    fn a_next_hop_behind_what_cannot_transmit_is_blocked_for_a_program_in_a_driver() {
        let features = XdpFeatures::default();
        let is_blocked = |kind, native: &[u32]| why_blocked(&link(2, kind), &features, native).is_some();
        assert!(is_blocked("macvlan", &[3]));
        assert!(is_blocked("vxlan", &[2, 3]));
        assert!(!is_blocked("macvlan", &[]), "all are generic");
        assert!(!is_blocked("macvlan", &[2]), "it leaves as it came");
        assert!(!is_blocked("physical", &[3]));
    }
}
