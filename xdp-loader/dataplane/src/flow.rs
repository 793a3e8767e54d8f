//! A flow, as it is found in a table.

use std::net::IpAddr;

use xdp_common::{layout::Seen, tcp_state::State};

/// A flow that was found in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The client's address.
    pub client: IpAddr,
    /// The client's port; of a template, the number of what shares the persistence.
    pub port: u16,
    /// The backend's number.
    pub backend: u32,
    /// The state.
    pub state: State,
    /// When it was last seen.
    pub seen: Seen,
}

impl Flow {
    /// Whether it is no connection, but where a client persists.
    #[must_use]
    pub fn is_template(&self) -> bool {
        self.state == State::Template
    }
}
