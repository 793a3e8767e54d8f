//! `cargo xtask test --vm`: the program tests on a stock kernel, in a virtual machine that `scripts/vm-run` boots.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::command::{self, cargo, root};

/// The test program, of the package `lvx-program`, that needs a kernel and nothing else.
const TEST: &str = "program";

/// Builds the program tests and returns the command that runs those named by `filters` in the virtual machine.
pub fn program_tests(filters: &[String]) -> Result<Command> {
    let mut runner = Command::new(root().join("scripts/vm-run"));
    // Emulation is slow. The machine's serial line looks like a terminal.
    runner
        .args(["-t", "3600"])
        .arg(build()?)
        .args(["--color", "never"])
        .args(filters);
    Ok(runner)
}

fn build() -> Result<PathBuf> {
    let mut cargo = cargo();
    cargo
        .args(["test", "--package", "lvx-program", "--test", TEST])
        .args(["--no-run", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit());
    let built = cargo
        .output()
        .with_context(|| format!("cannot start {}", command::line(&cargo)))?;
    ensure!(built.status.success(), "{} failed", command::line(&cargo));
    String::from_utf8_lossy(&built.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|message| message["reason"] == "compiler-artifact" && message["target"]["name"] == TEST)
        .and_then(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo does not say where the test program `{TEST}` is"))
}
