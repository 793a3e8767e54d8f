//! Where scheduling tables lie: runs of chunks within segments, first fit.

use std::collections::BTreeMap;

use xdp_common::layout::{CHUNKS_PER_SEGMENT, ChunkIndex, SEGMENTS};

/// A run of chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its first chunk.
    pub start: ChunkIndex,
    /// How many chunks it has.
    pub chunks: u32,
}

/// The free runs of each segment in use.
#[derive(Debug, Default)]
pub struct Blocks {
    /// By segment: the free runs, by place.
    segments: BTreeMap<u32, BTreeMap<u32, u32>>,
}

impl Blocks {
    /// Takes a block. The segment that it is in may be one that was not in use before.
    pub fn take(&mut self, chunks: u32) -> Option<Block> {
        if chunks > CHUNKS_PER_SEGMENT {
            return None;
        }
        for (segment, runs) in &mut self.segments {
            if let Some((place, length)) = runs
                .iter()
                .find(|(_, length)| **length >= chunks)
                .map(|(p, l)| (*p, *l))
            {
                runs.remove(&place);
                if length > chunks {
                    runs.insert(place + chunks, length - chunks);
                }
                return Some(Block {
                    start: ChunkIndex::new(*segment, place),
                    chunks,
                });
            }
        }
        let segment = (0..SEGMENTS).find(|segment| !self.segments.contains_key(segment))?;
        let rest = (chunks < CHUNKS_PER_SEGMENT).then_some((chunks, CHUNKS_PER_SEGMENT - chunks));
        self.segments.insert(segment, rest.into_iter().collect());
        Some(Block {
            start: ChunkIndex::new(segment, 0),
            chunks,
        })
    }

    /// Gives a block back; free neighbours become one.
    pub fn give(&mut self, block: Block) {
        let runs = self.segments.entry(block.start.segment()).or_default();
        let (mut place, mut length) = (block.start.place(), block.chunks);
        if let Some((before, before_length)) = runs.range(..place).next_back().map(|(p, l)| (*p, *l))
            && before + before_length == place
        {
            runs.remove(&before);
            place = before;
            length += before_length;
        }
        if let Some(after) = runs.remove(&(place + length)) {
            length += after;
        }
        runs.insert(place, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap_and_are_used_again() {
        let mut blocks = Blocks::default();
        let first = blocks.take(2000).expect("room");
        let second = blocks.take(3000).expect("room");
        assert_eq!(
            (first.start, second.start),
            (ChunkIndex::new(0, 0), ChunkIndex::new(0, 2000))
        );
        blocks.give(first);
        assert_eq!(blocks.take(1500).expect("room").start, ChunkIndex::new(0, 0));
        assert_eq!(blocks.take(600).expect("room").start, ChunkIndex::new(0, 5000));
    }

    #[test]
    fn freed_neighbours_become_one() {
        let mut blocks = Blocks::default();
        let taken: Vec<Block> = (0..4).filter_map(|_| blocks.take(CHUNKS_PER_SEGMENT / 4)).collect();
        for number in [1, 3, 2, 0] {
            blocks.give(taken[number]);
        }
        let whole = blocks.take(CHUNKS_PER_SEGMENT).expect("room");
        assert_eq!(whole.start, ChunkIndex::new(0, 0));
    }

    #[test]
    fn a_full_segment_opens_the_next_until_there_are_no_more() {
        let mut blocks = Blocks::default();
        for segment in 0..SEGMENTS {
            assert_eq!(
                blocks.take(CHUNKS_PER_SEGMENT).map(|block| block.start),
                Some(ChunkIndex::new(segment, 0))
            );
        }
        assert_eq!(blocks.take(1), None);
        assert_eq!(Blocks::default().take(CHUNKS_PER_SEGMENT + 1), None);
    }
}
