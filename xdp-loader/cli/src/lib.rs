//! The command line: what is typed becomes requests to the daemon, and its answers tables or JSON.

mod apply;
pub mod args;

mod backend;
mod client;
mod colour;
mod conns;
mod drain;
mod health;
mod output;
mod service;
mod stats;
mod status;
mod table;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, error::ErrorKind};
use tokio::runtime;

use args::{Cli, Command};
pub use client::Client;
pub use colour::wants_colours;
use output::Output;

/// The exit status of wrong usage.
const USAGE: u8 = 2;

/// The exit status of a command, and what it says on stderr: 0 done, 1 refused or failed.
pub fn exit(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // `lvx conns | head` is no failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let message = one_line(&error);
            let _ = writeln!(io::stderr(), "lvx: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The exit status of a command line that is none, and one line on stderr that says why: 2. Or the help that was asked for.
pub fn misused(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        error.exit();
    }
    let _ = writeln!(io::stderr(), "lvx: {}", usage(&error.to_string()));
    ExitCode::from(USAGE)
}

/// What clap says in several lines, in one: what is wrong, and whose help says more.
fn usage(text: &str) -> String {
    let begins = |line: &&str, word| line.starts_with(word);
    let command: Vec<&str> = text
        .lines()
        .find_map(|line| line.strip_prefix("Usage: "))
        .into_iter()
        .flat_map(str::split_whitespace)
        .take_while(|word| !word.starts_with(['<', '[', '-']))
        .collect();
    let command = if command.is_empty() {
        "lvx".to_owned()
    } else {
        command.join(" ")
    };
    let words: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !begins(line, "Usage:") && !begins(line, "For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    let words = words.join(" ");
    let words = words.strip_prefix("error: ").unwrap_or(&words);
    format!("{words}; see `{command} --help`")
}

/// The error and its causes; a cause that the text before it tells already is not told again.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if message.is_empty() {
            message = cause;
        } else if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    message.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Runs a command that works by asking the daemon, or needs nobody.
///
/// # Errors
/// When the daemon does not answer or refuses.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    if let Command::Completion { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "lvx", &mut script);
        return Ok(io::stdout().write_all(&script)?);
    }
    let client = Client::new(cli.socket);
    let mut output = Output::stdout(cli.output);
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(ask(cli.command, &client, &mut output))
}

/// The commands that only talk to the daemon.
async fn ask(command: Command, client: &Client, output: &mut Output<impl io::Write>) -> anyhow::Result<()> {
    match command {
        Command::Service { command } => service::run(command, client, output).await,
        Command::Backend { command } => backend::run(command, client, output).await,
        Command::Apply { file, dry_run } => apply::apply(&file, dry_run, client, output).await,
        Command::Export => apply::export(client, output).await,
        Command::Status => status::run(client, output).await,
        Command::Health { service } => health::run(service, client, output).await,
        Command::Stats { all, rate } => stats::run(all, rate, client, output).await,
        Command::Conns(conns) => conns::run(conns, client, output).await,
        Command::Run(_) | Command::Detach(_) | Command::Completion { .. } => {
            unreachable!("answered without a daemon")
        }
    }
}

#[cfg(test)]
mod tests;
