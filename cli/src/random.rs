//! Random numbers for loads: seeded, and the same everywhere.

use crate::pattern::mix;

/// A counter through splitmix64's finaliser.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// Below `bound`, which is positive. The bias of the remainder is far below anything a load shows.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Between the two; each octave as likely as any other, as in real programs.
    pub fn size(&mut self, (least, most): (u64, u64)) -> u64 {
        let octave = self.below(u64::from((most / least).ilog2()));
        let floor = least << octave;
        floor + self.below(floor + 1)
    }
}
