//! The compactor: what moves, when, and how much at a time.

#[cfg_attr(not(feature = "simulation"), allow(dead_code, reason = "classes, pace and assistance await the engine"))]
pub mod policy;
pub(crate) mod signal;
pub(crate) mod step;
pub(crate) mod worker;

use crate::primitive::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::Mutex;
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
    pub(crate) fn new() -> Self {
        Self {
            plan: Mutex::new(step::Plan::default()),
            paused: AtomicUsize::new(0),
            worker: worker::Worker::new(),
            totals: Totals::default(),
        }
    }

    /// Ends the background thread.
    pub(crate) fn stop(&self) {
        self.worker.stop();
    }
}
