//! What can be typed.

use std::{net::SocketAddr, path::PathBuf};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use clap_complete::Shell;

use crate::{
    config::XdpMode,
    model::{
        BackendAddress, Check, CheckForm, CheckType, Forward, HashBy, Netmask, OnLoss, Overload, Period, Prefix,
        Scheduler, ServiceAddress, TimeoutChange, check::CheckError,
    },
    report::{ConnFilter, ConnState},
};

/// A layer-4 load balancer that forwards in the driver's receive path (XDP)
#[derive(Debug, Parser)]
#[command(
    name = "lvx",
    version,
    arg_required_else_help = true,
    after_help = "Examples:
  lvx run --interface eth0
  lvx service add tcp://10.0.0.100:80 --forward dr
  lvx backend add tcp://10.0.0.100:80 10.0.0.11 --weight 2
  lvx status

Exit status: 0 done, 1 refused or failed (one line on stderr says why), 2 wrong usage."
)]
pub(super) struct Cli {
    /// The daemon's control socket [default: /run/lvx/lvx.sock]
    #[arg(long, global = true, value_name = "PATH", env = "LVX_SOCKET", hide_env_values = true)]
    pub socket: Option<PathBuf>,
    /// Tables for people or JSON for programs
    #[arg(short, long, global = true, value_enum, value_name = "FORM", default_value_t = Form::Table)]
    pub output: Form,
    #[command(subcommand)]
    pub command: Command,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Attach to interfaces, serve the control socket, stay in the foreground
    Run(Run),
    /// Add, change, remove and show services
    Service {
        #[command(subcommand)]
        command: ServiceCommand,
    },
    /// Add, change, drain, remove and list a service's backends
    Backend {
        #[command(subcommand)]
        command: BackendCommand,
    },
    /// Make the running configuration equal to a file, and print the difference
    #[command(after_help = "Examples:
  lvx apply services.toml --dry-run     what would change
  lvx export > backup.toml; lvx apply backup.toml
  generate-services | lvx apply -

A file:
  [[service]]
  address = \"tcp://10.0.0.100:80\"
  forward = \"dr\"
  scheduler = \"mh\"
  [[service.backend]]
  address = \"10.0.0.11\"
  weight = 2")]
    Apply {
        /// TOML or JSON; `-` reads standard input
        file: PathBuf,
        /// Print the difference and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the running configuration in the form that apply reads (TOML; JSON with -o json)
    Export,
    /// What is attached and healthy
    Status,
    /// How backends are, what their probes say, and why
    #[command(after_help = "Examples:
  lvx health
  lvx health tcp://10.0.0.100:80               with the last results and changes
  lvx health -o json | jq '.services[].backends[] | {address, state, reason}'")]
    Health {
        /// The service; all of them, in less detail, if none is given
        service: Option<ServiceAddress>,
    },
    /// Counters of interfaces, services and backends; rates with --rate
    #[command(after_help = "Examples:
  lvx stats                   what was counted since the program was attached
  lvx stats --rate 1          per second, measured over one second
  lvx stats -o json | jq '.services[] | {address, packets_in}'")]
    Stats {
        /// Measure over that time and print values per second
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
        rate: Option<u64>,
    },
    /// The flow table: show it, count it, or forget entries
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:
  lvx conns --service tcp://10.0.0.100:80
  lvx conns --client 192.0.2.0/24 --state established --limit 20
  lvx conns --backend 10.0.0.11 --count
  lvx conns flush --backend 10.0.0.11
  lvx conns -o json | jq -r .backend | sort | uniq -c     (one JSON object per line)"
    )]
    Conns(Conns),
    /// Take the program off the interfaces, remove pins and VIPs; a running daemon is stopped first
    Detach(Detach),
    /// Print a completion script
    #[command(after_help = "Example:
  lvx completion bash > /etc/bash_completion.d/lvx")]
    Completion {
        /// The shell to complete in
        shell: Shell,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lvx run --interface eth0
  lvx run --interface eth0 --interface eth1 --xdp-mode native
  lvx run --config ./lvx.toml

When it stops or dies the dataplane goes on forwarding, and the next `lvx run` takes it over; `lvx detach` ends it.
RUST_LOG chooses what is logged to stderr, such as RUST_LOG=xdp_loader=debug.")]
pub(super) struct Run {
    /// The node's settings [default: /etc/lvx/lvx.toml if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// An interface to attach to; may be given several times
    #[arg(long = "interface", value_name = "IF")]
    pub interfaces: Vec<String>,
    /// Where in the receive path to run: in the driver (native), in the stack (generic), or the best there is (auto)
    #[arg(long, value_enum, value_name = "MODE")]
    pub xdp_mode: Option<Mode>,
    /// Where the desired state is kept [default: /var/lib/lvx]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where maps and programs are pinned, in a bpffs [default: /sys/fs/bpf/lvx]
    #[arg(long, value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,
    /// Serve metrics over HTTP, such as 127.0.0.1:9105
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<SocketAddr>,
}

/// `--xdp-mode`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Mode {
    /// The best there is, with a warning when that is not native
    Auto,
    /// In the driver, or not at all
    Native,
    /// In the kernel's stack: slower, works everywhere
    Generic,
}

impl From<Mode> for XdpMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Auto => Self::Auto,
            Mode::Native => Self::Native,
            Mode::Generic => Self::Generic,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Detach {
    /// The node's settings [default: /etc/lvx/lvx.toml if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the desired state is kept [default: /var/lib/lvx]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where maps and programs are pinned [default: /sys/fs/bpf/lvx]
    #[arg(long, value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ServiceCommand {
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
pub(super) struct ServiceFields {
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
pub(super) struct HealthFields {
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
    pub(super) fn checks(self) -> Result<Option<Vec<Check>>, CheckError> {
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

#[derive(Debug, Subcommand)]
pub(super) enum BackendCommand {
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
pub(super) struct BackendFields {
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

#[derive(Debug, Args)]
pub(super) struct Conns {
    #[command(subcommand)]
    pub command: Option<ConnsCommand>,
    #[command(flatten)]
    pub filter: Filter,
    /// Only how many they are
    #[arg(long)]
    pub count: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConnsCommand {
    /// Forget entries of the flow table: their next packets are scheduled anew
    #[command(after_help = "Examples:
  lvx conns flush --service udp://10.0.0.100:53
  lvx conns flush --client 192.0.2.7
  lvx conns flush --all")]
    Flush {
        #[command(flatten)]
        filter: Filter,
        /// Forget every entry
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Only connections to this service
    #[arg(long)]
    pub service: Option<ServiceAddress>,
    /// Only connections to this backend; without a port, on any port
    #[arg(long)]
    pub backend: Option<BackendAddress>,
    /// Only connections that are so far
    #[arg(long, value_parser = state())]
    pub state: Option<ConnState>,
    /// Only connections from this client, or from the clients of this network
    #[arg(long, value_name = "IP[/N]")]
    pub client: Option<Prefix>,
    /// At most so many
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

impl From<Filter> for ConnFilter {
    fn from(filter: Filter) -> Self {
        let Filter {
            service,
            backend,
            state,
            client,
            limit,
        } = filter;
        Self {
            service,
            backend,
            state,
            client,
            limit,
        }
    }
}

fn forward() -> impl TypedValueParser<Value = Forward> {
    PossibleValuesParser::new(Forward::ALL.iter().map(|known| known.name())).try_map(|name| name.parse::<Forward>())
}

fn state() -> impl TypedValueParser<Value = ConnState> {
    PossibleValuesParser::new(ConnState::ALL.map(ConnState::name)).try_map(|name| {
        let known = ConnState::ALL.into_iter().find(|known| known.name() == name);
        known.ok_or("no such state")
    })
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

fn scheduler() -> impl TypedValueParser<Value = Scheduler> {
    PossibleValuesParser::new(Scheduler::ALL.iter().map(|known| known.name())).try_map(|name| name.parse::<Scheduler>())
}
