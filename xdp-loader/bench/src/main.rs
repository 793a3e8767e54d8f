//! Measures the XDP program and the daemon. `cargo xtask bench` builds it, runs it and shows what it says: a JSON document on standard
//! output; standard error tells how far it is.

mod case;
mod cases;
mod frame;
mod harness;
mod health;
mod hold;
mod instructions;
mod interpreter;
mod program;
mod send;
mod tables;
mod wrapper;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lvx_bench_report::Report;

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
    /// Building Maglev tables and sweeping flows
    Tables(tables::Arguments),
    /// Send frames out of an interface and say what each took
    Send(send::Arguments),
    /// Attach one of the measuring programs to an interface until standard input ends
    Hold(hold::Arguments),
}

fn main() -> ExitCode {
    let measured = match Arguments::parse().bench {
        Bench::Program(arguments) => program::measure(&arguments).and_then(print),
        Bench::Health(arguments) => health::measure(&arguments).and_then(print),
        Bench::Tables(arguments) => tables::measure(&arguments).and_then(print),
        Bench::Send(arguments) => send::send(&arguments),
        Bench::Hold(arguments) => hold::hold(&arguments),
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lvx-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(report: Report) -> Result<()> {
    Ok(report.print()?)
}
