//! How long a flow that is idle is kept, by its state.

use std::{collections::BTreeMap, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Period, names::named};

/// How long a flow may be kept, and a client sent to the same backend.
pub const KEPT: RangeInclusive<Period> = Period::from_millis(1_000)..=Period::from_millis(31 * 86_400_000);

named! {
    /// The states of a flow that have a timeout of their own.
    TimeoutOf, "timeout" {
        /// TCP: data or acknowledgements flow.
        #[default]
        Established = "established",
        /// TCP: a SYN was seen and no more.
        Syn = "syn",
        /// TCP: one side or both have sent a FIN.
        Fin = "fin",
        /// TCP: a RST was seen.
        Closed = "closed",
        /// UDP.
        Udp = "udp",
    }
}

/// How long a flow that is idle is kept, by its state; what is absent is left to the node, and what the node leaves
/// absent is as in IPVS: see [`Timeouts::IPVS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// TCP: data or acknowledgements flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub established: Option<Period>,
    /// TCP: a SYN was seen and no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn: Option<Period>,
    /// TCP: one side or both have sent a FIN (states fin-client, fin-backend and time-wait).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fin: Option<Period>,
    /// TCP: a RST was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<Period>,
    /// UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<Period>,
}

impl Timeouts {
    /// What IPVS keeps them for (`net/netfilter/ipvs/ip_vs_proto_tcp.c`, `ip_vs_proto_udp.c`): 15 minutes, 1 minute, 2
    /// minutes, 10 seconds, 5 minutes.
    pub const IPVS: Self = Self {
        established: Some(Period::from_millis(900_000)),
        syn: Some(Period::from_millis(60_000)),
        fin: Some(Period::from_millis(120_000)),
        closed: Some(Period::from_millis(10_000)),
        udp: Some(Period::from_millis(300_000)),
    };

    /// Whether nothing is said of any state.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The same, and what is absent as `other` says.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            established: self.established.or(other.established),
            syn: self.syn.or(other.syn),
            fin: self.fin.or(other.fin),
            closed: self.closed.or(other.closed),
            udp: self.udp.or(other.udp),
        }
    }

    /// The timeout of a state, if it is given.
    pub fn get(&self, of: TimeoutOf) -> Option<Period> {
        match of {
            TimeoutOf::Established => self.established,
            TimeoutOf::Syn => self.syn,
            TimeoutOf::Fin => self.fin,
            TimeoutOf::Closed => self.closed,
            TimeoutOf::Udp => self.udp,
        }
    }

    /// Gives a state a timeout, or leaves it to the node.
    pub fn set(&mut self, of: TimeoutOf, period: Option<Period>) {
        *match of {
            TimeoutOf::Established => &mut self.established,
            TimeoutOf::Syn => &mut self.syn,
            TimeoutOf::Fin => &mut self.fin,
            TimeoutOf::Closed => &mut self.closed,
            TimeoutOf::Udp => &mut self.udp,
        } = period;
    }

    /// Changes those that are named.
    pub fn change(&mut self, change: &TimeoutsChange) {
        for (of, period) in change {
            self.set(*of, *period);
        }
    }

    /// The first that is out of [`KEPT`].
    pub fn fault(&self) -> Option<(TimeoutOf, Period)> {
        TimeoutOf::ALL
            .iter()
            .find_map(|of| Some((*of, self.get(*of).filter(|period| !KEPT.contains(period))?)))
    }
}

/// What to change in timeouts; null (none) leaves a state to the node.
pub type TimeoutsChange = BTreeMap<TimeoutOf, Option<Period>>;

/// A timeout as it is typed: `established=15m`, or `established=default`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutChange(pub TimeoutOf, pub Option<Period>);

/// A text that is no timeout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTimeout {
    /// There is no `=` in it.
    #[error("`{0}` is no timeout: write established=15m, or established=default to take it off")]
    Form(String),
    /// What stands before the `=` has no timeout.
    #[error(transparent)]
    Of(#[from] super::UnknownName),
    /// What stands behind it is no span of time.
    #[error(transparent)]
    Period(#[from] super::check::NoPeriod),
}

impl FromStr for TimeoutChange {
    type Err = NoTimeout;

    fn from_str(text: &str) -> Result<Self, NoTimeout> {
        let (of, period) = text.split_once('=').ok_or_else(|| NoTimeout::Form(text.to_owned()))?;
        let period = match period {
            "default" => None,
            period => Some(period.parse()?),
        };
        Ok(Self(of.parse()?, period))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;

    #[test]
    fn a_timeout_is_read_as_it_is_typed() {
        let read = |text: &str| text.parse::<TimeoutChange>();
        let minutes = Period::from_millis(900_000);
        assert_eq!(
            read("established=15m"),
            Ok(TimeoutChange(TimeoutOf::Established, Some(minutes)))
        );
        assert_eq!(read("udp=default"), Ok(TimeoutChange(TimeoutOf::Udp, None)));
        for text in ["udp", "udp=", "udp=soon", "icmp=1s", "=1s"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_service_leaves_out_the_node_says_and_then_ipvs() {
        let second = Period::from_millis(1_000);
        let service = Timeouts {
            fin: Some(second),
            ..Timeouts::default()
        };
        let node = Timeouts {
            fin: Some(KEPT.end().to_owned()),
            udp: Some(second),
            ..Timeouts::default()
        };
        let all = service.or(node).or(Timeouts::IPVS);
        assert_eq!(
            (all.fin, all.udp, all.syn),
            (Some(second), Some(second), Timeouts::IPVS.syn)
        );
    }

    #[test]
    fn a_timeout_shorter_than_a_second_or_longer_than_a_month_is_found() {
        let mut timeouts = Timeouts::IPVS;
        assert_eq!(timeouts.fault(), None);
        timeouts.change(&TimeoutsChange::from([(
            TimeoutOf::Syn,
            Some(Period::from_millis(999)),
        )]));
        assert_eq!(timeouts.fault(), Some((TimeoutOf::Syn, Period::from_millis(999))));
        timeouts.change(&TimeoutsChange::from([(TimeoutOf::Syn, None)]));
        assert_eq!(timeouts.fault(), None);
    }

    #[test]
    fn a_change_in_json_takes_off_what_is_null() {
        let change: TimeoutsChange = serde_json::from_str(r#"{"udp": "1m", "syn": null}"#).unwrap();
        assert_eq!(change.get(&TimeoutOf::Syn), Some(&None));
        assert!(serde_json::from_str::<TimeoutsChange>(r#"{"sin": "1m"}"#).is_err());
    }
}
