//! What one replay measured: a row of the table and an object of the JSON.

use serde::{Deserialize, Serialize};

use crate::args::{Allocator, Source};

/// One run of one trace over one allocator, in bytes and nanoseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// The trace, as it was given.
    pub trace: String,
    /// What it ran over.
    pub allocator: Allocator,
    /// Where arenas came from, for those that have arenas.
    pub source: Option<Source>,
    /// Copies of the trace, each on a thread.
    pub threads: u32,
    /// Whether blocks were freed by another thread than the one that made them.
    pub cross: bool,
    /// Operations over all threads.
    pub operations: u64,
    /// What was measured.
    #[serde(flatten)]
    pub figures: Figures,
}

/// What was measured. "Resident" is what the operating system says of the process, less the same figure just before
/// the first operation; `None` where it does not say. "Live" is the sum of the sizes asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Figures {
    /// From the first operation to the last, of the slowest thread. Filling and checking blocks is in it.
    pub time_ns: u64,
    /// The most live bytes seen, sampled every 10 ms and where each thread's own copy is at its highest.
    pub peak_live: u64,
    /// The most resident bytes seen, at the same samples.
    pub peak_resident: Option<u64>,
    /// One over the other.
    pub peak_ratio: Option<f64>,
    /// Live bytes just after the last operation.
    pub end_live: u64,
    /// Resident bytes then.
    pub end_resident: Option<u64>,
    /// One over the other; `None` when hardly anything is live.
    pub end_ratio: Option<f64>,
    /// Live bytes 2 s later.
    pub settled_live: u64,
    /// Resident bytes then.
    pub settled_resident: Option<u64>,
    /// One over the other; `None` when hardly anything is live.
    pub settled_ratio: Option<f64>,
    /// Blocks compared with their patterns: at each resize, at each free and in a pass at the end.
    pub blocks_verified: u64,
    /// What the process had resident before the first operation; all other resident figures are above it.
    pub start_resident: Option<u64>,
    /// Resident bytes after the last free and, for Memory Shuffler, `shuffle` and `trim`.
    pub final_resident: Option<u64>,
    /// What only Memory Shuffler has.
    #[serde(flatten)]
    pub shuffler: ShufflerFigures,
}

/// What only Memory Shuffler counts; all `None` for other allocators.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ShufflerFigures {
    /// Blocks moved.
    pub moves: Option<u64>,
    /// Their bytes.
    pub moved_bytes: Option<u64>,
    /// Moves finished by a thread that wanted the block.
    pub helped: Option<u64>,
    /// Arenas given back to their source.
    pub arenas_returned: Option<u64>,
    /// Bytes given back.
    pub returned_bytes: Option<u64>,
    /// The longest step of the compactor.
    pub longest_step_ns: Option<u64>,
    /// Blocks the library counts after the last free. Anything but 0 fails the replay.
    pub final_live_blocks: Option<u64>,
    /// Bytes held from the source before the first operation.
    pub start_source_bytes: Option<u64>,
    /// The same after the last free, `shuffle` and `trim`.
    pub final_source_bytes: Option<u64>,
}

/// Below this much live data a ratio would say more about page sizes than about the allocator.
const LEAST_LIVE: u64 = 1 << 20;

/// Resident over live, where that means something.
pub fn ratio(live: u64, resident: Option<u64>) -> Option<f64> {
    resident.filter(|_| live >= LEAST_LIVE).map(|resident| resident as f64 / live as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_needs_something_alive() {
        assert_eq!(ratio(2 << 20, Some(3 << 20)), Some(1.5));
        assert_eq!(ratio(LEAST_LIVE - 1, Some(3 << 20)), None);
        assert_eq!(ratio(2 << 20, None), None);
    }

    #[test]
    fn the_json_object_is_flat() {
        let run = Run {
            trace: "t".into(),
            allocator: Allocator::ShufflerDirectory,
            source: Some(Source::Bump),
            threads: 2,
            cross: true,
            operations: 10,
            figures: Figures { time_ns: 5, ..Figures::default() },
        };
        let json = serde_json::to_value(&run).unwrap();
        assert_eq!(json["allocator"], "shuffler+directory");
        assert_eq!(json["source"], "bump");
        assert_eq!(json["time_ns"], 5);
        assert!(json["moves"].is_null() && json.get("moves").is_some());
    }
}
