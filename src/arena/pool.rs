//! Where arenas come from and where empty ones wait: warm for the next taker, or back to the source.

use super::descriptor::{ArenaRef, List, Use};
use super::ground::{Ground, Headers};
use super::header::{HEADER_BYTES, Header, MAX_PAYLOAD, State};
use super::map::ArenaMap;
use super::supply::Supply;
use crate::error::AllocError;
use crate::primitive::sync::atomic::{AtomicU64, Ordering};
use std::alloc::Layout;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A piece of a reserve arena, as large as the largest movable block: what a helper falls back on.
///
/// While nobody uses it, one filler covers it whole, in the state BUILDING, and its bytes count as live.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) arena: ArenaRef,
    pub(crate) base: usize,
}

/// For what an arena is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// New blocks.
    Allocations,
    /// What a mover moves, to an arena of this class. `last`: the last one below the memory limit may be taken, which is there
    /// for who needs room now.
    Survivors { class: u8, last: bool },
    /// The extents that helpers fall back on.
    Reserve,
}

/// The arenas of one shuffler.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) list: List,
    pub(crate) map: ArenaMap,
    arena_layout: Layout,
    /// Bytes below the memory limit that only movers may take.
    pub(crate) survivor_reserve: usize,
    /// Nothing of what was in a block stays behind it.
    pub(super) scrub: bool,
    /// Empty arenas that keep their memory.
    empty: Mutex<Vec<ArenaRef>>,
    /// Descriptors that have no memory.
    vacant: Mutex<Vec<ArenaRef>>,
    /// By the index of their ground.
    extents: Mutex<[Vec<Extent>; Ground::COUNT]>,
    pub(crate) returned_arenas: AtomicU64,
    pub(crate) returned_bytes: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub(crate) fn new(arena_bytes: usize, survivor_reserve: usize, scrub: bool) -> Self {
        Self {
            survivor_reserve,
            scrub,
            list: List::new(),
            map: ArenaMap::new(arena_bytes),
            arena_layout: Layout::from_size_align(arena_bytes, arena_bytes).expect("the builder checked it"),
            empty: Mutex::new(Vec::new()),
            vacant: Mutex::new(Vec::new()),
            extents: Mutex::default(),
            returned_arenas: AtomicU64::new(0),
            returned_bytes: AtomicU64::new(0),
        }
    }

    /// Bytes of an arena.
    pub(crate) fn arena_bytes(&self) -> usize {
        self.arena_layout.size()
    }

    /// Dead bytes that make it worth while to seal an arena before it is full.
    pub(crate) fn worth_sealing(&self) -> usize {
        self.arena_bytes() / 8
    }

    /// Bytes of an extent, and what the extents of an arena with a column are aligned to.
    #[inline]
    pub(crate) fn extent_bytes(&self) -> usize {
        (MAX_PAYLOAD + HEADER_BYTES).min(self.arena_layout.size() / 4)
    }

    /// Whether a block lies in an arena with others, which have their headers where its alignment has it, or in memory of its
    /// own.
    #[inline]
    pub(crate) fn is_movable(&self, headers: Headers, payload: usize, align: usize) -> bool {
        match headers {
            // Wherever the extent begins, a gap, the header and the payload fit. (Both are below `isize::MAX`, so the sum
            // does not wrap.)
            Headers::Inline => payload.next_multiple_of(8) + align.max(HEADER_BYTES) <= self.extent_bytes(),
            // The payload begins the extent. One that is aligned more widely would cost an arena more than it costs alone.
            Headers::Column => payload <= self.extent_bytes().min(MAX_PAYLOAD) && align <= self.extent_bytes() / 2,
        }
    }

    /// An arena to fill: a warm one, or a new one. One for allocations leaves room for others below the memory limit, so
    /// that movers always find a place for survivors.
    pub(crate) fn take(
        &self,
        supply: &Supply,
        ground: Ground,
        purpose: Purpose,
        owner: u32,
    ) -> Result<ArenaRef, AllocError> {
        let usage = if purpose == Purpose::Reserve { Use::Reserve } else { Use::Bumped };
        let keep = match purpose {
            Purpose::Allocations => self.survivor_reserve,
            Purpose::Survivors { last: false, .. } => self.survivor_reserve - self.arena_layout.size(),
            Purpose::Survivors { .. } | Purpose::Reserve => 0,
        };
        let warm = {
            let mut empty = lock(&self.empty);
            // A warm one is held already, but below the limit it may be what movers need next.
            let others = empty.len().saturating_sub(1) * self.arena_layout.size();
            if supply.room().saturating_add(others) >= keep { empty.pop() } else { None }
        };
        let arena = match warm {
            Some(arena) => {
                arena.reopen(ground, usage, owner);
                arena
            }
            None => {
                let chunk = supply.acquire(self.arena_layout, keep)?;
                let bytes = self.arena_layout.size();
                self.describe(supply, (chunk, self.arena_layout), bytes, ground, usage, owner)?
            }
        };
        if let Purpose::Survivors { class, .. } = purpose {
            arena.set_class(class);
        }
        Ok(arena)
    }

    /// A descriptor for a chunk that was just acquired, `charged` of whose bytes count as held; without one the chunk goes
    /// back.
    pub(super) fn describe(
        &self,
        supply: &Supply,
        (chunk, layout): (NonNull<u8>, Layout),
        charged: usize,
        ground: Ground,
        usage: Use,
        owner: u32,
    ) -> Result<ArenaRef, AllocError> {
        let base = chunk.as_ptr().expose_provenance();
        let prepared = match self.map.prepare(base, supply) {
            Ok(prepared) => prepared,
            Err(cause) => {
                // SAFETY: the caller acquired it just now with this layout, and nobody else has seen it.
                unsafe { supply.release_charged(chunk, layout, charged) };
                return Err(cause);
            }
        };
        let vacant = lock(&self.vacant).pop();
        let arena = vacant.unwrap_or_else(|| self.list.add());
        arena.open((chunk, layout), charged, ground, usage, owner);
        prepared.set(arena);
        Ok(arena)
    }

    /// Takes in an arena that the caller emptied: nobody has a share in it, and no reader can look into it.
    pub(crate) fn retire(&self, supply: &Supply, arena: ArenaRef) {
        let large = arena.usage() == Use::Large;
        let punched = arena.walk.punched.load(Ordering::Relaxed);
        // SAFETY: the caller emptied it, and knows of no reader.
        unsafe { self.wipe_emptied(arena) };
        arena.vacate();
        if large || punched > 0 {
            // One with holes is not warm.
            supply.recharge(punched);
            self.release(supply, arena);
        } else {
            lock(&self.empty).push(arena);
        }
    }

    fn release(&self, supply: &Supply, arena: ArenaRef) {
        let ((chunk, layout), charged) = (arena.chunk(), arena.charged());
        // SAFETY: the descriptor has the chunk from this supply with this layout, and the arena is empty and retired.
        unsafe { supply.release_charged(chunk, layout, charged) };
        arena.drop_chunk();
        self.returned_arenas.fetch_add(1, Ordering::Relaxed);
        self.returned_bytes.fetch_add(charged as u64, Ordering::Relaxed);
        lock(&self.vacant).push(arena);
    }

    /// Bytes of empty arenas.
    pub(crate) fn empty_bytes(&self) -> usize {
        lock(&self.empty).len() * self.arena_layout.size()
    }

    /// Gives empty arenas back to the source until at most `retain` bytes of them are left. At most `most` are given.
    pub(crate) fn release_excess(&self, supply: &Supply, retain: usize, most: usize) -> usize {
        for released in 0..most {
            let mut empty = lock(&self.empty);
            if empty.len() * self.arena_layout.size() <= retain {
                return released;
            }
            // The one that has waited longest is the coldest.
            let arena = empty.remove(0);
            drop(empty);
            self.release(supply, arena);
        }
        most
    }

    /// An extent for a shard, its pages touched.
    pub(crate) fn take_extent(&self, supply: &Supply, ground: Ground, now: u64) -> Result<Extent, AllocError> {
        let ready = lock(&self.extents)[ground.index()].pop();
        let extent = match ready {
            Some(extent) => extent,
            None => self.make_extents(supply, ground, now)?,
        };
        for offset in (HEADER_BYTES..self.extent_bytes()).step_by(4096) {
            // SAFETY: within the extent, past any header; the extent is the caller's alone.
            unsafe { ptr::with_exposed_provenance_mut::<u8>(extent.base + offset).write_volatile(0) };
        }
        Ok(extent)
    }

    fn make_extents(&self, supply: &Supply, ground: Ground, now: u64) -> Result<Extent, AllocError> {
        let arena = self.take(supply, ground, Purpose::Reserve, u32::MAX)?;
        let bytes = self.extent_bytes();
        // On a grid, so that each is as widely aligned as any block in it; a column takes the place of the first.
        let first = arena.start().next_multiple_of(bytes);
        let mut extents: Vec<Extent> = (first..arena.base() + self.arena_layout.size())
            .step_by(bytes)
            .map(|base| Extent { arena, base })
            .collect();
        for extent in &extents {
            self.reset_extent(*extent);
        }
        arena.open_sealed(extents.len() * bytes, extents.len() * bytes, now);
        let taken = extents.pop().expect("at least three fit");
        lock(&self.extents)[ground.index()].append(&mut extents);
        Ok(taken)
    }

    /// Makes an extent whole again: a block in it came to nothing.
    pub(crate) fn reset_extent(&self, extent: Extent) {
        self.cover_extent(extent, State::Building);
    }

    /// Marks an extent as dead. The caller takes its bytes off the account.
    pub(crate) fn end_extent(&self, extent: Extent) {
        self.cover_extent(extent, State::Dead);
    }

    fn cover_extent(&self, extent: Extent, state: State) {
        // SAFETY: the extent is the caller's alone, and its bytes count as live.
        let header = unsafe { extent.arena.header_of(extent.arena.payload_from(extent.base)) };
        header.store(Header::filler(self.extent_bytes(), state));
    }

    /// Takes back an extent that nobody needs any more.
    pub(crate) fn put_extent(&self, extent: Extent) {
        lock(&self.extents)[extent.arena.ground().index()].push(extent);
    }

    /// Takes the extents that no shard keeps: the caller ends them.
    pub(crate) fn take_idle_extents(&self) -> Vec<Extent> {
        lock(&self.extents).iter_mut().flat_map(std::mem::take).collect()
    }

    /// Gives all memory back. Nobody may use anything of the pool any more.
    pub(crate) fn dissolve(&mut self, supply: &Supply) {
        for arena in self.list.iter().filter(|arena| arena.has_chunk()) {
            let (chunk, layout) = arena.chunk();
            // What could not be settled: of holds and readers that were forgotten.
            if self.scrub && arena.usage() != Use::Empty {
                // SAFETY: the core is going.
                unsafe { self.wipe_chunk(supply, arena, arena.large_payload().unwrap_or(layout.size())) };
            }
            // SAFETY: the descriptor has the chunk from this supply with this layout; the core is going.
            unsafe { supply.release_charged(chunk, layout, arena.charged()) };
            arena.drop_chunk();
        }
        self.map.dissolve(supply);
    }
}
