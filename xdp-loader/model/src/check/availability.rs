//! When a service counts as available, and what is done when it is not.

use serde::{Deserialize, Serialize};

use super::Period;

/// How several probes of one backend make one verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Combine {
    /// Every probe must succeed.
    #[default]
    All,
    /// One probe that succeeds is enough.
    Any,
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
    /// How long a backend that went down twice in a minute must be well before it is up; doubles each time. 0 damps
    /// nothing.
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
