//! What each worker counts, readable by the sampler while the worker runs.

use std::sync::atomic::{AtomicU64, Ordering};

/// One worker's counters. Only that worker writes them, so a count is a load and a store, no read-modify-write; a line
/// of their own keeps workers out of each other's way.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    allocated: AtomicU64,
    freed: AtomicU64,
    done: AtomicU64,
    verified: AtomicU64,
    load_ns: AtomicU64,
    floor: AtomicU64,
}

// Relaxed throughout: these are figures, and nothing is read through them. The barriers of the replay order the final
// values before the final look.
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
}

impl Counters {
    /// Bytes asked for by an allocation.
    pub fn allocated(&self, bytes: u64) {
        add(&self.allocated, bytes);
    }

    /// Bytes given back, whoever allocated them.
    pub fn freed(&self, bytes: u64) {
        add(&self.freed, bytes);
    }

    /// Operations of the trace behind us.
    pub fn done(&self, operations: u64) {
        add(&self.done, operations);
    }

    /// A block compared with its pattern.
    pub fn verified(&self) {
        add(&self.verified, 1);
    }

    /// The least bytes that this worker's live blocks can take up, bookkeeping included.
    pub fn set_floor(&self, bytes: u64) {
        self.floor.store(bytes, Ordering::Relaxed);
    }

    /// How long this worker's load took.
    pub fn set_load_ns(&self, ns: u64) {
        self.load_ns.store(ns, Ordering::Relaxed);
    }
}

/// The bytes asked for and not given back, over all workers.
pub fn live_bytes(all: &[Counters]) -> u64 {
    // Frees first: what is allocated in between can only make the sum too high by a moment, never negative.
    let freed = sum(all, |counters| &counters.freed);
    allocated_bytes(all).saturating_sub(freed)
}

/// The least bytes that the live blocks of all workers can take up, where workers say so.
pub fn floor_bytes(all: &[Counters]) -> u64 {
    sum(all, |counters| &counters.floor)
}

/// The bytes asked for so far, over all workers.
pub fn allocated_bytes(all: &[Counters]) -> u64 {
    sum(all, |counters| &counters.allocated)
}

/// Operations done over all workers.
pub fn operations_done(all: &[Counters]) -> u64 {
    sum(all, |counters| &counters.done)
}

/// Checks passed over all workers.
pub fn blocks_verified(all: &[Counters]) -> u64 {
    sum(all, |counters| &counters.verified)
}

/// The longest load of any worker.
pub fn longest_load_ns(all: &[Counters]) -> u64 {
    all.iter().map(|counters| counters.load_ns.load(Ordering::Relaxed)).max().unwrap_or(0)
}

fn sum(all: &[Counters], which: impl Fn(&Counters) -> &AtomicU64) -> u64 {
    all.iter().map(|counters| which(counters).load(Ordering::Relaxed)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_run_over_all_workers() {
        let all = [Counters::default(), Counters::default()];
        all[0].allocated(100);
        all[0].allocated(20);
        all[1].freed(50);
        all[0].done(3);
        all[1].done(4);
        all[1].verified();
        all[0].set_floor(90);
        all[1].set_floor(60);
        all[0].set_floor(80);
        all[0].set_load_ns(9);
        all[1].set_load_ns(7);
        assert_eq!(live_bytes(&all), 70);
        assert_eq!(floor_bytes(&all), 140);
        assert_eq!(operations_done(&all), 7);
        assert_eq!(blocks_verified(&all), 1);
        assert_eq!(longest_load_ns(&all), 9);
    }
}
