//! The trace that runs when none is given: phases of growth, each of which leaves one block in sixteen behind.
//!
//! Such survivors are what non-moving allocators suffer from: each phase asks for larger blocks than the one before,
//! so what it left free between its survivors hardly serves the next.

use crate::random::Random;
use crate::trace::{Builder, Trace};

/// What the trace is called in the table.
pub const NAME: &str = "synthetic";

const SEED: u64 = 0x5EED_0F5A_17A7_1E55;
const BLOCKS_PER_PHASE: u64 = 45_000;
const KEPT_ONE_IN: u64 = 16;
const RESIZED_ONE_IN: u64 = 12;
const LARGE_ONE_IN: u64 = 1500;
const LARGE: (u64, u64) = (16 << 10, 256 << 10);
/// The smallest and largest block of each phase.
const PHASES: [(u64, u64); 4] = [(16, 256), (64, 1024), (256, 2048), (512, 4096)];

/// The trace: the same at every call.
pub fn trace() -> Trace {
    let mut random = Random::new(SEED);
    let mut builder = Builder::default();
    for (phase, sizes) in (0..).zip(PHASES) {
        let ids = phase * BLOCKS_PER_PHASE..(phase + 1) * BLOCKS_PER_PHASE;
        grow(&mut builder, &mut random, ids.clone(), sizes);
        for id in ids.filter(|id| id % KEPT_ONE_IN != 0) {
            builder.free(id).expect("allocated in this phase");
        }
    }
    builder.finish(NAME.into())
}

/// Allocates the blocks of a phase, and now and then resizes one of those that it has made.
fn grow(builder: &mut Builder, random: &mut Random, ids: std::ops::Range<u64>, sizes: (u64, u64)) {
    for id in ids.clone() {
        let sizes = if random.below(LARGE_ONE_IN) == 0 { LARGE } else { sizes };
        let align = if random.below(8) == 0 { 16 } else { 8 };
        builder.allocate(id, random.size(sizes), align).expect("a new id");
        if random.below(RESIZED_ONE_IN) == 0 {
            let earlier = ids.start + random.below(id - ids.start + 1);
            builder.resize(earlier, random.size(sizes)).expect("allocated in this phase");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Op;

    #[test]
    fn it_is_the_same_every_time() {
        assert_eq!(trace().ops, trace().ops);
    }

    #[test]
    fn it_grows_shrinks_and_leaves_survivors() {
        let trace = trace();
        let count = |which: fn(&Op) -> bool| trace.ops.iter().filter(|op| which(op)).count() as u64;
        let allocated = count(|op| matches!(op, Op::Allocate { .. }));
        let freed = count(|op| matches!(op, Op::Free { .. }));
        assert!((300_000..500_000).contains(&trace.ops.len()), "{}", trace.ops.len());
        assert_eq!(allocated, BLOCKS_PER_PHASE * PHASES.len() as u64);
        assert!((allocated - freed) * (KEPT_ONE_IN - 1) <= allocated && allocated - freed > 10_000);
        assert!(count(|op| matches!(op, Op::Resize { .. })) > 10_000);
        assert!(count(|op| matches!(op, Op::Allocate { size, .. } if *size > 64 << 10)) > 10);
    }
}
