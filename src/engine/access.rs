//! Holds by handle, frees, and queries.

use super::Core;
use super::settle::{End, Record};
use crate::arena::Header;
use crate::error::AccessError;
use crate::handle::RawHandle;
use crate::table::{Closed, Entry, Hold, LARGE_EXTENT, Left, Refused, Waiting};
use crate::types::{StoredLayout, TypeInfo, registry};
use parking_lot_core::{DEFAULT_PARK_TOKEN, DEFAULT_UNPARK_TOKEN, ParkResult};
use std::ptr::{self, NonNull};
use std::time::Instant;

/// When a freed block's memory is let go of.
///
/// Both are success, and most callers need not know which it was; so it may be ignored, unlike the `Result` that it comes in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freed {
    /// Nobody held it: it is gone.
    Now,
    /// Somebody holds it: new rents are refused, and the last return lets it go.
    ///
    /// A stale handle that was tried at the same moment can bring this about as well; the block is gone all the same.
    WhenReturned,
}

/// What a consistent look at an entry shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Glimpse {
    pub(crate) address: usize,
    pub(crate) info: &'static TypeInfo,
    pub(crate) rents: usize,
    pub(crate) exclusive: bool,
    pub(crate) pending_free: bool,
    /// `None`: large, so the size is in the descriptor.
    pub(crate) payload: Option<usize>,
}

impl Core {
    /// The entry that a handle names.
    #[inline]
    pub(crate) fn entry(&self, raw: RawHandle) -> Result<&Entry, AccessError> {
        if raw.version().is_multiple_of(2) {
            return Err(AccessError::Invalid);
        }
        self.table.entry(raw.slot()).ok_or(AccessError::Invalid)
    }

    /// What to call a handle whose version is not the entry's.
    #[cold]
    pub(crate) fn outdated(raw: RawHandle, entry: &Entry) -> AccessError {
        if raw.version() > entry.version() { AccessError::Invalid } else { AccessError::Stale }
    }

    /// Takes a hold and tells where the payload is.
    #[inline]
    pub(crate) fn hold(&self, raw: RawHandle, hold: Hold) -> Result<(&Entry, usize), AccessError> {
        if self.config.inline {
            self.inline_step();
        }
        let entry = self.entry(raw)?;
        match entry.hold(raw.version(), hold, self) {
            Ok(address) => Ok((entry, address)),
            Err(refused) => Err(Self::refused(refused, raw, entry)),
        }
    }

    #[cold]
    fn refused(refused: Refused, raw: RawHandle, entry: &Entry) -> AccessError {
        match refused {
            Refused::Stale => Self::outdated(raw, entry),
            Refused::Busy => AccessError::Busy,
            Refused::TooManyRents => AccessError::TooManyRents,
            Refused::OutOfMemory => AccessError::OutOfMemory,
        }
    }

    /// As [`hold`](Self::hold), but sleeps while the block is held in a way that excludes this hold.
    pub(crate) fn hold_until(
        &self,
        raw: RawHandle,
        hold: Hold,
        deadline: Option<Instant>,
    ) -> Result<(&Entry, usize), AccessError> {
        loop {
            match self.hold(raw, hold) {
                Err(AccessError::Busy) => {}
                outcome => return outcome,
            }
            let entry = self.entry(raw)?;
            match entry.announce_wait(raw.version()) {
                Waiting::NotHeld => continue,
                Waiting::Stale => return Err(Self::outdated(raw, entry)),
                Waiting::Announced => {}
            }
            // SAFETY: the key is an entry, which nobody else parks on; the callbacks neither panic nor park.
            let parked = unsafe {
                parking_lot_core::park(
                    ptr::from_ref(entry).addr(),
                    || entry.is_waited(raw.version()),
                    || {},
                    |_, _| {},
                    DEFAULT_PARK_TOKEN,
                    deadline,
                )
            };
            if matches!(parked, ParkResult::TimedOut) {
                // The last word is the block's: it may have come free at the deadline.
                return match self.hold(raw, hold) {
                    Err(AccessError::Busy) => Err(AccessError::TimedOut),
                    outcome => outcome,
                };
            }
        }
    }

    /// Wakes those who wait until an entry's block is not held. The compactor may be one of them, though it sleeps elsewhere.
    #[cold]
    pub(super) fn wake(&self, entry: &Entry) {
        // SAFETY: the key is an entry, which nobody else parks on.
        unsafe { parking_lot_core::unpark_all(ptr::from_ref(entry).addr(), DEFAULT_UNPARK_TOKEN) };
        self.notify();
    }

    /// Gives a hold back, and settles the block if it was the last hold on a freed one.
    #[inline]
    pub(crate) fn give_back(&self, entry: &Entry, hold: Hold) {
        let left = entry.give_back(hold);
        if left != Left::default() {
            self.leave(entry, left);
        }
        if self.config.inline {
            self.inline_step();
        }
    }

    /// Gives back whichever hold there is on a handle's block. The caller has one.
    pub(crate) fn give_back_any(&self, raw: RawHandle) -> Result<(), AccessError> {
        let entry = self.entry(raw)?;
        let version = entry.version();
        // A block that was freed while it was held has the next version. Checked: the last number there is has none.
        if version != raw.version() && Some(version) != raw.version().checked_add(1) {
            return Err(Self::outdated(raw, entry));
        }
        let left = entry.give_back_any().ok_or(AccessError::NotRented)?;
        if left != Left::default() {
            self.leave(entry, left);
        }
        if self.config.inline {
            self.inline_step();
        }
        Ok(())
    }

    /// Does what the last hold left to do.
    #[cold]
    pub(crate) fn leave(&self, entry: &Entry, left: Left) {
        if left.wake {
            self.wake(entry);
        }
        if let Some(address) = left.settle {
            self.settle_freed(address, false);
        }
    }

    /// Something that fell to a hold taken by mistake.
    #[cold]
    pub(crate) fn leave_later(&self, entry: &Entry, left: Left) {
        if left.wake {
            self.wake(entry);
        }
        if let Some(address) = left.settle {
            self.leave_to_step(Record::Settle { address, after_claims: false, end: End::Freed });
        }
    }

    /// Frees a block.
    #[inline(always)]
    pub(crate) fn free(&self, raw: RawHandle) -> Result<Freed, AccessError> {
        let entry = self.entry(raw)?;
        let Some(closed) = entry.free(raw.version()) else {
            return Err(Self::outdated(raw, entry));
        };
        if closed.is_quiet() && self.settle_own::<false>(raw, closed.address).is_some() {
            return Ok(Freed::Now);
        }
        Ok(self.free_slow(raw, entry, closed))
    }

    #[cold]
    #[inline(never)]
    fn free_slow(&self, raw: RawHandle, entry: &Entry, closed: Closed) -> Freed {
        if closed.is_quiet() && self.settle_own::<true>(raw, closed.address).is_some() {
            return Freed::Now;
        }
        if closed.wake {
            self.wake(entry);
        }
        if closed.held {
            return Freed::WhenReturned;
        }
        self.settle_freed(closed.address, closed.moving);
        Freed::Now
    }

    /// Moves the value out of a block and ends the block.
    pub(crate) fn take<T>(&self, raw: RawHandle) -> Result<T, AccessError> {
        let (entry, address) = self.hold(raw, Hold::Exclusive)?;
        if !entry.end_life(raw.version()) {
            self.give_back(entry, Hold::Exclusive);
            return Err(AccessError::Stale);
        }
        // SAFETY: the block is a live `T`, held exclusively, and the life is over: nobody else reads or drops the value.
        let value = unsafe { ptr::with_exposed_provenance::<T>(address).read() };
        // With the word closed, giving the hold back makes this thread the one that settles.
        if entry.close().wake {
            self.wake(entry);
        }
        let left = entry.give_back(Hold::Exclusive);
        debug_assert_eq!(left.settle, Some(address));
        self.settle(address, End::Emptied);
        Ok(value)
    }

    /// The value of a held block.
    ///
    /// # Safety
    ///
    /// The block is held by the caller and holds a `T` (a `Handle<T>` was its way in, or its tag was compared).
    #[inline]
    pub(crate) unsafe fn value_at<T: ?Sized + StoredLayout>(&self, address: usize) -> NonNull<T> {
        // SAFETY: no block is at zero.
        let payload = unsafe { NonNull::new_unchecked(ptr::with_exposed_provenance_mut(address)) };
        let bytes = if T::NEEDS_BYTES {
            // SAFETY: the hold keeps the block, and so its arena.
            unsafe { self.arena_of(address).payload_bytes(address) }
        } else {
            0
        };
        T::at(payload, bytes)
    }

    /// A consistent look at a block without holding it.
    pub(crate) fn glimpse(&self, raw: RawHandle) -> Result<Glimpse, AccessError> {
        let entry = self.entry(raw)?;
        loop {
            let version = entry.version();
            let (extent, word) = (entry.extent(), entry.word());
            if entry.version() != version {
                continue;
            }
            let pending_free = version == raw.version().wrapping_add(1) && !word.is_open() && word.is_held();
            if version != raw.version() && !pending_free {
                return Err(Self::outdated(raw, entry));
            }
            let large = extent & LARGE_EXTENT != 0;
            return Ok(Glimpse {
                address: word.address(),
                info: registry().info(Header::extent_tag(extent & !LARGE_EXTENT)),
                rents: word.rents() as usize,
                exclusive: word.is_exclusive(),
                pending_free,
                payload: (!large).then(|| Header::extent_payload(extent)),
            });
        }
    }

    /// As [`glimpse`](Self::glimpse), and the block's payload bytes.
    pub(crate) fn glimpse_sized(&self, raw: RawHandle) -> Result<(Glimpse, usize), AccessError> {
        loop {
            let glimpse = self.glimpse(raw)?;
            // `relink` keeps to an order in which this is a length that the block has, before or after, wherever the word leads.
            if let Some(payload) = glimpse.payload {
                return Ok((glimpse, payload));
            }
            // The descriptor tells, if the block is still there.
            let is_there = || self.glimpse(raw).map(|again| again.address == glimpse.address);
            if let Some(payload) = self.arena_of(glimpse.address).large_payload_if(is_there)? {
                return Ok((glimpse, payload));
            }
        }
    }

    /// Checks that a live block is of a type, in the access and shape that `info` tells.
    pub(crate) fn check_type(&self, raw: RawHandle, info: &'static TypeInfo) -> Result<(), AccessError> {
        let glimpse = self.glimpse(raw)?;
        if glimpse.pending_free {
            return Err(AccessError::Stale);
        }
        if !glimpse.info.same(info) {
            return Err(AccessError::TypeMismatch { stored: glimpse.info.name(), requested: info.name() });
        }
        Ok(())
    }

    /// The live blocks of a type, in the access and shape that `info` tells, as they are come to.
    pub(crate) fn live_of(&self, info: &'static TypeInfo) -> impl Iterator<Item = RawHandle> {
        let handles = self.table.slots().map(|(slot, entry)| RawHandle::new(slot, entry.version()));
        handles.filter(move |&raw| self.check_type(raw, info).is_ok())
    }

    /// Whether a handle's block is live.
    pub(crate) fn is_live(&self, raw: RawHandle) -> bool {
        self.entry(raw).is_ok_and(|entry| entry.version() == raw.version())
    }
}
