//! `cargo xtask run`: the balancer on an interface of this machine, or in a lab of network namespaces.

use std::{
    env,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};

use crate::{
    build, command,
    setup::{self, Wanted},
};

/// Where to run, and how.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Attach to this interface; may be given several times. Without it: a lab of network namespaces
    #[arg(long, value_name = "IF")]
    interface: Vec<String>,
    /// Keep the lab open until Ctrl-C, and print commands to try in it
    #[arg(long, conflicts_with = "interface")]
    hold: bool,
    /// Further arguments for `lvx run`
    #[arg(last = true, value_name = "ARGUMENTS")]
    further: Vec<String>,
}

/// Builds, and becomes the program that runs.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    command::ensure_root("run", "network namespaces, BPF")?;
    let in_lab = arguments.interface.is_empty();
    setup::ensure(if in_lab { Wanted::TESTING } else { Wanted::BUILDING })?;
    let built = build::release()?;
    let mut program = if in_lab {
        let mut lab = Command::new(&built.lab);
        lab.env("LVX_BIN", &built.lvx);
        if arguments.hold {
            lab.arg("--hold");
        }
        if !arguments.further.is_empty() {
            lab.arg("--").args(&arguments.further);
        }
        lab
    } else {
        let mut lvx = Command::new(&built.lvx);
        lvx.arg("run");
        for interface in &arguments.interface {
            lvx.arg("--interface").arg(interface);
        }
        lvx.args(&arguments.further);
        lvx
    };
    if let Ok(path) = env::join_paths(command::search_path()) {
        program.env("PATH", path);
    }
    // Signals, exit status: all is the program's own.
    Err(program.exec()).with_context(|| format!("cannot start {}", command::line(&program)))
}
