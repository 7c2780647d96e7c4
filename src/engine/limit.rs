//! The limit on what readers hold back.

use super::Core;
use crate::error::AllocError;
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
        let (_, panic) = self.carry_out(false, is_late);
        debug_assert!(panic.is_none(), "no destructor ran");
        let (waiting, limit) = (self.deferred.waiting_bytes(), self.config.reader_limit);
        if waiting <= limit {
            return Ok(());
        }
        let oldest = self.seats.look(self.now());
        Err(AllocError::ReadersBehind { waiting, limit, thread: oldest.and_then(|oldest| oldest.thread) })
    }
}
