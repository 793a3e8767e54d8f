//! Numbers that look random and are the same in every run, so that what fails fails again.

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

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

    /// A byte, often one at the end of a range, where mistakes are.
    pub fn byte(&mut self) -> u8 {
        match self.below(4) {
            0 => [0, 1, 0x7f, 0x80, 0xfe, 0xff, 0x45, 0x4f, 0x60, 0x3a][self.below(10)],
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
