//! The binary `lvx`: the daemon and the command-line tool.

mod heap;
mod node;

use std::process::ExitCode;

use clap::Parser as _;
use lvx_cli::args::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    lvx_cli::exit(match cli.command {
        Command::Run(run) => node::run(run, cli.socket),
        Command::Detach(detach) => node::detach(detach, cli.socket),
        _ => lvx_cli::run(cli),
    })
}
