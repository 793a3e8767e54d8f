//! Ports: the small numbers that interfaces have in the maps.

use std::collections::BTreeMap;

use aya::maps::{Map, MapData, xdp::DevMap};
use xdp_common::layout::{PORT_SLOTS, PORTS, PortOf};

use super::{Error, memory::Memory};

/// Which interface has which port. Port 0 is nobody's.
#[derive(Debug, Default)]
pub struct Ports {
    by_index: BTreeMap<u32, u32>,
}

impl Ports {
    /// The ports that are in the maps.
    #[must_use]
    pub fn recovered(port_of: &Memory<PortOf>) -> Self {
        let by_index = (0..port_of.len())
            .map(|place| port_of.read(place))
            .filter(|port| port.ifindex != 0)
            .map(|port| (port.ifindex, port.port))
            .collect();
        Self { by_index }
    }

    /// The port of an interface; a new one, entered into the maps, if it has none.
    ///
    /// # Errors
    ///
    /// If there are too many interfaces, two that the table cannot tell apart, or the kernel does not know this one.
    pub fn give(&mut self, ifindex: u32, port_of: &Memory<PortOf>, tx_ports: &mut Map) -> Result<u32, Error> {
        if let Some(port) = self.by_index.get(&ifindex) {
            return Ok(*port);
        }
        let place = (ifindex % PORT_SLOTS) as usize;
        let there = port_of.read(place).ifindex;
        if there != 0 {
            return Err(Error::PortCollision(there, ifindex));
        }
        let port = (1..PORTS)
            .find(|port| !self.by_index.values().any(|taken| taken == port))
            .ok_or(Error::TooManyPorts(PORTS - 1))?;
        DevMap::<&mut MapData>::try_from(tx_ports)?.set(port, ifindex, None, 0).map_err(aya_xdp)?;
        port_of.write(place, &PortOf { ifindex, port });
        self.by_index.insert(ifindex, port);
        Ok(port)
    }

    /// Takes the ports of interfaces that no longer exist.
    pub fn retain(&mut self, keep: impl Fn(u32) -> bool, port_of: &Memory<PortOf>) {
        let gone: Vec<u32> = self.by_index.keys().filter(|ifindex| !keep(**ifindex)).copied().collect();
        for ifindex in gone {
            self.by_index.remove(&ifindex);
            port_of.write((ifindex % PORT_SLOTS) as usize, &PortOf::default());
        }
    }

    /// The interfaces and their ports.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        self.by_index.iter().map(|(ifindex, port)| (*ifindex, *port))
    }
}

/// An error of an XDP map as one of maps.
fn aya_xdp(error: aya::maps::xdp::XdpMapError) -> Error {
    match error {
        aya::maps::xdp::XdpMapError::MapError(error) => Error::Map(error),
        other => Error::Load(other.to_string()),
    }
}
