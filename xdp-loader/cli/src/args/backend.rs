//! What can be typed of backends.

use clap::{Args, Subcommand, value_parser};

use super::{
    health::HealthFields,
    setting::{Setting, boolean, named, setting},
};
use lvx_model::{BackendAddress, BackendChange, DEFAULT_WEIGHT, Forward, Period, ServiceAddress, check::CheckError};

#[derive(Debug, Subcommand)]
pub enum BackendCommand {
    /// Add a backend to a service
    #[command(after_help = concat!(
        "Examples:
  lvx backend add tcp://10.0.0.100:80 10.0.0.11 --weight 2
  lvx backend add tcp://10.0.0.100:80 10.0.0.12:8080 --forward nat

",
        fields!()
    ))]
    Add {
        /// The service
        service: ServiceAddress,
        /// The backend's address, with its port if that differs from the service's
        backend: BackendAddress,
        /// The port, instead of `:PORT` in the address [default: the service's]
        #[arg(long)]
        port: Option<u16>,
        #[command(flatten)]
        fields: BackendFields,
    },
    /// Change a backend; what is not named stays
    #[command(after_help = concat!(
        "Examples:
  lvx backend set tcp://10.0.0.100:80 10.0.0.11 --weight 5
  lvx backend set tcp://10.0.0.100:80 10.0.0.11 -x 1000 -y 800      rests at 1,000 connections until there are 800
  lvx backend set tcp://10.0.0.100:80 10.0.0.11 --disabled          no new connections, no probes
  lvx backend set tcp://10.0.0.100:80 10.0.0.11 --forward default   as the service says
  lvx backend set tcp://10.0.0.100:80 10.0.0.11 --health none       not probed; --health default: the service's probes

",
        fields!()
    ))]
    Set {
        /// The service
        service: ServiceAddress,
        /// The backend
        backend: BackendAddress,
        #[command(flatten)]
        fields: BackendFields,
    },
    /// Give a backend no new connections; those that it has go on
    #[command(after_help = "Examples:
  lvx backend drain tcp://10.0.0.100:80 10.0.0.11
  lvx backend drain tcp://10.0.0.100:80 10.0.0.11 --wait --timeout 5m
  lvx backend drain tcp://10.0.0.100:80 10.0.0.11 --undo")]
    Drain {
        /// The service
        service: ServiceAddress,
        /// The backend
        backend: BackendAddress,
        /// Give it new connections again
        #[arg(long, conflicts_with_all = ["wait", "timeout"])]
        undo: bool,
        /// Wait until it has none left, and show how many there are until then
        #[arg(long)]
        wait: bool,
        /// Wait no longer than so
        #[arg(long, value_name = "TIME", default_value = "60s", requires = "wait")]
        timeout: Period,
    },
    /// Remove a backend from a service
    #[command(after_help = "Examples:
  lvx backend del tcp://10.0.0.100:80 10.0.0.11                 what becomes of its connections, `--on-loss` says
  lvx backend del tcp://10.0.0.100:80 10.0.0.11 --drain --timeout 5m")]
    Del {
        /// The service
        service: ServiceAddress,
        /// The backend
        backend: BackendAddress,
        /// Give it no new connections, wait until it has none left, and remove it then
        #[arg(long)]
        drain: bool,
        /// Wait no longer than so; then it is not removed, and goes on draining
        #[arg(long, value_name = "TIME", default_value = "60s", requires = "drain")]
        timeout: Period,
    },
    /// List the backends of a service, or of all
    List {
        /// The service
        service: Option<ServiceAddress>,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct BackendFields {
    /// Share of new connections relative to the others', 0 to 65535 (default 1; 0 gets none)
    // Any integer is taken here, so that a refusal names the backend and the range.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = setting(value_parser!(i64)))]
    pub weight: Option<Setting<i64>>,
    /// How packets reach this backend [default: as the service says]
    #[arg(long, value_parser = setting(named(Forward::ALL, Forward::name)))]
    pub forward: Option<Setting<Forward>>,
    /// Give it no new connections; `lvx backend drain` can wait for those that it has
    #[arg(
        long, value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean()
    )]
    pub drain: Option<Setting<bool>>,
    /// Out of use: no new connections, no probes
    #[arg(
        long, value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean()
    )]
    pub disabled: Option<Setting<bool>>,
    /// Serve only when the service has lost its quorum, or is overloaded and has `--overload sorry`
    #[arg(
        long, value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean()
    )]
    pub sorry: Option<Setting<bool>>,
    /// No new connections once it has so many (0: no limit)
    #[arg(short = 'x', long, value_name = "N", value_parser = setting(value_parser!(u32)))]
    pub upper: Option<Setting<u32>>,
    /// New connections again once it has fewer (0: three quarters of --upper)
    #[arg(short = 'y', long, value_name = "N", value_parser = setting(value_parser!(u32)))]
    pub lower: Option<Setting<u32>>,
    #[command(flatten)]
    pub health: HealthFields,
}

impl BackendFields {
    /// What is asked for.
    pub fn change(self) -> Result<BackendChange, CheckError> {
        let Self {
            weight,
            forward,
            drain,
            disabled,
            sorry,
            upper,
            lower,
            health,
        } = self;
        Ok(BackendChange {
            weight: weight.map(|to| to.or(DEFAULT_WEIGHT.into())),
            forward: forward.map(Setting::value),
            drain: drain.map(Setting::or_default),
            disabled: disabled.map(Setting::or_default),
            sorry: sorry.map(Setting::or_default),
            upper: upper.map(Setting::or_default),
            lower: lower.map(Setting::or_default),
            health: health.change()?,
        })
    }
}
