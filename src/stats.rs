//! Figures: always on, added up when somebody asks.

use crate::arena::shard::Counts;
use crate::arena::{HEADER_BYTES, Shard, Use};
use crate::compact::{CompactorState, OldestRent};
use crate::engine::Core;
use crate::handle::RawHandle;
use crate::primitive::sync::atomic::{AtomicU64, Ordering};
use crate::seats::OldestReader;
use std::time::Duration;

/// Figures of a shuffler. Each is right by itself; they are not taken in one instant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Payload bytes of live blocks. A block that was freed while it was rented, or that readers may see, is live until it
    /// is settled.
    pub live_bytes: u64,
    /// Live blocks.
    pub live_blocks: u64,
    /// Payload bytes of blocks that movers found held when they last walked their arenas.
    pub pinned_bytes: u64,
    /// Dead bytes in sealed arenas: what shuffling could gain at the most.
    pub dead_bytes: u64,
    /// Bytes of bookkeeping: headers, table pages, descriptors, shards.
    pub metadata_bytes: u64,
    /// Bytes held from the source: arenas whether full or empty, large blocks, table pages. An upper bound of what the
    /// operating system counts as resident.
    pub resident_bytes: u64,
    /// Records that wait for readers: destructors and arenas of `Versioned` blocks.
    pub waiting: u64,
    /// Bytes that those hold back: of `Versioned` blocks that were freed or replaced, and of the arenas that such blocks were
    /// moved out of. [`Builder::reader_limit`](crate::Builder::reader_limit) bounds them.
    pub waiting_bytes: u64,
    /// The reader that has been pinned longest, as far as anybody has looked.
    pub oldest_reader: Option<OldestReader>,
    /// Arenas and large blocks that have memory, the empty ones that are kept included.
    pub arenas: u64,
    /// Payload bytes that were moved, by the compactor or by helpers.
    pub moved_bytes: u64,
    /// Blocks that were moved.
    pub moves: u64,
    /// Walks of arenas in which a held block was left where it was.
    pub skipped_pinned: u64,
    /// Moves that a thread finished because it wanted the block.
    pub helped: u64,
    /// Times that the compactor chose arenas to empty.
    pub cycles: u64,
    /// Steps that ended early because the source had no memory.
    pub abandoned: u64,
    /// Panics of destructors in steps, where nobody could be told.
    pub panics: u64,
    /// The rent that has kept an arena from being emptied for longest.
    pub oldest_rent: Option<OldestRent>,
    /// Bytes given back to the source.
    pub returned_bytes: u64,
    /// Arenas and large blocks given back to the source.
    pub arenas_returned: u64,
    /// The longest step so far, by the wall clock: a step whose thread loses its core for a while is longer than its budget.
    pub max_step: Duration,
    /// Slots whose versions are used up.
    pub retired_slots: u64,
    /// Shards: the most threads that used the shuffler at a time, and steps that ran at a time.
    pub shards: u64,
    /// What the background thread is doing.
    pub compactor: CompactorState,
}

impl Stats {
    pub(crate) fn of(core: &Core) -> Self {
        let sum = |counter: fn(&Counts) -> &AtomicU64| core.shards.sum(counter);
        // What ended is read before what began, so that a difference is never below zero for long.
        let freed_bytes = sum(|counts| &counts.freed_bytes);
        let live_blocks = core.shards.live_blocks();
        let totals = &core.compactor.totals;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let arenas = ArenaInfo::all(core);
        let fixed = core.table.bytes() + core.pool.list.bytes() + core.shards.len() * size_of::<Shard>();
        Self {
            live_bytes: sum(|counts| &counts.allocated_bytes).saturating_sub(freed_bytes),
            live_blocks,
            pinned_bytes: core.pinned_bytes() as u64,
            dead_bytes: arenas.iter().map(|arena| arena.dead as u64).sum(),
            metadata_bytes: fixed as u64 + live_blocks * HEADER_BYTES as u64,
            resident_bytes: core.supply.held() as u64,
            waiting: core.deferred.waiting() as u64,
            waiting_bytes: core.deferred.waiting_bytes() as u64,
            oldest_reader: core.seats.look(core.now()),
            arenas: arenas.len() as u64,
            moved_bytes: sum(|counts| &counts.moved_bytes),
            moves: sum(|counts| &counts.moves),
            skipped_pinned: sum(|counts| &counts.skipped_pinned),
            helped: sum(|counts| &counts.helped),
            cycles: load(&totals.cycles),
            abandoned: load(&totals.abandoned),
            panics: load(&totals.panics),
            oldest_rent: core.oldest_rent(),
            returned_bytes: load(&core.pool.returned_bytes),
            arenas_returned: load(&core.pool.returned_arenas),
            max_step: Duration::from_nanos(load(&totals.max_step)),
            retired_slots: core.table.retired(),
            shards: core.shards.len() as u64,
            compactor: core.compactor.worker.state(),
        }
    }
}

/// How far an arena's life has gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ArenaState {
    /// A shard fills it.
    #[doc(alias = "active_arena")]
    Active,
    /// Full, and nothing in it is dead.
    Sealed,
    /// Full, and something in it is dead.
    Stale,
    /// Nothing is in it; it is kept for reuse.
    Empty,
}

/// One arena, or the memory of one large block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ArenaInfo {
    /// The number that `BlockInfo::arena` gives. Used again for other memory later.
    pub id: u32,
    /// How far its life has gone.
    pub state: ArenaState,
    /// Live bytes, headers included. Of an active arena only its shard knows: zero.
    pub live: usize,
    /// Dead bytes. Of an active arena: those that others than its shard freed.
    pub dead: usize,
    /// Payload bytes that the last walk found held.
    pub pinned: usize,
    /// Since it was sealed.
    pub age: Duration,
    /// The shard that fills or filled it.
    pub owner: u32,
}

impl ArenaInfo {
    pub(crate) fn all(core: &Core) -> Vec<Self> {
        let now = core.now();
        let info = |arena: crate::arena::ArenaRef| {
            let balance = arena.account.balance();
            let empty = arena.usage() == Use::Empty;
            let range = arena.walk_range();
            let resident = range.len().saturating_sub(arena.walk.hollow.load(Ordering::Relaxed));
            let dead = if balance.sealed { resident.saturating_sub(balance.live) } else { arena.account.debt() };
            let state = match (empty, balance.sealed, dead) {
                (true, ..) => ArenaState::Empty,
                (_, false, _) => ArenaState::Active,
                (_, true, 0) => ArenaState::Sealed,
                (_, true, _) => ArenaState::Stale,
            };
            let age = if balance.sealed { now.saturating_sub(arena.sealed_at()) } else { 0 };
            Self {
                id: arena.id,
                state,
                live: balance.live,
                dead,
                pinned: arena.walk.pinned.load(Ordering::Relaxed),
                age: Duration::from_millis(age),
                owner: arena.owner(),
            }
        };
        core.pool.list.iter().filter(|arena| arena.has_chunk()).map(info).collect()
    }
}

/// All that is known of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
#[doc(alias = "MemoryEntry")]
pub struct BlockInfo {
    /// Where its payload was when it was asked for; unless it is held it may be elsewhere by now.
    #[doc(alias = "ptr")]
    pub address: usize,
    /// Payload bytes.
    pub size: usize,
    /// Its handle.
    pub handle: RawHandle,
    /// Shared holds.
    #[doc(alias = "locked")]
    pub rents: usize,
    /// Whether it is held exclusively.
    pub exclusive: bool,
    /// Whether it was freed while it was held.
    #[doc(alias = "to_clear")]
    pub pending_free: bool,
    /// Its type, or its elements' type.
    pub type_name: &'static str,
    /// The arena that it is in.
    #[doc(alias = "entries_indexes")]
    pub arena: u32,
}
