//! Offloads that keep packets from being forwarded: the kernel spares itself work between virtual interfaces, and merges segments
//! that it received, and an XDP program sees frames that no cable carries.

use std::{collections::BTreeMap, panic::resume_unwind, sync::Arc, time::Duration};

use lvx_model::settings::AttachMode;
use lvx_netlink::{Kernel, Link, LinkTable, offload::Offloads};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, warn};

use super::Shared;

/// How often offloads are looked at, which nobody announces.
const LOOK: Duration = Duration::from_secs(5);

/// What is to be said of interfaces, by index.
pub(super) type Notes = BTreeMap<u32, String>;

impl Shared {
    /// Looks at the offloads of the interfaces that have the program, from time to time.
    pub(super) async fn look_at_offloads(self: Arc<Self>) {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let list = self.interfaces.get();
            let attachments = list.iter().filter_map(|interface| interface.attachment.as_ref());
            let attached: Vec<_> = attachments.map(|it| (it.ifindex, it.mode)).collect();
            let links = self.links_with_gro(&attached).await;
            let notes = match spawn_blocking(move || notes(&attached, &links)).await {
                Ok(notes) => notes,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => resume_unwind(panic),
                    Err(error) => {
                        error!(%error, "the offloads of interfaces could not be looked at");
                        continue;
                    }
                },
            };
            let before = self.interfaces.set_offload_notes(notes.clone());
            for (ifindex, note) in notes.iter().filter(|(ifindex, note)| before.get(ifindex) != Some(note)) {
                warn!(interface = self.links.table().name(*ifindex), "{note}");
            }
        }
    }

    /// The links; anew if it matters how much GRO merges, which the kernel does not announce.
    async fn links_with_gro(&self, attached: &[(u32, AttachMode)]) -> Arc<LinkTable> {
        let is_generic = attached.iter().any(|(_, mode)| *mode == AttachMode::Generic);
        if is_generic
            && let Ok(kernel) = Kernel::connect()
            && let Ok(links) = LinkTable::dump(&kernel).await
        {
            return Arc::new(links);
        }
        self.links.table()
    }
}

/// What is to be said of the interfaces that have the program.
fn notes(attached: &[(u32, AttachMode)], links: &LinkTable) -> Notes {
    let of = |(ifindex, mode): &(u32, AttachMode)| {
        let link = links.get(*ifindex).ok()?;
        let other_end = (link.kind == "veth").then(|| Offloads::of_other_end(link)).flatten();
        // What came in by the only interface leaves by it as it came, but for a veth: see `wire_index`.
        let is_redirected = attached.len() > 1 || link.kind == "veth";
        let merging = match mode {
            AttachMode::Generic if is_redirected => feeders(link, links)
                .filter(|feeder| feeder.gro_max == 0 || feeder.gro_max > feeder.mtu)
                .filter(|feeder| Offloads::of(feeder.index).is_ok_and(|offloads| offloads.merging))
                .map(|feeder| feeder.name.clone())
                .collect(),
            _ => Vec::new(),
        };
        Some((*ifindex, note(*mode, &merging, other_end.as_ref())?))
    };
    attached.iter().filter_map(of).collect()
}

/// The interfaces that hand packets to this one after GRO: itself, the ports of a bridge, what a VLAN stands on.
fn feeders<'a>(link: &'a Link, links: &'a LinkTable) -> impl Iterator<Item = &'a Link> {
    links
        .iter()
        .filter(|other| other.index == link.index || other.master == Some(link.index) || link.base == Some(other.index))
        .filter(|other| other.kind == "physical" || other.kind == "veth" && link.base != Some(other.index))
}

/// What is to be said of an interface with the program in this mode, if these merge what comes in by it, and its other end, if it
/// is a veth, has these offloads.
fn note(mode: AttachMode, merging: &[String], other_end: Option<&Offloads>) -> Option<String> {
    let other_end = other_end.filter(|other_end| other_end.unfinished).map(|Offloads { name, .. }| {
        let what = match mode {
            AttachMode::Native => "with unfinished checksums, and is dropped where it arrives",
            AttachMode::Generic => "in segments longer than the MTU, which are lost, and with unfinished checksums",
        };
        format!(
            "{name}, its other end, has checksum offload on: what this machine's own programs send by it comes {what}: ethtool -K \
             {name} tx off, where {name} is"
        )
    });
    let merging = (!merging.is_empty()).then(|| {
        let names = merging.join(", ");
        let way_out: Vec<String> = merging
            .iter()
            .map(|name| format!("ethtool -K {name} gro off"))
            .collect();
        format!(
            "GRO is on ({names}): segments that it merges are longer than the MTU, and are lost in generic mode: {}",
            way_out.join("; ")
        )
    });
    let notes: Vec<String> = merging.into_iter().chain(other_end).collect();
    (!notes.is_empty()).then(|| notes.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, kind: &str, master: Option<u32>) -> Link {
        Link {
            name: format!("{kind}{index}"),
            index,
            kind: kind.to_owned(),
            master,
            ..Link::default()
        }
    }

    #[test]
    fn a_note_names_what_to_switch_off_and_where() {
        let other_end = |unfinished| Offloads {
            name: "eth0".to_owned(),
            unfinished,
            merging: true,
        };
        let (generic, native) = (AttachMode::Generic, AttachMode::Native);
        assert_eq!(note(generic, &[], None), None);
        assert_eq!(
            note(native, &[], Some(&other_end(false))),
            None,
            "its GRO does not concern what it sends"
        );
        for mode in [generic, native] {
            let said = note(mode, &[], Some(&other_end(true))).unwrap_or_default();
            assert!(said.contains("ethtool -K eth0 tx off"), "{said}");
        }
        let said = note(generic, &["lan0".to_owned()], None).unwrap_or_default();
        assert!(said.contains("ethtool -K lan0 gro off"), "{said}");
    }

    #[test]
    fn a_bridge_is_fed_by_its_ports_and_a_vlan_by_what_it_stands_on() {
        let bridge = link(2, "bridge", None);
        let mut vlan = link(5, "vlan", None);
        vlan.base = Some(3);
        let links = LinkTable::from_iter([
            bridge.clone(),
            link(3, "physical", Some(2)),
            link(4, "veth", Some(2)),
            vlan.clone(),
            link(6, "physical", None),
        ]);
        let names = |link: &Link| -> Vec<u32> { feeders(link, &links).map(|it| it.index).collect() };
        assert_eq!(names(&bridge), [3, 4]);
        assert_eq!(names(&vlan), [3]);
        assert_eq!(names(&link(6, "physical", None)), [6]);
    }

    #[test]
    fn the_other_end_of_a_veth_does_not_feed_it() {
        let mut near = link(2, "veth", None);
        near.base = Some(3);
        let links = LinkTable::from_iter([near.clone(), link(3, "veth", None)]);
        assert_eq!(feeders(&near, &links).map(|it| it.index).collect::<Vec<_>>(), [2]);
    }
}
