//! What can be typed of a service's timeouts: every field `x` of `[service.timeouts]` is `--timeouts-x`, and
//! `--timeout x=TIME`.

use clap::Args;

use super::setting::{Setting, typed};
use lvx_model::{Period, TimeoutChange, TimeoutOf, TimeoutsChange};

#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Timeouts of idle flows")]
pub struct TimeoutFields {
    /// The same as the flags below, by state: established, syn, fin, closed or udp, such as established=15m or
    /// udp=default; may be given several times
    #[arg(long = "timeout", visible_alias = "timeouts", value_name = "STATE=TIME")]
    pub timeout: Vec<TimeoutChange>,
    /// TCP with data or acknowledgements [default: the node's]
    #[arg(long, value_name = "TIME", value_parser = typed::<Period>())]
    pub timeouts_established: Option<Setting<Period>>,
    /// TCP of which only a SYN was seen [default: the node's]
    #[arg(long, value_name = "TIME", value_parser = typed::<Period>())]
    pub timeouts_syn: Option<Setting<Period>>,
    /// TCP after a FIN [default: the node's]
    #[arg(long, value_name = "TIME", value_parser = typed::<Period>())]
    pub timeouts_fin: Option<Setting<Period>>,
    /// TCP after a RST [default: the node's]
    #[arg(long, value_name = "TIME", value_parser = typed::<Period>())]
    pub timeouts_closed: Option<Setting<Period>>,
    /// UDP [default: the node's]
    #[arg(long, value_name = "TIME", value_parser = typed::<Period>())]
    pub timeouts_udp: Option<Setting<Period>>,
}

impl TimeoutFields {
    /// What is asked for. Of two timeouts for one state the last `--timeout` holds, and a flag of its own before it.
    pub fn change(self) -> TimeoutsChange {
        let Self {
            timeout,
            timeouts_established,
            timeouts_syn,
            timeouts_fin,
            timeouts_closed,
            timeouts_udp,
        } = self;
        let by_state = timeout.into_iter().map(|TimeoutChange(of, period)| (of, period));
        let own = [
            (TimeoutOf::Established, timeouts_established),
            (TimeoutOf::Syn, timeouts_syn),
            (TimeoutOf::Fin, timeouts_fin),
            (TimeoutOf::Closed, timeouts_closed),
            (TimeoutOf::Udp, timeouts_udp),
        ];
        let own = own.into_iter().filter_map(|(of, to)| Some((of, to?.value())));
        by_state.chain(own).collect()
    }
}
