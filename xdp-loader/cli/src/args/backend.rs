//! What can be typed of backends.

use clap::{Args, Subcommand};

use super::forward;
use lvx_model::{BackendAddress, Forward, Period, ServiceAddress};

#[derive(Debug, Subcommand)]
pub enum BackendCommand {
    /// Add a backend to a service
    #[command(after_help = "Examples:
  lvx backend add tcp://10.0.0.100:80 10.0.0.11 --weight 2
  lvx backend add tcp://10.0.0.100:80 10.0.0.12:8080 --forward nat")]
    Add {
        /// The service
        service: ServiceAddress,
        /// The backend's address, with its port if that differs from the service's
        backend: BackendAddress,
        #[command(flatten)]
        fields: BackendFields,
    },
    /// Change a backend; what is not named stays
    #[command(
        group = clap::ArgGroup::new("change").required(true).multiple(true).args([
            "weight", "forward", "upper", "lower", "sorry", "disabled",
        ]),
        after_help = "Examples:
  lvx backend set tcp://10.0.0.100:80 10.0.0.11 --weight 5
  lvx backend set tcp://10.0.0.100:80 10.0.0.11 -x 1000 -y 800      rests at 1,000 connections until there are 800
  lvx backend set tcp://10.0.0.100:80 10.0.0.11 --disabled true     no new connections, no probes"
    )]
    Set {
        /// The service
        service: ServiceAddress,
        /// The backend
        backend: BackendAddress,
        #[command(flatten)]
        fields: BackendFields,
        /// Take it out of use, or back into it
        #[arg(long, value_name = "BOOL")]
        disabled: Option<bool>,
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

#[derive(Debug, Args)]
pub struct BackendFields {
    /// Share of new connections relative to the others', 0 to 65535 (default 1; 0 gets none)
    // Any integer is taken here, so that the daemon's refusal names the backend and the range.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub weight: Option<i64>,
    /// How packets reach this backend, if not as the service says
    #[arg(long, value_parser = forward())]
    pub forward: Option<Forward>,
    /// No new connections once it has so many (0: no limit)
    #[arg(short = 'x', long, value_name = "N")]
    pub upper: Option<u32>,
    /// New connections again once it has fewer (0: three quarters of --upper)
    #[arg(short = 'y', long, value_name = "N")]
    pub lower: Option<u32>,
    /// Serve only when the service has lost its quorum, or is overloaded and has `--overload sorry`
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub sorry: Option<bool>,
}
