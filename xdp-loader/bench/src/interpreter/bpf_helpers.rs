//! The BPF helpers that the program calls, functions of the kernel.

use anyhow::{Result, bail, ensure};
use xdp_common::layout::TailCall;

use super::{FUNCTION, Interpreter, MAP, maps::Found, object::Instruction};
use crate::harness::action;

/// What a helper answers.
pub enum Answer {
    /// This.
    Value(u64),
    /// Nothing: another program goes on.
    Program(&'static str),
}

impl<'a> Interpreter<'a> {
    /// Does what a helper does, by its number (kernel `include/uapi/linux/bpf.h`).
    pub(super) fn help(
        &mut self,
        program: &'a [Instruction],
        helper: i32,
        depth: usize,
        [a, b, c, ..]: [u64; 5],
    ) -> Result<Answer> {
        Ok(Answer::Value(match helper {
            // map_lookup_elem
            1 => {
                let key = self.space.load(b, 4)? as u32;
                match self.maps.lookup(map(a)?, key, &mut self.space)? {
                    Some(Found::Value(address)) => address,
                    Some(Found::Map(place)) => MAP | place as u64,
                    None => 0,
                }
            }
            // get_prandom_u32, the same in every run
            7 => {
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                self.random >> 32
            }
            // get_smp_processor_id
            8 => u64::from(self.cpu),
            // tail_call; the only array of programs is the one of those in which packets go on
            12 => match TailCall::OWN.iter().find(|(place, _)| *place as u64 == c) {
                Some((_, name)) => return Ok(Answer::Program(name)),
                None => -2_i64 as u64,
            },
            // redirect_map
            51 => match self.maps.lookup(map(a)?, b as u32, &mut self.space)? {
                Some(_) => u64::from(action::REDIRECT),
                None => c & 3,
            },
            // jiffies64
            118 => self.jiffies,
            // loop
            181 => self.repeat(program, depth, a as u32, b, c)?,
            _ => bail!("helper {helper} is not known here"),
        }))
    }

    /// Calls a function so many times, or until it returns 1: how many times.
    fn repeat(
        &mut self,
        program: &'a [Instruction],
        depth: usize,
        times: u32,
        function: u64,
        data: u64,
    ) -> Result<u64> {
        ensure!(function & FUNCTION != 0, "{function:#x} is no function");
        for index in 0..u64::from(times) {
            let callee = (function & !FUNCTION) as usize;
            if self.function(program, callee, depth + 1, [index, data, 0, 0, 0])? != 0 {
                return Ok(index + 1);
            }
        }
        Ok(u64::from(times))
    }
}

/// The place of a map.
fn map(value: u64) -> Result<usize> {
    ensure!(value & MAP != 0, "{value:#x} is no map");
    Ok((value & !MAP) as usize)
}
