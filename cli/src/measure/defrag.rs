//! How many blocks must move, at the least, and how many do.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use memory_shuffler::{ArenaInfo, ArenaState, Shuffler};

use super::ledger::footprint;

/// Where resident memory should come down to, over the floor.
const GOAL: f64 = 1.05;
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A compactor that does not stop by itself is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The live blocks of each arena.
#[derive(Debug, Default)]
pub struct Census(HashMap<u32, Inhabitants>);

#[derive(Debug, Clone, Copy, Default)]
struct Inhabitants {
    blocks: u64,
    bytes: u64,
}

/// What emptying an arena costs and gains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate {
    blocks: u64,
    live: u64,
    gain: u64,
}

/// The least number of blocks that had to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// So many.
    pub blocks: u64,
    /// Whether that is enough.
    pub is_enough: bool,
}

impl Census {
    /// One more block.
    pub fn count(&mut self, arena: u32, size: u64) {
        let inhabitants = self.0.entry(arena).or_default();
        inhabitants.blocks += 1;
        inhabitants.bytes += footprint(size);
    }

    /// The blocks of the sparsest arenas whose emptying brings `resident` down to 1.05 times `floor`. An arena that is emptied
    /// gives back what its blocks do not need elsewhere.
    pub fn need(&self, arenas: &[ArenaInfo], resident: u64, floor: u64) -> Need {
        let candidates = arenas.iter().filter(|arena| matches!(arena.state, ArenaState::Sealed | ArenaState::Stale));
        let candidates = candidates.map(|arena| {
            let Inhabitants { blocks, bytes } = self.0.get(&arena.id).copied().unwrap_or_default();
            Candidate { blocks, live: bytes, gain: ((arena.live + arena.dead) as u64).saturating_sub(bytes) }
        });
        least(candidates.collect(), resident.saturating_sub((floor as f64 * GOAL) as u64))
    }
}

fn least(mut candidates: Vec<Candidate>, to_gain: u64) -> Need {
    candidates.sort_by_key(|candidate| candidate.live);
    let (mut blocks, mut gained) = (0, 0);
    for candidate in candidates.iter().filter(|candidate| candidate.gain > 0) {
        if gained >= to_gain {
            break;
        }
        blocks += candidate.blocks;
        gained += candidate.gain;
    }
    Need { blocks, is_enough: gained >= to_gain }
}

/// Waits until nothing has moved for as long as `quiet`. Gives the time from `start` to the last move that it saw.
pub fn wait_until_still(shuffler: &Shuffler, start: Instant, quiet: Duration) -> Duration {
    let mut moves = shuffler.stats().moves;
    let mut last = Instant::now();
    while last.elapsed() < quiet && start.elapsed() < PATIENCE {
        thread::sleep(LOOK_EVERY.min(quiet));
        let now = shuffler.stats().moves;
        if now != moves {
            (moves, last) = (now, Instant::now());
        }
    }
    last - start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sparsest_arenas_are_emptied_first() {
        let arena = |blocks, live| Candidate { blocks, live, gain: 1000 - live };
        let arenas = || vec![arena(5, 500), arena(9, 900), arena(1, 100), arena(0, 0), arena(10, 1000)];
        assert_eq!(least(arenas(), 0), Need { blocks: 0, is_enough: true });
        assert_eq!(least(arenas(), 1000), Need { blocks: 0, is_enough: true });
        assert_eq!(least(arenas(), 1001), Need { blocks: 1, is_enough: true });
        assert_eq!(least(arenas(), 2400), Need { blocks: 6, is_enough: true });
        assert_eq!(least(arenas(), 2501), Need { blocks: 15, is_enough: false });
    }

    #[test]
    fn blocks_are_counted_with_their_headers() {
        let mut census = Census::default();
        census.count(3, 101);
        census.count(3, 8);
        assert_eq!((census.0[&3].blocks, census.0[&3].bytes), (2, 112 + 16));
    }
}
