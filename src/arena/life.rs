//! Which life a descriptor is in, and how long the large block is that it has in this life: what queries read who have no share
//! in its memory.

use crate::primitive::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// The payload of memory that is not a large block's.
const NO_PAYLOAD: usize = usize::MAX;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Life {
    /// Counts the lives, and the times between them.
    count: AtomicU32,
    /// Of a large block, else [`NO_PAYLOAD`].
    payload: AtomicUsize,
}

impl Life {
    pub(crate) fn new() -> Self {
        Self { count: AtomicU32::new(0), payload: AtomicUsize::new(NO_PAYLOAD) }
    }

    /// Begins the next life.
    pub(crate) fn begin(&self) {
        // Release: pairs with the acquire in `count`; who sees this life does not see the payload of an earlier one.
        self.count.fetch_add(1, Ordering::Release);
    }

    /// Ends the life.
    pub(crate) fn end(&self) {
        self.payload.store(NO_PAYLOAD, Ordering::Relaxed);
        // Release: pairs with the acquire in `count`; who sees that the life is over sees where its block went.
        self.count.fetch_add(1, Ordering::Release);
    }

    /// A number that no other life of the descriptor has.
    pub(crate) fn count(&self) -> u32 {
        // Acquire: pairs with the release in `begin` and `end`.
        self.count.load(Ordering::Acquire)
    }

    /// Payload bytes of the large block, if there is one.
    pub(crate) fn payload(&self) -> Option<usize> {
        // Acquire: pairs with the release in `set_payload`; who sees the size of a later block sees that the life of the earlier
        // one is over.
        Some(self.payload.load(Ordering::Acquire)).filter(|&payload| payload != NO_PAYLOAD)
    }

    /// Changes the size of the large block, which the caller holds exclusively, or is making.
    pub(crate) fn set_payload(&self, payload: usize) {
        // Release: pairs with the acquire in `payload`.
        self.payload.store(payload, Ordering::Release);
    }

    /// Payload bytes of the large block that a query found to be here. It has no hold, so the block may have gone elsewhere, and
    /// the descriptor may be another's by now, even for the same address. The size is the block's if it was there in between
    /// two looks at the same life. `None`: somebody else came a step further, and the query is to begin again.
    pub(crate) fn payload_if<E>(&self, is_there: impl FnOnce() -> Result<bool, E>) -> Result<Option<usize>, E> {
        let (life, payload) = (self.count(), self.payload());
        let was_there = is_there()?;
        Ok(payload.filter(|_| was_there && self.count() == life))
    }
}
