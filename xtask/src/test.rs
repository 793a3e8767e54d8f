//! `cargo xtask test`: every test of the workspace, and how many passed.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
    thread,
};

use anyhow::{Context, Result};

use crate::{
    build,
    command::{self, cargo},
    setup::{self, Wanted},
    vm,
};

/// Which tests.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Run the tests of the XDP program on a stock Debian kernel in a virtual machine instead
    #[arg(long)]
    vm: bool,
    /// Run the long tests as well: today, those of the XDP program in the virtual machine
    #[arg(long, conflicts_with = "vm")]
    long: bool,
    /// Only tests whose names contain one of these
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

/// At most so many tests at a time: most of them build a network of their own.
const PARALLEL: usize = 4;

const BPFFS: &str = "/sys/fs/bpf";

/// Runs the tests.
pub fn test(arguments: &Arguments) -> Result<ExitCode> {
    command::ensure_root("test", "network namespaces, BPF")?;
    setup::ensure(Wanted {
        vm: arguments.vm || arguments.long,
        ..Wanted::TESTING
    })?;
    let mut tally = Tally::default();
    if !arguments.vm {
        mount_bpffs()?;
        tally.merge(&watch(&mut on_this_kernel(&arguments.filters)?)?);
    }
    if arguments.vm || arguments.long {
        tally.merge(&watch(&mut vm::program_tests(&arguments.filters)?)?);
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(if tally.good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds what the tests need and returns the command that runs those named by `filters` here.
fn on_this_kernel(filters: &[String]) -> Result<Command> {
    let built = build::release()?;
    let threads = thread::available_parallelism()?.get().min(PARALLEL);
    let mut runner = cargo();
    runner
        .args(["test", "--no-fail-fast", "--"])
        .args(filters)
        .env("LVX_BIN", &built.lvx)
        .envs(
            build::variants()?
                .into_iter()
                .map(|(feature, path)| (variable(feature), path)),
        );
    if env::var_os("RUST_TEST_THREADS").is_none() {
        runner.env("RUST_TEST_THREADS", threads.to_string());
    }
    Ok(runner)
}

/// The variable that names the build with another layout.
fn variable(feature: &str) -> String {
    format!("LVX_BIN_{}", feature.to_uppercase().replace('-', "_"))
}

/// How the tests went.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    /// The runner itself said that something went wrong: a test that failed, or one that could not be built.
    runner_failed: bool,
}

impl Tally {
    /// No test failed, and some ran.
    fn good(&self) -> bool {
        !self.runner_failed && self.failed == 0 && self.passed > 0
    }

    /// Adds how other tests went.
    fn merge(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.runner_failed |= other.runner_failed;
    }

    /// Adds what a line of libtest's output says.
    fn add(&mut self, line: &str) {
        // test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.74s
        let Some(result) = line.trim_start().strip_prefix("test result: ") else {
            return;
        };
        let count = |what: &str| -> u64 {
            result
                .split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
                .unwrap_or(0)
        };
        self.passed += count("passed");
        self.failed += count("failed");
    }
}

/// Runs `runner`, shows its output and counts.
fn watch(runner: &mut Command) -> Result<Tally> {
    let mut child = runner
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command::line(runner)))?;
    let mut tally = Tally::default();
    let output = child.stdout.take().context("the runner has no output")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.add(&line);
    }
    tally.runner_failed = !child.wait()?.success();
    Ok(tally)
}

/// Mounts the BPF file system where it is not, as on a machine without systemd.
fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mounted = mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS));
    if !mounted {
        command::run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_test_programs_are_added() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.74s",
            "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.2s",
            "test a_test_result: 7 passed; 7 failed ... ok",
        ] {
            tally.add(line);
        }
        assert_eq!((tally.passed, tally.failed), (14, 2));
        assert!(!tally.good());
    }

    #[test]
    fn no_test_at_all_is_no_success() {
        assert!(!Tally::default().good());
    }

    #[test]
    fn a_test_that_cannot_be_built_is_no_success() {
        let tally = Tally {
            passed: 5,
            failed: 0,
            runner_failed: true,
        };
        assert!(!tally.good());
    }
}
