//! The reasons under which packets are counted, per interface.

/// Why a packet was passed or dropped, and what else happened to it that is rare. Each has a counter per CPU and
/// interface. Packets that are forwarded are counted with their backend instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// Passed: neither IPv4 nor IPv6 (ARP among them).
    PassedNotIp = 0,
    /// Passed: neither TCP nor UDP, and no ICMP error about a balanced flow; or a routing header sends it on to another address.
    PassedOtherProtocol = 1,
    /// Passed: no service has this address and port, and no balanced flow this return path.
    PassedNoService = 2,
    /// Passed: a header is cut short or contradicts itself; the kernel drops it and counts it where operators look.
    PassedMalformed = 3,
    /// Passed: a fragment of something that is not for a service, or whose first fragment, which has the ports, was not
    /// seen.
    PassedFragment = 4,
    /// Passed: more than two VLAN tags, or more IPv6 extension headers than are followed.
    PassedTooDeep = 5,
    /// Dropped: the service has no backend that takes connections, and is not to say so, or has said so often enough.
    DroppedNoBackend = 6,
    /// Dropped: the flow's backend has no known next hop.
    DroppedNoNextHop = 7,
    /// Dropped: TTL or hop limit used up (every method takes one, as a router must).
    DroppedTtlExceeded = 8,
    /// Dropped: the interface to send it out by is not known.
    DroppedNoInterface = 9,
    /// Not an end but an event: a flow was forgotten to make room for a new one.
    FlowEvicted = 10,
    /// Not an end but an event: a new flow found no place in its bucket and was forwarded without a record.
    FlowUntracked = 11,
    /// Dropped: the flow's backend is down or deleted, and its service does not schedule its flows anew.
    DroppedBackendLost = 12,
    /// Dropped: the backend has reached its upper threshold, and so have all others that might take the connection.
    DroppedOverloaded = 13,
    /// Dropped: a fragment for a service's address, whose first fragment, which has the ports, was not seen.
    DroppedFragment = 14,
    /// Not an end but an event: a new connection went to another backend because its own had reached the upper threshold.
    BackendOverloaded = 15,
    /// Dropped: the program for packets of its kind is not loaded.
    DroppedNoProgram = 16,
    /// Passed: the packet is for a service, but its frame for another host: the kernel ignores it too.
    PassedOtherHost = 17,
    /// Dropped: the client's port is in use with the only backend by its connection to another NAT service: their answers could
    /// not be told apart.
    NatConflict = 18,
    /// Answered with a RST or an ICMP port unreachable: the service has no backend that takes connections.
    RejectedNoBackend = 19,
    /// Lost: too long for the MTU of the interface that it was to leave by. What is lost was forwarded, and the kernel could not
    /// transmit it: it is counted on the interface that it was to leave by, unlike all others.
    LostTooLong = 20,
    /// Lost: the interface that it was to leave by is down.
    LostLinkDown = 21,
    /// Lost: the driver of the interface took fewer packets than it was given, as its ring was full.
    LostRingFull = 22,
    /// Lost: the driver of the interface takes none, for another reason.
    LostNotTaken = 23,
}

/// Errors of Linux (asm-generic/errno.h).
mod errno {
    pub const EAGAIN: i32 = 11;
    pub const EBUSY: i32 = 16;
    pub const ENOSPC: i32 = 28;
    pub const EMSGSIZE: i32 = 90;
    pub const ENETDOWN: i32 = 100;
    pub const ENOBUFS: i32 = 105;
}

impl Verdict {
    /// All verdicts, in the order of their counters.
    pub const ALL: [Self; 24] = [
        Self::PassedNotIp,
        Self::PassedOtherProtocol,
        Self::PassedNoService,
        Self::PassedMalformed,
        Self::PassedFragment,
        Self::PassedTooDeep,
        Self::DroppedNoBackend,
        Self::DroppedNoNextHop,
        Self::DroppedTtlExceeded,
        Self::DroppedNoInterface,
        Self::FlowEvicted,
        Self::FlowUntracked,
        Self::DroppedBackendLost,
        Self::DroppedOverloaded,
        Self::DroppedFragment,
        Self::BackendOverloaded,
        Self::DroppedNoProgram,
        Self::PassedOtherHost,
        Self::NatConflict,
        Self::RejectedNoBackend,
        Self::LostTooLong,
        Self::LostLinkDown,
        Self::LostRingFull,
        Self::LostNotTaken,
    ];

    /// Those of packets that the kernel could not transmit, counted on the interface that they were to leave by.
    pub const LOST: [Self; 4] = [
        Self::LostTooLong,
        Self::LostLinkDown,
        Self::LostRingFull,
        Self::LostNotTaken,
    ];

    /// Why the kernel could not transmit a packet, by the error that it tells, below zero; 0 is a driver that took fewer
    /// packets than it was given.
    #[inline(always)]
    #[must_use]
    pub const fn lost(error: i32) -> Self {
        match error.wrapping_neg() {
            errno::EMSGSIZE => Self::LostTooLong,
            errno::ENETDOWN => Self::LostLinkDown,
            0 | errno::EAGAIN | errno::EBUSY | errno::ENOSPC | errno::ENOBUFS => Self::LostRingFull,
            _ => Self::LostNotTaken,
        }
    }

    /// Whether operators are told of such a packet, at most once a second.
    #[inline(always)]
    #[must_use]
    pub const fn is_told(self) -> bool {
        matches!(self, Self::DroppedNoBackend | Self::DroppedNoNextHop)
    }

    /// The name shown to people and programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PassedNotIp => "passed_not_ip",
            Self::PassedOtherProtocol => "passed_other_protocol",
            Self::PassedNoService => "passed_no_service",
            Self::PassedMalformed => "passed_malformed",
            Self::PassedFragment => "passed_fragment",
            Self::PassedTooDeep => "passed_too_deep",
            Self::DroppedNoBackend => "dropped_no_backend",
            Self::DroppedNoNextHop => "dropped_no_next_hop",
            Self::DroppedTtlExceeded => "dropped_ttl_exceeded",
            Self::DroppedNoInterface => "dropped_no_interface",
            Self::FlowEvicted => "flow_evicted",
            Self::FlowUntracked => "flow_untracked",
            Self::DroppedBackendLost => "dropped_backend_lost",
            Self::DroppedOverloaded => "dropped_overloaded",
            Self::DroppedFragment => "dropped_fragment",
            Self::BackendOverloaded => "backend_overloaded",
            Self::DroppedNoProgram => "dropped_no_program",
            Self::PassedOtherHost => "passed_other_host",
            Self::NatConflict => "nat_conflict",
            Self::RejectedNoBackend => "rejected_no_backend",
            Self::LostTooLong => "lost_too_long",
            Self::LostLinkDown => "lost_link_down",
            Self::LostRingFull => "lost_ring_full",
            Self::LostNotTaken => "lost_not_taken",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_stands_at_its_own_number() {
        for (number, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(*verdict as usize, number);
        }
        const { assert!(Verdict::ALL.len() <= crate::layout::VERDICTS) }
    }

    #[test]
    fn the_kernels_error_says_why_a_packet_was_lost() {
        let [message_too_long, network_down, no_buffers, not_supported] = [-90, -100, -105, -95];
        assert_eq!(Verdict::lost(message_too_long), Verdict::LostTooLong);
        assert_eq!(Verdict::lost(network_down), Verdict::LostLinkDown);
        assert_eq!(Verdict::lost(no_buffers), Verdict::LostRingFull);
        assert_eq!(Verdict::lost(0), Verdict::LostRingFull);
        assert_eq!(Verdict::lost(not_supported), Verdict::LostNotTaken);
        assert_eq!(Verdict::lost(i32::MIN), Verdict::LostNotTaken);
    }
}
