//! Attaches a measuring program to an interface for as long as standard input is open.

use std::io::{self, Read};

use anyhow::{Context, Result};
use aya::{
    maps::{Array, MapData, xdp::DevMap},
    programs::XdpMode,
};
use clap::ValueEnum;

use crate::{frame::Mac, send::index, wrapper};

/// What to attach, and where.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The program
    program: Program,
    /// The interface
    #[arg(long)]
    interface: String,
    /// Where `two-macs` sends frames
    #[arg(long, required_if_eq("program", "two-macs"))]
    out: Option<String>,
    /// The source that `two-macs` gives frames
    #[arg(long, required_if_eq("program", "two-macs"))]
    source: Option<Mac>,
    /// The destination that `two-macs` gives frames
    #[arg(long, required_if_eq("program", "two-macs"))]
    destination: Option<Mac>,
}

/// A measuring program that is attached.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Program {
    /// Drops what arrives
    Sink,
    /// Writes two MACs and redirects: the floor of a balancer
    TwoMacs,
}

/// Attaches the program, and waits.
pub fn hold(arguments: &Arguments) -> Result<()> {
    let name = match arguments.program {
        Program::Sink => "sink",
        Program::TwoMacs => "two_macs",
    };
    let mut object = wrapper::load(&[name])?;
    if let (Some(out), Some(source), Some(destination)) = (&arguments.out, arguments.source, arguments.destination) {
        let map = object.map_mut("OUT").context("there is no map OUT")?;
        DevMap::<&mut MapData>::try_from(map)?.set(0, index(out)?, None, 0)?;
        let mut macs = [0_u8; 12];
        macs[..6].copy_from_slice(&destination.0);
        macs[6..].copy_from_slice(&source.0);
        let map = object.map_mut("MACS").context("there is no map MACS")?;
        Array::<&mut MapData, [u8; 12]>::try_from(map)?.set(0, macs, 0)?;
    }
    let program = wrapper::program_mut(&mut object, name)?;
    program
        .attach_to_if_index(index(&arguments.interface)?, XdpMode::Driver)
        .with_context(|| format!("{} does not take the program", arguments.interface))?;
    println!("attached");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
