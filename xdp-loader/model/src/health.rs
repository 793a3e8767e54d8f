//! The words of health: what is said of a backend and of a service, and the view that the dataplane follows.

mod view;

use serde::{Deserialize, Serialize};

pub use view::{BackendHealth, HealthView, ServiceHealth};

/// What the probes of a backend say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeVerdict {
    /// Not enough results yet.
    Unknown,
    /// It serves.
    Up,
    /// It serves, and something is not as it should be.
    Degraded,
    /// It asks for no new connections.
    Drain,
    /// It does not serve.
    Down,
}

/// A backend's state, as users see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not enough probes were answered, or failed, to tell.
    Unknown,
    /// It serves.
    Up,
    /// It serves, and something is not as it should be: a probe fails, it is past its load limit.
    Degraded,
    /// It does not serve, or is held out because it flaps.
    Down,
    /// It keeps its connections and gets no new ones, because it asked for that or the operator did.
    Draining,
    /// The operator took it out of use; it is not probed.
    Disabled,
}

impl State {
    /// The name as it stands in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }

    /// Whether a backend in this state serves.
    pub const fn serves(self) -> bool {
        matches!(self, Self::Up | Self::Degraded)
    }
}

/// Who serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Serving {
    /// The healthy backends.
    #[default]
    Healthy,
    /// Those of which nothing is known yet, because none is known to be healthy.
    Unproven,
    /// The sorry backends: the quorum is lost.
    Sorry,
    /// All, because none is healthy and the service fails open.
    FailOpen,
    /// None.
    None,
}
