//! Moving blocks into the order that somebody goes through them in.

use super::step::ShuffleReport;
use super::walk::{Next, Relocated, Target, prefetch, prefetch_entry};
use crate::arena::pool::Purpose;
use crate::arena::shard::Role;
use crate::arena::{ArenaRef, Ground, HEADER_BYTES, State, Use};
use crate::engine::Core;
use crate::engine::lease::MoverLease;
use crate::error::AllocError;
use crate::handle::RawHandle;
use crate::primitive::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::table::Memory;
use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

/// A step that is under way has this long to let go of the arenas that it fills: what lies there could not be put in order. Nobody
/// waits for one that is stopped.
const PATIENCE: Duration = Duration::from_millis(20);

/// Steps move nothing for so long while somebody puts blocks in order. One order after the other might keep them from it for ever, so
/// then they go on for as long.
const MOST_REST: Duration = Duration::from_secs(2);

/// The calls that put blocks in order now, and how long steps have rested for them.
#[derive(Debug, Default)]
pub(super) struct LiningUp {
    calls: AtomicUsize,
    /// When they last began to: milliseconds from the shuffler's start, and one; 0: they never did.
    since: AtomicU64,
}

/// Keeps steps from moving blocks while a call puts them in order.
struct InOrder<'a>(&'a Core);

impl<'a> InOrder<'a> {
    fn new(core: &'a Core) -> Self {
        // Relaxed, all of it: a request, which orders nothing.
        core.compactor.lining_up.calls.fetch_add(1, Ordering::Relaxed);
        Self(core)
    }
}

impl Drop for InOrder<'_> {
    fn drop(&mut self) {
        self.0.compactor.lining_up.calls.fetch_sub(1, Ordering::Relaxed);
        self.0.notify();
    }
}

/// The class of arenas in an order: who asks for it means to use the blocks for a while.
const CLASS: u8 = 1;

/// Blocks of one ground, in the order that they are to lie in.
#[derive(Debug, Default)]
struct Queue {
    handles: Vec<RawHandle>,
    /// Bytes that they fill of an arena, with what is lost at the end of each.
    bytes: usize,
    /// One of them lies in an arena that somebody fills.
    is_open: bool,
}

/// Room for one more. `false`: the process has no memory.
fn make_room(handles: &mut Vec<RawHandle>) -> bool {
    handles.try_reserve(1).is_ok()
}

impl Core {
    /// Moves blocks so that their addresses ascend in the order of their handles.
    pub(crate) fn shuffle_along(&self, order: impl Iterator<Item = RawHandle>) -> ShuffleReport {
        let mut report = ShuffleReport { paused: self.is_paused(), steps: 1, ..ShuffleReport::default() };
        // First of all, with nothing taken yet: the iterator may be anybody's code.
        let mut handles = Vec::new();
        for handle in order {
            if !make_room(&mut handles) {
                report.progress.more = true;
                return report;
            }
            handles.push(handle);
        }
        if report.paused {
            return report;
        }
        let _in_order = InOrder::new(self);
        let deadline = Instant::now() + PATIENCE;
        while self.shards.leased(Role::Mover) > 0 && Instant::now() < deadline {
            thread::yield_now();
        }
        let mut queues = self.enqueue_all(&handles);
        // More than there can be: some handles are there several times, and arenas would be taken for each.
        if queues.iter().map(|queue| queue.bytes).sum::<usize>() / 2 > self.supply.held() {
            let mut seen = HashSet::new();
            handles.retain(|&handle| seen.insert(handle));
            queues = self.enqueue_all(&handles);
        }
        let mut mover = MoverLease::new(self);
        if queues.iter().any(|queue| queue.is_open) {
            // Only out of sealed arenas may anything be moved.
            self.seal_idle(0);
            self.seal(mover.private().take_filled(0));
        }
        for (ground, queue) in Ground::ALL.into_iter().zip(queues) {
            self.line_up(&mut mover, ground, &queue, &mut report);
        }
        report
    }

    /// Whether steps rest for an order that is being made.
    pub(super) fn gives_way(&self) -> bool {
        let LiningUp { calls, since } = &self.compactor.lining_up;
        if calls.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let (begun, most) = (since.load(Ordering::Relaxed), MOST_REST.as_millis() as u64);
        let now = self.now() + 1;
        let rested = now.saturating_sub(begun);
        if begun == 0 || rested >= 2 * most {
            since.store(now, Ordering::Relaxed);
            return true;
        }
        rested < most
    }

    /// Asks for the entry of a handle that is come to soon, and for the block of one that is come to sooner, so that nobody waits
    /// for one miss after the other: they lie anywhere.
    fn look_ahead(&self, handles: &[RawHandle], index: usize) {
        const DISTANCE: usize = 8;
        let entry = |ahead| handles.get(index + ahead).and_then(|&handle| self.entry(handle).ok());
        if let Some(entry) = entry(2 * DISTANCE) {
            prefetch_entry(entry);
        }
        if let Some(entry) = entry(DISTANCE) {
            // Its header, and most likely its payload's beginning.
            prefetch(entry.word().address().wrapping_sub(HEADER_BYTES));
        }
    }

    /// The queue of each ground.
    fn enqueue_all(&self, handles: &[RawHandle]) -> [Queue; Ground::COUNT] {
        let mut queues: [Queue; Ground::COUNT] = Default::default();
        for (index, &handle) in handles.iter().enumerate() {
            self.look_ahead(handles, index);
            self.enqueue(&mut queues, handle);
        }
        queues
    }

    /// Adds a block to the queue of its ground, if there is such a block and it can be moved.
    fn enqueue(&self, queues: &mut [Queue; Ground::COUNT], handle: RawHandle) {
        let Ok(glimpse) = self.glimpse(handle) else { return };
        let ground = glimpse.info.ground();
        let Some(payload) = glimpse.payload.filter(|_| !glimpse.pending_free) else { return };
        let queue = &mut queues[ground.index()];
        if !make_room(&mut queue.handles) {
            return;
        }
        queue.handles.push(handle);
        // Wider than a block needs, so that there are arenas enough wherever the gaps fall.
        let gap = glimpse.info.align.saturating_sub(8);
        queue.bytes += ground.headers.room(payload) + gap;
        // (It may be elsewhere by now, and its arena gone: then it is not moved here, or sealed once too often.)
        queue.is_open |= self.pool.map.find(glimpse.address).is_some_and(|arena| !arena.account.balance().sealed);
    }

    /// Moves the blocks of one ground.
    fn line_up(&self, mover: &mut MoverLease<'_>, ground: Ground, queue: &Queue, report: &mut ShuffleReport) {
        if queue.handles.is_empty() {
            return;
        }
        if ground.versioned && self.readers_keep_much() {
            // What waits may be ready but for a look at it.
            let deadline = Instant::now() + PATIENCE;
            self.wait_for_readers(64, || !self.readers_keep_much() || Instant::now() >= deadline);
            if self.readers_keep_much() {
                // A second copy of these blocks would wait for the same readers, and a third one after the next call.
                report.progress.waiting = true;
                return;
            }
        }
        // Behind what is in the mover's arena, if they fit there. Otherwise arenas are taken all at once, since those that are
        // taken later may lie anywhere. The largest block may not fit the end of each.
        let mut arenas = Vec::new();
        if queue.bytes > mover.private().survivors(ground, 0).room() {
            self.seal(mover.private().survivors(ground, 0).install(None, 0, 0));
            let filled = ground.headers.capacity(self.pool.arena_bytes()) - self.pool.extent_bytes();
            let count = queue.bytes.div_ceil(filled);
            while arenas.len() < count
                && let Ok(arena) = self.pool.take(&self.supply, ground, Purpose::Allocations, mover.id())
            {
                arena.set_class(CLASS);
                arenas.push(arena);
            }
        }
        arenas.sort_unstable_by_key(|arena| arena.base());
        let is_target = |arena: ArenaRef| arenas.binary_search_by_key(&arena.base(), |arena| arena.base()).is_ok();
        let mut unused = arenas.iter().copied();
        for (index, &handle) in queue.handles.iter().enumerate() {
            if self.is_paused() {
                report.paused = true;
                break;
            }
            self.look_ahead(&queue.handles, index);
            match self.relocate_one(mover, handle, &is_target, &mut unused) {
                Ok(Relocated::Moved(bytes)) => report.progress.count_move(bytes),
                Ok(Relocated::Held) => report.progress.skipped_pinned += 1,
                Ok(Relocated::Gone) => {}
                Err(_) => {
                    report.progress.more = true;
                    break;
                }
            }
        }
        // Nothing is in them, and nobody knows them.
        unused.for_each(|arena| self.pool.retire(&self.supply, arena));
    }

    /// Moves the block of a handle to the next place in order, unless it lies in one of the targets already.
    fn relocate_one(
        &self,
        mover: &mut MoverLease<'_>,
        handle: RawHandle,
        is_target: &dyn Fn(ArenaRef) -> bool,
        arenas: &mut dyn Iterator<Item = ArenaRef>,
    ) -> Result<Relocated, AllocError> {
        let Ok(entry) = self.entry(handle) else { return Ok(Relocated::Gone) };
        let word = entry.word();
        let address = word.address();
        // An arena that is being filled cannot be claimed.
        let Some(claim) = self.claim(address) else { return Ok(Relocated::Gone) };
        // Under the claim the arena is not recycled: if the word still names the block, a header lies there.
        let is_there = entry.word().address() == address && entry.version() == handle.version();
        if !is_there || claim.arena.usage() == Use::Large || is_target(claim.arena) {
            return Ok(Relocated::Gone);
        }
        // SAFETY: the arena is claimed, and the word named the block under the claim.
        let header = unsafe { claim.arena.header_of(address) }.load();
        if header.state() != State::Live {
            return Ok(Relocated::Gone);
        }
        let mut target = Target { index: 0, next: Next::Run(arenas) };
        self.relocate(mover, &claim, &mut target, address, header)
    }
}
