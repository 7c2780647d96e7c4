//! What a thread of a workload does, as data.

/// One step of a script.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// New blocks.
    Insert(Insert),
    /// Frees blocks at random until no more than so many bytes are alive.
    EvictTo(u64),
    /// Goes through the blocks from place `first` on, in the order of their making, and frees those that `keep` refuses. The
    /// others close ranks.
    Thin {
        /// The first place looked at.
        first: usize,
        /// Whether a block stays, by its number, counted from the first place looked at.
        keep: fn(usize) -> bool,
    },
    /// Rents for ever one in `one_in`, at random, of the blocks at each place divisible by `every`.
    Pin {
        /// The distance of the places.
        every: usize,
        /// How rare it is.
        one_in: u64,
    },
    /// Frees `count` blocks, each chosen at random among those not chosen yet, and puts a new one in the place of each.
    Replace {
        /// How many.
        count: u64,
    },
    /// Waits for the other threads.
    Meet,
}

/// New blocks of one kind.
#[derive(Debug, Clone, Copy)]
pub struct Insert {
    /// How many.
    pub amount: Amount,
    /// The smallest and the largest; each size between them is as likely as any other.
    pub sizes: (u32, u32),
    /// Their alignment.
    pub align: usize,
    /// Live bytes above which blocks are evicted at random.
    pub limit: Option<u64>,
}

/// When to stop inserting.
#[derive(Debug, Clone, Copy)]
pub enum Amount {
    /// After so many blocks.
    Blocks(u64),
    /// Before the block that would be one too many bytes.
    Bytes(u64),
}

impl Insert {
    fn mean(&self) -> u64 {
        u64::from(self.sizes.0 + self.sizes.1) / 2
    }

    fn count(&self) -> u64 {
        match self.amount {
            Amount::Blocks(count) => count,
            Amount::Bytes(bytes) => bytes / self.mean(),
        }
    }

    fn bytes(&self) -> u64 {
        match self.amount {
            Amount::Blocks(count) => count * self.mean(),
            Amount::Bytes(bytes) => bytes,
        }
    }
}

/// The most blocks alive at a time in one run of `script`, with some room, since random sizes may come out smaller.
pub fn most_blocks(script: &[Step]) -> usize {
    let (mut alive, mut most, mut smallest) = (0_u64, 0, u64::MAX);
    for step in script {
        match step {
            Step::Insert(insert) => {
                smallest = smallest.min(insert.mean());
                alive += insert.count();
                alive = insert.limit.map_or(alive, |limit| alive.min(limit / smallest + 1));
            }
            Step::EvictTo(bytes) => alive = alive.min(bytes / smallest + 1),
            Step::Thin { .. } | Step::Pin { .. } | Step::Replace { .. } | Step::Meet => {}
        }
        most = most.max(alive);
    }
    usize::try_from(most + most / 20).unwrap_or(usize::MAX).saturating_add(1000)
}

/// Bytes that one run of `script` asks for, about.
pub fn requested_bytes(script: &[Step]) -> u64 {
    let mut mean = 0;
    let bytes = |step: &Step| match step {
        Step::Insert(insert) => {
            mean = insert.mean();
            insert.bytes()
        }
        Step::Replace { count } => count * mean,
        Step::EvictTo(_) | Step::Thin { .. } | Step::Pin { .. } | Step::Meet => 0,
    };
    script.iter().map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(amount: Amount, sizes: (u32, u32), limit: Option<u64>) -> Step {
        Step::Insert(Insert { amount, sizes, align: 8, limit })
    }

    #[test]
    fn limits_and_evictions_bound_the_blocks() {
        let script = [
            insert(Amount::Blocks(50_000), (100, 100), Some(1_000_000)),
            Step::EvictTo(500_000),
            insert(Amount::Bytes(600_000), (50, 250), None),
        ];
        // 10,001 at the limit, 5,001 left, then 4,000 of 150 bytes each.
        assert_eq!(most_blocks(&script[..1]), 10_001 + 500 + 1000);
        assert_eq!(most_blocks(&script), 10_001 + 500 + 1000);
        assert_eq!(requested_bytes(&script), 5_000_000 + 600_000);
    }
}
