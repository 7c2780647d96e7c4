//! The walk over a victim: moves what can be moved, and notes why the rest cannot.

use super::placement::Scatter;
use super::plan::Victim;
use super::punch::Walker;
use super::step::{Duty, Meter, Progress};
use crate::arena::pool::Purpose;
use crate::arena::shard::add;
use crate::arena::{ArenaRef, Ground, Header, State, Use};
use crate::engine::Core;
use crate::engine::help::{Claim, copy_block};
use crate::engine::lease::MoverLease;
use crate::error::AllocError;
use crate::handle::RawHandle;
use crate::primitive::sync::atomic::Ordering;
use crate::table::{Begun, Entry, Waiting, Word};
use crate::types::registry;
use std::iter;
use std::num::NonZeroU64;
use std::ops::Range;
use std::ptr;

/// Headers that are walked between two looks at the clock.
const HEADERS_A_LOOK: usize = 256;

/// How the walk of a victim ended.
pub(super) enum Walk {
    Finished,
    Unfinished,
    OutOfMemory,
}

/// Headers that a walk looks ahead.
const DISTANCE: usize = 8;

/// Asks the processor to have what lies at an address at hand soon.
#[inline]
pub(super) fn prefetch(address: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads nothing that the program could see, wherever it points.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(ptr::without_provenance(address));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for the entry of a slot.
pub(super) fn prefetch_entry(entry: &Entry) {
    prefetch(ptr::from_ref(entry).addr());
}

/// What became of one block.
pub(super) enum Relocated {
    Moved(usize),
    Held,
    Gone,
}

/// Where what is moved is put.
pub(super) struct Target<'r> {
    /// Which of the arenas that the mover fills.
    pub(super) index: usize,
    /// Where the next one comes from when that is full.
    pub(super) next: Next<'r>,
}

/// Where arenas for what is moved come from.
pub(super) enum Next<'r> {
    /// The pool, to become one of this class. `last`: even the last one below the memory limit.
    Pool { class: u8, last: bool },
    /// Those that were taken for the purpose, in this order.
    Run(&'r mut dyn Iterator<Item = ArenaRef>),
}

/// A walk under way.
struct Visit<'v, 'c> {
    core: &'v Core,
    mover: &'v mut MoverLease<'c>,
    claim: &'v Claim<'v>,
    victim: &'v mut Victim,
    meter: &'v mut Meter,
    progress: &'v mut Progress,
    class: u8,
    duty: Duty,
    /// Headers so far.
    headers: usize,
}

impl Visit<'_, '_> {
    fn arena(&self) -> ArenaRef {
        self.claim.arena
    }

    /// The header that lies so many bytes from the first block.
    fn header(&self, offset: usize) -> Header {
        let arena = self.arena();
        debug_assert!(arena.walk_range().contains(&offset), "behind the last block there is no header");
        // SAFETY: the arena is sealed and claimed, and walked by nobody else, so there is one block or filler after the other,
        // from where the walk began to where it ends: wherever in between a block ends now or ended before, a header follows.
        unsafe { arena.header_of(arena.payload_from(arena.start() + offset)) }.load()
    }

    /// Asks for the entry of a block that is come to soon, so that the walk does not wait for one after the other.
    fn prefetch(&self, header: Header) {
        if header.state() == State::Live {
            prefetch_entry(self.core.table.known(header.slot()));
        }
    }

    /// Whether the walk has to be left here.
    fn is_over(&self) -> bool {
        let is_spent = self.meter.spent && (self.progress.moves > 0 || self.headers >= HEADERS_A_LOOK);
        is_spent || self.core.rests(self.duty)
    }

    /// Moves a block if it can be moved, and notes why not if it is held.
    fn block(&mut self, offset: usize, header: Header, target: usize) -> Result<(), AllocError> {
        let core = self.core;
        if header.state() == State::Building && !header.is_filler() {
            let version = core.table.known(header.slot()).version();
            self.victim.witness.get_or_insert(RawHandle::new(header.slot(), version));
        }
        if header.state() == State::Live {
            let address = self.arena().payload_from(self.arena().start() + offset);
            let next = Next::Pool { class: self.class, last: matches!(self.duty, Duty::Relief(_)) };
            let mut target = Target { index: target, next };
            match core.relocate(self.mover, self.claim, &mut target, address, header)? {
                Relocated::Moved(bytes) => {
                    self.progress.count_move(bytes);
                    self.meter.charge(bytes);
                }
                Relocated::Held => {
                    self.progress.skipped_pinned += 1;
                    self.victim.pinned += header.payload();
                    let version = core.table.known(header.slot()).version();
                    let version = version.wrapping_sub((version % 2) ^ 1);
                    self.victim.witness.get_or_insert(RawHandle::new(header.slot(), version));
                }
                Relocated::Gone => {}
            }
        }
        self.headers += 1;
        if self.headers.is_multiple_of(HEADERS_A_LOOK) {
            self.meter.is_late();
        }
        Ok(())
    }

    /// Takes the blocks as they lie. `None`: the walk is finished.
    fn in_order(&mut self, range: Range<usize>) -> Option<Walk> {
        let mut offset = self.victim.resume.unwrap_or(range.start);
        let (mut ahead, mut headers_ahead) = (offset, 0);
        let target = usize::from(self.class) - 1;
        while offset < range.end {
            if self.is_over() {
                self.victim.resume = Some(offset);
                return Some(Walk::Unfinished);
            }
            while ahead < range.end && headers_ahead < self.headers + DISTANCE {
                let header = self.header(ahead);
                self.prefetch(header);
                ahead += self.arena().footprint(header);
                headers_ahead += 1;
            }
            let header = self.header(offset);
            if self.block(offset, header, target).is_err() {
                return Some(Walk::OutOfMemory);
            }
            offset += self.arena().footprint(header);
        }
        None
    }

    /// Takes the blocks in a random order, each to a random target. `None`: the walk is finished.
    fn at_random(&mut self, range: Range<usize>, scatter: &mut Scatter) -> Option<Walk> {
        let first = self.victim.resume.unwrap_or_else(|| {
            let mut rest = range.clone();
            scatter.draw(iter::from_fn(|| {
                let offset = rest.next()?;
                rest.start = offset + self.arena().footprint(self.header(offset));
                Some(offset)
            }));
            0
        });
        for position in first.. {
            let (offset, target) = scatter.get(position)?;
            if self.is_over() {
                self.victim.resume = Some(position);
                return Some(Walk::Unfinished);
            }
            if let Some((ahead, _)) = scatter.get(position + DISTANCE) {
                self.prefetch(self.header(ahead));
            }
            if self.block(offset, self.header(offset), target).is_err() {
                return Some(Walk::OutOfMemory);
            }
        }
        None
    }
}

impl Core {
    /// Moves what can be moved out of one arena.
    pub(super) fn empty(
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
        let punches = arena.walk.punches.load(Ordering::Relaxed);
        // Where the walk was left there may be no header any more.
        victim.resume = victim.resume.filter(|_| victim.punches == punches);
        victim.punches = punches;
        let (class, range, mut scatter) = (self.class_of_survivors(arena), arena.walk_range(), victim.scatter.take());
        let mut visit = Visit { core: self, mover, claim: &claim, victim, meter, progress, class, duty, headers: 0 };
        let left_off = match &mut scatter {
            None => visit.in_order(range),
            Some(scatter) => visit.at_random(range, scatter),
        };
        victim.scatter = scatter;
        if let Some(left_off) = left_off {
            return left_off;
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
        if let Some((witness, _)) = witness {
            self.watch(arena, left, witness);
        }
        Walk::Finished
    }

    /// Of the blocks that a walk found held, the one to remember: the one that is remembered already, if it has been held
    /// without a break (`true`).
    fn keep_witness(&self, arena: ArenaRef, found: Option<RawHandle>) -> Option<(RawHandle, bool)> {
        let found = found?;
        let known = NonZeroU64::new(arena.walk.witness.load(Ordering::Relaxed)).map(RawHandle::from_bits);
        // Whoever removes the last hold clears the bit that `watch` set.
        let stayed = |known: &RawHandle| {
            if known.is_invalid() {
                return false;
            }
            let entry = self.table.known(known.slot());
            let word = entry.word();
            let is_block = !known.version().is_multiple_of(2) && entry.version() == known.version();
            is_block && word.is_waited() && arena.covers(word.address())
        };
        Some(known.filter(stayed).map_or((found, false), |known| (known, true)))
    }

    fn note_walk(&self, arena: ArenaRef, left: usize, pinned: usize, witness: Option<(RawHandle, bool)>) {
        let bits = witness.map_or(0, |(handle, _)| handle.to_bits().get());
        arena.walk.witness.store(bits, Ordering::Relaxed);
        if !matches!(witness, Some((_, true))) {
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
    pub(super) fn relocate(
        &self,
        mover: &mut MoverLease<'_>,
        claim: &Claim<'_>,
        target: &mut Target<'_>,
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
        let headers = ground.headers;
        let mut rewind = Some(mover.private().survivors(ground, target.index).mark());
        let (index, destination) =
            match mover.private().survivors(ground, target.index).bump(headers, header.payload(), align) {
                Some(destination) => (target.index, destination),
                None => match self.next_survivor_arena(mover, ground, target) {
                    Ok(()) => {
                        rewind = None;
                        let bump = mover.private().survivors(ground, target.index);
                        let destination = bump.bump(headers, header.payload(), align);
                        (target.index, destination.expect("a block fits an empty arena"))
                    }
                    // Where no arena can be had, what is left in the others must do; but not for blocks that are to lie in order.
                    Err(cause) if matches!(target.next, Next::Run(_)) => return Err(cause),
                    Err(cause) => {
                        let other = mover.private().bump_anywhere(ground, header.payload(), align);
                        let (index, mark, destination) = other.ok_or(cause)?;
                        rewind = Some(mark);
                        (index, destination)
                    }
                },
            };
        let at = mover.private().survivors(ground, index).header_at(headers, destination);
        let mut give_up = |mover: &mut MoverLease<'_>, outcome| {
            let bump = mover.private().survivors(ground, index);
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
        mover.private().survivors(ground, index).trim(headers, destination, header.payload());
        // SAFETY: MOVING is set, so nobody writes the source; the destination is the mover's own.
        unsafe { copy_block(address, destination, at, header) };
        #[cfg(feature = "test-hooks")]
        crate::hooks::mid_move();
        if !entry.commit(moving, Word::open_at(destination)) {
            // SAFETY: nobody else knows the copy.
            unsafe { self.scrub(self.arena_of(destination), destination, header.payload()) };
            return give_up(mover, Relocated::Gone);
        }
        self.retire_source(claim, address, header);
        let counts = mover.counts();
        add(&counts.moves, 1);
        add(&counts.moved_bytes, header.payload() as u64);
        Ok(Relocated::Moved(header.payload()))
    }

    #[cold]
    fn next_survivor_arena(
        &self,
        mover: &mut MoverLease<'_>,
        ground: Ground,
        target: &mut Target<'_>,
    ) -> Result<(), AllocError> {
        let arena = match &mut target.next {
            Next::Run(arenas) => arenas.next().ok_or(AllocError::OutOfMemory { requested: self.pool.arena_bytes() })?,
            &mut Next::Pool { class, last } => {
                self.pool.take(&self.supply, ground, Purpose::Survivors { class, last }, mover.id())?
            }
        };
        let filled = mover.private().survivors(ground, target.index).install(Some(arena), self.pool.arena_bytes(), 0);
        if let Some(filled) = &filled {
            // As tight as it can be: nothing is gained by moving it again before something in it dies. (If something died
            // before it was sealed, the note does not fit and is moot.)
            filled.arena.walk.live.store(filled.live, Ordering::Relaxed);
        }
        self.seal(filled);
        Ok(())
    }
}
