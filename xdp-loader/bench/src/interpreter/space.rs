//! The memory that an interpreted program sees: regions, each with addresses of its own, so that no access can go astray.

use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, Result, bail};
use lvx_dataplane::memory::Memory;

/// Bits of an address that are the place in its region; those above are the region's number, from 1 on.
const PLACE: u32 = 40;

/// A piece of memory.
enum Region {
    /// The interpreter's own: the frame, the stack, what is only read.
    Own(Vec<u8>),
    /// A map of the kernel.
    Shared(Memory<u64>),
}

/// All that can be addressed.
#[derive(Default)]
pub struct Space {
    regions: Vec<Region>,
}

impl Space {
    /// A new region: its first address.
    fn add(&mut self, region: Region) -> u64 {
        self.regions.push(region);
        (self.regions.len() as u64) << PLACE
    }

    /// A region of these bytes: its first address.
    pub fn own(&mut self, bytes: Vec<u8>) -> u64 {
        self.add(Region::Own(bytes))
    }

    /// A region that is a map of the kernel: its first address.
    pub fn share(&mut self, memory: Memory<u64>) -> u64 {
        self.add(Region::Shared(memory))
    }

    /// The bytes of a region of the interpreter's own, to be changed.
    pub fn bytes(&mut self, start: u64) -> Result<&mut Vec<u8>> {
        match self.region(start)?.0 {
            Region::Own(bytes) => Ok(bytes),
            Region::Shared(_) => bail!("the region is the kernel's"),
        }
    }

    /// The region of an address, and the place in it.
    fn region(&mut self, address: u64) -> Result<(&mut Region, usize)> {
        let place = (address & ((1 << PLACE) - 1)) as usize;
        let number = (address >> PLACE).checked_sub(1);
        let region = number.and_then(|number| self.regions.get_mut(number as usize));
        Ok((region.with_context(|| format!("{address:#x} is no address"))?, place))
    }

    /// Reads so many bytes, at most eight.
    pub fn load(&mut self, address: u64, size: usize) -> Result<u64> {
        let beyond = || format!("{size} bytes at {address:#x} are outside");
        let (region, place) = self.region(address)?;
        let mut eight = [0; 8];
        match region {
            Region::Own(bytes) => {
                eight[..size].copy_from_slice(bytes.get(place..place + size).with_context(beyond)?);
                // A number of fewer bytes is the low part of a word.
                Ok(u64::from_le_bytes(eight))
            }
            Region::Shared(memory) => {
                let (entry, shift) = within(memory, place, size).with_context(beyond)?;
                Ok(memory.word(entry, 0).load(Relaxed) >> shift & mask(size))
            }
        }
    }

    /// Writes so many bytes, at most eight.
    pub fn store(&mut self, address: u64, size: usize, value: u64) -> Result<()> {
        let beyond = || format!("{size} bytes at {address:#x} are outside");
        let (region, place) = self.region(address)?;
        match region {
            Region::Own(bytes) => {
                let bytes = bytes.get_mut(place..place + size).with_context(beyond)?;
                bytes.copy_from_slice(&value.to_le_bytes()[..size]);
            }
            Region::Shared(memory) => {
                let (entry, shift) = within(memory, place, size).with_context(beyond)?;
                // No packet comes in between: the only ones are those of this program.
                let word = memory.word(entry, 0);
                let kept = word.load(Relaxed) & !(mask(size) << shift);
                word.store(kept | (value & mask(size)) << shift, Relaxed);
            }
        }
        Ok(())
    }
}

/// The bits of a number of so many bytes.
pub const fn mask(size: usize) -> u64 {
    u64::MAX >> (64 - 8 * size as u32)
}

/// The word of a map that has these bytes, and how far up they are in it.
fn within(memory: &Memory<u64>, place: usize, size: usize) -> Option<(usize, usize)> {
    let (entry, byte) = (place / 8, place % 8);
    (entry < memory.len() && byte + size <= 8).then_some((entry, 8 * byte))
}

// Bytes are put together as a little-endian processor has them.
const _: () = assert!(cfg!(target_endian = "little"));
