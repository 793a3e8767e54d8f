//! The binary `lvx`: the daemon and the command-line tool.

mod descriptors;
mod heap;
mod node;

use std::{env, process::ExitCode};

use lvx_cli::args::{self, Command};

fn main() -> ExitCode {
    let cli = match args::parse(env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return lvx_cli::misused(&error),
    };
    match cli.command {
        Command::Run(run) => node::run(run, cli.socket).unwrap_or_else(|error| lvx_cli::exit(Err(error))),
        Command::Detach(detach) => lvx_cli::exit(node::detach(detach, cli.socket)),
        _ => lvx_cli::exit(lvx_cli::run(cli)),
    }
}
