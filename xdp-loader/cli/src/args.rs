//! What can be typed.

#![expect(missing_docs, reason = "a comment on a field or a variant is its text in `--help`")]
#![allow(rustdoc::broken_intra_doc_links, reason = "the same: an IPv6 address is no link")]

/// What is true of all flags that stand for fields.
macro_rules! fields {
    () => {
        "Every field x_y of a document has its flag --x-y, and a field x_y of [service.TABLE] --TABLE-x-y. \
         `default` in place of a value puts the field back to its default. A flag with [=<BOOL>] alone means true."
    };
}

mod availability;
mod backend;
mod conns;
mod health;
mod service;
mod setting;
mod timeouts;

use std::{collections::BTreeSet, ffi::OsString, net::SocketAddr, path::PathBuf};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum, error::ErrorKind};
use clap_complete::Shell;

pub use self::{
    backend::{BackendCommand, BackendFields},
    conns::{Conns, ConnsCommand},
    service::{ServiceCommand, ServiceFields},
};
use lvx_model::{ServiceAddress, settings::XdpMode};

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
pub struct Cli {
    /// The daemon's control socket [default: /run/lvx/lvx.sock]
    #[arg(long, global = true, value_name = "PATH", env = "LVX_SOCKET", hide_env_values = true)]
    pub socket: Option<PathBuf>,
    /// Tables for people or JSON for programs
    #[arg(short, long, global = true, value_enum, value_name = "FORM", default_value_t = Form::Table)]
    pub output: Form,
    #[command(subcommand)]
    pub command: Command,
}

/// Reads a command line, the program's name first.
///
/// # Errors
/// When it is none, or asks for help or the version: print it, and exit as it says.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let words = join_booleans(words, &booleans(&Cli::command()));
    let cli = Cli::try_parse_from(words)?;
    let Some((path, message)) = cli.command.fault() else {
        return Ok(cli);
    };
    let mut command = Cli::command();
    command.build();
    let of = path
        .iter()
        .try_fold(&mut command, |of, name| of.find_subcommand_mut(name));
    Err(of
        .map_or_else(Cli::command, |of| of.clone())
        .error(ErrorKind::MissingRequiredArgument, message))
}

/// The flags, as they are typed, that are true or false.
fn booleans(command: &clap::Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter(|arg| {
        let names = arg.get_value_names().unwrap_or_default();
        names.iter().any(|name| name == "BOOL")
    });
    let own = own.flat_map(|arg| arg.get_long_and_visible_aliases().unwrap_or_default());
    let own = own.map(|name| format!("--{name}"));
    own.chain(command.get_subcommands().flat_map(booleans)).collect()
}

/// Makes `--sorry false` one word, `--sorry=false`: else `--sorry` before a positional argument would take it for its
/// value.
fn join_booleans(words: impl IntoIterator<Item = OsString>, booleans: &BTreeSet<String>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    for word in words {
        match joined.last_mut() {
            Some(flag)
                if ["true", "false", "default"].iter().any(|value| word == *value)
                    && flag.to_str().is_some_and(|flag| booleans.contains(flag)) =>
            {
                flag.push("=");
                flag.push(word);
            }
            _ => joined.push(word),
        }
    }
    joined
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
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
  lvx stats --all             rows of zeros too
  lvx stats --rate 1          per second, measured over one second
  lvx stats -o json | jq '.services[] | {address, packets_in}'")]
    Stats {
        /// Rows too in which nothing was counted
        #[arg(long)]
        all: bool,
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

impl Command {
    /// What is wrong with a change although each of its flags is right, and the subcommand that it is of.
    fn fault(&self) -> Option<([&'static str; 2], &'static str)> {
        const NOTHING: &str = "nothing to change: give a field, such as --forward nat; --help has them all";
        let (path, nothing, fault) = match self {
            Self::Service { command } => match command {
                ServiceCommand::Add { fields, .. } => (["service", "add"], false, fields.health.fault(true)),
                ServiceCommand::Set { fields, .. } => {
                    let nothing = *fields == ServiceFields::default();
                    (["service", "set"], nothing, fields.health.fault(false))
                }
                _ => return None,
            },
            Self::Backend { command } => match command {
                BackendCommand::Add { fields, .. } => (["backend", "add"], false, fields.health.fault(true)),
                BackendCommand::Set { fields, .. } => {
                    let nothing = *fields == BackendFields::default();
                    (["backend", "set"], nothing, fields.health.fault(false))
                }
                _ => return None,
            },
            _ => return None,
        };
        fault.or(nothing.then_some(NOTHING)).map(|fault| (path, fault))
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lvx run --interface eth0
  lvx run --interface eth0 --interface eth1 --xdp-mode native
  lvx run --config ./lvx.toml

When it stops or dies the dataplane goes on forwarding, and the next `lvx run` takes it over; `lvx detach` ends it.
RUST_LOG chooses what is logged to stderr, such as RUST_LOG=lvx=debug.")]
pub struct Run {
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
pub enum Mode {
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
pub struct Detach {
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
