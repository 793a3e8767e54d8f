//! The frames that are sent through a balancer.

/// What makes the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Generator {
    /// A program of ours that redirects live frames of `BPF_PROG_TEST_RUN`.
    Live,
    /// The kernel's packet generator, whose frames a virtual interface has to copy for an XDP program.
    Pktgen,
}

/// Frames to send.
#[derive(Clone, Copy, Debug)]
pub struct Frames<'a> {
    /// What makes them.
    pub generator: Generator,
    /// The first of the addresses that they come from.
    pub from: &'a str,
    /// The address that they go to.
    pub to: &'a str,
    /// How many flows they are of.
    pub flows: u32,
    /// How many there are.
    pub packets: u32,
    /// Whether the flows come in turn, not at random.
    pub in_turn: bool,
    /// Whether the balancer drops them on arrival.
    pub to_balancer: bool,
}

/// The port that all frames go to.
pub const PORT: u16 = 80;
