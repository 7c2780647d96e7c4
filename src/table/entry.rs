//! The fixed-address record of a block, and every transition it can make.
//!
//! An entry is 16 bytes: the packed [`Word`], the version of the life that the slot is in (odd: live, even: vacant), and
//! the extent, a copy of the block's header for queries. All that threads can do to one block at a time meets here:
//!
//! * **hold** (rent, exclusive rent): one compare-exchange on the word, *then* the version is checked again, and on a
//!   mismatch the hold is given back. So a stale handle may hold a later life for an instant, and never look at it.
//! * **give back**: whoever leaves a word that is closed and unheld settles the block.
//! * **resize**, **publish** of another length: under an exclusive hold, which is kept from the first change to the last: in
//!   place, or by linking another block and its extent. So no hold and no move ever meets a length that is on its way to
//!   another, and no extent is left beside another block's word.
//! * **free**: first one compare-exchange on the *version*. That is the only decision: it has one winner, and it cannot
//!   recur, because versions only grow. Only then is the word closed.
//! * **read**, under a reader's epoch: the word, then the version. A handle is proof that its life had begun, so the word is not
//!   an earlier life's; and if the version is the handle's still, it is not a later one's, nor closed.
//! * **move**: `MOVING` is set on an open word that nobody holds, by a thread that claims the block's arena. While it is
//!   set nobody writes the block, so any number of threads may copy it, and exactly one compare-exchange to a fresh
//!   address wins. A thread that wants a hold and meets `MOVING` copies the block itself and commits with its hold.
//!   `MOVING` leaves a word only by such a commit or by a free: were it cancelled in place, the commit of a late helper
//!   could land on a later move.
//!
//! The memory below is behind [`Memory`], so that the loom models in `loom_tests/` run this very file over a memory of
//! their own that reports every race. Orderings name their partner; the table of them is in the internals chapter.

use super::word::{Location, Word};
use crate::primitive::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The last version that a life may have; the slot is retired afterwards, never wrapped.
pub(crate) const LAST_VERSION: u32 = 0xFFFF_FFFD;

/// Set in an extent: the block is large, its size is in its descriptor.
pub(crate) const LARGE_EXTENT: u32 = 1 << 31;

/// The two kinds of hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hold {
    /// Counted, for reading.
    Shared,
    /// Alone, for writing.
    Exclusive,
}

/// Why no hold was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// The slot is in another life than the handle's, or in none.
    Stale,
    /// Held in a way that excludes this hold.
    Busy,
    /// All counts of the word are in use.
    TooManyRents,
    /// The block was being moved and there was no memory to finish the move with.
    OutOfMemory,
}

/// What the thread that gave a hold back has to do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub(crate) struct Left {
    /// The address of the block to settle: it was freed, and this was the last hold.
    pub(crate) settle: Option<usize>,
    /// Threads sleep on this entry and must be woken.
    pub(crate) wake: bool,
}

/// What the winner of a free found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Closed {
    /// Where the block is.
    pub(crate) address: usize,
    /// Somebody holds it: the last return settles. Otherwise the caller does.
    pub(crate) held: bool,
    /// Movers may be copying it: its bytes must stand until the arena's other claims are gone.
    pub(crate) moving: bool,
    /// Threads sleep on this entry and must be woken.
    pub(crate) wake: bool,
}

impl Closed {
    /// Nobody holds it, copies it or waits for it.
    #[inline]
    pub(crate) fn is_quiet(self) -> bool {
        !(self.held | self.moving | self.wake)
    }
}

/// Whether a move could begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Begun {
    /// `MOVING` is set, by this call or by another mover: copy, then commit against this word.
    Moving(Word),
    /// Somebody holds the block; it stays where it is.
    Held,
    /// The block at that address is not this entry's any more.
    Gone,
}

/// How a thread that wants to sleep until a block is free fared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waiting {
    /// `WAITED` is set: sleep, after validating with [`Entry::is_waited`] under the lock of the parking place.
    Announced,
    /// Nobody holds the block now: try again.
    NotHeld,
    /// The life is over.
    Stale,
}

/// What the protocol asks of the memory below it.
pub(crate) trait Memory {
    /// A claim on the arena of a block: while it lives, the arena is not emptied, punched or recycled.
    type Claim<'a>
    where
        Self: 'a;
    /// A finished copy that nobody else knows yet.
    type Copy;

    /// Claims the arena that `address` lies in, or says that it is not to be claimed (any more).
    fn claim(&self, address: usize) -> Option<Self::Claim<'_>>;
    /// Copies the block, header and payload, to memory of this thread. `None`: no memory.
    fn copy(&self, claim: &Self::Claim<'_>, address: usize) -> Option<Self::Copy>;
    /// The payload address of a copy.
    fn address(&self, copy: &Self::Copy) -> usize;
    /// The copy is the block now: retires the source, gives the claim back.
    fn won(&self, claim: Self::Claim<'_>, source: usize, copy: Self::Copy);
    /// Another commit or a free came first: the copy is dead, the claim is given back.
    fn lost(&self, claim: Self::Claim<'_>, copy: Self::Copy);
    /// Something that fell to a hold taken by mistake, on a life that is not the caller's: sleepers are woken at once, but
    /// nobody's destructor may run inside a stranger's rent, so a settlement is put off.
    fn strayed(&self, entry: &Entry, left: Left);
}

/// See the module's documentation.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Entry {
    word: AtomicU64,
    version: AtomicU32,
    extent: AtomicU32,
}

impl Entry {
    /// An entry in no life, for models: a table's entries begin as zeroed memory, which is one at version 0.
    #[allow(dead_code, reason = "the models include this file and make entries with it")]
    pub(crate) fn vacant(version: u32) -> Self {
        Self { word: AtomicU64::new(0), version: AtomicU32::new(version), extent: AtomicU32::new(0) }
    }

    /// Puts a slot that nobody has into no life, at a version from which its next lives go on.
    pub(crate) fn vacate(&self, version: u32) {
        debug_assert!(version.is_multiple_of(2));
        // Release: pairs with the acquire in `read`; who sees it sees that the earlier lives are over.
        self.word.store(0, Ordering::Release);
        // Release: pairs with the acquire in `version`.
        self.version.store(version, Ordering::Release);
    }

    /// The word as it stands.
    #[inline]
    pub(crate) fn word(&self) -> Word {
        // Acquire: pairs with the release in `begin_life`, `commit`, `replace` and `relink`, for those who go on to read the
        // block; and with that in `close_from` and `vacate`, for those who go on to ask for the version.
        Word::from_bits(self.word.load(Ordering::Acquire))
    }

    /// The version as it stands.
    #[inline]
    pub(crate) fn version(&self) -> u32 {
        // Acquire: pairs with the release in `begin_life`; the life's extent and word are visible.
        self.version.load(Ordering::Acquire)
    }

    /// The extent as it stands; of a vacant slot, its link in a list of free slots.
    #[inline]
    pub(crate) fn extent(&self) -> u32 {
        // Acquire: pairs with the release in `set_extent`; who sees the extent of a later life sees its version too.
        self.extent.load(Ordering::Acquire)
    }

    /// Writes the extent. Only who owns the vacant slot, or holds the block exclusively, may.
    #[inline]
    pub(crate) fn set_extent(&self, extent: u32) {
        // Release: pairs with the acquire in `extent`.
        self.extent.store(extent, Ordering::Release);
    }

    /// Starts the next life of a vacant slot that the caller owns, and returns its version.
    #[inline]
    pub(crate) fn begin_life(&self, address: usize, extent: u32) -> u32 {
        // Relaxed: the slot came to its owner through its own cache or through a lock.
        let version = self.version.load(Ordering::Relaxed) + 1;
        debug_assert!(version % 2 == 1 && version <= LAST_VERSION);
        self.set_extent(extent);
        // Release: pairs with the acquire of every hold and of `word`; the block's bytes and header are visible.
        self.word.store(Word::open_at(address).to_bits(), Ordering::Release);
        // Release: pairs with the acquire in `version`; who sees the version sees the word.
        self.version.store(version, Ordering::Release);
        version
    }

    #[inline]
    fn exchange(&self, from: Word, to: Word, success: Ordering) -> Result<(), Word> {
        match self.word.compare_exchange(from.to_bits(), to.to_bits(), success, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(found) => Err(Word::from_bits(found)),
        }
    }

    /// Whether the slot is in this life, asked after a hold was taken or the word was read.
    #[inline]
    fn is_in(&self, version: u32) -> bool {
        // Relaxed: the acquire of the word came before. If the word was a later life's, that life's begin, and so the end
        // of this version, happened before; the same goes for a closed word, and for a vacant one.
        self.version.load(Ordering::Relaxed) == version
    }

    /// Where the payload of the life `version` is, for a reader that was pinned before: its epoch keeps what is there. `None`: the
    /// slot is not in that life.
    ///
    /// The life began before: `version` is odd and comes from a handle whose making happened before this call.
    #[inline]
    pub(crate) fn read(&self, version: u32) -> Option<Location> {
        // The life's begin happened before, so the word is none that was there before it. A word that came after its end,
        // closed, vacant or another life's, brings the next version along. So if the version stands, the word is the life's
        // own, and open.
        let word = self.word();
        self.is_in(version).then(|| word.location())
    }

    /// Takes a hold for the life `version` and returns the payload's address.
    #[inline]
    pub(crate) fn hold<M: Memory>(&self, version: u32, hold: Hold, memory: &M) -> Result<usize, Refused> {
        let seen = Word::from_bits(self.word.load(Ordering::Relaxed));
        let next = match hold {
            Hold::Shared if seen.is_rentable() => Some(seen.with_rent()),
            Hold::Exclusive if seen.is_free_to_write() => Some(seen.with_exclusive()),
            _ => None,
        };
        // Acquire: pairs with the release in `begin_life`, `commit`, `replace` and `give_back`; the block's bytes, and what
        // earlier holders wrote, are visible.
        if let Some(next) = next
            && self.exchange(seen, next, Ordering::Acquire).is_ok()
        {
            if self.is_in(version) {
                return Ok(seen.address());
            }
            return Err(self.mistaken(hold, memory));
        }
        self.hold_slow(version, hold, memory)
    }

    #[cold]
    #[inline(never)]
    fn mistaken<M: Memory>(&self, hold: Hold, memory: &M) -> Refused {
        let left = self.give_back(hold);
        if left != Left::default() {
            memory.strayed(self, left);
        }
        Refused::Stale
    }

    #[cold]
    #[inline(never)]
    fn hold_slow<M: Memory>(&self, version: u32, hold: Hold, memory: &M) -> Result<usize, Refused> {
        loop {
            let seen = self.word();
            // The version is asked first, so that a stale handle is called stale and copies nobody's block.
            if !seen.is_open() || self.version() != version {
                return Err(Refused::Stale);
            }
            let address = if seen.is_moving() {
                match self.help(seen, hold, memory)? {
                    Some(address) => address,
                    None => continue,
                }
            } else {
                let held = match hold {
                    Hold::Shared if seen.is_rentable() => seen.with_rent(),
                    Hold::Exclusive if seen.is_free_to_write() => seen.with_exclusive(),
                    Hold::Shared if !seen.is_exclusive() => return Err(Refused::TooManyRents),
                    _ => return Err(Refused::Busy),
                };
                // Acquire: as in `hold`.
                if self.exchange(seen, held, Ordering::Acquire).is_err() {
                    continue;
                }
                seen.address()
            };
            if self.is_in(version) {
                return Ok(address);
            }
            return Err(self.mistaken(hold, memory));
        }
    }

    /// Finishes the move that `seen` shows, with the caller's hold in the same exchange. `None`: the word has changed.
    fn help<M: Memory>(&self, seen: Word, hold: Hold, memory: &M) -> Result<Option<usize>, Refused> {
        let Some(claim) = memory.claim(seen.address()) else {
            // The arena was recycled, so the block has left it, and the word has changed.
            return Ok(None);
        };
        // Under the claim the arena cannot be recycled any more. If the word still names the block, the block lies in the
        // arena as claimed, and its header is a header. (A change from here on makes the commit fail.)
        if self.word() != seen {
            drop(claim);
            return Ok(None);
        }
        let Some(copy) = memory.copy(&claim, seen.address()) else {
            drop(claim);
            return if self.word() == seen { Err(Refused::OutOfMemory) } else { Ok(None) };
        };
        let address = memory.address(&copy);
        let fresh = Word::open_at(address);
        let held = match hold {
            Hold::Shared => fresh.with_rent(),
            Hold::Exclusive => fresh.with_exclusive(),
        };
        if self.commit(seen, held) {
            memory.won(claim, seen.address(), copy);
            Ok(Some(address))
        } else {
            memory.lost(claim, copy);
            Ok(None)
        }
    }

    /// Gives one hold back. The caller has it.
    #[inline]
    pub(crate) fn give_back(&self, hold: Hold) -> Left {
        match hold {
            Hold::Shared => {
                // Release: pairs with the acquire in `hold`, `begin_move` and `close`, and with that in `last_hold_left`; what
                // this holder did is visible to the next one, to a mover and to the settler.
                let seen = Word::from_bits(self.word.fetch_sub(Word::ONE_RENT, Ordering::Release));
                let next = seen.without_rent();
                if next.is_held() || (next.is_open() && !next.is_waited()) {
                    return Left::default();
                }
                self.last_hold_left(next)
            }
            Hold::Exclusive => self.leave(|seen| Some(seen.without_exclusive())).unwrap_or_default(),
        }
    }

    /// Gives back whichever hold the word shows. `None`: there is none.
    pub(crate) fn give_back_any(&self) -> Option<Left> {
        self.leave(|seen| match (seen.is_exclusive(), seen.rents()) {
            (true, _) => Some(seen.without_exclusive()),
            (false, 0) => None,
            (false, _) => Some(seen.without_rent()),
        })
    }

    #[inline]
    fn leave(&self, without: impl Fn(Word) -> Option<Word>) -> Option<Left> {
        let mut seen = Word::from_bits(self.word.load(Ordering::Relaxed));
        loop {
            let next = without(seen)?;
            // Release: as in `give_back`.
            match self.exchange(seen, next, Ordering::Release) {
                Ok(()) if next.is_held() || (next.is_open() && !next.is_waited()) => return Some(Left::default()),
                Ok(()) => return Some(self.last_hold_left(next)),
                Err(found) => seen = found,
            }
        }
    }

    /// What remains to be done by whoever gave the last hold back and left `next`.
    #[cold]
    fn last_hold_left(&self, next: Word) -> Left {
        if next.is_open() {
            // Until the bit is cleared nothing but a shared hold can begin, so a mover never meets it.
            return Left { settle: None, wake: self.clear_waited() };
        }
        // Acquire: pairs with the release of the other holders' `give_back` and of `close`; the settler sees what they did. A
        // closed word without holds stays as it is, so this reads what the caller stored, which goes on with their releases. A
        // fence would do the same, but ThreadSanitizer sees none and would call every reuse of the block's memory a race.
        let _ = self.word.load(Ordering::Acquire);
        Left { settle: Some(next.address()), wake: false }
    }

    /// Clears WAITED if it is set still. Whoever clears it wakes all sleepers.
    fn clear_waited(&self) -> bool {
        let mut seen = Word::from_bits(self.word.load(Ordering::Relaxed));
        while seen.is_waited() {
            // Relaxed: the sleepers validate under the parking place's lock, which the waker takes after this.
            match self.exchange(seen, seen.without_waited(), Ordering::Relaxed) {
                Ok(()) => return true,
                Err(found) => seen = found,
            }
        }
        false
    }

    /// Ends the life `version`: the one decision of a free or a take. `false`: another call has made it.
    #[inline]
    pub(crate) fn end_life(&self, version: u32) -> bool {
        debug_assert!(version % 2 == 1, "a vacant slot has no life to end");
        // Acquire: pairs with the release in `begin_life`. Release: pairs with the acquire in `version`; what the caller did
        // before is visible to those who are told that the handle is stale.
        // Wrapping: a handle made from arbitrary bits may say the last number there is, which is no entry's.
        self.version.compare_exchange(version, version.wrapping_add(1), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Ends the life `version` and closes the word. `None`: another call has ended it.
    #[inline]
    pub(crate) fn free(&self, version: u32) -> Option<Closed> {
        // Relaxed: only so that a stale handle writes nothing, since the entry's memory may be given back or never have been
        // used, and a failed exchange would make it resident.
        if self.version.load(Ordering::Relaxed) != version {
            return None;
        }
        // Looked at first only to save time: the exchange in `close_from` goes by what it finds.
        let seen = Word::from_bits(self.word.load(Ordering::Relaxed));
        self.end_life(version).then(|| self.close_from(seen))
    }

    /// Closes the word after [`end_life`](Self::end_life) was won.
    pub(crate) fn close(&self) -> Closed {
        self.close_from(Word::from_bits(self.word.load(Ordering::Relaxed)))
    }

    #[inline]
    fn close_from(&self, mut seen: Word) -> Closed {
        loop {
            // Acquire: pairs with the release of the last `give_back` and of `commit`; the settler sees what they did.
            // Release: pairs with the load in `last_hold_left`, if the last holder settles.
            match self.exchange(seen, seen.closed(), Ordering::AcqRel) {
                Ok(()) => {
                    return Closed {
                        address: seen.address(),
                        held: seen.is_held(),
                        moving: seen.is_moving(),
                        wake: seen.is_waited(),
                    };
                }
                Err(found) => seen = found,
            }
        }
    }

    /// Swaps a new block in for the one that the caller holds exclusively, and gives the hold back. Only a free that came
    /// meanwhile makes it fail; then the hold is given back all the same.
    pub(crate) fn replace(&self, address: usize) -> Result<bool, Left> {
        let mut seen = Word::from_bits(self.word.load(Ordering::Relaxed));
        loop {
            if !seen.is_open() {
                return Err(self.give_back(Hold::Exclusive));
            }
            // Release: pairs with the acquire in `hold` and `word`; the new block's bytes are visible.
            match self.exchange(seen, Word::open_at(address), Ordering::Release) {
                Ok(()) => return Ok(seen.is_waited()),
                Err(found) => seen = found,
            }
        }
    }

    /// Swaps a new block in for the one that the caller holds exclusively, with an extent of its own, and keeps the hold.
    /// `false`: a free came meanwhile, and word and extent are the old block's still.
    ///
    /// Queries read the extent, and then the word, at any time. An extent that says large sends them to the large block's
    /// descriptor, so where it does the word has to lead to one: a large block is linked before its extent says so, and that
    /// extent is taken back before a block of another kind is linked. However far this has come, a query has an answer.
    pub(crate) fn relink(&self, address: usize, extent: u32) -> bool {
        // Relaxed: the hold was acquired from whoever wrote it last.
        let before = self.extent.load(Ordering::Relaxed);
        let ends_large = before & !extent & LARGE_EXTENT != 0;
        if ends_large {
            self.set_extent(extent);
        }
        let is_linked = self.relink_word(address);
        if is_linked {
            self.set_extent(extent);
        } else if ends_large {
            self.set_extent(before);
        }
        is_linked
    }

    fn relink_word(&self, address: usize) -> bool {
        let mut seen = Word::from_bits(self.word.load(Ordering::Relaxed));
        while seen.is_open() {
            debug_assert!(seen.is_exclusive());
            // Release: pairs with the acquire in `word`; a reader that sees the new block sees its bytes, a query finds the arena
            // that it lies in.
            match self.exchange(seen, seen.moved_to(address), Ordering::Release) {
                Ok(()) => return true,
                Err(found) => seen = found,
            }
        }
        false
    }

    /// Begins to move the block at `address`, whose arena the caller claims.
    pub(crate) fn begin_move(&self, address: usize) -> Begun {
        loop {
            let seen = self.word();
            if seen.address() != address || !seen.is_open() {
                return Begun::Gone;
            }
            if seen.is_moving() {
                return Begun::Moving(seen);
            }
            if !seen.is_free_to_move() {
                return Begun::Held;
            }
            // Acquire: pairs with the release in `give_back`; the copy must have what the last writer wrote.
            if self.exchange(seen, seen.with_moving(), Ordering::Acquire).is_ok() {
                return Begun::Moving(seen.with_moving());
            }
        }
    }

    /// Commits a move from `moving` to `fresh`. `false`: another commit or a free came first.
    pub(crate) fn commit(&self, moving: Word, fresh: Word) -> bool {
        debug_assert!(moving.is_moving() && !moving.is_held() && fresh.is_open() && !fresh.is_moving());
        // Release: pairs with the acquire in `hold`, `word` and `close`; the copy is visible to whoever uses the new address.
        // (No acquire is needed for a helper's hold: it read the block's bytes after it had acquired `moving`.)
        self.exchange(moving, fresh, Ordering::Release).is_ok()
    }

    /// Announces that the caller will sleep until the block is not held.
    pub(crate) fn announce_wait(&self, version: u32) -> Waiting {
        loop {
            let seen = self.word();
            if !seen.is_open() || self.version() != version {
                return Waiting::Stale;
            }
            if !seen.is_held() {
                return Waiting::NotHeld;
            }
            // Relaxed would do for the bit itself; the sleeper validates under the parking place's lock, and the waker
            // takes the same lock after it has cleared the bit.
            if seen.is_waited() || self.exchange(seen, seen.with_waited(), Ordering::AcqRel).is_ok() {
                return Waiting::Announced;
            }
        }
    }

    /// Whether somebody will wake those who sleep on this life: asked under the parking place's lock.
    pub(crate) fn is_waited(&self, version: u32) -> bool {
        self.word().is_waited() && self.version() == version
    }
}
