//! The compactor: what moves, when, and how much at a time.

mod along;
pub(crate) mod explain;
mod placement;
mod plan;
pub mod policy;
mod punch;
pub(crate) mod signal;
pub(crate) mod step;
pub(crate) mod sweep;
mod walk;
pub(crate) mod worker;

use crate::builder::{Budget, Config};
use crate::primitive::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub use explain::{Explanation, OldestRent, Reason};
use std::sync::Mutex;
use std::time::Duration;
pub(crate) use step::{Duty, Inside};
pub use step::{Progress, ShuffleReport};
pub use worker::CompactorState;

/// The state that all steps of a shuffler share.
#[derive(Debug)]
pub(crate) struct Compactor {
    plan: Mutex<plan::Plan>,
    /// `Paused` guards in existence.
    pub(crate) paused: AtomicUsize,
    pub(crate) worker: worker::Worker,
    pub(crate) totals: Totals,
    pub(crate) budget: SharedBudget,
    pub(crate) survey: Survey,
    next_pass: placement::NextPass,
    lining_up: along::LiningUp,
}

/// The budget of a background step, which may be changed while it runs.
#[derive(Debug)]
pub(crate) struct SharedBudget {
    bytes: AtomicUsize,
    nanos: AtomicU64,
}

impl SharedBudget {
    fn new(budget: Budget) -> Self {
        let shared = Self { bytes: AtomicUsize::new(0), nanos: AtomicU64::new(0) };
        shared.set(budget);
        shared
    }

    pub(crate) fn get(&self) -> Budget {
        let time = Duration::from_nanos(self.nanos.load(Ordering::Relaxed));
        Budget { bytes: self.bytes.load(Ordering::Relaxed), time }
    }

    pub(crate) fn set(&self, budget: Budget) {
        self.bytes.store(budget.bytes.max(1), Ordering::Relaxed);
        let nanos = u64::try_from(budget.time.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.store(nanos.max(1), Ordering::Relaxed);
    }
}

/// How much garbage there is, for those who pace themselves by it. Each figure is right by itself, but for what the shards
/// have not counted yet.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Bytes that were used in the arenas that are sealed now. Below zero for an instant, now and then: an arena may be emptied
    /// by others between its sealing and its being counted.
    used: AtomicUsize,
    /// Of those, dead bytes. Below zero for an instant, now and then: what dies is counted a little late.
    dead: AtomicUsize,
    /// Bytes of whole arenas that moving could gain, when victims were last chosen.
    gain: AtomicUsize,
}

impl Survey {
    pub(crate) fn used(&self) -> usize {
        (self.used.load(Ordering::Relaxed) as isize).max(0) as usize
    }

    pub(crate) fn dead(&self) -> usize {
        (self.dead.load(Ordering::Relaxed) as isize).max(0) as usize
    }

    /// Counts an arena that is sealed.
    pub(crate) fn add_used(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts dead bytes, and returns how many there are now.
    pub(crate) fn add_dead(&self, bytes: usize) -> usize {
        let before = self.dead.fetch_add(bytes, Ordering::Relaxed);
        (before.wrapping_add(bytes) as isize).max(0) as usize
    }

    /// Counts an arena of so many bytes out, in which all is dead.
    pub(crate) fn forget(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.dead.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn note_gain(&self, bytes: usize) {
        self.gain.store(bytes, Ordering::Relaxed);
    }

    /// The share of a core that the background thread takes while `excess` bytes of empty arenas wait to be given back.
    pub(crate) fn share_of_core(&self, excess: usize) -> f64 {
        policy::share_of_core(self.gain.load(Ordering::Relaxed) + excess, self.used() + excess)
    }
}

/// Counters of all steps.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Times that victims were chosen.
    pub(crate) cycles: AtomicU64,
    /// The longest step, nanoseconds.
    pub(crate) max_step: AtomicU64,
    /// Steps that ended for want of memory.
    pub(crate) abandoned: AtomicU64,
    /// The last cycle ended for want of memory.
    pub(crate) no_memory: AtomicBool,
    /// Panics of destructors that nobody else could be told of.
    pub(crate) panics: AtomicU64,
}

impl Compactor {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            plan: Mutex::new(plan::Plan::new(config.placement, config.seed)),
            paused: AtomicUsize::new(0),
            worker: worker::Worker::new(),
            totals: Totals::default(),
            budget: SharedBudget::new(config.budget),
            survey: Survey::default(),
            next_pass: placement::NextPass::default(),
            lining_up: along::LiningUp::default(),
        }
    }

    /// Ends the background thread.
    pub(crate) fn stop(&self) {
        self.worker.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An arena is sealed before its bytes are counted; in between another thread may empty it.
    #[test]
    fn an_arena_that_is_emptied_before_it_is_counted_does_no_harm() {
        let survey = Survey::default();
        survey.forget(1 << 20);
        assert!((0.05..=0.25).contains(&survey.share_of_core(2 << 20)));
        assert_eq!(survey.used(), 0);
    }
}
