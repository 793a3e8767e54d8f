//! Numbers that look random and are the same in every run, so that what fails fails again.

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.word() % end as u64) as usize
    }

    /// Whether something happens that does so `of` times out of a hundred.
    pub fn happens(&mut self, of: usize) -> bool {
        self.below(100) < of
    }

    /// One of these.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// A byte, often one at the end of a range, where mistakes are.
    pub fn byte(&mut self) -> u8 {
        match self.below(4) {
            0 => self.one(&[0, 1, 0x7f, 0x80, 0xfe, 0xff, 0x45, 0x4f, 0x60, 0x3a]),
            _ => self.word() as u8,
        }
    }

    /// Changes, removes or adds some bytes of a frame, nearly all of them in its headers.
    pub fn damage(&mut self, frame: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = 12 + self.below(frame.len().clamp(13, 110) - 12);
            match self.below(8) {
                0..=3 if at < frame.len() => frame[at] = self.byte(),
                4 if at < frame.len() => frame[at] ^= 1 << self.below(8),
                5 => frame.truncate(at),
                6 => frame.insert(at.min(frame.len()), self.byte()),
                _ => {
                    let piece: Vec<u8> = frame
                        .iter()
                        .skip(self.below(frame.len() + 1))
                        .take(16)
                        .copied()
                        .collect();
                    let at = at.min(frame.len());
                    frame.splice(at..at, piece);
                }
            }
        }
    }
}
