//! The step: the one function that does the compactor's work.
//!
//! The background thread, `shuffle()`, the inline trigger and an allocation at the memory limit all call [`Core::step`].
//! There is no lock around a step. Victims are handed out one at a time from a shared plan, and claimed; so several steps
//! may run at once, and one that is stopped in the middle holds back the one arena that it claims.

use super::policy::{Candidate, choose, class_of_survivors, gain_of};
use super::punch::Walker;
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
use crate::table::{Begun, Waiting, Word};
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
    /// Only moves, until so many bytes could be had below the memory limit: the caller is inside an allocation and may hold a
    /// lock that a destructor wants.
    Relief(usize),
    /// Only moves out of victims that were chosen already: a share of the work, of bounded time.
    Assistance,
}

/// An arena to empty, and how far it is.
#[derive(Clone, Copy, Debug)]
struct Victim {
    arena: ArenaRef,
    /// The life of the descriptor that it was chosen in.
    life: u32,
    /// Where the walk goes on, in bytes from the arena's base; `None`: it has not begun.
    offset: Option<usize>,
    /// The arena's count of punches when the walk was left.
    punches: u32,
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

/// What a choice of victims saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Bytes of sealed arenas, and live bytes in them.
    pub(super) used: usize,
    pub(super) live: usize,
    /// Bytes of whole arenas that moving gains.
    pub(super) gain: usize,
    /// Sparse arenas that are no gain until a hold changes.
    pub(super) pinned: usize,
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

    /// Whether an arena with so many live bytes is worth emptying. At the memory limit every dead byte is.
    fn is_sparse(&self, arena: ArenaRef, live: usize, duty: Duty) -> bool {
        match duty {
            Duty::Relief(_) => live < arena.packed(),
            Duty::Full | Duty::Assistance => (live as f64) < self.config.target_utilization * arena.packed() as f64,
        }
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
        if duty != Duty::Assistance {
            self.wait_for_readers(64, || meter.is_late());
            let (done, panic) = self.carry_out(duty == Duty::Full, || meter.is_late());
            progress.carried_out = done;
            if let Some(panic) = panic {
                // Nobody can be told; and to drop what it carries could panic again.
                std::mem::forget(panic);
                self.compactor.totals.panics.fetch_add(1, Ordering::Relaxed);
            }
        }
        if duty == Duty::Full {
            // Half of the time at the most, so that neither this nor the moving starves.
            let until = start.checked_add(budget.time / 2);
            while self.pool.release_excess(&self.supply, self.config.retain_bytes, 1) == 1 {
                progress.returned_arenas += 1;
                if until.is_some_and(|until| Instant::now() >= until) {
                    break;
                }
            }
        }
        if !self.is_paused() {
            self.move_blocks(duty, &mut meter, &mut progress);
        }
        if duty == Duty::Full {
            progress.more |= self.pool.empty_bytes() > self.config.retain_bytes;
            progress.waiting |= self.is_waiting();
            if progress.waiting {
                self.seats.glance(self.now());
            }
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

    fn move_blocks(&self, duty: Duty, meter: &mut Meter, progress: &mut Progress) {
        let mut mover = MoverLease::new(self);
        // However small the budget is, something is done.
        let mut first = true;
        while !meter.spent || std::mem::take(&mut first) {
            let Some(mut victim) = self.next_victim(&mut mover, duty, progress) else { return };
            match self.empty(&mut mover, &mut victim, duty, meter, progress) {
                Walk::Finished => progress.walked += 1,
                Walk::Unfinished => self.plan().victims.push_front(victim),
                // Others are at it with what room there is.
                Walk::OutOfMemory if matches!(duty, Duty::Relief(_)) => {
                    self.plan().victims.push_front(victim);
                    return;
                }
                Walk::OutOfMemory => {
                    // The cycle ends; nothing is lost, since a move that finds no room has not begun.
                    self.compactor.totals.abandoned.fetch_add(1, Ordering::Relaxed);
                    self.plan().victims.clear();
                    return;
                }
            }
            if let Duty::Relief(wanted) = duty
                && self.supply.room() + self.pool.empty_bytes() >= wanted + self.pool.survivor_reserve
            {
                break;
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

    fn next_victim(&self, mover: &mut MoverLease<'_>, duty: Duty, progress: &mut Progress) -> Option<Victim> {
        if let Some(victim) = self.plan().victims.pop_front() {
            return Some(victim);
        }
        if duty == Duty::Assistance {
            // Choosing takes as long as there are arenas: the background thread does it.
            self.notify();
            return None;
        }
        let dead_at_least = self.pool.arena_bytes() / 8;
        self.seal_idle(dead_at_least);
        mover.private().take_filled(dead_at_least).into_iter().for_each(|filled| self.seal(Some(filled)));
        let room = Ground::ALL.map(|ground| mover.private().survivors(ground, class_of_survivors(0)).room());
        let mut plan = self.plan();
        if plan.victims.is_empty() {
            let Plan { victims, scratch } = &mut *plan;
            scratch.reset();
            let mut seen = Seen::default();
            self.choose_victims(duty, room, scratch, victims, &mut seen);
            progress.waiting |= seen.pinned > 0;
            self.compactor.survey.note(&seen);
            if !victims.is_empty() {
                self.compactor.totals.cycles.fetch_add(1, Ordering::Relaxed);
            }
        }
        plan.victims.pop_front()
    }

    /// Adds the arenas to empty. `room` is what is left in the arenas that survivors go to.
    fn choose_victims(
        &self,
        duty: Duty,
        room: [usize; Ground::COUNT],
        scratch: &Bump,
        victims: &mut VecDeque<Victim>,
        seen: &mut Seen,
    ) {
        // At the limit it is the next arena that counts, not the cheapest in the long run: all are of one age.
        let now = if matches!(duty, Duty::Relief(_)) { 0 } else { self.now() };
        let mut candidates = Ground::ALL.map(|_| bumpalo::collections::Vec::new_in(scratch));
        for arena in self.pool.list.iter() {
            // First, so that an arena which begins another life after this is not taken for the one that is looked at.
            let life = arena.life();
            let balance = arena.account.balance();
            // One with nothing alive is retired already, or waits for readers.
            if !balance.sealed || balance.live == 0 || arena.usage() != Use::Bumped {
                continue;
            }
            seen.used += arena.packed();
            seen.live += balance.live;
            if balance.claims > 0 || !self.is_sparse(arena, balance.live, duty) {
                continue;
            }
            match self.last_walk(arena, balance.live) {
                LastWalk::Moot => {
                    let (live, age) = (self.fill(arena, balance.live), now.saturating_sub(arena.sealed_at()));
                    candidates[arena.ground().index()].push(Candidate { arena: (arena, life), live, age });
                }
                LastWalk::Held => seen.pinned += 1,
                LastWalk::Stands => {}
            }
        }
        let batch = self.batch(duty, seen);
        for ((ground, candidates), room) in Ground::ALL.into_iter().zip(&mut candidates).zip(room) {
            let capacity = self.capacity(ground.headers);
            // All that could be gained tells the pace; a part of it is the next batch.
            let worth = choose(candidates, capacity, room, usize::MAX);
            seen.gain += gain_of(&candidates[..worth], capacity, room) * capacity;
            let count = choose(&mut candidates[..worth], capacity, room, batch);
            victims.extend(candidates[..count].iter().map(|candidate| {
                let (arena, life) = candidate.arena;
                Victim { arena, life, offset: None, punches: 0, pinned: 0, witness: None }
            }));
        }
    }

    /// How many arenas the next victims should gain. A choice costs a look at every arena, so it should gain a share of them.
    fn batch(&self, duty: Duty, seen: &Seen) -> usize {
        match duty {
            Duty::Relief(wanted) => wanted / self.pool.arena_bytes() + 1,
            Duty::Full | Duty::Assistance => seen.used / self.pool.arena_bytes() / 64 + 1,
        }
    }

    /// The class of the arenas that survivors of an arena go to. In a small heap, and where there is little room, a partly filled
    /// arena of each class would weigh more than keeping them apart gains.
    fn class_of_survivors(&self, arena: ArenaRef) -> u8 {
        const SMALL: usize = 64;
        const LITTLE: usize = 16;
        let arenas = |bytes: usize| bytes / self.pool.arena_bytes();
        let is_small = arenas(self.compactor.survey.used.load(Ordering::Relaxed)) < SMALL;
        class_of_survivors(if is_small || arenas(self.supply.room()) < LITTLE { 0 } else { arena.class() })
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
            // Held still, or freed and held still, or the last holder is about to tell.
            let word = entry.word();
            since <= 1 && (word.is_held() || word.is_waited())
        };
        if unchanged { LastWalk::Held } else { LastWalk::Moot }
    }

    /// Seals the arenas of shards that nobody uses, and the caller's own, if they hold at least so many dead bytes or nothing
    /// at all.
    pub(crate) fn seal_idle(&self, dead_at_least: usize) {
        let seal = |filled: Vec<Filled>| filled.into_iter().for_each(|filled| self.seal(Some(filled)));
        for role in [Role::Mutator, Role::Mover] {
            self.shards.for_each_idle(role, |shard| seal(shard.take_filled(dead_at_least)));
        }
        seal(with_shard(self, |shard, _, _| shard.take_filled(dead_at_least)));
    }

    /// Moves what can be moved out of one arena.
    fn empty(
        &self,
        mover: &mut MoverLease<'_>,
        victim: &mut Victim,
        duty: Duty,
        meter: &mut Meter,
        progress: &mut Progress,
    ) -> Walk {
        let arena = victim.arena;
        let Some(claim) = Claim::new(self, arena) else { return Walk::Finished };
        // The claim keeps the arena in the life that it is in now, which may be another than when it was chosen.
        if arena.life() != victim.life || arena.usage() != Use::Bumped {
            return Walk::Finished;
        }
        let Some(walker) = Walker::new(&claim) else { return Walk::Finished };
        let (start, range) = (arena.start(), arena.walk_range());
        let punches = arena.walk.punches.load(Ordering::Relaxed);
        // Where the walk was left there may be no header any more.
        let resumed = victim.offset.filter(|_| victim.punches == punches);
        victim.punches = punches;
        let mut offset = resumed.unwrap_or(range.start);
        let mut headers = 0;
        while offset < range.end {
            let is_over = meter.spent && (progress.moves > 0 || headers >= HEADERS_A_LOOK);
            if is_over || self.is_paused() {
                victim.offset = Some(offset);
                return Walk::Unfinished;
            }
            let address = arena.payload_from(start + offset);
            // SAFETY: the arena is sealed and claimed; in this range there is one block or filler after the other.
            let header = unsafe { arena.header_of(address) }.load();
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
                        let version = version.wrapping_sub((version % 2) ^ 1);
                        victim.witness.get_or_insert(RawHandle::new(header.slot(), version));
                    }
                    Ok(Relocated::Gone) => {}
                    Err(_) => return Walk::OutOfMemory,
                }
            }
            offset += arena.footprint(header);
            headers += 1;
            if headers % HEADERS_A_LOOK == 0 {
                meter.is_late();
            }
        }
        let left = arena.account.balance().live;
        progress.waiting |= left > 0 && victim.witness.is_some();
        add(&mover.counts().skipped_pinned, u64::from(victim.witness.is_some()));
        let witness = self.keep_witness(arena, victim.witness);
        self.note_walk(arena, left, victim.pinned, witness);
        if left > 0 && duty == Duty::Full {
            self.punch(&walker);
        }
        drop(walker);
        drop(claim);
        if let Some(witness) = witness {
            self.watch(arena, left, witness);
        }
        Walk::Finished
    }

    /// Of the blocks that a walk found held, the one to remember: the one that is remembered already, if it has been held
    /// without a break.
    fn keep_witness(&self, arena: ArenaRef, found: Option<RawHandle>) -> Option<RawHandle> {
        let found = found?;
        let known = NonZeroU64::new(arena.walk.witness.load(Ordering::Relaxed)).map(RawHandle::from_bits);
        // Whoever removes the last hold clears the bit that `watch` set.
        let stayed = |known: &RawHandle| {
            let entry = self.table.known(known.slot());
            let word = entry.word();
            let is_block = !known.version().is_multiple_of(2) && entry.version() == known.version();
            is_block && word.is_waited() && arena.covers(word.address())
        };
        Some(known.filter(stayed).unwrap_or(found))
    }

    fn note_walk(&self, arena: ArenaRef, left: usize, pinned: usize, witness: Option<RawHandle>) {
        let bits = witness.map_or(0, |handle| handle.to_bits().get());
        if arena.walk.witness.swap(bits, Ordering::Relaxed) != bits {
            arena.walk.since.store(self.now(), Ordering::Relaxed);
        }
        arena.walk.pinned.store(pinned, Ordering::Relaxed);
        arena.walk.live.store(left, Ordering::Relaxed);
        // Before the claim is given back: whoever takes bytes off after that sees it.
        arena.walk.watched.store(witness.is_some(), Ordering::Relaxed);
    }

    /// Makes sure that the compactor is told when the block that was found held is not held any more, or when anything in its
    /// arena dies, so that it need not look again by itself.
    fn watch(&self, arena: ArenaRef, left: usize, witness: RawHandle) {
        let is_block = !witness.version().is_multiple_of(2);
        // The last holder clears WAITED and wakes those who announced that they wait. One that was freed while it was held
        // dies with the last hold, which the account shows.
        let returned = is_block
            && match self.table.known(witness.slot()).announce_wait(witness.version()) {
                Waiting::NotHeld => !self.table.known(witness.slot()).word().is_waited(),
                Waiting::Announced | Waiting::Stale => false,
            };
        // What was taken off before the claim was given back did not see that the arena is watched, but shows here.
        if returned || arena.account.balance().live != left {
            self.notify();
        }
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
        let class = self.class_of_survivors(claim.arena);
        let align = registry().info(header.tag()).align;
        let headers = ground.headers;
        let target = mover.private().survivors(ground, class);
        let mut rewind = Some(target.mark());
        let destination = match target.bump(headers, header.payload(), align) {
            Some(destination) => destination,
            None => {
                rewind = None;
                self.next_survivor_arena(mover, ground, class)?;
                let target = mover.private().survivors(ground, class);
                target.bump(headers, header.payload(), align).expect("a block fits an empty arena")
            }
        };
        let at = mover.private().survivors(ground, class).header_at(headers, destination);
        let mut give_up = |mover: &mut MoverLease<'_>, outcome| {
            let bump = mover.private().survivors(ground, class);
            match rewind.take() {
                Some(mark) => bump.rewind(mark),
                // The arena is new: its first block begins at its start again.
                None => bump.rewind_to_start(),
            }
            Ok(outcome)
        };
        let moving = match entry.begin_move(address) {
            Begun::Moving(moving) => moving,
            Begun::Held => return give_up(mover, Relocated::Held),
            Begun::Gone => return give_up(mover, Relocated::Gone),
        };
        // Again: between the first look and MOVING a holder may have shortened the block; it never outgrows its room. What was
        // bumped for it and is not needed goes back, so that one header follows the other in the survivors' arena too.
        // SAFETY: the arena is claimed, and the entry named the block.
        let header = unsafe { claim.arena.header_of(address) }.load();
        mover.private().survivors(ground, class).trim(headers, destination, header.payload());
        // SAFETY: MOVING is set, so nobody writes the source; the destination is the mover's own.
        unsafe { copy_block(address, destination, at, header) };
        #[cfg(feature = "test-hooks")]
        crate::hooks::mid_move();
        if !entry.commit(moving, Word::open_at(destination)) {
            return give_up(mover, Relocated::Gone);
        }
        self.retire_source(claim, address, header);
        let counts = mover.counts();
        add(&counts.moves, 1);
        add(&counts.moved_bytes, header.payload() as u64);
        Ok(Relocated::Moved(header.payload()))
    }

    #[cold]
    fn next_survivor_arena(&self, mover: &mut MoverLease<'_>, ground: Ground, class: u8) -> Result<(), AllocError> {
        let arena = self.pool.take(&self.supply, ground, Purpose::Survivors(class), mover.id())?;
        let filled = mover.private().survivors(ground, class).install(Some(arena), self.pool.arena_bytes(), 0);
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
