/// Bytes of a chunk: one cache line.
pub const CHUNK: usize = 64;

/// A piece of a scheduling table: members (`u32`) or ring slots (`u16`).
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Chunk(pub [u8; CHUNK]);

/// Members (numbers of backends, `u32`) in a chunk.
pub const MEMBERS_PER_CHUNK: u32 = (CHUNK / size_of::<u32>()) as u32;

/// Slots of a ring (indices into the members, `u16`) in a chunk.
pub const SLOTS_PER_CHUNK: u32 = (CHUNK / size_of::<u16>()) as u32;

/// Chunks in a segment (4 MiB): scheduling tables are laid out in segments that are made when there is need of them.
pub const CHUNKS_PER_SEGMENT: u32 = 1 << 16;

/// Segments at most (1 GiB in all: 7,900 Maglev tables of 65,537 slots).
pub const SEGMENTS: u32 = 256;

/// Where a chunk is: its segment above 16 bits of place in it. A table lies within one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct ChunkIndex(pub u32);

impl ChunkIndex {
    /// The chunk at this place of a segment.
    #[must_use]
    pub const fn new(segment: u32, place: u32) -> Self {
        Self(segment << 16 | place)
    }

    /// Its segment.
    #[inline(always)]
    #[must_use]
    pub const fn segment(self) -> u32 {
        self.0 >> 16
    }

    /// Its place in the segment.
    #[inline(always)]
    #[must_use]
    pub const fn place(self) -> u32 {
        self.0 & 0xffff
    }
}

const _: () = assert!(CHUNKS_PER_SEGMENT == 1 << 16 && size_of::<Chunk>() == CHUNK);
