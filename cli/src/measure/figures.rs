//! What one workload measured: a row of the table and an object of the JSON.

use serde::{Deserialize, Serialize};

use super::goal::Verdict;
use super::workload::Workload;
use crate::args::Allocator;
use crate::figures::ratio;
use crate::sampler::Sample;

/// One run of one workload over one allocator, in bytes and nanoseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// What ran.
    pub workload: Workload,
    /// What it ran over.
    pub allocator: Allocator,
    /// The part of the full counts and limits that ran.
    pub percent: f64,
    /// What Memory Shuffler should reach; empty for its peers.
    pub goals: Vec<Verdict>,
    /// What was measured.
    #[serde(flatten)]
    pub figures: Figures,
}

/// A look at memory. "Resident" is what the operating system says of the process, less the same figure before the load;
/// `None` where it does not say. Ratios are `None` too when hardly anything is live.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Look {
    /// The sum of the sizes asked for and not given back.
    pub live: u64,
    /// F times that: with headers, slots at their peak number and sizes rounded up to 8.
    pub floor: u64,
    /// Resident bytes.
    pub resident: Option<u64>,
    /// Resident over live.
    pub ratio: Option<f64>,
    /// Resident, less what is allowed for pinned blocks, over the floor.
    pub over_floor: Option<f64>,
}

impl Look {
    /// Of a sample, with so many resident bytes that do not count against the allocator.
    pub fn new(sample: Sample, allowed: u64) -> Self {
        let Sample { live, floor, resident } = sample;
        let counted = resident.map(|resident| resident.saturating_sub(allowed));
        Self { live, floor, resident, ratio: ratio(live, resident), over_floor: ratio(floor, counted) }
    }
}

/// Means over many samples.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Means {
    /// How many.
    pub samples: u64,
    /// Of resident over live.
    pub ratio: Option<f64>,
    /// Of resident over the floor.
    pub over_floor: Option<f64>,
}

/// What was measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Figures {
    /// From the first operation to the last, of the slowest thread. Filling and checking blocks is in it.
    pub load_ns: u64,
    /// What the process had resident before the first operation; all other resident figures are above it.
    pub base_resident: Option<u64>,
    /// Blocks alive when the load ends.
    pub blocks: u64,
    /// The most blocks alive at a time.
    pub slots: u64,
    /// Blocks among them that are rented for ever. 4 KiB for each do not count in what is over the floor.
    pub pinned_blocks: u64,
    /// Random reads that were checked during the load.
    pub reads_verified: u64,
    /// Blocks compared with their patterns at the end: all that are alive.
    pub blocks_verified: u64,
    /// When the load ends.
    pub end: Look,
    /// The most resident bytes of any sample during the load.
    pub peak_resident: Option<u64>,
    /// The sample of the load with the highest resident over floor.
    pub peak: Look,
    /// The last third of the samples of the load.
    pub last_third: Means,
    /// 0.5 s after `shuffle()` was called (of a peer: after the load), where it is.
    pub after_shuffle: Option<Look>,
    /// How long the call took.
    pub shuffle_ns: Option<u64>,
    /// 2 s after the load.
    pub settled: Look,
    /// 10 s after the load, if asked for.
    pub long: Option<Look>,
    /// Blocks moved, until 2 s after the load. This and what follows only Memory Shuffler has.
    pub moves: Option<u64>,
    /// Their bytes.
    pub moved_bytes: Option<u64>,
    /// Processor time of the compactor's thread until then, in the system's clock ticks.
    pub compactor_cpu_ns: Option<u64>,
    /// How the compactor dealt with what it was kept from during the load.
    pub defrag: Option<Defrag>,
}

/// What a compactor that was paused during the load does when it may.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Defrag {
    /// The least number of blocks whose moving brings resident memory down to 1.05 times the floor, whole arenas at a time,
    /// the sparsest first.
    pub had_to_move: u64,
    /// Whether emptying every arena that pays would bring it down so far. If not, that number is for all those.
    pub can_reach: bool,
    /// When it has stopped by itself.
    pub still: Look,
    /// Moves until then.
    pub moves: u64,
    /// Their bytes.
    pub moved_bytes: u64,
    /// Moves over what had to move.
    pub moves_over_needed: Option<f64>,
    /// From the pause's end to the last move, to within a twentieth of a second.
    pub moving_ns: u64,
    /// Bytes that a call of `shuffle()` then moves.
    pub moved_again_bytes: u64,
}
