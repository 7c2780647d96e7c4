//! What a step does for directories: it forgets grants of blocks that were freed by handle.
//!
//! The core knows its directories weakly, so that none keeps it alive and none is kept alive. Nothing tells which grants a free
//! left behind, and a free has no time to look; so a pass over a directory begins when enough blocks were freed since the last
//! one, or when somebody asks for it: `shuffle()`, and the background thread before it goes to sleep.

use super::step::Progress;
use crate::engine::Core;
use crate::handle::RawHandle;
use crate::primitive::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

/// What a directory goes by to know whether a pass is worth its while.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct News {
    /// Blocks freed since the shuffler began.
    pub(crate) freed: u64,
    /// How often somebody asked for a pass.
    pub(crate) asked: u64,
}

/// What a piece of a pass did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Swept {
    pub(crate) removed: usize,
    /// Panics of keys' destructors.
    pub(crate) panics: u64,
    /// The pass is not over.
    pub(crate) more: bool,
}

/// The compactor's side of a directory.
pub(crate) trait Sweep: Send + Sync {
    /// Does a piece of a pass, if there is reason for one. Never waits for a lock.
    fn sweep(&self, news: News, is_live: &dyn Fn(RawHandle) -> bool) -> Swept;

    /// Whether blocks may be named still that were among the first `freed` ones.
    fn is_behind(&self, freed: u64) -> bool;
}

/// The directories of a shuffler.
#[derive(Default)]
pub(crate) struct Sweepers {
    list: Mutex<Vec<Weak<dyn Sweep>>>,
    /// As long as the list; looked at without its lock.
    count: AtomicUsize,
    asked: AtomicU64,
    /// Whose turn it is, so that a large one does not keep steps from the others.
    turn: AtomicUsize,
}

impl Sweepers {
    fn list(&self) -> MutexGuard<'_, Vec<Weak<dyn Sweep>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, sweeper: Weak<dyn Sweep>) {
        let mut list = self.list();
        list.push(sweeper);
        self.count.store(list.len(), Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, sweeper: &Weak<dyn Sweep>) {
        let mut list = self.list();
        list.retain(|known| !std::ptr::addr_eq(known.as_ptr(), sweeper.as_ptr()));
        self.count.store(list.len(), Ordering::Relaxed);
    }

    fn get(&self, index: usize) -> Option<Arc<dyn Sweep>> {
        let list = self.list();
        list.get(index % list.len().max(1))?.upgrade()
    }

    /// A few blocks freed are reason enough for the next pass.
    pub(crate) fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Sweepers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sweepers").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Core {
    fn freed_blocks(&self) -> u64 {
        self.shards.sum(|counts| &counts.freed_blocks)
    }

    /// Forgets grants of dead blocks until all directories are looked through, or until `until`; a piece of the work is done
    /// in any case.
    pub(super) fn sweep(&self, until: Option<Instant>, progress: &mut Progress) {
        let count = self.sweepers.count.load(Ordering::Relaxed);
        if count == 0 {
            return;
        }
        let news = News { freed: self.freed_blocks(), asked: self.sweepers.asked.load(Ordering::Relaxed) };
        let turn = self.sweepers.turn.fetch_add(1, Ordering::Relaxed);
        for index in 0..count {
            let Some(sweeper) = self.sweepers.get(turn.wrapping_add(index)) else { continue };
            loop {
                let swept = sweeper.sweep(news, &|block| self.is_live(block));
                progress.swept += swept.removed;
                self.compactor.totals.panics.fetch_add(swept.panics, Ordering::Relaxed);
                if !swept.more {
                    break;
                }
                if until.is_some_and(|until| Instant::now() >= until) {
                    progress.more = true;
                    return;
                }
            }
        }
    }

    /// Tells the number of blocks freed so far, if a directory may still name one of them.
    pub(super) fn needs_sweep(&self) -> Option<u64> {
        let freed = self.freed_blocks();
        self.is_sweep_behind(freed).then_some(freed)
    }

    pub(super) fn is_sweep_behind(&self, freed: u64) -> bool {
        let count = self.sweepers.count.load(Ordering::Relaxed);
        (0..count).filter_map(|index| self.sweepers.get(index)).any(|sweeper| sweeper.is_behind(freed))
    }
}
