//! Forwarding, measured on a stock kernel in a virtual machine whose clock counts instructions.

use anyhow::Result;
use lvx_bench_report::Report;

use crate::{Programs, forward, frames::Generator};

/// How much to measure. Runs differ little from each other, and emulation is slow.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What makes the frames
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Generator::Live, Generator::Pktgen])]
    generator: Vec<Generator>,
    /// Runs of each case, of which the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Frames of each run
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    packets: u32,
    /// Measure only what has this in its name; the generator and the floor are measured in any case
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
}

/// Measures.
pub fn measure(programs: &Programs, arguments: Arguments) -> Result<Report> {
    let report = forward::measure(
        programs,
        &forward::Arguments {
            generator: arguments.generator,
            runs: arguments.runs,
            packets: arguments.packets,
            flows: vec![1, 1_000],
            only: arguments.only,
            instructions: true,
        },
    )?;
    Ok(Report {
        bench: "vm".to_owned(),
        title: "Packets through a balancer on a stock kernel in a virtual machine, 64-byte UDP: \
                instructions net of the generator's own"
            .to_owned(),
        ..report
    })
}
