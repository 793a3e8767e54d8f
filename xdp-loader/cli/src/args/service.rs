//! What can be typed of services.

use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};

use super::forward;
use lvx_model::{
    Check, CheckForm, CheckType, Forward, HashBy, Netmask, OnLoss, Overload, Period, Scheduler, ServiceAddress,
    TimeoutChange, check::CheckError,
};

#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Add a service
    #[command(after_help = "Examples:
  lvx service add tcp://10.0.0.100:80
  lvx service add tcp://10.0.0.100:80 --health http --health-path /healthz --health-interval 1s
  lvx service add tcp://10.0.0.100:443 --scheduler wlc --persistence 300s --netmask 24 --mark 1
  lvx service add 'udp://[2001:db8::1]:53' --forward nat --scheduler wrr --timeout udp=30s")]
    Add {
        /// Where clients will reach it, such as tcp://10.0.0.100:80 or udp://[2001:db8::1]:53
        service: ServiceAddress,
        #[command(flatten)]
        fields: ServiceFields,
    },
    /// Change a service; what is not named stays
    #[command(
        group = clap::ArgGroup::new("change").required(true).multiple(true).args([
            "forward", "scheduler", "mh_slots", "hash", "persistence", "netmask", "mark", "one_packet", "on_loss",
            "overload", "timeouts", "health",
        ]),
        after_help = "Examples:
  lvx service set tcp://10.0.0.100:80 --scheduler wlc                    breaks no connection
  lvx service set tcp://10.0.0.100:80 --persistence 0s                   takes persistence off
  lvx service set tcp://10.0.0.100:80 --timeout fin=10s --timeout established=default"
    )]
    Set {
        /// The service
        service: ServiceAddress,
        #[command(flatten)]
        fields: ServiceFields,
    },
    /// Remove a service and its backends
    Del {
        /// The service
        service: ServiceAddress,
    },
    /// Show a service and its backends
    Show {
        /// The service
        service: ServiceAddress,
    },
    /// List the services
    List,
}

#[derive(Debug, Args)]
pub struct ServiceFields {
    /// How packets reach the backends: direct routing (dr, the default) or address translation (nat)
    #[arg(long, value_parser = forward())]
    pub forward: Option<Forward>,
    /// How new connections are spread, with IPVS's meaning: Maglev hashing (mh, the default), round robin (rr, weighted
    /// wrr), least connections (lc, weighted wlc), shortest expected delay (sed), never queue (nq), source hashing (sh),
    /// destination hashing (dh), failover (fo), overflow (ovf), or the less loaded of two at random (p2c)
    #[arg(long, value_parser = scheduler())]
    pub scheduler: Option<Scheduler>,
    /// What of a client mh and sh hash: its address (source; sh's default), or its port too (source-port; mh's)
    #[arg(long, value_parser = hash())]
    pub hash: Option<HashBy>,
    /// Send a client to the same backend until so long after the last packet of its connections, such as 300s; 0s takes
    /// it off
    #[arg(long, value_name = "TIME")]
    pub persistence: Option<Period>,
    /// Clients whose addresses agree in this prefix are one client to persistence: 24 or 255.255.255.0 [default: all]
    #[arg(long, value_name = "MASK")]
    pub netmask: Option<Netmask>,
    /// Share persistence with the services of the same mark, such as those on ports 80 and 443; 0 takes it off
    #[arg(long, value_name = "N")]
    pub mark: Option<u32>,
    /// Schedule every datagram by itself (UDP with dr)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub one_packet: Option<bool>,
    /// What becomes of a flow whose backend is deleted or down: another backend (reschedule, the default) or drop
    #[arg(long, value_parser = on_loss())]
    pub on_loss: Option<OnLoss>,
    /// What becomes of a connection whose backend is at its upper threshold: the next backend (next, the default), the
    /// sorry backend (sorry), or drop
    #[arg(long, value_parser = overload())]
    pub overload: Option<Overload>,
    /// How long an idle flow is kept: established, syn, fin, closed or udp, such as established=15m; =default takes it
    /// off; may be given several times
    #[arg(long = "timeout", value_name = "STATE=TIME")]
    pub timeouts: Vec<TimeoutChange>,
    /// Slots of the Maglev table, a prime between 251 and 131071 [default: 65537]
    #[arg(long, value_name = "N")]
    pub mh_slots: Option<u32>,
    #[command(flatten)]
    pub health: HealthFields,
}

/// The simple cases; documents have them all.
#[derive(Debug, Args)]
pub struct HealthFields {
    /// How the backends are probed: icmp, tcp, http, https, grpc, or none (others: `lvx apply`)
    #[arg(long, value_name = "TYPE", value_parser = ["none", "icmp", "tcp", "http", "https", "grpc"])]
    pub health: Option<String>,
    /// The path that an http probe asks for [default: /]
    #[arg(long, value_name = "PATH", requires = "health")]
    pub health_path: Option<String>,
    /// The port that is probed [default: the backend's]
    #[arg(long, value_name = "PORT", requires = "health")]
    pub health_port: Option<u16>,
    /// Time between probes [default: 2s]
    #[arg(long, value_name = "TIME", requires = "health")]
    pub health_interval: Option<Period>,
    /// Time for an answer [default: 1s]
    #[arg(long, value_name = "TIME", requires = "health")]
    pub health_timeout: Option<Period>,
    /// Successes in a row that make a backend up [default: 2]
    #[arg(long, value_name = "N", requires = "health")]
    pub health_rise: Option<u32>,
    /// Failures in a row that make it down [default: 3]
    #[arg(long, value_name = "N", requires = "health")]
    pub health_fall: Option<u32>,
}

impl HealthFields {
    /// The probes that were asked for, if any were.
    pub fn checks(self) -> Result<Option<Vec<Check>>, CheckError> {
        let Some(name) = self.health else { return Ok(None) };
        let Some(kind) = CheckType::ALL.iter().find(|kind| kind.name() == name) else {
            return Ok(Some(Vec::new()));
        };
        let form = CheckForm {
            path: self.health_path,
            port: self.health_port,
            interval: self.health_interval,
            timeout: self.health_timeout,
            rise: self.health_rise,
            fall: self.health_fall,
            ..CheckForm::new(*kind)
        };
        Ok(Some(vec![Check::try_from(form)?]))
    }
}

fn scheduler() -> impl TypedValueParser<Value = Scheduler> {
    PossibleValuesParser::new(Scheduler::ALL.iter().map(|known| known.name())).try_map(|name| name.parse::<Scheduler>())
}

fn hash() -> impl TypedValueParser<Value = HashBy> {
    PossibleValuesParser::new(HashBy::ALL.iter().map(|known| known.name())).try_map(|name| name.parse::<HashBy>())
}

fn on_loss() -> impl TypedValueParser<Value = OnLoss> {
    PossibleValuesParser::new(OnLoss::ALL.iter().map(|known| known.name())).try_map(|name| name.parse::<OnLoss>())
}

fn overload() -> impl TypedValueParser<Value = Overload> {
    PossibleValuesParser::new(Overload::ALL.iter().map(|known| known.name())).try_map(|name| name.parse::<Overload>())
}
