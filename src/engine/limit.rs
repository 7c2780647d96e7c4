//! What keeps memory that was put off within bounds: the limit on what readers hold back, and the help of those who put off.

use super::Core;
use super::lease::with_shard;
use crate::compact::Inside;
use crate::error::AllocError;
use crate::panics::Panic;
use crate::primitive::sync::atomic::Ordering;
use std::time::{Duration, Instant};

impl Core {
    /// Whether more is held back than the limit allows.
    #[inline]
    pub(crate) fn is_behind(&self) -> bool {
        self.deferred.waiting_bytes() > self.config.reader_limit
    }

    /// Helps the epoch forward, within bounds, and carries out what became ready: no destructors, since the caller may hold a
    /// lock that one of them wants.
    #[cold]
    pub(super) fn catch_up(&self) -> Result<(), AllocError> {
        const PATIENCE: Duration = Duration::from_millis(10);
        let deadline = Instant::now() + PATIENCE;
        let is_late = || Instant::now() >= deadline;
        self.wait_for_readers(64, is_late);
        let (_, panic) = self.carry_out(false, || if is_late() { None } else { self.deferred.next() });
        debug_assert!(panic.is_none(), "no destructor ran");
        let (waiting, limit) = (self.deferred.waiting_bytes(), self.config.reader_limit);
        if waiting <= limit {
            return Ok(());
        }
        let oldest = self.seats.look(self.now());
        Err(AllocError::ReadersBehind { waiting, limit, thread: oldest.and_then(|oldest| oldest.thread) })
    }

    /// Keeps up with what this thread puts off. For calls that own a drop: they carry out what others like them put off, so
    /// that no loop of them outruns the steps. A panic of a destructor is caught and counted, as in a step.
    #[inline]
    pub(super) fn keep_up(&self) {
        /// Enough for a step to be worth its while. Few, for each value may own much that is not counted here.
        const RECORDS: usize = 256;
        let (records, bytes) = self.deferred.backlog();
        if records > RECORDS || bytes > self.pool.arena_bytes() {
            self.help_out();
        }
    }

    #[cold]
    #[inline(never)]
    fn help_out(&self) {
        /// More than the one that the caller put off, so that the backlog shrinks.
        const SHARE: usize = 2;
        /// Calls for each time that the epochs are helped forward.
        const CALLS: u32 = 256;
        // One inside the other, destructors that publish might never come to an end.
        let Some(_inside) = Inside::enter_first(self.number) else { return };
        let is_time = with_shard(self, |shard, _, _| {
            shard.unhelped = (shard.unhelped + 1) % CALLS;
            shard.unhelped == 0
        });
        if is_time {
            self.submit();
            self.flush();
            // What is retired while more waits is told of no more.
            self.notify();
        }
        if self.deferred.due() == 0 {
            return;
        }
        let mut left = SHARE;
        let (_, panic) = self.carry_out(true, || {
            left = left.checked_sub(1)?;
            self.deferred.try_next()
        });
        self.count_panic(panic);
    }

    /// Counts a panic that nobody can be told of.
    pub(crate) fn count_panic(&self, panic: Option<Panic>) {
        if let Some(panic) = panic {
            // To drop what it carries could panic again.
            std::mem::forget(panic);
            self.compactor.totals.panics.fetch_add(1, Ordering::Relaxed);
        }
    }
}
