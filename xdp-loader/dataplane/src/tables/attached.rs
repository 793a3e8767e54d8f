//! Attached: the program on an interface that comes later than the daemon, or comes back, and pins that are put back.

use std::path::Path;

use tracing::warn;

use super::Tables;
use crate::{
    Error,
    attach::{self, Attachment},
};
use lvx_model::settings::XdpMode;
use lvx_netlink::Link;

impl Tables {
    /// Gives an interface its slot before the program is attached to it: the next [apply](Self::apply) has the maps say what
    /// packets of it need.
    ///
    /// # Errors
    ///
    /// As [`Self::interface`].
    pub fn expect(&mut self, link: &Link) -> Result<(), Error> {
        self.interface(link.index)?;
        self.interfaces.renew(link.index, &mut self.egress)
    }

    /// Attaches the program to an interface that the maps know.
    ///
    /// # Errors
    ///
    /// If the interface does not take the program.
    pub fn attach(&mut self, pins: &Path, link: &Link, choice: XdpMode) -> Result<Attachment, Error> {
        attach::attach_one(&mut self.ebpf, pins, link, choice)
    }

    /// Puts back those pins of maps and programs that somebody has removed. How many those were.
    #[must_use]
    pub fn restore_pins(&self) -> usize {
        let restored = self.pins.iter().filter(|pin| {
            pin.restore().unwrap_or_else(|error| {
                warn!(%error, "a pin of the dataplane has been removed, and cannot be put back");
                false
            })
        });
        restored.count()
    }
}
