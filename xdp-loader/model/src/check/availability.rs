//! When a service counts as available, and what is done when it is not.

use serde::{Deserialize, Deserializer, Serialize};

use super::Period;
use crate::{
    change::{or, or_default},
    names::named,
};

named! {
    /// How several probes of one backend make one verdict.
    Combine, "combination of probes" {
        /// Every probe must succeed.
        #[default]
        All = "all",
        /// One probe that succeeds is enough.
        Any = "any",
    }
}

/// The health policy of a service: `[service.availability]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Availability {
    /// How several probes of one backend make one verdict.
    #[serde(skip_serializing_if = "is_all")]
    pub combine: Combine,
    /// How long a backend that comes back takes to its full weight; 0 gives it at once.
    #[serde(skip_serializing_if = "Period::is_zero")]
    pub slow_start: Period,
    /// How long a backend that went down twice in a minute is held out from its fall on, though it answers; doubles each time. 0
    /// holds nothing out.
    #[serde(skip_serializing_if = "is_default_hold_out")]
    pub hold_out: Period,
    /// What the hold-out grows to at most.
    #[serde(skip_serializing_if = "is_default_hold_out_max")]
    pub hold_out_max: Period,
    /// The sum of the weights of healthy backends below which the service has lost its quorum.
    #[serde(skip_serializing_if = "is_one")]
    pub quorum: u32,
    /// The quorum is lost only below `quorum` less this, and regained only at `quorum` and this.
    #[serde(skip_serializing_if = "is_zero")]
    pub quorum_hysteresis: u32,
    /// Whether to send to all backends when none is healthy, rather than to none.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fail_open: bool,
}

const DEFAULT_HOLD_OUT: Period = Period::from_millis(10_000);
const DEFAULT_HOLD_OUT_MAX: Period = Period::from_millis(300_000);

impl Default for Availability {
    fn default() -> Self {
        Self {
            combine: Combine::All,
            slow_start: Period::from_millis(0),
            hold_out: DEFAULT_HOLD_OUT,
            hold_out_max: DEFAULT_HOLD_OUT_MAX,
            quorum: 1,
            quorum_hysteresis: 0,
            fail_open: false,
        }
    }
}

impl Availability {
    /// Whether nothing was asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Changes what `change` names and keeps the rest.
    pub fn change(&mut self, change: &AvailabilityChange) {
        self.combine = change.combine.unwrap_or(self.combine);
        self.slow_start = change.slow_start.unwrap_or(self.slow_start);
        self.hold_out = change.hold_out.unwrap_or(self.hold_out);
        self.hold_out_max = change.hold_out_max.unwrap_or(self.hold_out_max);
        self.quorum = change.quorum.unwrap_or(self.quorum);
        self.quorum_hysteresis = change.quorum_hysteresis.unwrap_or(self.quorum_hysteresis);
        self.fail_open = change.fail_open.unwrap_or(self.fail_open);
    }

    /// What is wrong with it, if anything.
    pub(crate) fn fault(&self) -> Option<String> {
        if self.quorum == 0 {
            return Some("quorum 0 is never lost: leave it out, or give 1 or more".into());
        }
        if self.quorum_hysteresis >= self.quorum {
            return Some(format!(
                "quorum_hysteresis {} must be less than the quorum {}, else the quorum is never lost",
                self.quorum_hysteresis, self.quorum
            ));
        }
        if self.hold_out_max < self.hold_out {
            return Some(format!(
                "hold_out_max {} is shorter than hold_out {}: raise it",
                self.hold_out_max, self.hold_out
            ));
        }
        None
    }
}

/// What to change in a health policy; what is absent stays, null in JSON puts a field back to its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AvailabilityChange {
    /// How several probes make one verdict.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub combine: Option<Combine>,
    /// How long a backend that comes back takes to its full weight.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub slow_start: Option<Period>,
    /// How long a backend that flaps is held out from its fall on.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "or_default_hold_out"
    )]
    pub hold_out: Option<Period>,
    /// What the hold-out grows to at most.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "or_default_hold_out_max"
    )]
    pub hold_out_max: Option<Period>,
    /// The sum of healthy weights below which the quorum is lost.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "or_default_quorum"
    )]
    pub quorum: Option<u32>,
    /// How far from `quorum` it is lost and regained.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub quorum_hysteresis: Option<u32>,
    /// Whether to send to all backends when none is healthy.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub fail_open: Option<bool>,
}

impl AvailabilityChange {
    /// Every field is to be as it is there.
    pub(crate) fn to(policy: &Availability) -> Self {
        Self {
            combine: Some(policy.combine),
            slow_start: Some(policy.slow_start),
            hold_out: Some(policy.hold_out),
            hold_out_max: Some(policy.hold_out_max),
            quorum: Some(policy.quorum),
            quorum_hysteresis: Some(policy.quorum_hysteresis),
            fail_open: Some(policy.fail_open),
        }
    }

    /// Whether nothing is to change.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn or_default_hold_out<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Period>, D::Error> {
    or(deserializer, Availability::default().hold_out)
}

fn or_default_hold_out_max<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Period>, D::Error> {
    or(deserializer, Availability::default().hold_out_max)
}

fn or_default_quorum<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    or(deserializer, Availability::default().quorum)
}

fn is_all(combine: &Combine) -> bool {
    *combine == Combine::All
}

fn is_default_hold_out(period: &Period) -> bool {
    *period == DEFAULT_HOLD_OUT
}

fn is_default_hold_out_max(period: &Period) -> bool {
    *period == DEFAULT_HOLD_OUT_MAX
}

fn is_one(number: &u32) -> bool {
    *number == 1
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}
