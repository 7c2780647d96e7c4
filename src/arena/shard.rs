//! What one thread leases: the arenas it fills, its free slots, its registration with the readers' epochs, its counters.
//!
//! A shard is used by one thread at a time, through [`crate::engine::lease`]. Only its counters are read by others.

use super::descriptor::ArenaRef;
use super::ground::{Ground, Headers};
use super::header::{AtomicHeader, Header, State};
use super::pool::Extent;
use crate::primitive::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::seats::{Registration, Seats};
use crate::table::SlotCache;
use crate::types::TagCache;
use crossbeam_epoch::Collector;
use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::ptr;
use std::sync::{Mutex, PoisonError};
use std::thread::Thread;

/// An arena that is being filled.
#[derive(Debug, Default)]
pub(crate) struct Bump {
    arena: Option<ArenaRef>,
    base: usize,
    /// Where the first block begins.
    start: usize,
    top: usize,
    /// Where the last payload must end.
    end: usize,
    /// Where a payload must end before the next share of the compactor's work is paid; at most `end`.
    limit: usize,
    /// Bytes to move for each KiB that the limit is moved on.
    fee: usize,
    /// Bytes that the owner knows to be dead.
    dead: usize,
    /// Of those, the gaps before aligned blocks.
    gaps: usize,
}

/// An arena that was replaced and has to be sealed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filled {
    pub(crate) arena: ArenaRef,
    pub(crate) used: usize,
    /// Bytes used less those that the owner knows to be dead.
    pub(crate) live: usize,
    /// See [`super::descriptor`].
    pub(crate) packed: usize,
}

impl Bump {
    /// Where a payload would lie, and end.
    #[inline]
    fn next(&self, headers: Headers, payload: usize, align: usize) -> (usize, usize) {
        let address = headers.payload_behind(self.top, align);
        (address, address - headers.lead() + headers.room(payload))
    }

    /// Whether [`bump`](Self::bump) will find room.
    #[inline]
    pub(crate) fn has_room(&self, headers: Headers, payload: usize, align: usize) -> bool {
        self.next(headers, payload, align).1 <= self.limit
    }

    /// Room for a payload, with a filler in any gap before its block. `None`: the arena is full, or there is none. The headers
    /// are those of the arena's ground.
    #[inline]
    pub(crate) fn bump(&mut self, headers: Headers, payload: usize, align: usize) -> Option<usize> {
        let (address, end) = self.next(headers, payload, align);
        if end > self.limit {
            return None;
        }
        debug_assert!(self.arena.is_some_and(|arena| arena.ground().headers == headers));
        let gap = address - headers.lead() - self.top;
        if gap > 0 {
            let filler = self.header_at(headers, self.top + headers.lead());
            // SAFETY: between the top and the limit of an arena that this shard fills, nobody else has anything.
            unsafe { &*filler }.store(Header::filler(gap, State::Dead));
            self.dead += gap;
            self.gaps += gap;
        }
        self.top = end;
        Some(address)
    }

    /// Where the header of a payload in this arena is. The headers are those of the arena's ground.
    #[inline]
    pub(crate) fn header_at(&self, headers: Headers, address: usize) -> *const AtomicHeader {
        headers.at(self.base, address)
    }

    /// Counts bytes as dead if they lie in this arena.
    ///
    /// If nothing in it is alive then, it begins at its start again: that is the same as sealing it, finding it empty and
    /// taking it anew, since nobody can claim an arena that is not sealed.
    #[inline]
    pub(crate) fn bury(&mut self, arena: ArenaRef, footprint: usize) -> bool {
        let own = self.arena == Some(arena);
        if own {
            self.bury_own(footprint);
        }
        own
    }

    /// As [`bury`](Self::bury), for bytes that lie in this arena.
    #[inline]
    pub(crate) fn bury_own(&mut self, footprint: usize) {
        self.dead += footprint;
        if self.dead == self.top - self.start && self.arena.is_some_and(|arena| arena.account.debt() == 0) {
            self.rewind_to_start();
        }
    }

    /// Whether an address lies where the blocks of the arena may.
    #[inline]
    pub(crate) fn covers(&self, address: usize) -> bool {
        address.wrapping_sub(self.start) < self.limit.wrapping_sub(self.start)
    }

    /// Puts a new arena in the place of the one that is being filled.
    ///
    /// `fee`: bytes to move for each KiB of it; 0: none.
    pub(crate) fn install(&mut self, next: Option<ArenaRef>, arena_bytes: usize, fee: usize) -> Option<Filled> {
        let filled = self.arena.map(|arena| {
            let used = self.top - self.start;
            // One that is replaced was full: what is left of it was too short. One that is only let go of could have held more.
            let room = if next.is_some() { used } else { self.end - self.start };
            Filled { arena, used, live: used - self.dead, packed: room - self.gaps }
        });
        *self = next.map_or_else(Self::default, |arena| {
            let (base, start) = (arena.base(), arena.start());
            let end = start + arena.ground().headers.capacity(arena_bytes);
            let limit = if fee > 0 { start } else { end };
            Self { arena: next, base, start, top: start, end, limit, fee, dead: 0, gaps: 0 }
        });
        filled
    }

    /// Moves the limit on, if the arena has more room, and tells how many bytes are to be moved for that.
    pub(crate) fn advance(&mut self) -> Option<usize> {
        /// So much room at a time, so that what is to be done for it at once is little.
        const SPAN: usize = 64 << 10;
        if self.limit == self.end {
            return None;
        }
        let before = self.limit;
        self.limit = (before + SPAN).min(self.end);
        Some((self.limit - before) * self.fee / 1024)
    }

    /// Bytes that are left.
    pub(crate) fn room(&self) -> usize {
        self.end - self.top
    }

    /// The arena, the bytes used and the bytes that the owner knows to be dead.
    pub(crate) fn state(&self) -> Option<(ArenaRef, usize, usize)> {
        self.arena.map(|arena| (arena, self.top - self.start, self.dead))
    }

    /// Takes back what the last bump, of a block at `address`, has beyond `payload` bytes.
    pub(crate) fn trim(&mut self, headers: Headers, address: usize, payload: usize) {
        let top = address - headers.lead() + headers.room(payload);
        debug_assert!(top <= self.top);
        self.top = top;
    }

    /// Takes back the last bump, which began when `top` was as `mark` says.
    pub(crate) fn rewind(&mut self, mark: BumpMark) {
        (self.top, self.dead, self.gaps) = (mark.top, mark.dead, mark.gaps);
    }

    /// As [`rewind`](Self::rewind), where the last bump was the arena's first.
    pub(crate) fn rewind_to_start(&mut self) {
        (self.top, self.dead, self.gaps) = (self.start, 0, 0);
    }

    pub(crate) fn mark(&self) -> BumpMark {
        BumpMark { top: self.top, dead: self.dead, gaps: self.gaps }
    }
}

/// Where a bump began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BumpMark {
    top: usize,
    dead: usize,
    gaps: usize,
}

/// The part of a shard that only its user touches.
#[derive(Debug)]
pub(crate) struct Private {
    /// For new blocks, by the index of their ground.
    pub(crate) bumps: [Bump; Ground::COUNT],
    /// For survivors, by the index of their ground: those that a mover fills side by side.
    survivors: [Vec<Bump>; Ground::COUNT],
    pub(crate) extents: [Option<Extent>; Ground::COUNT],
    pub(crate) slots: SlotCache,
    pub(crate) tags: TagCache,
    pub(crate) epoch: Option<Registration>,
    /// Who leases the shard, if that is known.
    pub(crate) thread: Option<Thread>,
    /// Bytes that died in sealed arenas and are not counted among all of them yet.
    pub(crate) uncounted: usize,
    /// Bytes that its user was to move for what it allocated, and has not yet.
    pub(crate) owed: usize,
    /// Calls of its user, since the last that helped the epochs forward, which found much put off.
    pub(crate) unhelped: u32,
}

impl Private {
    #[inline]
    pub(crate) fn ground(&mut self, ground: Ground) -> &mut Bump {
        &mut self.bumps[ground.index()]
    }

    /// One of the arenas that survivors go to. As many are kept as were ever asked for.
    pub(crate) fn survivors(&mut self, ground: Ground, target: usize) -> &mut Bump {
        let bumps = &mut self.survivors[ground.index()];
        if bumps.len() <= target {
            bumps.resize_with(target + 1, Bump::default);
        }
        &mut bumps[target]
    }

    /// Room for a survivor in any of those arenas: which one, where the bump began, and the address.
    pub(crate) fn bump_anywhere(
        &mut self,
        ground: Ground,
        payload: usize,
        align: usize,
    ) -> Option<(usize, BumpMark, usize)> {
        self.survivors[ground.index()].iter_mut().enumerate().find_map(|(target, bump)| {
            let mark = bump.mark();
            Some((target, mark, bump.bump(ground.headers, payload, align)?))
        })
    }

    /// Bytes that are left in the arenas that survivors go to.
    fn room_for_survivors(&self) -> usize {
        self.survivors.iter().flatten().map(Bump::room).sum()
    }

    /// Every arena that the shard fills.
    pub(crate) fn all_bumps(&mut self) -> impl Iterator<Item = &mut Bump> {
        self.bumps.iter_mut().chain(self.survivors.iter_mut().flatten())
    }

    /// Lets go of the arenas with so many dead bytes, or with nothing in them at all: they have to be sealed.
    pub(crate) fn take_filled(&mut self, dead_at_least: usize) -> Vec<Filled> {
        let take = |bump: &mut Bump| {
            let (arena, used, dead) = bump.state()?;
            let keep = used > 0 && dead + arena.account.debt() < dead_at_least;
            if keep { None } else { bump.install(None, 0, 0) }
        };
        self.all_bumps().filter_map(take).collect()
    }

    /// The shard's registration with the readers' epochs.
    #[inline]
    pub(crate) fn epoch(&mut self, collector: &Collector, seats: &Seats) -> &Registration {
        self.epoch.get_or_insert_with(|| Registration::new(collector, seats.take(self.thread.clone())))
    }
}

/// Counters that the user of a shard adds to and anybody may read.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) allocated_blocks: AtomicU64,
    pub(crate) allocated_bytes: AtomicU64,
    pub(crate) freed_blocks: AtomicU64,
    pub(crate) freed_bytes: AtomicU64,
    pub(crate) moves: AtomicU64,
    pub(crate) moved_bytes: AtomicU64,
    pub(crate) helped: AtomicU64,
    pub(crate) skipped_pinned: AtomicU64,
}

/// Adds to a counter of the shard that the caller uses: one writer at a time, so no read-modify-write is needed.
#[inline]
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

/// See the module's documentation.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Shard {
    pub(crate) private: UnsafeCell<Private>,
    pub(crate) counts: Counts,
    pub(crate) id: u32,
    next: *const Shard,
}

// SAFETY: `private` is only reached by the one user that a lease makes; a hand-over goes through the mutex of `Shards`. The
// `LocalHandle` in a registration may go from thread to thread like that: it is not tied to one, only not to be used by two at once.
unsafe impl Send for Shard {}
// SAFETY: as above; the rest is atomic or never changes.
unsafe impl Sync for Shard {}

/// All shards of a shuffler, and those that nobody leases.
#[derive(Debug)]
pub(crate) struct Shards {
    head: AtomicPtr<Shard>,
    ids: AtomicU32,
    /// By role: for threads that allocate, and for steps that move.
    idle: [Mutex<VecDeque<ShardRef>>; 2],
    /// By role: leases that have not ended.
    leased: [AtomicUsize; 2],
}

/// For what a shard is leased: survivors of a shuffle do not mix with new blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Mutator = 0,
    Mover = 1,
}

/// A shard for as long as its shuffler's core lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ShardRef(pub(crate) *const Shard);

// SAFETY: see `Shard`.
unsafe impl Send for ShardRef {}

impl Shards {
    pub(crate) fn new() -> Self {
        Self {
            head: AtomicPtr::new(ptr::null_mut()),
            ids: AtomicU32::new(0),
            idle: Default::default(),
            leased: Default::default(),
        }
    }

    /// A shard that the caller alone may use until it hands it back. Of movers', the one that has most room for survivors.
    pub(crate) fn lease(&self, role: Role) -> ShardRef {
        self.leased[role as usize].fetch_add(1, Ordering::Relaxed);
        let mut idle = self.idle[role as usize].lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: nobody leases an idle shard while this lock is held.
        let room = |shard: &ShardRef| unsafe { &*(*shard.0).private.get() }.room_for_survivors();
        let best = match role {
            Role::Mutator => idle.len().checked_sub(1),
            Role::Mover => (0..idle.len()).max_by_key(|&index| room(&idle[index])),
        };
        let leased = best.and_then(|index| idle.swap_remove_back(index));
        drop(idle);
        leased.unwrap_or_else(|| self.add())
    }

    /// Ends a lease.
    pub(crate) fn hand_back(&self, shard: ShardRef, role: Role) {
        self.put_back(shard, role);
        self.leased[role as usize].fetch_sub(1, Ordering::Relaxed);
    }

    fn put_back(&self, shard: ShardRef, role: Role) {
        self.idle[role as usize].lock().unwrap_or_else(PoisonError::into_inner).push_back(shard);
    }

    /// How many shards are leased. One whose lease has ended is idle before it is not counted any more.
    pub(crate) fn leased(&self, role: Role) -> usize {
        self.leased[role as usize].load(Ordering::Relaxed)
    }

    /// Calls `work` with every shard that nobody uses, one at a time, so that threads which start meanwhile find the others.
    pub(crate) fn for_each_idle(&self, role: Role, mut work: impl FnMut(&mut Private)) {
        let idle = || self.idle[role as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let count = idle().len();
        for _ in 0..count {
            let Some(shard) = idle().pop_front() else { return };
            // SAFETY: this call alone has the shard, until it puts it back below.
            work(unsafe { &mut *(*shard.0).private.get() });
            self.put_back(shard, role);
        }
    }

    fn add(&self) -> ShardRef {
        let private = Private {
            bumps: Default::default(),
            survivors: Default::default(),
            extents: Default::default(),
            slots: SlotCache::default(),
            tags: TagCache::new(),
            epoch: None,
            thread: None,
            uncounted: 0,
            owed: 0,
            unhelped: 0,
        };
        let shard = Box::into_raw(Box::new(Shard {
            private: UnsafeCell::new(private),
            counts: Counts::default(),
            id: self.ids.fetch_add(1, Ordering::Relaxed),
            next: ptr::null(),
        }));
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the shard is this call's own until the exchange below succeeds.
            unsafe { (*shard).next = head };
            // Release: pairs with the acquire in `iter`.
            match self.head.compare_exchange(head, shard, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return ShardRef(shard),
                Err(found) => head = found,
            }
        }
    }

    /// All of them, leased or not, newest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Shard> {
        // Acquire: pairs with the release in `add`.
        let mut next: *const Shard = self.head.load(Ordering::Acquire);
        std::iter::from_fn(move || {
            // SAFETY: shards are freed only with the list, which the result borrows.
            let shard = unsafe { next.as_ref()? };
            next = shard.next;
            Some(shard)
        })
    }

    /// A counter's total over all shards.
    pub(crate) fn sum(&self, counter: impl Fn(&Counts) -> &AtomicU64) -> u64 {
        self.iter().map(|shard| counter(&shard.counts).load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }

    /// Live blocks, roughly: the counters are not read in one instant.
    pub(crate) fn live_blocks(&self) -> u64 {
        // What ended is read before what began, so that the difference is never below zero for long.
        let freed = self.sum(|counts| &counts.freed_blocks);
        self.sum(|counts| &counts.allocated_blocks).saturating_sub(freed)
    }

    /// How many shards there are.
    pub(crate) fn len(&self) -> usize {
        self.ids.load(Ordering::Relaxed) as usize
    }

    /// Every shard's private part. Nobody may use a shard any more.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Private> {
        let mut next: *mut Shard = *self.head.get_mut();
        std::iter::from_fn(move || {
            // SAFETY: the list is borrowed exclusively, and each shard is visited once.
            let shard = unsafe { next.as_mut()? };
            next = shard.next.cast_mut();
            Some(shard.private.get_mut())
        })
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        let mut next: *mut Shard = *self.head.get_mut();
        while !next.is_null() {
            // SAFETY: `add` made it from a box, and the core that leased it out is going.
            let owned = unsafe { Box::from_raw(next) };
            next = owned.next.cast_mut();
        }
    }
}
