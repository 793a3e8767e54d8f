//! What can be typed of a service's health policy: every field `x_y` of `[service.availability]` is
//! `--availability-x-y`; `--x-y` is enough.

use clap::{Args, value_parser};

use super::setting::{Setting, boolean, named, setting, typed};
use lvx_model::{Availability, AvailabilityChange, Combine, Period};

#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Availability")]
pub struct AvailabilityFields {
    /// With several probes: every one must succeed (all, the default), or one is enough (any)
    #[arg(long, visible_alias = "combine", value_name = "HOW", value_parser = setting(named(Combine::ALL, Combine::name)))]
    pub availability_combine: Option<Setting<Combine>>,
    /// How long a backend that comes back takes to its full weight [default: 0s]
    #[arg(long, visible_alias = "slow-start", value_name = "TIME", value_parser = typed::<Period>())]
    pub availability_slow_start: Option<Setting<Period>>,
    /// How long a backend that went down twice in a minute is held out from its fall on; doubles each time [default:
    /// 10s]
    #[arg(long, visible_alias = "hold-out", value_name = "TIME", value_parser = typed::<Period>())]
    pub availability_hold_out: Option<Setting<Period>>,
    /// What that grows to at most [default: 5m]
    #[arg(long, visible_alias = "hold-out-max", value_name = "TIME", value_parser = typed::<Period>())]
    pub availability_hold_out_max: Option<Setting<Period>>,
    /// The sum of healthy weights below which the quorum is lost [default: 1]
    #[arg(long, visible_alias = "quorum", value_name = "N", value_parser = setting(value_parser!(u32)))]
    pub availability_quorum: Option<Setting<u32>>,
    /// The quorum is lost only at so many less, and regained only at so many more [default: 0]
    #[arg(long, visible_alias = "quorum-hysteresis", value_name = "N", value_parser = setting(value_parser!(u32)))]
    pub availability_quorum_hysteresis: Option<Setting<u32>>,
    /// Send to all backends when none is healthy
    #[arg(
        long, visible_alias = "fail-open", value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean()
    )]
    pub availability_fail_open: Option<Setting<bool>>,
}

impl AvailabilityFields {
    /// What is asked for.
    pub fn change(self) -> AvailabilityChange {
        let Self {
            availability_combine,
            availability_slow_start,
            availability_hold_out,
            availability_hold_out_max,
            availability_quorum,
            availability_quorum_hysteresis,
            availability_fail_open,
        } = self;
        let default = Availability::default();
        AvailabilityChange {
            combine: availability_combine.map(|to| to.or(default.combine)),
            slow_start: availability_slow_start.map(|to| to.or(default.slow_start)),
            hold_out: availability_hold_out.map(|to| to.or(default.hold_out)),
            hold_out_max: availability_hold_out_max.map(|to| to.or(default.hold_out_max)),
            quorum: availability_quorum.map(|to| to.or(default.quorum)),
            quorum_hysteresis: availability_quorum_hysteresis.map(|to| to.or(default.quorum_hysteresis)),
            fail_open: availability_fail_open.map(|to| to.or(default.fail_open)),
        }
    }
}
