//! Which block is overwritten next.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};

/// How writes are spread over the blocks.
#[derive(Clone, Copy, Debug)]
pub enum Spread {
    /// Evenly.
    Uniform,
    /// Nine of ten to a tenth of the blocks.
    HotCold,
    /// The nth block in proportion to n to the power −0.99.
    Zipf,
}

const ZIPF_EXPONENT: f64 = 0.99;

/// An endless, seeded choice of blocks.
#[derive(Debug)]
pub struct Writes {
    random: SmallRng,
    blocks: u32,
    spread: Spread,
    zipf: Zipf<f64>,
}

impl Writes {
    pub fn new(spread: Spread, blocks: u32) -> Self {
        let zipf = Zipf::new(f64::from(blocks), ZIPF_EXPONENT).expect("there are blocks");
        Self { random: SmallRng::seed_from_u64(0x5EED), blocks, spread, zipf }
    }

    pub fn next(&mut self) -> u32 {
        let blocks = self.blocks;
        match self.spread {
            Spread::Uniform => self.random.random_range(0..blocks),
            Spread::HotCold => {
                let hot = (blocks / 10).max(1);
                if self.random.random_ratio(9, 10) {
                    self.random.random_range(0..hot)
                } else {
                    self.random.random_range(hot..blocks)
                }
            }
            Spread::Zipf => self.zipf.sample(&mut self.random) as u32 - 1,
        }
    }

    /// All blocks once, hot and cold ones mixed.
    pub fn each_once(&self) -> impl Iterator<Item = u32> + use<> {
        // A large prime walks over all of fewer blocks, in leaps.
        const LEAP: u64 = 2_654_435_761;
        let blocks = u64::from(self.blocks);
        (0..blocks).map(move |nth| (nth * LEAP % blocks) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: u32 = 1000;

    fn share_of_first_tenth(spread: Spread) -> f64 {
        let mut writes = Writes::new(spread, BLOCKS);
        let first = (0..10_000).filter(|_| writes.next() < BLOCKS / 10).count();
        first as f64 / 10_000.0
    }

    #[test]
    fn the_first_tenth_gets_its_share() {
        let within = |spread, share: f64| (share_of_first_tenth(spread) - share).abs() < 0.02;
        assert!(within(Spread::Uniform, 0.1));
        assert!(within(Spread::HotCold, 0.9));
        // The sum of n^-0.99 to 100 over that to 1000.
        assert!(within(Spread::Zipf, 0.69));
    }

    #[test]
    fn each_block_once() {
        let mut blocks: Vec<_> = Writes::new(Spread::Uniform, BLOCKS).each_once().collect();
        blocks.sort_unstable();
        assert_eq!(blocks, (0..BLOCKS).collect::<Vec<_>>());
    }
}
