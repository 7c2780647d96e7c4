//! The walk over a victim: moves what can be moved, and notes why the rest cannot.

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
use std::num::NonZeroU64;

/// Headers that are walked between two looks at the clock.
const HEADERS_A_LOOK: usize = 256;

/// How the walk of a victim ended.
pub(super) enum Walk {
    Finished,
    Unfinished,
    OutOfMemory,
}

/// How far a walk has looked ahead: bytes from the arena's first block, and headers.
struct Ahead {
    offset: usize,
    headers: usize,
}

/// Asks the processor to have an entry at hand soon.
#[inline]
fn prefetch(entry: &Entry) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads nothing that the program could see.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(entry).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = entry;
}

/// What became of one block.
enum Relocated {
    Moved(usize),
    Held,
    Gone,
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
        let (start, range) = (arena.start(), arena.walk_range());
        let punches = arena.walk.punches.load(Ordering::Relaxed);
        // Where the walk was left there may be no header any more.
        let resumed = victim.offset.filter(|_| victim.punches == punches);
        victim.punches = punches;
        let mut offset = resumed.unwrap_or(range.start);
        let mut ahead = Ahead { offset, headers: 0 };
        let mut headers = 0;
        while offset < range.end {
            let is_over = meter.spent && (progress.moves > 0 || headers >= HEADERS_A_LOOK);
            if is_over || self.is_paused() {
                victim.offset = Some(offset);
                return Walk::Unfinished;
            }
            self.look_ahead(&mut ahead, &walker, range.end, headers);
            let address = arena.payload_from(start + offset);
            // SAFETY: the arena is sealed and claimed; in this range there is one block or filler after the other.
            let header = unsafe { arena.header_of(address) }.load();
            if header.state() == State::Building && !header.is_filler() {
                let version = self.table.known(header.slot()).version();
                victim.witness.get_or_insert(RawHandle::new(header.slot(), version));
            }
            if header.state() == State::Live {
                match self.relocate(mover, &claim, duty, address, header) {
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
        if let Some((witness, _)) = witness {
            self.watch(arena, left, witness);
        }
        Walk::Finished
    }

    /// Asks for the entries of the next blocks, so that a walk does not wait for one after the other.
    fn look_ahead(&self, ahead: &mut Ahead, walker: &Walker<'_>, end: usize, walked: usize) {
        const DISTANCE: usize = 8;
        let arena = walker.arena();
        while ahead.offset < end && ahead.headers < walked + DISTANCE {
            // SAFETY: as in `empty`, by the same walker: wherever a block ends now or ended before, a header follows.
            let header = unsafe { arena.header_of(arena.payload_from(arena.start() + ahead.offset)) }.load();
            if header.state() == State::Live {
                prefetch(self.table.known(header.slot()));
            }
            ahead.offset += arena.footprint(header);
            ahead.headers += 1;
        }
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
    fn relocate(
        &self,
        mover: &mut MoverLease<'_>,
        claim: &Claim<'_>,
        duty: Duty,
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
        let wanted = self.class_of_survivors(claim.arena);
        let align = registry().info(header.tag()).align;
        let headers = ground.headers;
        let mut rewind = Some(mover.private().survivors(ground, wanted).mark());
        let (class, destination) =
            match mover.private().survivors(ground, wanted).bump(headers, header.payload(), align) {
                Some(destination) => (wanted, destination),
                None => match self.next_survivor_arena(mover, ground, wanted, duty) {
                    Ok(()) => {
                        rewind = None;
                        let target = mover.private().survivors(ground, wanted);
                        let destination = target.bump(headers, header.payload(), align);
                        (wanted, destination.expect("a block fits an empty arena"))
                    }
                    // Where no arena can be had, what is left in those of other classes must do.
                    Err(cause) => {
                        let other = mover.private().bump_anywhere(ground, header.payload(), align);
                        let (class, mark, destination) = other.ok_or(cause)?;
                        rewind = Some(mark);
                        (class, destination)
                    }
                },
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
    fn next_survivor_arena(
        &self,
        mover: &mut MoverLease<'_>,
        ground: Ground,
        class: u8,
        duty: Duty,
    ) -> Result<(), AllocError> {
        let last = matches!(duty, Duty::Relief(_));
        let arena = self.pool.take(&self.supply, ground, Purpose::Survivors { class, last }, mover.id())?;
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
