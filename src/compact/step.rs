//! The step: the one function that does the compactor's work.
//!
//! The background thread, `shuffle()`, the inline trigger and an allocation at the memory limit all call [`Core::step`].
//! There is no lock around a step. Victims are handed out one at a time from a shared plan, and claimed; so several steps
//! may run at once, and one that is stopped in the middle holds back the one arena that it claims.

use super::policy::{Candidate, choose};
use crate::arena::pool::Purpose;
use crate::arena::shard::{Filled, Private, Role, add};
use crate::arena::{ArenaRef, Extent, Ground, Header, Headers, State, Use};
use crate::builder::Budget;
use crate::engine::Core;
use crate::engine::help::{Claim, copy_block};
use crate::engine::lease::{MoverLease, with_shard};
use crate::error::AllocError;
use crate::handle::RawHandle;
use crate::primitive::sync::atomic::Ordering;
use crate::table::{Begun, Word};
use crate::types::registry;
use bumpalo::Bump;
use std::cell::Cell;
use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// Headers that are walked between two looks at the clock.
const HEADERS_A_LOOK: usize = 256;

/// What one step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Progress {
    /// Blocks moved.
    pub moves: usize,
    /// Payload bytes moved.
    pub moved_bytes: usize,
    /// Blocks left where they were because somebody held them.
    pub skipped_pinned: usize,
    /// Arenas whose walk was finished.
    pub walked: usize,
    /// Arenas given back to the source.
    pub returned_arenas: usize,
    /// Destructors and recycled arenas that had been put off and were carried out.
    pub carried_out: usize,
    /// The budget ended the step; there is more to do.
    pub more: bool,
    /// Something can be gained later: a block is held, a reader looks, a record waits.
    pub waiting: bool,
}

/// What a whole shuffle did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ShuffleReport {
    /// The steps together.
    pub progress: Progress,
    /// How many steps.
    pub steps: usize,
    /// The shuffler was paused, so nothing was moved.
    pub paused: bool,
}

/// How much a step may do besides moving.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Duty {
    /// Everything.
    Full,
    /// Only moves: the caller is inside an allocation and may hold a lock that a destructor wants.
    Relief,
}

/// An arena to empty, and how far it is.
#[derive(Clone, Copy, Debug)]
struct Victim {
    arena: ArenaRef,
    /// The life of the descriptor that it was chosen in.
    life: u32,
    /// Bytes walked.
    offset: usize,
    pinned: usize,
    witness: Option<RawHandle>,
}

/// The victims of this cycle that no step has taken.
#[derive(Debug, Default)]
pub(super) struct Plan {
    victims: VecDeque<Victim>,
    scratch: Bump,
}

/// What is left of a step's budget.
struct Meter {
    bytes: usize,
    /// `None`: no bound.
    deadline: Option<Instant>,
    spent: bool,
}

impl Meter {
    fn new(budget: Budget, start: Instant) -> Self {
        Self { bytes: budget.bytes, deadline: start.checked_add(budget.time), spent: false }
    }

    fn charge(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.spent |= self.bytes == 0 || self.is_late();
    }

    fn is_late(&mut self) -> bool {
        let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        self.spent |= late;
        late
    }
}

/// How the walk of a victim ended.
enum Walk {
    Finished,
    Unfinished,
    OutOfMemory,
}

/// What the notes of an arena's last walk tell.
enum LastWalk {
    /// Something has changed since, or there was none.
    Moot,
    /// A block is held, or being made, that was then; nobody will tell when it is not.
    Held,
    /// Nothing in it can be gained until something dies, and then it shows.
    Stands,
}

/// What became of one block.
enum Relocated {
    Moved(usize),
    Held,
    Gone,
}

thread_local! {
    /// The number of the core that this thread is inside a step of.
    static INSIDE: Cell<u64> = const { Cell::new(0) };
}

/// Marks the thread as inside a step.
struct Inside(u64);

impl Inside {
    fn enter(number: u64) -> Option<Self> {
        let outer = INSIDE.get();
        (outer != number).then(|| Self(INSIDE.replace(number)))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.0);
    }
}

impl Core {
    /// What an arena can hold. (What is lost at its end is less than a block.)
    fn capacity(&self, headers: Headers) -> usize {
        headers.capacity(self.pool.arena_bytes())
    }

    /// Live bytes below which an arena that had room for `packed` is worth emptying.
    pub(crate) fn sparse_below(&self, packed: usize) -> usize {
        (self.config.target_utilization * packed as f64) as usize
    }

    /// What an arena's live bytes will fill of another, with the waste that their like came with.
    fn fill(&self, arena: ArenaRef, live: usize) -> usize {
        // The product has at most 26 bits each.
        (live * self.capacity(arena.ground().headers)).div_ceil(arena.packed())
    }

    /// Does work of at most `budget`. A step inside a step (a destructor that shuffles) returns at once.
    pub(crate) fn step(&self, budget: Budget, duty: Duty) -> Progress {
        let mut progress = Progress::default();
        let Some(_inside) = Inside::enter(self.number) else { return progress };
        let start = Instant::now();
        let mut meter = Meter::new(budget, start);
        self.wait_for_readers(64, || meter.is_late());
        let (done, panic) = self.carry_out(duty == Duty::Full, || meter.is_late());
        progress.carried_out = done;
        if let Some(panic) = panic {
            // Nobody can be told; and to drop what it carries could panic again.
            std::mem::forget(panic);
            self.compactor.totals.panics.fetch_add(1, Ordering::Relaxed);
        }
        if !self.is_paused() {
            self.move_blocks(&mut meter, &mut progress);
        }
        if duty == Duty::Full {
            while !meter.is_late() && self.pool.release_excess(&self.supply, self.config.retain_bytes, 1) == 1 {
                progress.returned_arenas += 1;
            }
            progress.more |= meter.spent && self.pool.empty_bytes() > self.config.retain_bytes;
            let waiting = self.deferred.waiting.load(Ordering::Relaxed) > 0;
            progress.waiting |= waiting || !self.deferred.is_idle();
            // As long as it helps: what is left may wait for a reader or a mover.
            progress.more |= progress.carried_out > 0 && progress.waiting;
        }
        let elapsed = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.compactor.totals.max_step.fetch_max(elapsed, Ordering::Relaxed);
        progress
    }

    /// Steps until nothing can be gained.
    pub(crate) fn shuffle(&self) -> ShuffleReport {
        // In steps, so that what waits for readers is looked after in between.
        const LARGE: Budget = Budget { bytes: 16 << 20, time: Duration::from_millis(10) };
        let mut report = ShuffleReport { paused: self.is_paused(), ..ShuffleReport::default() };
        loop {
            let step = self.step(LARGE, Duty::Full);
            report.steps += 1;
            report.progress.add(step);
            if !step.more {
                return report;
            }
        }
    }

    /// Shuffles, and gives back everything that nobody uses: empty arenas, what idle shards keep, pages of free slots.
    pub(crate) fn trim(&self) {
        // Where anything died, so that arenas with nothing left in them empty, and the rest can be moved together.
        self.seal_idle(1);
        self.shuffle();
        self.seal_idle(1);
        // Again, for what the sealing let go of and readers might have seen.
        self.shuffle();
        self.decay();
    }

    /// Gives back what is kept for reuse and that nobody has used.
    pub(crate) fn decay(&self) {
        self.drain_idle();
        self.pool.release_excess(&self.supply, 0, usize::MAX);
        self.table.give_back_pages(&self.supply);
    }

    /// Hands the free slots and extents that the calling thread's shard keeps to others.
    pub(crate) fn drain_own(&self) {
        for extent in with_shard(self, |shard, _, _| self.drain(shard)).into_iter().flatten() {
            self.pool.put_extent(extent);
        }
    }

    fn drain(&self, shard: &mut Private) -> [Option<Extent>; Ground::COUNT] {
        shard.slots.drain(&self.table);
        shard.extents.each_mut().map(Option::take)
    }

    /// Takes free slots and extents from shards that nobody uses, and from the caller's.
    fn drain_idle(&self) {
        let mut extents: Vec<Extent> = Vec::new();
        for role in [Role::Mutator, Role::Mover] {
            self.shards.for_each_idle(role, |shard| extents.extend(self.drain(shard).into_iter().flatten()));
        }
        extents.extend(with_shard(self, |shard, _, _| self.drain(shard)).into_iter().flatten());
        extents.extend(self.pool.take_idle_extents());
        for extent in extents {
            self.pool.end_extent(extent);
            self.subtract(extent.arena, self.pool.extent_bytes());
        }
    }

    /// The small step that rent and return make with `Trigger::Inline`.
    #[cold]
    pub(crate) fn inline_step(&self) {
        const SMALL: Budget = Budget { bytes: 4096, time: Duration::from_micros(20) };
        self.step(SMALL, Duty::Full);
    }

    pub(crate) fn is_paused(&self) -> bool {
        // Acquire: pairs with the release in `Paused`.
        self.compactor.paused.load(Ordering::Acquire) > 0
    }

    fn move_blocks(&self, meter: &mut Meter, progress: &mut Progress) {
        let mut mover = None;
        while !meter.spent {
            let Some(mut victim) = self.next_victim(progress) else { return };
            let mover = mover.get_or_insert_with(|| MoverLease::new(self));
            match self.empty(mover, &mut victim, meter, progress) {
                Walk::Finished => progress.walked += 1,
                Walk::Unfinished => self.plan().victims.push_front(victim),
                Walk::OutOfMemory => {
                    // The cycle ends; nothing is lost, since a move that finds no room has not begun.
                    self.compactor.totals.abandoned.fetch_add(1, Ordering::Relaxed);
                    self.plan().victims.clear();
                    return;
                }
            }
            // A walk that moved nothing must not outrun the budget either.
            if meter.is_late() || self.is_paused() {
                break;
            }
        }
        progress.more |= meter.spent;
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.compactor.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_victim(&self, progress: &mut Progress) -> Option<Victim> {
        if let Some(victim) = self.plan().victims.pop_front() {
            return Some(victim);
        }
        self.seal_idle(self.pool.arena_bytes() / 8);
        let mut plan = self.plan();
        if plan.victims.is_empty() {
            let Plan { victims, scratch } = &mut *plan;
            scratch.reset();
            progress.waiting |= self.choose_victims(scratch, victims);
            if !victims.is_empty() {
                self.compactor.totals.cycles.fetch_add(1, Ordering::Relaxed);
            }
        }
        plan.victims.pop_front()
    }

    /// Adds the arenas to empty; returns whether pins alone kept others from being chosen.
    fn choose_victims(&self, scratch: &Bump, victims: &mut VecDeque<Victim>) -> bool {
        let now = self.now();
        let mut pinned = false;
        let mut candidates = Ground::ALL.map(|_| bumpalo::collections::Vec::new_in(scratch));
        for arena in self.pool.list.iter() {
            // First, so that an arena which begins another life after this is not taken for the one that is looked at.
            let life = arena.life();
            let balance = arena.account.balance();
            // One with nothing alive is retired already, or waits for readers.
            let sparse = balance.sealed && balance.live > 0 && balance.live < arena.sparse_below();
            if !sparse || balance.claims > 0 || arena.usage() != Use::Bumped {
                continue;
            }
            match self.last_walk(arena, balance.live) {
                LastWalk::Moot => {
                    let (live, age) = (self.fill(arena, balance.live), now.saturating_sub(arena.sealed_at()));
                    candidates[arena.ground().index()].push(Candidate { arena: (arena, life), live, age });
                }
                LastWalk::Held => pinned = true,
                LastWalk::Stands => {}
            }
        }
        for (ground, mut candidates) in Ground::ALL.into_iter().zip(candidates) {
            let count = choose(&mut candidates, self.capacity(ground.headers));
            victims.extend(candidates[..count].iter().map(|candidate| {
                let (arena, life) = candidate.arena;
                Victim { arena, life, offset: 0, pinned: 0, witness: None }
            }));
        }
        pinned
    }

    /// Whether the last walk left all that is still there, so that another would do no more.
    fn last_walk(&self, arena: ArenaRef, live: usize) -> LastWalk {
        if arena.walk.live.load(Ordering::Relaxed) != live {
            return LastWalk::Moot;
        }
        let Some(bits) = NonZeroU64::new(arena.walk.witness.load(Ordering::Relaxed)) else {
            return LastWalk::Stands;
        };
        let witness = RawHandle::from_bits(bits);
        let Some(entry) = self.table.entry(witness.slot()) else { return LastWalk::Moot };
        let since = entry.version().wrapping_sub(witness.version());
        let unchanged = if witness.version().is_multiple_of(2) {
            since == 0
        } else {
            // Held still, or freed and held still.
            since <= 1 && entry.word().is_held()
        };
        if unchanged { LastWalk::Held } else { LastWalk::Moot }
    }

    /// Seals the arenas of shards that nobody uses, and the caller's own, if they hold at least so many dead bytes or nothing
    /// at all.
    pub(crate) fn seal_idle(&self, dead_at_least: usize) {
        let take_filled = |shard: &mut Private| -> [Option<Filled>; Ground::COUNT] {
            shard.bumps.each_mut().map(|bump| {
                let (arena, used, dead) = bump.state()?;
                let keep = used > 0 && dead + arena.account.debt() < dead_at_least;
                if keep { None } else { bump.install(None, 0) }
            })
        };
        for role in [Role::Mutator, Role::Mover] {
            self.shards
                .for_each_idle(role, |shard| take_filled(shard).into_iter().for_each(|filled| self.seal(filled)));
        }
        let filled = with_shard(self, |shard, _, _| take_filled(shard));
        filled.into_iter().for_each(|filled| self.seal(filled));
    }

    /// Moves what can be moved out of one arena.
    fn empty(
        &self,
        mover: &mut MoverLease<'_>,
        victim: &mut Victim,
        meter: &mut Meter,
        progress: &mut Progress,
    ) -> Walk {
        let Some(claim) = Claim::new(self, victim.arena) else { return Walk::Finished };
        // The claim keeps the arena in the life that it is in now, which may be another than when it was chosen.
        if victim.arena.life() != victim.life || victim.arena.usage() != Use::Bumped {
            return Walk::Finished;
        }
        let (start, used) = (victim.arena.start(), victim.arena.used());
        let mut headers = 0;
        while victim.offset < used {
            if meter.spent || self.is_paused() {
                return Walk::Unfinished;
            }
            let address = victim.arena.payload_from(start + victim.offset);
            // SAFETY: the arena is sealed and claimed; from its start, `used` bytes are one block or filler after the other.
            let header = unsafe { victim.arena.header_of(address) }.load();
            if header.state() == State::Building && !header.is_filler() {
                let version = self.table.known(header.slot()).version();
                victim.witness.get_or_insert(RawHandle::new(header.slot(), version));
            }
            if header.state() == State::Live {
                match self.relocate(mover, &claim, address, header) {
                    Ok(Relocated::Moved(bytes)) => {
                        progress.moves += 1;
                        progress.moved_bytes += bytes;
                        meter.charge(bytes);
                    }
                    Ok(Relocated::Held) => {
                        progress.skipped_pinned += 1;
                        victim.pinned += header.payload();
                        let version = self.table.known(header.slot()).version();
                        victim
                            .witness
                            .get_or_insert(RawHandle::new(header.slot(), version.wrapping_sub((version % 2) ^ 1)));
                    }
                    Ok(Relocated::Gone) => {}
                    Err(_) => return Walk::OutOfMemory,
                }
            }
            victim.offset += victim.arena.footprint(header);
            headers += 1;
            if headers % HEADERS_A_LOOK == 0 {
                meter.is_late();
            }
        }
        let left = claim.arena.account.balance().live;
        claim.arena.walk.pinned.store(victim.pinned, Ordering::Relaxed);
        claim.arena.walk.witness.store(victim.witness.map_or(0, |handle| handle.to_bits().get()), Ordering::Relaxed);
        claim.arena.walk.live.store(left, Ordering::Relaxed);
        progress.waiting |= left > 0 && victim.witness.is_some();
        add(&mover.counts().skipped_pinned, u64::from(victim.witness.is_some()));
        Walk::Finished
    }

    /// Moves one block, if nobody holds it.
    fn relocate(
        &self,
        mover: &mut MoverLease<'_>,
        claim: &Claim<'_>,
        address: usize,
        header: Header,
    ) -> Result<Relocated, AllocError> {
        let entry = self.table.known(header.slot());
        let word = entry.word();
        if word.address() != address || !word.is_open() {
            return Ok(if word.address() == address && word.is_held() { Relocated::Held } else { Relocated::Gone });
        }
        if word.is_held() {
            return Ok(Relocated::Held);
        }
        let ground = claim.arena.ground();
        let align = registry().info(header.tag()).align;
        let mark = mover.private().ground(ground).mark();
        let mut rewind = Some(mark);
        let headers = ground.headers;
        let destination = match mover.private().ground(ground).bump(headers, header.payload(), align) {
            Some(destination) => destination,
            None => {
                rewind = None;
                self.next_survivor_arena(mover, ground)?;
                mover
                    .private()
                    .ground(ground)
                    .bump(headers, header.payload(), align)
                    .expect("a block fits an empty arena")
            }
        };
        let at = mover.private().ground(ground).header_at(headers, destination);
        let mut give_up = |outcome| {
            let bump = mover.private().ground(ground);
            match rewind.take() {
                Some(mark) => bump.rewind(mark),
                // The arena is new: its first block begins at its start again.
                None => bump.rewind_to_start(),
            }
            Ok(outcome)
        };
        let moving = match entry.begin_move(address) {
            Begun::Moving(moving) => moving,
            Begun::Held => return give_up(Relocated::Held),
            Begun::Gone => return give_up(Relocated::Gone),
        };
        // Again: between the first look and MOVING a holder may have shortened the block; it never outgrows its room.
        // SAFETY: the arena is claimed, and the entry named the block.
        let header = unsafe { claim.arena.header_of(address) }.load();
        // SAFETY: MOVING is set, so nobody writes the source; the destination is the mover's own.
        unsafe { copy_block(address, destination, at, header) };
        #[cfg(feature = "test-hooks")]
        crate::hooks::mid_move();
        if !entry.commit(moving, Word::open_at(destination)) {
            return give_up(Relocated::Gone);
        }
        self.retire_source(claim, address, header);
        let counts = mover.counts();
        add(&counts.moves, 1);
        add(&counts.moved_bytes, header.payload() as u64);
        Ok(Relocated::Moved(header.payload()))
    }

    #[cold]
    fn next_survivor_arena(&self, mover: &mut MoverLease<'_>, ground: Ground) -> Result<(), AllocError> {
        let arena = self.pool.take(&self.supply, ground, Purpose::Survivors, mover.id())?;
        let filled = mover.private().ground(ground).install(Some(arena), self.pool.arena_bytes());
        self.seal(filled);
        if let Some(filled) = filled {
            // As tight as it can be: nothing is gained by moving it again before something in it dies. (If something died
            // before it was sealed, the note does not fit and is moot.)
            filled.arena.walk.live.store(filled.live, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Progress {
    fn add(&mut self, step: Self) {
        self.moves += step.moves;
        self.moved_bytes += step.moved_bytes;
        self.skipped_pinned += step.skipped_pinned;
        self.walked += step.walked;
        self.returned_arenas += step.returned_arenas;
        self.carried_out += step.carried_out;
        self.more = step.more;
        self.waiting = step.waiting;
    }
}
