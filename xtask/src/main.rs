//! LVX's developer commands: `cargo xtask setup`, `build`, `run`, `test`, `check`, `bench`.

mod bench;
mod build;
mod check;
mod command;
mod packages;
mod run;
mod setup;
mod test;
mod toolchain;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Build, run and test LVX.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what building and testing need, and say what was done
    Setup {
        /// Also what `test --vm` and `bench vm` need: QEMU and a stock kernel
        #[arg(long)]
        vm: bool,
        /// Also what `bench` compares with, and what it plots with
        #[arg(long)]
        bench: bool,
    },
    /// Build everything for release, the XDP program included
    Build,
    /// Build and run: on an interface, or in a lab of network namespaces
    Run(run::Arguments),
    /// Run every test, and say how many passed and failed
    Test(test::Arguments),
    /// Check form, lints, documentation, and the licences and sources of what is depended on
    Check,
    /// Measure; without an argument, say what there is to measure
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup { vm, bench } => {
            let mut wanted = setup::Wanted::TESTING;
            wanted.vm = vm;
            wanted.benches = bench;
            setup::ensure(wanted)?;
            println!("Everything is there.");
            Ok(ExitCode::SUCCESS)
        }
        Task::Build => {
            setup::ensure(setup::Wanted::BUILDING)?;
            let built = build::release()?;
            println!("Built {}", built.lvx.display());
            Ok(ExitCode::SUCCESS)
        }
        Task::Run(arguments) => run::run(&arguments),
        Task::Test(arguments) => test::test(&arguments),
        Task::Check => check::check().map(|()| ExitCode::SUCCESS),
        Task::Bench(arguments) => bench::bench(&arguments),
    }
}
