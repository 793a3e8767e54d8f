//! The object that the loader takes: its programs as instructions, their subprograms linked.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aya_obj::{Object as Parsed, Program, ProgramSection, generated::bpf_insn};

/// An instruction, or half of one that is two long.
#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    /// What it does: class, operation, size or source.
    pub code: u8,
    /// The register that it writes.
    pub dst: usize,
    /// The register that it reads, or what kind of number `imm` is.
    pub src: usize,
    /// Where a jump goes, or an address points, from where.
    pub off: i16,
    /// A number.
    pub imm: i32,
}

/// The XDP programs of an object.
pub struct Object {
    programs: BTreeMap<String, Vec<Instruction>>,
    maps: Vec<String>,
}

impl Object {
    /// Of the program under test. In its instructions a map is its place in [`Self::maps`].
    pub fn parse() -> Result<Self> {
        let bytes = lvx_program::LVX;
        let mut parsed = Parsed::parse(bytes).context("the object is not understood")?;
        let described: BTreeMap<String, _> = parsed.maps.drain().collect();
        let text = parsed.functions.keys().map(|(section, _)| *section).collect();
        let maps = (0..)
            .zip(&described)
            .map(|(place, (name, map))| (name.as_str(), place, map));
        parsed.relocate_maps(maps, &text).context("maps are not found")?;
        parsed.relocate_calls(&text).context("calls are not found")?;
        // No packet comes to the others, which are of tracepoints.
        let is_xdp = |program: &Program| matches!(program.section, ProgramSection::Xdp { .. });
        let packets = parsed.programs.iter().filter(|(_, program)| is_xdp(program));
        let programs = packets.map(|(name, program)| {
            let function = parsed.functions.get(&program.function_key());
            let function = function.with_context(|| format!("{name} has no instructions"))?;
            Ok((name.clone(), function.instructions.iter().map(decode).collect()))
        });
        Ok(Self {
            programs: programs.collect::<Result<_>>()?,
            maps: described.into_keys().collect(),
        })
    }

    /// The instructions of a program.
    pub fn program(&self, name: &str) -> Result<&[Instruction]> {
        let program = self.programs.get(name);
        Ok(program.with_context(|| format!("the object has no program {name}"))?)
    }

    /// All XDP programs.
    pub fn programs(&self) -> impl Iterator<Item = (&str, &[Instruction])> {
        self.programs.iter().map(|(name, it)| (name.as_str(), it.as_slice()))
    }

    /// The names of the maps.
    pub fn maps(&self) -> &[String] {
        &self.maps
    }
}

/// From the kernel's form.
fn decode(instruction: &bpf_insn) -> Instruction {
    Instruction {
        code: instruction.code,
        dst: usize::from(instruction.dst_reg()),
        src: usize::from(instruction.src_reg()),
        off: instruction.off,
        imm: instruction.imm,
    }
}
