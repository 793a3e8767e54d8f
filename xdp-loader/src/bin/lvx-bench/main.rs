//! Measures the XDP program and the daemon. `cargo xtask bench` builds it, runs it and shows what it says: a JSON document on standard
//! output; standard error tells how far it is.

mod frame;
mod harness;
mod health;
mod program;
mod report;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures LVX's XDP program.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The program alone, by BPF_PROG_TEST_RUN
    Program(program::Arguments),
    /// What probing many backends costs the daemon
    Health(health::Arguments),
}

fn main() -> ExitCode {
    let measured = match Arguments::parse().bench {
        Bench::Program(arguments) => program::measure(&arguments),
        Bench::Health(arguments) => health::measure(&arguments),
    };
    match measured.and_then(|report| report.print()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lvx-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
