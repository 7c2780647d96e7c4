//! The engine below the safe face: everything `unsafe` that the public types stand on.
//!
//! # The parts
//!
//! * [`crate::table`]: *entries* of 16 bytes at fixed addresses, and the protocol of holds, frees and moves on them.
//! * [`crate::arena`]: *arenas* that are bumped full, sealed, emptied and recycled whole; *shards* that threads lease; the
//!   *account* of each arena, by which exactly one thread finds out that it is empty.
//! * [`crate::compact`]: the *step* that moves blocks out of sparse arenas, the policy that chooses them, the thread that
//!   calls it.
//! * [`crate::deferred`], [`crate::ready`] and the epochs of `crossbeam-epoch`: work put off until nobody can be hurt by it;
//!   [`crate::seats`]: whom it waits for.
//! * This module ties them together: [`allocate`] makes blocks, [`access`] gives and takes holds and frees, [`settle`] ends
//!   blocks, [`resize`] makes slices longer and shorter under their handles, [`help`] finishes moves that a holder-to-be meets.
//!
//! # Why no reader ever sees freed memory
//!
//! A block's bytes count as live in its arena's account until the block is settled or moved away. An arena is recycled by
//! whoever brings its account to nothing, so never under a live block, a claim of a mover, or a destructor. A hold keeps
//! its block from being moved (a move begins only on a word without holds) and from being settled (the last hold settles).
//! `Versioned` blocks are read without a hold: their destructors, and their arenas, wait for the readers' epoch as well.

pub(crate) mod access;
pub(crate) mod allocate;
pub(crate) mod help;
pub(crate) mod lease;
mod limit;
mod publish;
mod resize;
pub(crate) mod settle;

use crate::arena::{Pool, Shards, Supply};
use crate::builder::Config;
use crate::compact::sweep::Sweepers;
use crate::compact::{Compactor, Inside};
use crate::deferred::Deferred;
use crate::panics::{Panic, keep_first};
use crate::primitive::sync::atomic::{AtomicU64, Ordering};
use crate::seats::Seats;
use crate::table::Table;
use crate::table::numbers::PageNumbers;
use crossbeam_epoch::Collector;
pub(crate) use settle::Record;
use std::mem::ManuallyDrop;
use std::panic::resume_unwind;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Instant;

/// One shuffler's everything. Public handles to it are counted by [`Life`]; this stays until the last hold is gone.
#[derive(Debug)]
pub(crate) struct Core {
    /// Never used again in this process, so that thread-local leases cannot be taken for another's.
    pub(crate) number: u64,
    /// The same, or a number that no core has if this one scrubs: whoever looks for the shard of one that does not need not ask.
    pub(crate) unscrubbed_number: u64,
    pub(crate) weak: Weak<Core>,
    pub(crate) config: Config,
    pub(crate) table: Table,
    pub(crate) pool: Pool,
    pub(crate) shards: Shards,
    pub(crate) deferred: Arc<Deferred<Record>>,
    pub(crate) seats: Seats,
    pub(crate) collector: ManuallyDrop<Collector>,
    pub(crate) compactor: Compactor,
    /// Its directories.
    pub(crate) sweepers: Sweepers,
    started: Instant,
    /// Last, since everything above has its memory from here.
    pub(crate) supply: Supply,
}

impl Core {
    pub(crate) fn new(config: Config, source: Box<dyn crate::ArenaSource>, numbers: &'static PageNumbers) -> Arc<Self> {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Arc::new_cyclic(|weak| Self {
            number,
            unscrubbed_number: if config.scrub { u64::MAX } else { number },
            weak: weak.clone(),
            table: Table::new(numbers),
            pool: Pool::new(config.arena_bytes, config.survivor_reserve, config.scrub),
            shards: Shards::new(),
            deferred: Deferred::new(),
            seats: Seats::default(),
            collector: ManuallyDrop::new(Collector::new()),
            compactor: Compactor::new(&config),
            sweepers: Sweepers::default(),
            started: Instant::now(),
            supply: Supply::new(source, config.memory_limit),
            config,
        })
    }

    /// Carries out everything that was put off and that no reader or mover keeps from it.
    fn finish_deferred(&self, first_panic: &mut Option<Panic>) {
        // Nobody else uses the collector now, so this ends well before, unless a reader was forgotten.
        self.wait_for_readers(4096, || false);
        let (_, panic) = self.carry_out(true, || self.deferred.next());
        keep_first(first_panic, panic.map_or(Ok(()), Err));
    }

    /// Whether anything was put off that waits for a reader or a mover, or that no step has carried out yet.
    pub(crate) fn is_waiting(&self) -> bool {
        self.deferred.backlog().0 > 0
    }

    /// Milliseconds since the shuffler was made.
    pub(crate) fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        for private in self.shards.iter_mut() {
            private.epoch = None;
        }
        // SAFETY: dropped nowhere else, and not used after this. Its closures only push to the ready list.
        unsafe { ManuallyDrop::drop(&mut self.collector) };
        // Blocks that could be settled were settled by `Life`; what is left is memory.
        self.table.dissolve(&self.supply);
        self.pool.dissolve(&self.supply);
    }
}

/// What the clones of a `Shuffler` share; dropped with the last of them.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) core: Arc<Core>,
}

impl Drop for Life {
    /// Stops the compactor and settles every block that nobody holds.
    fn drop(&mut self) {
        let core = &*self.core;
        core.compactor.stop();
        let mut first_panic = None;
        core.finish_deferred(&mut first_panic);
        let mut live = Vec::new();
        core.table.for_each(|slot, entry| {
            let version = entry.version();
            if version % 2 == 1 {
                live.push(crate::RawHandle::new(slot, version));
            }
        });
        // What they put off is left to `finish_deferred`, which tells of panics.
        let inside = Inside::enter_first(core.number);
        for handle in live {
            let freed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| core.free(handle)));
            keep_first(&mut first_panic, freed.map(drop));
        }
        drop(inside);
        core.finish_deferred(&mut first_panic);
        if let Some(panic) = first_panic
            && !thread::panicking()
        {
            resume_unwind(panic);
        }
    }
}
