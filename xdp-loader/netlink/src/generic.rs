//! Generic netlink: families that are asked for by name (linux/genetlink.h).

use std::io;

use netlink_sys::protocols;

use super::exchange::{Exchange, attribute, find, number};

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY` and its attributes.
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// Of a generic netlink header.
const HEADER: usize = 4;

/// A family of the kernel's.
pub(crate) struct Family {
    socket: Exchange,
    number: u16,
}

impl Family {
    /// That of this name, which ends with a zero, in the network namespace of the calling thread.
    pub(crate) fn of(name: &[u8]) -> io::Result<Self> {
        let controller = Self {
            socket: Exchange::over(protocols::NETLINK_GENERIC)?,
            number: CONTROLLER,
        };
        let number = controller
            .ask(0, GET_FAMILY, &attribute(FAMILY_NAME, name))?
            .iter()
            .find_map(|answer| Some(u16::from_ne_bytes(number(find(answer, FAMILY_ID)?)?)))
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { number, ..controller })
    }

    /// Sends a command, and returns the attributes of each message that answers it.
    pub(crate) fn ask(&self, flags: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let body = [&[command, 1, 0, 0], attributes].concat();
        let answers = self.socket.ask(self.number, flags, &body)?;
        let attributes = |answer: &Vec<u8>| answer.get(HEADER..).unwrap_or_default().to_vec();
        Ok(answers.iter().map(attributes).collect())
    }
}
