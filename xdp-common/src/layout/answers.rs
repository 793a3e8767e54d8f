/// Packets that each CPU answers in a second at most, so that nobody has the balancer flood others in its name. The kernel's own
/// limit for ICMP errors, `net.ipv4.icmp_msgs_per_sec`, is of this size.
pub const ANSWERS_PER_SECOND: u64 = 1_000;

/// Bytes of a packet that an ICMP error about it quotes at most: whole words, below the 512 bytes that BPF's helper for checksums takes.
pub const QUOTED: usize = 508;

/// How often a CPU has answered packets itself: 64 bytes, a cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Answers {
    /// The second of the last answer, by the kernel's ticks.
    pub second: u64,
    /// Answers within that second.
    pub sent: u64,
    /// Zero.
    pub room: [u64; 6],
}

const _: () = assert!(size_of::<Answers>() == 64);
