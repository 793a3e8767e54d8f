//! Measures `lvx`, and beside it what else balances, between network namespaces. `cargo xtask bench` builds it, runs it
//! and shows what it says: a JSON document on standard output; standard error tells how far it is.

mod control;
mod daemon;
mod forward;
mod frames;
mod http;
mod passage;
mod pktgen;
mod rivals;
mod scrape;
mod vm;
mod wrk;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Measures LVX between network namespaces.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
    #[command(flatten)]
    programs: Programs,
}

/// The programs to measure with.
#[derive(Debug, clap::Args)]
pub struct Programs {
    /// The program `lvx`
    #[arg(long, global = true, default_value = "target/release/lvx")]
    pub lvx: PathBuf,
    /// The program `lvx-bench`
    #[arg(long, global = true, default_value = "target/release/lvx-bench")]
    pub lvx_bench: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Packets through a balancer between namespaces, side by side with the kernel's own
    Forward(forward::Arguments),
    /// The same in a virtual machine whose clock counts instructions
    Vm(vm::Arguments),
    /// Requests and bytes per second, side by side with HAProxy, nginx and nftables
    Http(http::Arguments),
    /// New connections per second, and how long they take
    Connections(http::Arguments),
    /// Applying, changing, restarting and sweeping large configurations
    Control(control::Arguments),
}

fn main() -> ExitCode {
    let Arguments { bench, programs } = Arguments::parse();
    let measured = match bench {
        Bench::Forward(arguments) => forward::measure(&programs, &arguments),
        Bench::Vm(arguments) => vm::measure(&programs, arguments),
        Bench::Http(arguments) => http::measure(&programs, &arguments),
        Bench::Connections(arguments) => http::measure_connections(&programs, &arguments),
        Bench::Control(arguments) => control::measure(&programs, &arguments),
    };
    match measured.and_then(|report| Ok(report.print()?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lvx-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}
