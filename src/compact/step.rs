//! The step: the one function that does the compactor's work.
//!
//! The background thread, `shuffle()`, the inline trigger and an allocation at the memory limit all call [`Core::step`].
//! There is no lock around a step. Victims are handed out one at a time from a shared plan, and claimed; so several steps
//! may run at once, and one that is stopped in the middle holds back the one arena that it claims.

use super::walk::Walk;
use crate::arena::shard::{Private, Role};
use crate::arena::{Extent, Ground};
use crate::builder::Budget;
use crate::engine::Core;
use crate::engine::lease::{MoverLease, with_shard};
use crate::primitive::sync::atomic::Ordering;
use std::cell::Cell;
use std::time::{Duration, Instant};

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
    /// Grants of directories that were forgotten because their blocks are gone.
    pub swept: usize,
    /// There is more to do: the budget ended the step, or [`shuffle_along`](crate::Shuffler::shuffle_along) found no memory for
    /// the rest.
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
    /// The shuffler was paused: nothing was moved from then on.
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

/// What is left of a step's budget.
pub(super) struct Meter {
    bytes: usize,
    /// `None`: no bound.
    deadline: Option<Instant>,
    pub(super) spent: bool,
}

impl Meter {
    fn new(budget: Budget, start: Instant) -> Self {
        Self { bytes: budget.bytes, deadline: start.checked_add(budget.time), spent: false }
    }

    pub(super) fn charge(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.spent |= self.bytes == 0 || self.is_late();
    }

    pub(super) fn is_late(&mut self) -> bool {
        let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        self.spent |= late;
        late
    }
}

thread_local! {
    /// The number of the core that this thread is inside a step of.
    static INSIDE: Cell<u64> = const { Cell::new(0) };
}

/// Marks the thread as inside a step.
pub(crate) struct Inside(u64);

impl Inside {
    fn enter(number: u64) -> Option<Self> {
        let outer = INSIDE.get();
        (outer != number).then(|| Self(INSIDE.replace(number)))
    }

    /// As [`enter`](Self::enter), but also not inside a step of another core.
    pub(crate) fn enter_first(number: u64) -> Option<Self> {
        (INSIDE.get() == 0).then(|| Self(INSIDE.replace(number)))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.0);
    }
}

impl Core {
    /// Does work of at most `budget`. A step inside a step (a destructor that shuffles) returns at once.
    pub(crate) fn step(&self, budget: Budget, duty: Duty) -> Progress {
        let mut progress = Progress::default();
        let Some(_inside) = Inside::enter(self.number) else { return progress };
        let start = Instant::now();
        let mut meter = Meter::new(budget, start);
        if duty != Duty::Assistance {
            self.wait_for_readers(64, || meter.is_late());
            // However small the budget is, something is done.
            let mut first = true;
            let mut is_over = || !std::mem::take(&mut first) && meter.is_late();
            let (done, panic) =
                self.carry_out(duty == Duty::Full, || if is_over() { None } else { self.deferred.next() });
            progress.carried_out = done;
            self.count_panic(panic);
        }
        if duty == Duty::Full {
            // A quarter of the time at the most: dead grants are small.
            self.sweep(start.checked_add(budget.time / 4), &mut progress);
            // Half of the time at the most, so that neither this nor the moving starves.
            let until = start.checked_add(budget.time / 2);
            while self.pool.release_excess(&self.supply, self.config.retain_bytes, 1) == 1 {
                progress.returned_arenas += 1;
                if until.is_some_and(|until| Instant::now() >= until) {
                    break;
                }
            }
        }
        if self.rests(duty) {
            progress.waiting |= !self.is_paused();
        } else {
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

    /// Moves everything once if placement is random, and then what gains memory, until nothing can be gained.
    pub(crate) fn shuffle(&self) -> ShuffleReport {
        self.begin_pass();
        self.gain_all()
    }

    /// Steps until nothing can be gained.
    fn gain_all(&self) -> ShuffleReport {
        // In steps, so that what waits for readers is looked after in between.
        const LARGE: Budget = Budget { bytes: 16 << 20, time: Duration::from_millis(10) };
        // To walk arenas in which all is held leads to nothing, but there may be others behind them.
        let patience = FRUITLESS as usize + 2 * self.pool.list.len();
        let mut fruitless = 0;
        self.sweepers.ask();
        let mut report = ShuffleReport { paused: self.is_paused(), ..ShuffleReport::default() };
        loop {
            let step = self.step(LARGE, Duty::Full);
            report.steps += 1;
            report.progress.add(step);
            fruitless = if step.is_fruitless() { fruitless + 1 } else { 0 };
            if !step.more || fruitless == patience {
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
        self.gain_all();
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
        self.begin_pass_in_time();
        self.step(SMALL, Duty::Full);
    }

    pub(crate) fn is_paused(&self) -> bool {
        // Acquire: pairs with the release in `Paused`.
        self.compactor.paused.load(Ordering::Acquire) > 0
    }

    /// Whether a step moves nothing now: it is paused, or somebody puts blocks in order. At the memory limit nobody should wait
    /// for that.
    pub(super) fn rests(&self, duty: Duty) -> bool {
        self.is_paused() || (!matches!(duty, Duty::Relief(_)) && self.gives_way())
    }

    fn move_blocks(&self, duty: Duty, meter: &mut Meter, progress: &mut Progress) {
        let mut mover = MoverLease::new(self);
        // However small the budget is, something is done.
        let mut first = true;
        while !meter.spent || std::mem::take(&mut first) {
            let Some(mut victim) = self.next_victim(&mut mover, duty, progress) else { return };
            match self.empty(&mut mover, &mut victim, duty, meter, progress) {
                Walk::Finished => {
                    progress.walked += 1;
                    self.compactor.totals.no_memory.store(false, Ordering::Relaxed);
                }
                Walk::Unfinished => self.plan().put_back(victim),
                // Others are at it with what room there is.
                Walk::OutOfMemory if matches!(duty, Duty::Relief(_)) => {
                    self.plan().put_back(victim);
                    return;
                }
                Walk::OutOfMemory => {
                    // The cycle ends; nothing is lost, since a move that finds no room has not begun.
                    self.compactor.totals.abandoned.fetch_add(1, Ordering::Relaxed);
                    self.compactor.totals.no_memory.store(true, Ordering::Relaxed);
                    self.plan().clear();
                    return;
                }
            }
            if let Duty::Relief(wanted) = duty
                && self.supply.room() + self.pool.empty_bytes() >= wanted + self.pool.survivor_reserve
            {
                break;
            }
            // A walk that moved nothing must not outrun the budget either.
            if meter.is_late() || self.rests(duty) {
                break;
            }
        }
        progress.more |= meter.spent;
    }
}

/// After so many steps in a row that led to nothing, a loop of steps ends: holds that come and go can make it look for ever as
/// if there were something to do.
pub(super) const FRUITLESS: u32 = 64;

impl Progress {
    /// Whether nothing came of the step.
    pub(super) fn is_fruitless(&self) -> bool {
        self.moves + self.returned_arenas + self.carried_out + self.swept == 0
    }

    pub(super) fn count_move(&mut self, bytes: usize) {
        self.moves += 1;
        self.moved_bytes += bytes;
    }

    fn add(&mut self, step: Self) {
        self.moves += step.moves;
        self.moved_bytes += step.moved_bytes;
        self.skipped_pinned += step.skipped_pinned;
        self.walked += step.walked;
        self.returned_arenas += step.returned_arenas;
        self.carried_out += step.carried_out;
        self.swept += step.swept;
        self.more = step.more;
        self.waiting = step.waiting;
    }
}
