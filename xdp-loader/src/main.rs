//! The binary `lvx`: the daemon and the command-line tool.

mod heap;
mod node;

use std::{env, process::ExitCode};

use lvx_cli::args::{self, Command};

fn main() -> ExitCode {
    let cli = args::parse(env::args_os()).unwrap_or_else(|error| error.exit());
    lvx_cli::exit(match cli.command {
        Command::Run(run) => node::run(run, cli.socket),
        Command::Detach(detach) => node::detach(detach, cli.socket),
        _ => lvx_cli::run(cli),
    })
}
