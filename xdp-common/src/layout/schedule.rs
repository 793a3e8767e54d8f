/// Bytes of a chunk: one cache line.
pub const CHUNK: usize = 64;

/// A piece of a scheduling table: [`Member`]s or ring slots (`u16`).
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Chunk(pub [u8; CHUNK]);

/// A backend as its service's scheduler sees it: number (24 bits), flags (8 bits), weight (16 bits).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Member(pub u64);

impl Member {
    /// In the flags: it has thresholds.
    pub const LIMITED: u8 = 1;

    /// The backend with this number.
    #[must_use]
    pub const fn new(number: u32, weight: u16, flags: u8) -> Self {
        Self(number as u64 | (flags as u64) << 24 | (weight as u64) << 32)
    }

    /// The backend's number.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 as u32 & 0x00ff_ffff
    }

    /// The backend's weight.
    #[inline(always)]
    #[must_use]
    pub const fn weight(self) -> u64 {
        self.0 >> 32 & 0xffff
    }

    /// Whether the backend has thresholds.
    #[inline(always)]
    #[must_use]
    pub const fn is_limited(self) -> bool {
        self.0 >> 24 & Self::LIMITED as u64 != 0
    }
}

/// Members in a chunk.
pub const MEMBERS_PER_CHUNK: u32 = (CHUNK / size_of::<Member>()) as u32;

/// Members of a service that a scheduler looks at for one new connection, at most.
pub const SCANNED: u32 = 256;

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
