//! What can be typed of services.

use clap::{Args, Subcommand, value_parser};

use super::{
    availability::AvailabilityFields,
    health::HealthFields,
    setting::{Setting, boolean, named, setting, typed},
    timeouts::TimeoutFields,
};
use lvx_model::{
    DEFAULT_MH_SLOTS, Forward, HashBy, Netmask, OnLoss, OnNone, Overload, Period, Scheduler, ServiceAddress,
    ServiceChange, check::CheckError,
};

#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Add a service
    #[command(after_help = concat!(
        "Examples:
  lvx service add tcp://10.0.0.100:80
  lvx service add tcp://10.0.0.100:80 --health http --health-path /healthz --health-interval 1s
  lvx service add tcp://10.0.0.100:443 --scheduler wlc --persistence 300s --netmask 24 --mark 1
  lvx service add 'udp://[2001:db8::1]:53' --forward nat --scheduler wrr --timeout udp=30s

",
        fields!()
    ))]
    Add {
        /// Where clients will reach it, such as tcp://10.0.0.100:80 or udp://[2001:db8::1]:53
        service: ServiceAddress,
        #[command(flatten)]
        fields: ServiceFields,
    },
    /// Change a service; what is not named stays
    #[command(after_help = concat!(
        "Examples:
  lvx service set tcp://10.0.0.100:80 --scheduler wlc                    breaks no connection
  lvx service set tcp://10.0.0.100:80 --persistence 0s                   takes persistence off
  lvx service set tcp://10.0.0.100:80 --quorum 2 --fail-open=false
  lvx service set tcp://10.0.0.100:80 --health-interval 500ms            of the probe that there is
  lvx service set tcp://10.0.0.100:80 --timeout fin=10s --timeout established=default

",
        fields!()
    ))]
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

#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct ServiceFields {
    /// How packets reach the backends: direct routing (dr, the default) or address translation (nat)
    #[arg(long, value_parser = setting(named(Forward::ALL, Forward::name)))]
    pub forward: Option<Setting<Forward>>,
    /// How new connections are spread, with IPVS's meaning: Maglev hashing (mh, the default), round robin (rr, weighted
    /// wrr), least connections (lc, weighted wlc), shortest expected delay (sed), never queue (nq), source hashing (sh),
    /// destination hashing (dh), failover (fo), overflow (ovf), or the less loaded of two at random (p2c)
    #[arg(long, value_parser = setting(named(Scheduler::ALL, Scheduler::name)))]
    pub scheduler: Option<Setting<Scheduler>>,
    /// What of a client mh and sh hash: its address (source; sh's default), or its port too (source-port; mh's)
    #[arg(long, value_parser = setting(named(HashBy::ALL, HashBy::name)))]
    pub hash: Option<Setting<HashBy>>,
    /// Send a client to the same backend until so long after the last packet of its connections, such as 300s; 0s takes
    /// it off
    #[arg(long, value_name = "TIME", value_parser = typed::<Period>())]
    pub persistence: Option<Setting<Period>>,
    /// Clients whose addresses agree in this prefix are one client to persistence: 24 or 255.255.255.0 [default: all]
    #[arg(long, value_name = "MASK", value_parser = typed::<Netmask>())]
    pub netmask: Option<Setting<Netmask>>,
    /// Share persistence with the services of the same mark, such as those on ports 80 and 443; 0 takes it off
    #[arg(long, value_name = "N", value_parser = setting(value_parser!(u32)))]
    pub mark: Option<Setting<u32>>,
    /// Schedule every datagram by itself (UDP)
    #[arg(
        long, value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean()
    )]
    pub one_packet: Option<Setting<bool>>,
    /// What becomes of a flow whose backend is deleted or down: another backend (reschedule, the default) or drop
    #[arg(long, value_parser = setting(named(OnLoss::ALL, OnLoss::name)))]
    pub on_loss: Option<Setting<OnLoss>>,
    /// What becomes of a connection whose backend is at its upper threshold: the next backend (next, the default), the
    /// sorry backend (sorry), or drop
    #[arg(long, value_parser = setting(named(Overload::ALL, Overload::name)))]
    pub overload: Option<Setting<Overload>>,
    /// What becomes of a packet for which no backend is left: RST or ICMP port unreachable (reject, the default), or drop
    #[arg(long, value_parser = setting(named(OnNone::ALL, OnNone::name)))]
    pub on_none: Option<Setting<OnNone>>,
    /// Slots of the Maglev table, a prime between 251 and 131071 [default: 65537]
    #[arg(long, value_name = "N", value_parser = setting(value_parser!(u32)))]
    pub mh_slots: Option<Setting<u32>>,
    #[command(flatten)]
    pub timeouts: TimeoutFields,
    #[command(flatten)]
    pub availability: AvailabilityFields,
    #[command(flatten)]
    pub health: HealthFields,
}

impl ServiceFields {
    /// What is asked for.
    pub fn change(self) -> Result<ServiceChange, CheckError> {
        let Self {
            forward,
            scheduler,
            hash,
            persistence,
            netmask,
            mark,
            one_packet,
            on_loss,
            overload,
            on_none,
            mh_slots,
            timeouts,
            availability,
            health,
        } = self;
        Ok(ServiceChange {
            forward: forward.map(Setting::or_default),
            scheduler: scheduler.map(Setting::or_default),
            mh_slots: mh_slots.map(|to| to.or(DEFAULT_MH_SLOTS)),
            hash: hash.map(Setting::value),
            persistence: persistence.map(Setting::or_default),
            netmask: netmask.map(|to| to.value().map(|Netmask(length)| length)),
            mark: mark.map(Setting::or_default),
            one_packet: one_packet.map(Setting::or_default),
            on_loss: on_loss.map(Setting::or_default),
            overload: overload.map(Setting::or_default),
            on_none: on_none.map(Setting::or_default),
            timeouts: timeouts.change(),
            health: health.change()?.map(Option::unwrap_or_default),
            availability: availability.change(),
        })
    }
}
