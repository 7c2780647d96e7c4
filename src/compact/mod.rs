//! The compactor: what moves, when, and how much at a time.

pub mod policy;
mod punch;
pub(crate) mod signal;
pub(crate) mod step;
pub(crate) mod sweep;
pub(crate) mod worker;

use crate::builder::Budget;
use crate::primitive::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::Duration;
pub(crate) use step::Duty;
pub use step::{Progress, ShuffleReport};
pub use worker::CompactorState;

/// The state that all steps of a shuffler share.
#[derive(Debug)]
pub(crate) struct Compactor {
    plan: Mutex<step::Plan>,
    /// `Paused` guards in existence.
    pub(crate) paused: AtomicUsize,
    pub(crate) worker: worker::Worker,
    pub(crate) totals: Totals,
    pub(crate) budget: SharedBudget,
    pub(crate) survey: Survey,
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

/// What the last choice of victims saw, for those who pace themselves by it. Each figure is right by itself.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Bytes of sealed arenas.
    pub(crate) used: AtomicUsize,
    /// Live bytes in them.
    pub(crate) live: AtomicUsize,
    /// Bytes of whole arenas that moving could gain.
    pub(crate) gain: AtomicUsize,
}

impl Survey {
    fn note(&self, seen: &step::Seen) {
        self.used.store(seen.used, Ordering::Relaxed);
        self.live.store(seen.live, Ordering::Relaxed);
        self.gain.store(seen.gain, Ordering::Relaxed);
    }

    /// The share of a core that the background thread takes while `excess` bytes of empty arenas wait to be given back.
    pub(crate) fn share_of_core(&self, excess: usize) -> f64 {
        let (gain, used) = (self.gain.load(Ordering::Relaxed), self.used.load(Ordering::Relaxed));
        policy::share_of_core(gain + excess, used + excess)
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
    /// Panics of destructors that nobody else could be told of.
    pub(crate) panics: AtomicU64,
}

impl Compactor {
    pub(crate) fn new(budget: Budget) -> Self {
        Self {
            plan: Mutex::new(step::Plan::default()),
            paused: AtomicUsize::new(0),
            worker: worker::Worker::new(),
            totals: Totals::default(),
            budget: SharedBudget::new(budget),
            survey: Survey::default(),
        }
    }

    /// Ends the background thread.
    pub(crate) fn stop(&self) {
        self.worker.stop();
    }
}
