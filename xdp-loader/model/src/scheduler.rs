//! How a backend is chosen for a new connection, with the meaning that IPVS gives to the names (ipvsadm(8),
//! `net/netfilter/ipvs/ip_vs_*.c`). A backend of weight 0 is never chosen, whatever the scheduler.

use std::ops::RangeInclusive;

use super::names::named;

/// Slots of a Maglev table for which no number is given.
pub const DEFAULT_MH_SLOTS: u32 = 65_537;

/// How many slots a Maglev table may have; the number must also be a prime.
pub const MH_SLOTS: RangeInclusive<u32> = 251..=131_071;

named! {
    /// How a backend is chosen for a new connection.
    ///
    /// The load of a backend is its active connections and, for the kinds that weigh both, a 256th of its inactive ones,
    /// as IPVS counts it.
    Scheduler, "scheduler" {
        /// Maglev hashing: the same client always meets the same backend, on every node.
        #[default]
        Mh = "mh",
        /// Round robin, weights ignored (a weight of 0 still excludes).
        Rr = "rr",
        /// Weighted round robin.
        Wrr = "wrr",
        /// Least connections: the backend with the least load, weights ignored.
        Lc = "lc",
        /// Weighted least connections: the backend with the least load for its weight.
        Wlc = "wlc",
        /// Shortest expected delay: the least (active connections + 1) / weight, so that a new connection is counted in.
        Sed = "sed",
        /// Never queue: a backend without active connections if there is one, else as `sed`.
        Nq = "nq",
        /// Source hashing: the client's address chooses the backend.
        Sh = "sh",
        /// Destination hashing: the service's address chooses the backend.
        Dh = "dh",
        /// Weighted failover: all to the backend with the highest weight that takes new connections.
        Fo = "fo",
        /// Weighted overflow: to the backend with the highest weight until it has more active connections than its weight,
        /// then to the next.
        Ovf = "ovf",
        /// Power of two choices: of two backends at random, the one with the less load for its weight.
        P2c = "p2c",
    }
}

impl Scheduler {
    /// What the hash is over where the service does not say; none for schedulers that do not hash the client.
    pub const fn default_hash(self) -> Option<HashBy> {
        match self {
            Self::Mh => Some(HashBy::SourcePort),
            Self::Sh => Some(HashBy::Source),
            _ => None,
        }
    }
}

named! {
    /// What of a client the hash is over (`mh` and `sh`).
    HashBy, "hash" {
        /// The client's address: all its connections meet one backend.
        Source = "source",
        /// The client's address and port (IPVS's flags `mh-port` and `sh-port`).
        #[default]
        SourcePort = "source-port",
    }
}

named! {
    /// What becomes of the next packet of a flow whose backend was deleted or is down.
    OnLoss, "answer to a lost backend" {
        /// The flow is given another backend. UDP goes on at once; TCP is reset by the new backend, and the client begins
        /// anew.
        #[default]
        Reschedule = "reschedule",
        /// Its packets are dropped until the flow is forgotten.
        Drop = "drop",
    }
}

named! {
    /// What becomes of a new connection when the backend that was chosen for it is at its upper threshold.
    Overload, "answer to overload" {
        /// The next backend that is not takes it.
        #[default]
        Next = "next",
        /// The service's sorry backend takes it; where there is none, it is dropped.
        Sorry = "sorry",
        /// It is dropped.
        Drop = "drop",
    }
}

named! {
    /// What becomes of a packet for which no backend of its service is left.
    OnNone, "answer where no backend is left" {
        /// Who asks is told so at once: by a RST, or under UDP by an ICMP port unreachable.
        #[default]
        Reject = "reject",
        /// It is dropped: who asks waits for an answer and asks again.
        Drop = "drop",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_scheduler_is_answered_with_those_that_exist() {
        let message = "lblc".parse::<Scheduler>().map_err(|error| error.to_string());
        let expected = "`lblc` is no scheduler: there are mh, rr, wrr, lc, wlc, sed, nq, sh, dh, fo, ovf, p2c";
        assert_eq!(message, Err(expected.to_owned()));
    }
}
