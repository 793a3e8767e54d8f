//! Runs the loaded program in this process, one instruction after the other, and counts them: a figure that is the same on
//! every machine and in every run. It runs on the maps of the program in the kernel.
//!
//! An instruction of two words (`ld_imm64`) counts as one, and so does a call of a helper: what helpers do is the kernel's.

mod arithmetic;
mod bpf_helpers;
mod maps;
mod object;
mod space;

use anyhow::{Context, Result, bail, ensure};
use aya::Ebpf;

use self::{
    arithmetic::{FROM_REGISTER, Left, atomic, calculate, jumps, signed},
    bpf_helpers::Answer,
    maps::Maps,
    space::{Space, mask},
};

pub use self::object::{Instruction, Object};

/// Bytes of stack of a function.
const STACK: usize = 512;
/// Functions that may be active, one called by the other (the kernel's `MAX_CALL_FRAMES`).
const CALLS: usize = 8;
/// Bytes of `struct xdp_md`.
const CONTEXT: usize = 24;
/// More instructions than any packet takes.
const MOST: u64 = 1_000_000;
/// What marks a value as a map, and as a function: no address is so high.
const MAP: u64 = 1 << 63;
const FUNCTION: u64 = 1 << 62;

/// What became of a packet.
#[derive(Debug)]
pub struct Outcome {
    /// The XDP action.
    pub action: u32,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// Instructions that it took.
    pub instructions: u64,
}

/// Something that runs the object's programs.
pub struct Interpreter<'a> {
    object: &'a Object,
    space: Space,
    maps: Maps,
    context: u64,
    frame: u64,
    stack: u64,
    executed: u64,
    random: u64,
    jiffies: u64,
    cpu: u32,
}

impl<'a> Interpreter<'a> {
    /// Of the programs in an object, with the maps that they have in the kernel; `cpu` is the one that packets come to.
    pub fn new(object: &'a Object, loaded: &Ebpf, cpu: u32) -> Result<Self> {
        let mut space = Space::default();
        let maps = Maps::of(object, loaded, &mut space)?;
        Ok(Self {
            object,
            context: space.own(vec![0; CONTEXT]),
            frame: space.own(Vec::new()),
            stack: space.own(vec![0; STACK * CALLS]),
            space,
            maps,
            executed: 0,
            random: 1,
            jiffies: 0,
            cpu,
        })
    }

    /// Runs a program for a frame that came in by an interface at a time.
    pub fn run(&mut self, program: &str, frame: &[u8], ifindex: u32, jiffies: u64) -> Result<Outcome> {
        *self.space.bytes(self.frame)? = frame.to_vec();
        self.space.store(self.context + 12, 4, u64::from(ifindex))?;
        self.jiffies = jiffies;
        self.executed = 0;
        let program = self.object.program(program)?;
        let action = self.function(program, 0, 0, [self.context, 0, 0, 0, 0])? as u32;
        Ok(Outcome {
            action,
            frame: self.space.bytes(self.frame)?.clone(),
            instructions: self.executed,
        })
    }

    /// Runs a function to its end: what it returns. `depth` functions wait for it.
    fn function(&mut self, program: &'a [Instruction], at: usize, depth: usize, arguments: [u64; 5]) -> Result<u64> {
        ensure!(depth < CALLS, "too many calls");
        let mut registers = [0; 11];
        registers[1..6].copy_from_slice(&arguments);
        registers[10] = self.stack + (STACK * (depth + 1)) as u64;
        let mut activation = Activation {
            program,
            at,
            depth,
            registers,
        };
        loop {
            let at = activation.at;
            let it = activation.program.get(at).context("a jump out of the program")?;
            self.executed += 1;
            ensure!(self.executed < MOST, "the program does not end");
            let next = self
                .step(it, &mut activation)
                .with_context(|| format!("instruction {at}: {it:?}"))?;
            match next {
                Next::At(place) => activation.at = place,
                Next::Return => return Ok(activation.registers[0]),
                Next::Program(name) => {
                    activation.program = self.object.program(name)?;
                    activation.at = 0;
                    activation.registers[1] = self.context;
                }
            }
        }
    }

    /// Runs an instruction of a function.
    fn step(&mut self, it: &Instruction, activation: &mut Activation<'a>) -> Result<Next> {
        ensure!(it.dst < 11 && it.src < 11, "there is no such register");
        let (program, at) = (activation.program, activation.at);
        let registers = &mut activation.registers;
        let imm = i64::from(it.imm) as u64;
        let operand = if it.code & FROM_REGISTER != 0 {
            registers[it.src]
        } else {
            imm
        };
        let address = |register: usize| registers[register].wrapping_add(i64::from(it.off) as u64);
        let size = match it.code & 0x18 {
            0x00 => 4,
            0x08 => 2,
            0x10 => 1,
            _ => 8,
        };
        let jump = |distance: i32| usize::try_from(at as i64 + 1 + i64::from(distance)).map(Next::At);
        let bits = if matches!(it.code & 7, 5 | 7) { 64 } else { 32 };
        match (it.code & 7, it.code & 0xf0) {
            // LD: a number of 64 bits, in two words.
            (0, 0x10) => {
                let second = program.get(at + 1).context("half an instruction")?;
                registers[it.dst] = self.wide(it, second, at)?;
                return Ok(Next::At(at + 2));
            }
            // LDX: memory, with or without sign.
            (1, _) => registers[it.dst] = self.load(address(it.src), size, it.code & 0xe0)?,
            // ST, STX.
            (2, _) => self.space.store(address(it.dst), size, imm)?,
            (3, _) if it.code & 0xe0 == 0x60 => self.space.store(address(it.dst), size, registers[it.src])?,
            (3, _) if it.code & 0xe0 == 0xc0 => {
                let address = address(it.dst);
                let old = self.space.load(address, size)?;
                let compared = registers[0] & mask(size);
                let (new, left) = atomic(it.imm, old, registers[it.src] & mask(size), compared)?;
                self.space.store(address, size, new)?;
                match left {
                    Some(Left::InOperand) => registers[it.src] = old,
                    Some(Left::InZero) => registers[0] = old,
                    None => {}
                }
            }
            // JMP, JMP32.
            (5, 0x00) => return Ok(jump(i32::from(it.off))?),
            (6, 0x00) => return Ok(jump(it.imm)?),
            (5, 0x80) => return self.call(it, activation),
            (5, 0x90) => return Ok(Next::Return),
            (5 | 6, _) => {
                if jumps(it.code, bits, registers[it.dst], operand)? {
                    return Ok(jump(i32::from(it.off))?);
                }
            }
            // ALU, ALU64.
            (4 | 7, _) => {
                registers[it.dst] = calculate(it.code, it.off, it.imm, bits, registers[it.dst], operand)?;
            }
            _ => bail!("there is no such instruction"),
        }
        Ok(Next::At(at + 1))
    }

    /// The number that an instruction of two words loads.
    fn wide(&mut self, first: &Instruction, second: &Instruction, at: usize) -> Result<u64> {
        let low = first.imm as u32;
        Ok(match first.src {
            0 => u64::from(low) | u64::from(second.imm as u32) << 32,
            // BPF_PSEUDO_MAP_FD, and _VALUE: an address in the only entry.
            1 => MAP | u64::from(low),
            2 => match self.maps.lookup(low as usize, 0, &mut self.space)? {
                Some(maps::Found::Value(start)) => start + u64::from(second.imm as u32),
                _ => bail!("there are no such globals"),
            },
            // BPF_PSEUDO_FUNC: relative, as calls are.
            4 => FUNCTION | (at as u64 + 1).wrapping_add_signed(i64::from(first.imm)),
            kind => bail!("there is no number of kind {kind}"),
        })
    }

    /// Reads memory. The first words of the context are addresses, although they are narrower.
    fn load(&mut self, address: u64, size: usize, mode: u8) -> Result<u64> {
        if (self.context..self.context + 12).contains(&address) {
            let length = self.space.bytes(self.frame)?.len() as u64;
            return Ok(match address - self.context {
                4 => self.frame + length,
                _ => self.frame,
            });
        }
        let value = self.space.load(address, size)?;
        match mode {
            0x60 => Ok(value),
            0x80 => Ok(signed(value, 8 * size as u32) as u64),
            _ => bail!("memory is not read in mode {mode:#x}"),
        }
    }

    /// Calls a helper or a function of the program.
    fn call(&mut self, it: &Instruction, caller: &mut Activation<'a>) -> Result<Next> {
        let (program, at, depth) = (caller.program, caller.at, caller.depth);
        let mut arguments = [0; 5];
        arguments.copy_from_slice(&caller.registers[1..6]);
        caller.registers[0] = match it.src {
            0 => match self.help(program, it.imm, depth, arguments)? {
                Answer::Value(value) => value,
                Answer::Program(name) => return Ok(Next::Program(name)),
            },
            1 => {
                let callee = usize::try_from(at as i64 + 1 + i64::from(it.imm))?;
                self.function(program, callee, depth + 1, arguments)?
            }
            kind => bail!("there is no call of kind {kind}"),
        };
        Ok(Next::At(at + 1))
    }
}

/// A function that has been called and has not returned.
struct Activation<'a> {
    /// The program that it is of.
    program: &'a [Instruction],
    /// The place of the next instruction.
    at: usize,
    /// Functions that wait for it.
    depth: usize,
    registers: [u64; 11],
}

/// What comes after an instruction.
enum Next {
    /// The one at this place.
    At(usize),
    /// The caller's.
    Return,
    /// The first of another program.
    Program(&'static str),
}
