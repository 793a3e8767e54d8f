//! Scheduling tables: built aside, kept while nothing that they are made of changes.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
    num::NonZero,
    os::fd::{AsFd as _, OwnedFd},
    thread,
};

use aya::maps::{Array, ArrayOfMaps, IterableMap as _, Map, MapData};
use xdp_common::{
    hash::mix,
    layout::{self, CHUNK, CHUNKS_PER_SEGMENT, Chunk, MEMBERS_PER_CHUNK, SEGMENTS, SLOTS_PER_CHUNK},
};

use super::{
    Error,
    blocks::{Block, Blocks},
    maglev,
    memory::{Memory, PAGE},
    ring::{self, RingMember},
};
use lvx_model::Scheduler;

/// Chunks in a page.
const CHUNKS_PER_PAGE: usize = PAGE / CHUNK;

/// `BPF_F_MMAPABLE`, as the program declares it for its segments.
const MMAPABLE: u32 = 1 << 10;

/// Rings that are in memory at a time: of 128 KiB by default.
const AT_ONCE: usize = 64;

/// What a service's scheduling table is made of.
#[derive(Clone, Debug)]
pub struct Schedule {
    scheduler: Scheduler,
    mh_slots: u32,
    /// The backends as packets see them, and as the ring is built from them.
    members: Vec<(layout::Member, RingMember)>,
}

impl Schedule {
    /// The table of a service with these backends.
    #[must_use]
    pub fn new(scheduler: Scheduler, mh_slots: u32, members: Vec<(layout::Member, RingMember)>) -> Self {
        Self {
            scheduler,
            mh_slots,
            members,
        }
    }

    /// What tells this table from any other: two with the same fingerprint are the same.
    fn fingerprint(&self) -> u64 {
        let kind = mix(self.scheduler as u64 + 1).wrapping_add(u64::from(self.mh_slots));
        self.members.iter().fold(kind, |print, (member, hashed)| {
            let [high, low] = hashed.identity;
            mix(mix(mix(print ^ member.0).wrapping_add(high)) ^ low)
        })
    }

    /// The slots of the ring.
    fn ring(&self) -> Vec<u16> {
        let members: Vec<RingMember> = self.members.iter().map(|(_, member)| *member).collect();
        match self.scheduler {
            Scheduler::Mh | Scheduler::Sh | Scheduler::Dh => maglev::table(&members, self.mh_slots),
            Scheduler::Wrr | Scheduler::P2c => ring::weighted(&members),
            // Where members are compared, the ring only says whether one takes new connections.
            Scheduler::Rr
            | Scheduler::Lc
            | Scheduler::Wlc
            | Scheduler::Sed
            | Scheduler::Nq
            | Scheduler::Fo
            | Scheduler::Ovf => ring::equal(&members),
        }
    }
}

/// A table that packets use.
#[derive(Clone, Copy, Debug)]
struct Placed {
    fingerprint: u64,
    slots: u32,
    members_length: u32,
    /// Nothing, if no backend takes new connections.
    block: Option<Block>,
}

/// Where all scheduling tables are.
#[derive(Debug)]
pub struct Schedules<S = OwnedFd> {
    placed: BTreeMap<u32, Placed>,
    blocks: Blocks,
    /// The segments that there are, by their descriptors: to find one again by its number takes CAP_SYS_ADMIN.
    segments: BTreeMap<u32, S>,
    /// Blocks that the bank in use may still point to until the next switch.
    leaving: Vec<Block>,
    /// Blocks that no bank points to, but a packet under way may.
    left: Vec<Block>,
}

impl<S> Default for Schedules<S> {
    fn default() -> Self {
        Self {
            placed: BTreeMap::new(),
            blocks: Blocks::default(),
            segments: BTreeMap::new(),
            leaving: Vec::new(),
            left: Vec::new(),
        }
    }
}

impl<S: Segment> Schedules<S> {
    /// Writes the tables that are new or have changed where no packet looks yet, and enters into `services` where each
    /// service's table is.
    ///
    /// # Errors
    ///
    /// If there is no room, or the kernel refuses a segment. What packets use, and what is free, is then what it was.
    pub fn build(
        &mut self,
        map: &mut S::Outer,
        schedules: &BTreeMap<u32, Schedule>,
        services: &mut BTreeMap<u32, layout::Service>,
    ) -> Result<(), Error> {
        let prints: BTreeMap<u32, u64> = schedules
            .iter()
            .map(|(number, it)| (*number, it.fingerprint()))
            .collect();
        let changed: Vec<u32> = prints
            .iter()
            .filter(|(number, print)| {
                self.placed
                    .get(number)
                    .is_none_or(|placed| placed.fingerprint != **print)
            })
            .map(|(number, _)| *number)
            .collect();
        for (number, ring) in changed.chunks(AT_ONCE).flat_map(|some| rings(schedules, some)) {
            let schedule = &schedules[&number];
            let placed = self.place(map, schedule, prints[&number], &ring)?;
            if let Some(Placed { block: Some(old), .. }) = self.placed.insert(number, placed) {
                self.leaving.push(old);
            }
        }
        let gone: Vec<u32> = self
            .placed
            .keys()
            .filter(|number| !schedules.contains_key(number))
            .copied()
            .collect();
        for number in gone {
            if let Some(Placed { block: Some(old), .. }) = self.placed.remove(&number) {
                self.leaving.push(old);
            }
        }
        for (number, service) in services {
            let Some(placed) = self.placed.get(number) else {
                continue;
            };
            service.fingerprint = placed.fingerprint;
            service.members_length = placed.members_length;
            if let Some(block) = placed.block {
                service.slots = placed.slots;
                service.members = block.start;
                service.ring = layout::ChunkIndex(block.start.0 + placed.members_length.div_ceil(MEMBERS_PER_CHUNK));
            }
        }
        Ok(())
    }

    /// The bank has been switched: what only the old one pointed to is left.
    pub fn switched(&mut self) {
        self.left.append(&mut self.leaving);
    }

    /// Every packet that was under way at the last switch is gone.
    pub fn settled(&mut self) {
        for block in self.left.drain(..) {
            self.blocks.give(block);
        }
    }

    /// Writes a table into a free block.
    fn place(
        &mut self,
        map: &mut S::Outer,
        schedule: &Schedule,
        fingerprint: u64,
        ring: &[u16],
    ) -> Result<Placed, Error> {
        let members_length = schedule.members.len() as u32;
        let slots = ring.len() as u32;
        let mut placed = Placed {
            fingerprint,
            slots,
            members_length,
            block: None,
        };
        if slots == 0 {
            return Ok(placed);
        }
        let full = || Error::Full {
            what: "scheduling tables",
            limit: SEGMENTS,
            setting: "mh_slots (of the services)",
        };
        let block = self.blocks.take(chunks(members_length, slots)).ok_or_else(full)?;
        if let Err(error) = self.write(map, block, schedule, ring) {
            // No packet has come to know the block.
            self.blocks.give(block);
            return Err(error);
        }
        placed.block = Some(block);
        Ok(placed)
    }

    /// Writes a table into a block, whose segment is made if it is not there yet.
    fn write(&mut self, map: &mut S::Outer, block: Block, schedule: &Schedule, ring: &[u16]) -> Result<(), Error> {
        let segment = match self.segments.entry(block.start.segment()) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => {
                let segment = S::create(map, *place.key())?;
                place.insert(segment)
            }
        };
        segment.write(block, schedule, ring)
    }
}

/// A part of the scheduling tables' memory.
pub trait Segment: Sized {
    /// The map of all segments.
    type Outer;

    /// Makes one in its place of the map.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    fn create(outer: &mut Self::Outer, number: u32) -> Result<Self, Error>;

    /// Writes a table: its members, then its ring.
    ///
    /// # Errors
    ///
    /// If the kernel does not map it into memory.
    fn write(&self, block: Block, schedule: &Schedule, ring: &[u16]) -> Result<(), Error>;
}

impl Segment for OwnedFd {
    type Outer = Map;

    fn create(outer: &mut Map, number: u32) -> Result<Self, Error> {
        let segment = Array::create(CHUNKS_PER_SEGMENT, MMAPABLE)?;
        let mut outer = ArrayOfMaps::<&mut MapData, Array<MapData, PodChunk>>::try_from(outer)?;
        outer.set(number, &segment, 0)?;
        segment.map().fd().as_fd().try_clone_to_owned().map_err(unmapped)
    }

    fn write(&self, block: Block, schedule: &Schedule, ring: &[u16]) -> Result<(), Error> {
        write(self, block, schedule, ring)
    }
}

/// A chunk for aya, which wants a trait of its own.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodChunk(Chunk);

// SAFETY: bytes, any of which are a value.
unsafe impl aya::Pod for PodChunk {}

/// Chunks of a table with so many members and slots.
fn chunks(members: u32, slots: u32) -> u32 {
    members.div_ceil(MEMBERS_PER_CHUNK) + slots.div_ceil(SLOTS_PER_CHUNK)
}

/// Builds the rings of some services, on all CPUs.
fn rings(schedules: &BTreeMap<u32, Schedule>, wanted: &[u32]) -> Vec<(u32, Vec<u16>)> {
    let build = |numbers: &[u32]| -> Vec<(u32, Vec<u16>)> {
        numbers
            .iter()
            .map(|number| (*number, schedules[number].ring()))
            .collect()
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    if wanted.len() < 2 || threads < 2 {
        return build(wanted);
    }
    thread::scope(|scope| {
        let workers: Vec<_> = wanted
            .chunks(wanted.len().div_ceil(threads))
            .map(|share| scope.spawn(move || build(share)))
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Writes a table: its members, then its ring.
fn write(segment: &OwnedFd, block: Block, schedule: &Schedule, ring: &[u16]) -> Result<(), Error> {
    let first = block.start.place() as usize / CHUNKS_PER_PAGE * CHUNKS_PER_PAGE;
    let offset = block.start.place() as usize - first;
    let window: Memory<Chunk> =
        Memory::map(segment.as_fd(), first, offset + block.chunks as usize).map_err(unmapped)?;
    let members: Vec<u64> = schedule.members.iter().map(|(member, _)| member.0).collect();
    let members = members
        .chunks(MEMBERS_PER_CHUNK as usize)
        .map(|members| chunk(members, u64::to_ne_bytes));
    let slots = ring
        .chunks(SLOTS_PER_CHUNK as usize)
        .map(|slots| chunk(slots, u16::to_ne_bytes));
    for (place, chunk) in (offset..).zip(members.chain(slots)) {
        window.write(place, &chunk);
    }
    Ok(())
}

fn unmapped(source: io::Error) -> Error {
    Error::Memory {
        map: "SCHEDULES",
        source,
    }
}

/// Some numbers as the bytes of a chunk.
fn chunk<T: Copy, const SIZE: usize>(numbers: &[T], bytes: impl Fn(T) -> [u8; SIZE]) -> Chunk {
    let mut chunk = [0; CHUNK];
    for (place, number) in chunk.chunks_exact_mut(SIZE).zip(numbers) {
        place.copy_from_slice(&bytes(*number));
    }
    Chunk(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(scheduler: Scheduler, weights: &[u16]) -> Schedule {
        let members = weights
            .iter()
            .zip(1_u32..)
            .map(|(weight, number)| {
                (
                    layout::Member::new(number, *weight, 0),
                    RingMember {
                        identity: [u64::from(number), 80],
                        weight: *weight,
                    },
                )
            })
            .collect();
        Schedule::new(scheduler, 251, members)
    }

    #[test]
    fn a_fingerprint_changes_with_everything_that_the_table_is_made_of() {
        let base = schedule(Scheduler::Mh, &[1, 2]);
        let mut other_slots = base.clone();
        other_slots.mh_slots = 257;
        let mut other_number = base.clone();
        other_number.members[1].0 = layout::Member::new(9, 2, 0);
        let mut other_flags = base.clone();
        other_flags.members[1].0 = layout::Member::new(2, 2, layout::Member::LIMITED);
        let others = [
            schedule(Scheduler::Rr, &[1, 2]),
            schedule(Scheduler::Mh, &[1, 3]),
            schedule(Scheduler::Mh, &[1]),
            schedule(Scheduler::Mh, &[1, 2, 0]),
            other_slots,
            other_number,
            other_flags,
        ];
        assert_eq!(base.fingerprint(), schedule(Scheduler::Mh, &[1, 2]).fingerprint());
        for other in others {
            assert_ne!(base.fingerprint(), other.fingerprint(), "{other:?}");
        }
    }

    /// What the kernel does to segments.
    #[derive(Default)]
    struct Kernel {
        refuses: bool,
        created: Vec<u32>,
    }

    struct Made;

    impl Segment for Made {
        type Outer = Kernel;

        fn create(kernel: &mut Kernel, number: u32) -> Result<Self, Error> {
            if kernel.refuses {
                return Err(unmapped(io::ErrorKind::OutOfMemory.into()));
            }
            kernel.created.push(number);
            Ok(Self)
        }

        fn write(&self, _: Block, _: &Schedule, _: &[u16]) -> Result<(), Error> {
            Ok(())
        }
    }

    #[test]
    fn a_segment_that_the_kernel_refuses_leaves_everything_free() {
        let (mut schedules, mut kernel) = (Schedules::<Made>::default(), Kernel::default());
        let wanted: BTreeMap<u32, Schedule> = [(1, schedule(Scheduler::Mh, &[1, 2]))].into();
        let mut entries = BTreeMap::new();
        kernel.refuses = true;
        for _ in 0..3 {
            assert!(schedules.build(&mut kernel, &wanted, &mut entries).is_err());
        }
        kernel.refuses = false;
        assert!(schedules.build(&mut kernel, &wanted, &mut entries).is_ok());
        assert_eq!(kernel.created, [0], "the first segment is made, when it can be");
        let start = schedules.placed[&1].block.map(|block| block.start);
        assert_eq!(start, Some(layout::ChunkIndex::new(0, 0)), "its first chunk was free");
    }

    #[test]
    fn rings_built_on_several_threads_are_those_built_on_one() {
        let schedules: BTreeMap<u32, Schedule> = (1..20)
            .map(|number| (number, schedule(Scheduler::Mh, &[1, 2, number as u16])))
            .collect();
        let wanted: Vec<u32> = schedules.keys().copied().collect();
        for (number, ring) in rings(&schedules, &wanted) {
            assert_eq!(ring, schedules[&number].ring());
        }
    }
}
