use crate::tcp_state::STATES;

/// The words that steer the whole packet path: the only entry of map `CONTROL`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Control {
    /// Which bank of the configuration maps packets use, 0 or 1: the one write that makes a change visible.
    pub bank: u64,
    /// [`super::VERSION`] of the layouts.
    pub version: u64,
    /// Seed of the hashes that place flows, random for each new table.
    pub seed: u64,
    /// How often a flow's last-seen time is written anew at most, jiffies.
    pub refresh: u32,
    /// Jiffies per second, as measured when the maps were made.
    pub hertz: u32,
    /// Idle times after which a flow in each state is over, jiffies, by [`crate::tcp_state::State`].
    pub timeouts: [u32; STATES],
}

const _: () = assert!(size_of::<Control>() == 64);
