//! The state of a flow, from what the balancer sees of it: one direction under DR, both under NAT.
//!
//! The names and the default timeouts are IPVS's (`net/netfilter/ipvs/ip_vs_proto_tcp.c`), reduced to the states that
//! can be told apart without sequence numbers.

/// TCP's FIN flag, as it stands in the 14th byte of its header (RFC 9293, section 3.1).
pub const FIN: u8 = 0x01;
/// TCP's SYN flag.
pub const SYN: u8 = 0x02;
/// TCP's RST flag.
pub const RST: u8 = 0x04;
/// TCP's ACK flag.
pub const ACK: u8 = 0x10;

/// Whether a segment with these flags asks for a connection.
#[inline(always)]
#[must_use]
pub const fn opens(flags: u8) -> bool {
    flags & (SYN | ACK | RST) == SYN
}

/// Which side sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The client, towards the service.
    Client,
    /// The backend, towards the client (seen under NAT only).
    Backend,
}

/// The state of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Nothing of TCP: a UDP flow.
    Udp = 0,
    /// The client's SYN was seen, its ACK not yet.
    SynReceived = 1,
    /// Data flows.
    Established = 2,
    /// The client has sent its FIN.
    FinClient = 3,
    /// The backend has sent its FIN.
    FinBackend = 4,
    /// Both have sent their FIN.
    TimeWait = 5,
    /// A RST was seen.
    Closed = 6,
    /// No connection, but the backend that a client persists with.
    Template = 7,
}

/// How many states there are; also the length of the table of timeouts. A power of two, so that a masked index stays inside.
pub const STATES: usize = 8;

/// Idle times after which a flow in each state is forgotten, in seconds, by [`State`] as index. IPVS's defaults: UDP
/// 5 min, SYN 1 min, established 15 min, FIN and TIME_WAIT 2 min, closed 10 s. The last place is the template's, whose time
/// is its service's.
pub const TIMEOUTS: [u32; STATES] = [300, 60, 900, 120, 120, 120, 10, 0];

impl State {
    /// The state with this number, of which the lowest three bits count.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & (STATES as u8 - 1) {
            0 => Self::Udp,
            1 => Self::SynReceived,
            2 => Self::Established,
            3 => Self::FinClient,
            4 => Self::FinBackend,
            5 => Self::TimeWait,
            6 => Self::Closed,
            _ => Self::Template,
        }
    }

    /// The state of a flow whose first packet carries `flags`. A flow that does not begin with a SYN began at another
    /// node or before this one: it counts as established.
    #[inline(always)]
    #[must_use]
    pub const fn first(flags: u8) -> Self {
        if flags & RST != 0 {
            Self::Closed
        } else if flags & SYN != 0 {
            Self::SynReceived
        } else if flags & FIN != 0 {
            Self::FinClient
        } else {
            Self::Established
        }
    }

    /// The state after a packet with `flags` from one side.
    #[inline(always)]
    #[must_use]
    pub const fn next(self, flags: u8, from: From) -> Self {
        if flags & RST != 0 {
            return match (self, from) {
                // A client answers so to what is left of its port's last connection, and goes on to open this one (RFC 9293,
                // section 3.10.7.3): its next SYN must meet the same backend, whose answer to the first is under way.
                (Self::SynReceived, From::Client) => Self::SynReceived,
                (Self::FinClient, From::Backend) | (Self::FinBackend, From::Client) | (Self::TimeWait, _) => {
                    Self::TimeWait
                }
                _ => Self::Closed,
            };
        }
        if flags & FIN != 0 {
            return match (self, from) {
                (Self::Closed, _) => Self::Closed,
                (Self::FinBackend | Self::TimeWait, From::Client) => Self::TimeWait,
                (Self::FinClient | Self::TimeWait, From::Backend) => Self::TimeWait,
                (_, From::Client) => Self::FinClient,
                (_, From::Backend) => Self::FinBackend,
            };
        }
        match (self, from) {
            (Self::SynReceived, From::Client) if flags & SYN == 0 => Self::Established,
            (state, From::Client) if opens(flags) && state.is_closed() => Self::SynReceived,
            (state, _) => state,
        }
    }

    /// The state of a flow whose client sends data, which it does on no connection that it has closed or that was reset: who
    /// sent that FIN or RST was somebody else, or an end that the other did not believe.
    #[inline(always)]
    #[must_use]
    pub const fn revived(self) -> Self {
        match self {
            // The client may go on after the backend's FIN.
            Self::FinBackend => Self::FinBackend,
            _ => Self::Established,
        }
    }

    /// Whether one end at least has closed the flow, or somebody in its name: a SYN may then be that of a new connection.
    #[inline(always)]
    #[must_use]
    pub const fn is_closed(self) -> bool {
        const CLOSED: u8 = 1 << State::FinClient as u8
            | 1 << State::FinBackend as u8
            | 1 << State::TimeWait as u8
            | 1 << State::Closed as u8;
        // Of a comparison the verifier would remember which states there may be, and walk what follows once for each outcome.
        CLOSED >> self as u8 & 1 != 0
    }

    /// Whether nothing of the flow is to come: both ends have closed it, or it was reset.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::TimeWait | Self::Closed)
    }

    /// Whether the flow counts as an active connection: established ones (and UDP flows) are active, all others
    /// inactive.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Established | Self::Udp)
    }

    /// Whether the flow weighs as an active connection in a scheduler's eyes. Half-open ones do, as in IPVS
    /// (`tcp_state_active_table` in `ip_vs_proto_tcp.c`): else a burst of them would all go to one backend.
    #[inline(always)]
    #[must_use]
    pub const fn is_busy(self) -> bool {
        matches!(self, Self::Established | Self::Udp | Self::SynReceived)
    }

    /// The name shown to people and programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::SynReceived => "syn-received",
            Self::Established => "established",
            Self::FinClient => "fin-client",
            Self::FinBackend => "fin-backend",
            Self::TimeWait => "time-wait",
            Self::Closed => "closed",
            Self::Template => "template",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(packets: &[(u8, From)]) -> State {
        let (first, rest) = packets.split_first().expect("a first packet");
        rest.iter()
            .fold(State::first(first.0), |state, (flags, from)| state.next(*flags, *from))
    }

    #[test]
    fn a_handshake_seen_from_one_side_establishes() {
        assert_eq!(walk(&[(SYN, From::Client), (ACK, From::Client)]), State::Established);
    }

    #[test]
    fn a_handshake_seen_from_both_sides_establishes_with_the_clients_ack() {
        let half = [(SYN, From::Client), (SYN | ACK, From::Backend)];
        assert_eq!(walk(&half), State::SynReceived);
        assert_eq!(walk(&[half[0], half[1], (ACK, From::Client)]), State::Established);
    }

    #[test]
    fn a_repeated_syn_stays_half_open() {
        assert_eq!(walk(&[(SYN, From::Client), (SYN, From::Client)]), State::SynReceived);
    }

    #[test]
    fn both_fins_in_either_order_end_in_time_wait() {
        let open = [(SYN, From::Client), (ACK, From::Client)];
        let client = (FIN | ACK, From::Client);
        let backend = (FIN | ACK, From::Backend);
        assert_eq!(walk(&[open[0], open[1], client]), State::FinClient);
        assert_eq!(walk(&[open[0], open[1], backend]), State::FinBackend);
        assert_eq!(
            walk(&[open[0], open[1], client, backend, (ACK, From::Client)]),
            State::TimeWait
        );
        assert_eq!(walk(&[open[0], open[1], backend, client]), State::TimeWait);
    }

    #[test]
    fn a_reset_closes_from_any_state_and_a_late_fin_does_not_reopen() {
        for state in [State::SynReceived, State::Established, State::FinBackend, State::Closed] {
            let closed = state.next(RST | ACK, From::Backend);
            assert_eq!(closed, State::Closed);
            assert_eq!(closed.next(FIN | ACK, From::Client), State::Closed);
        }
    }

    #[test]
    fn a_reset_by_the_end_that_had_not_closed_yet_is_the_second_of_two() {
        assert_eq!(State::FinClient.next(RST, From::Backend), State::TimeWait);
        assert_eq!(State::FinBackend.next(RST, From::Client), State::TimeWait);
        assert_eq!(State::TimeWait.next(RST, From::Client), State::TimeWait);
    }

    #[test]
    fn a_syn_that_one_end_s_closing_has_come_before_opens_the_flow_again() {
        for state in [State::FinClient, State::FinBackend, State::Closed] {
            assert_eq!(state.next(SYN, From::Client), State::SynReceived);
            assert_eq!(state.next(SYN | ACK, From::Client), state);
        }
    }

    #[test]
    fn data_of_the_client_revives_a_flow_but_for_one_that_the_backend_alone_has_closed() {
        for state in [State::FinClient, State::TimeWait, State::Closed] {
            assert_eq!(state.revived(), State::Established);
        }
        assert_eq!(State::FinBackend.revived(), State::FinBackend);
    }

    #[test]
    fn a_flow_met_in_its_middle_counts_as_established() {
        assert_eq!(State::first(ACK), State::Established);
    }
}
