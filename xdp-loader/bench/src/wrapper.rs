//! The measuring programs, loaded.

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{MapData, PerCpuArray, PerCpuValues},
    programs::Xdp,
};
use rustix::thread::{CpuSet, sched_setaffinity};
use xdp_common::bench::{Order, Script};

/// A script as the kernel takes it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Bytes(Script);

// SAFETY: a script is words without holes between them.
unsafe impl Pod for Bytes {}

/// Loads these of the measuring programs.
pub fn load(names: &[&str]) -> Result<Ebpf> {
    let mut object = EbpfLoader::new()
        .load(lvx_program::BENCH)
        .context("the measuring programs do not load")?;
    for name in names {
        program_mut(&mut object, name)?.load()?;
    }
    Ok(object)
}

/// The program with this name.
pub fn program<'a>(object: &'a Ebpf, name: &str) -> Result<&'a Xdp> {
    let program = object
        .program(name)
        .with_context(|| format!("there is no program {name}"))?;
    Ok(program.try_into()?)
}

/// The program with this name, to be loaded or attached.
pub fn program_mut<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = object
        .program_mut(name)
        .with_context(|| format!("there is no program {name}"))?;
    Ok(program.try_into()?)
}

/// Gives each CPU its script: the same flows, or `apart` as many after those of the CPU before.
pub fn set(scripts: &mut PerCpuArray<MapData, Bytes>, script: &Script, apart: u32) -> Result<()> {
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    let each: Vec<Bytes> = (0..cpus as u32)
        .map(|cpu| {
            Bytes(Script {
                first: script.first + cpu * apart,
                sequence: if script.order == Order::AtRandom as u32 {
                    u64::from(cpu) + 1
                } else {
                    0
                },
                ..*script
            })
        })
        .collect();
    scripts.set(0, PerCpuValues::try_from(each)?, 0)?;
    Ok(())
}

/// Keeps this thread on a CPU.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("there is no CPU {cpu} for this program"))
}
