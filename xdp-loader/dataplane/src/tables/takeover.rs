//! Takeover: the tables' part in a succession, whose steps stand in [`super::super::succession`].

use std::{path::Path, sync::atomic::Ordering};

use tracing::warn;
use xdp_common::layout::{self, Control};

use super::{MODE, Tables};
use crate::{
    Error,
    attach::{self, Attachment},
    image::{self, Image},
    memory::grace_period,
    program,
};
use lvx_model::settings::XdpMode;
use lvx_netlink::{Link, LinkTable};

impl Tables {
    /// Gives the predecessor's interfaces the slots that they have there, by which flows know them.
    pub(super) fn keep_interfaces(&mut self) -> Result<(), Error> {
        let Some(predecessor) = self.succession.predecessor() else {
            return Ok(());
        };
        let slots = self.maps.interface_slots.whole()?;
        for interface in predecessor.interfaces()? {
            self.interfaces
                .keep(interface.ifindex, interface.slot, &slots, &mut self.egress);
        }
        Ok(())
    }

    /// Attaches the program to these interfaces, and has all packets come to this dataplane instead of its predecessor, whose
    /// flows and counts go on. Before, the tables must have been [applied](Self::apply).
    ///
    /// # Errors
    ///
    /// If an interface does not take the program. The predecessor is then in force as it was before.
    pub fn take_over(&mut self, pins: &Path, links: &[Link], choice: XdpMode) -> Result<Vec<Attachment>, Error> {
        if !self.succession.copies() {
            self.succession
                .copy_from_elder(&self.maps, &self.rules, &self.ids, self.clock)?;
        }
        let is_new = self.succession.predecessor().is_none();
        if is_new {
            self.turn(0);
        }
        let attachments = match attach::attach(&mut self.ebpf, self.succession.lvx(), pins, links, choice) {
            Ok(attachments) => attachments,
            Err(error) => {
                if is_new && attach::is_attached(pins) {
                    // Nobody else's program could be put back: this one goes on.
                    self.is_in_force();
                }
                return Err(error);
            }
        };
        // What fails from here on is told, and takes nothing back.
        self.is_in_force();
        let settled = self.settle_succession();
        let indices: Vec<u32> = links.iter().map(|link| link.index).collect();
        if let Err(error) = attach::release(pins, &indices) {
            warn!(%error, "an interface that is not asked for any more could not be left");
        }
        if let Err(error) = settled.and_then(|()| self.succession.conclude(pins)) {
            warn!(%error, "the previous dataplane stays beside this one until the next start of the daemon");
        }
        Ok(attachments)
    }

    /// The program is attached, and stays if the daemon dies: idle flows are to be forgotten then too.
    fn is_in_force(&mut self) {
        self.succession.is_in_force();
        if let Err(error) = program::start_sweeper(&mut self.ebpf) {
            warn!(%error, "idle flows are forgotten only while a daemon runs");
        }
    }

    /// Turns all interfaces to this dataplane, and has it know all that its predecessor does.
    fn settle_succession(&mut self) -> Result<(), Error> {
        if self.succession.predecessor().is_none() {
            return Ok(());
        }
        if self.succession.copies() {
            self.turn(Control::SUCCEEDING);
            grace_period();
            self.succession.copy(&self.maps, &self.rules, &self.ids, self.clock)?;
            self.succession
                .copy_from_elder(&self.maps, &self.rules, &self.ids, self.clock)?;
        }
        // Before and after the last packets that the predecessor counts.
        let counted = self.succession.count_on(&self.maps, &self.ids);
        self.turn(0);
        grace_period();
        counted.and(self.succession.count_on(&self.maps, &self.ids))
    }

    /// Whether packets go to the predecessor, or flows may be its.
    pub(super) fn turn(&mut self, phase: u64) {
        let mode = self.maps.control().word(0, MODE);
        mode.store(
            mode.load(Ordering::Acquire) & !(Control::WAITING | Control::SUCCEEDING) | phase,
            Ordering::Release,
        );
        self.phase = phase;
    }

    /// Has flows go on by the next hops that the predecessor had, until it is known how their backends are reached: new
    /// connections wait for that, but they need not.
    pub(super) fn reach_as_before(&mut self, image: &mut Image, links: &LinkTable) {
        for (number, backend) in &mut image.backends {
            let inherited = self.inherited.get_mut(number);
            let Some(inherited) = inherited.filter(|inherited| inherited.address == backend.address) else {
                continue;
            };
            if backend.ifindex != 0 {
                inherited.macs = layout::Backend::NONE.macs;
            } else if inherited.macs != layout::Backend::NONE.macs
                && let Some((ifindex, _)) = self
                    .interfaces
                    .iter()
                    .find(|(_, slot)| *slot == u32::from(inherited.interface))
            {
                backend.macs = inherited.macs;
                backend.interface = inherited.interface;
                backend.ifindex = image::wire_index(links, ifindex);
            }
        }
    }
}
