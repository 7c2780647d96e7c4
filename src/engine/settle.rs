//! The end of a block: its destructor, its accounting, its slot; and what is put off until nobody can be hurt by it.

use super::Core;
use super::help::Claim;
use super::lease::{with_last_shard_unscrubbed, with_shard};
use crate::arena::shard::add;
use crate::arena::{ArenaRef, AtomicHeader, Ground, HEADER_BYTES, Header, Headers, Outcome, State, Use};
use crate::deferred::Pending;
use crate::handle::RawHandle;
use crate::panics::{Panic, keep_first};
use crate::types::registry;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{ptr, thread};

/// Work that must not run where it fell due.
#[derive(Debug)]
pub(crate) enum Record {
    /// A block that is nobody's any more: settle it.
    Settle {
        /// Of the payload.
        address: usize,
        /// Movers may be copying it: only once its arena has no claims.
        after_claims: bool,
        end: End,
    },
    /// An arena of `Versioned` blocks that was emptied, and that no reader looks into any more.
    Recycle(ArenaRef),
}

/// How a block ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// Freed: its value is dropped and its slot is free for another life.
    Freed,
    /// Its value was moved out, or never was there; its slot is free for another life.
    Emptied,
    /// Another block is in its place: its value is dropped, and the slot goes on.
    Replaced,
    /// It was to be in another's place and is not: its value was moved out, and the slot goes on.
    Unused,
    /// Its copy is the block now, and the slot goes on.
    Moved,
}

impl End {
    fn drops_value(self) -> bool {
        matches!(self, Self::Freed | Self::Replaced)
    }

    fn ends_life(self) -> bool {
        matches!(self, Self::Freed | Self::Emptied)
    }
}

/// Buries a block when dropped, also when its destructor unwinds.
struct Burial<'a> {
    core: &'a Core,
    arena: ArenaRef,
    at: &'a AtomicHeader,
    header: Header,
    address: usize,
    payload: usize,
    end: End,
}

impl Drop for Burial<'_> {
    #[inline]
    fn drop(&mut self) {
        let Self { core, arena, at, header, address, payload, end } = *self;
        let footprint = arena.footprint(header);
        // SAFETY: whoever settles has the bytes to itself, and they are counted until the end of this.
        unsafe { core.scrub(arena, address, payload) };
        at.store(header.with_state(State::Dead));
        let own = with_shard(core, |shard, counts, _| {
            if end.ends_life() {
                add(&counts.freed_blocks, 1);
                add(&counts.freed_bytes, payload as u64);
                shard.slots.put(&core.table, header.slot(), core.table.known(header.slot()).version());
            }
            shard.ground(arena.ground()).bury(arena, footprint)
        });
        if !own {
            core.subtract(arena, footprint);
        }
    }
}

impl Core {
    /// The arena of a block that has a share in it.
    #[inline]
    pub(crate) fn arena_of(&self, address: usize) -> ArenaRef {
        self.pool.map.find(address).expect("a block lies in an arena")
    }

    /// Takes dead bytes off an arena's account, and retires it if they were the last.
    #[inline]
    pub(crate) fn subtract(&self, arena: ArenaRef, bytes: usize) {
        // Asked while the caller has a share: after that the descriptor may begin another life.
        let counts = arena.usage() == Use::Bumped;
        let (outcome, before) = arena.account.subtract(bytes);
        if before.sealed && counts {
            self.ring(bytes);
        }
        if outcome == Outcome::Emptied {
            self.retire(arena);
        } else if arena.walk.unwatch() {
            self.notify();
        }
    }

    /// Counts dead bytes in sealed arenas, and tells the compactor at each quarter of an arena, if there is a whole one of them:
    /// whoever makes garbage rings, so that an idle shuffler need not look.
    pub(crate) fn ring(&self, dead: usize) {
        let enough = self.pool.arena_bytes() / 4;
        let counted = with_shard(self, |shard, _, _| {
            shard.uncounted += dead;
            if shard.uncounted < enough { 0 } else { std::mem::take(&mut shard.uncounted) }
        });
        if counted > 0 && self.compactor.survey.add_dead(counted) >= self.pool.arena_bytes() {
            self.notify();
        }
    }

    /// Takes in an arena that the caller emptied.
    #[cold]
    pub(crate) fn retire(&self, arena: ArenaRef) {
        self.compactor.survey.forget(arena.sealed_bytes());
        // Blocks of versions that were moved away are still read until the readers have gone on. (A large one never moves;
        // it was settled after its readers.)
        if arena.ground().versioned && arena.usage() != Use::Large {
            self.defer(Record::Recycle(arena));
        } else {
            self.recycle(arena);
        }
    }

    fn recycle(&self, arena: ArenaRef) {
        self.pool.retire(&self.supply, arena);
        if self.pool.empty_bytes() > self.config.retain_bytes {
            self.notify();
        }
    }

    /// Puts a record off until every reader of this moment is gone.
    pub(crate) fn defer(&self, record: Record) {
        let bytes = self.held_back(&record);
        if self.deferred.retire(record, bytes) {
            self.notify();
        }
    }

    /// Leaves a record to a step.
    pub(super) fn leave_to_step(&self, record: Record) {
        let bytes = self.held_back(&record);
        self.deferred.make_ready(record, bytes);
        self.notify();
    }

    /// Bytes that are not to be had before the record is carried out.
    fn held_back(&self, record: &Record) -> usize {
        match *record {
            Record::Settle { address, .. } => {
                let arena = self.arena_of(address);
                // SAFETY: the block's bytes are counted until it is settled.
                arena.footprint(unsafe { arena.header_of(address) }.load())
            }
            // Its blocks are settled or moved away, so none of them waits any more.
            Record::Recycle(_) => self.pool.arena_bytes(),
        }
    }

    /// The common case of a free: a block without a destructor, in the arena of such headers that this thread fills. One that
    /// has to be wiped goes the longer way.
    #[inline]
    pub(super) fn settle_own<const COLUMN: bool>(&self, freed: RawHandle, address: usize) -> Option<()> {
        let headers = Headers::select(COLUMN);
        with_last_shard_unscrubbed(self, |shard, counts| {
            let bump = shard.ground(Ground { versioned: false, headers });
            if !bump.covers(address) {
                return None;
            }
            // SAFETY: the block lies in the arena, and its bytes are still counted.
            let at = unsafe { &*bump.header_at(headers, address) };
            let header = at.load();
            if registry().drops(header.tag()) {
                return None;
            }
            at.store(header.with_state(State::Dead));
            bump.bury_own(headers.block_footprint(header));
            shard.slots.put(&self.table, freed.slot(), freed.version().wrapping_add(1));
            add(&counts.freed_blocks, 1);
            add(&counts.freed_bytes, header.payload() as u64);
            Some(())
        })
    }

    /// Settles a block that was freed and that nobody holds, now or when it may be.
    ///
    /// `moving`: movers may be copying it.
    pub(crate) fn settle_freed(&self, address: usize, moving: bool) {
        let arena = self.arena_of(address);
        if arena.ground().versioned {
            if moving {
                self.deferred.begin_wait_for_movers();
            }
            self.defer(Record::Settle { address, after_claims: moving, end: End::Freed });
            self.keep_up();
            return;
        }
        // SAFETY: the block's bytes are still counted in the arena.
        let header = unsafe { arena.header_of(address) }.load();
        if moving && (self.config.scrub || registry().drops(header.tag())) {
            // A destructor, or who wipes, writes to the bytes that a mover may be reading.
            self.settle_after_claims(address, End::Freed);
            return;
        }
        self.settle(address, End::Freed);
    }

    /// Settles a block that movers may be copying, when they have given back their claims on its arena.
    pub(super) fn settle_after_claims(&self, address: usize, end: End) {
        self.deferred.begin_wait_for_movers();
        self.leave_to_step(Record::Settle { address, after_claims: true, end });
    }

    /// Settles a block that nobody uses.
    ///
    /// A panic of the destructor goes on to the caller, after the block is buried; while the thread is unwinding already,
    /// it is caught.
    pub(crate) fn settle(&self, address: usize, end: End) {
        let arena = self.arena_of(address);
        // SAFETY: the block's bytes are counted in the arena until the burial.
        let (at, payload) = unsafe { (arena.header_of(address), arena.payload_bytes(address)) };
        let header = at.load();
        let burial = Burial { core: self, arena, at, header, address, payload, end };
        let info = registry().info(header.tag());
        if end.drops_value() && info.needs_drop() {
            at.store(header.with_state(State::Dying));
            let bytes = ptr::with_exposed_provenance_mut::<u8>(address);
            // SAFETY: whoever settles is the only one (the entry's word decided it), the readers and the movers of the bytes
            // are gone, and the slot is not reused before the burial.
            let run = || unsafe { info.drop_payload(bytes, payload) };
            if thread::panicking() {
                keep_first(&mut None, catch_unwind(AssertUnwindSafe(run)));
            } else {
                run();
            }
        }
        drop(burial);
    }

    /// Carries out records that are ready, as long as `next` finds one. Returns how many, and the first panic of a destructor;
    /// others are counted.
    ///
    /// Records are taken one at a time: whatever a destructor does, it keeps no other record from other steps.
    pub(crate) fn carry_out(
        &self,
        drops: bool,
        mut next: impl FnMut() -> Option<Pending<Record>>,
    ) -> (usize, Option<Panic>) {
        let mut first_panic = None;
        let mut done = 0;
        let mut later = Vec::new();
        while let Some(pending) = next() {
            match pending.record {
                Record::Recycle(arena) => self.recycle(arena),
                Record::Settle { address, end, .. } if !drops && end.drops_value() && self.has_destructor(address) => {
                    later.push(pending);
                    continue;
                }
                Record::Settle { address, after_claims, end } => {
                    let alone = after_claims.then(|| self.claim_alone(address));
                    if let Some(None) = alone {
                        later.push(pending);
                        continue;
                    }
                    match catch_unwind(AssertUnwindSafe(|| self.settle(address, end))) {
                        Err(panic) if first_panic.is_none() => first_panic = Some(panic),
                        // The caller is told of one.
                        settled => self.count_panic(settled.err()),
                    }
                    if after_claims {
                        self.deferred.end_wait_for_movers();
                    }
                }
            }
            done += 1;
        }
        if !later.is_empty() {
            self.deferred.put_back(later);
            // Who was told meanwhile did not find them.
            self.notify();
        }
        (done, first_panic)
    }

    fn has_destructor(&self, address: usize) -> bool {
        let arena = self.arena_of(address);
        // SAFETY: the block's bytes are counted until it is settled.
        let header = unsafe { arena.header_of(address) }.load();
        registry().drops(header.tag())
    }

    /// A claim on the arena of a block that was freed while it was being moved, if nobody else has one: then no helper that
    /// saw MOVING can still be copying.
    ///
    /// It takes a claim of its own to know: a helper claims first and then looks at the word again, so of the two
    /// read-modify-writes on the account the later one sees the earlier, and a helper that comes after this claim sees the
    /// word closed. A plain look at the account would miss it.
    fn claim_alone(&self, address: usize) -> Option<Claim<'_>> {
        let claim = Claim::new(self, self.arena_of(address))?;
        (claim.arena.account.balance().claims == 1).then_some(claim)
    }

    /// Hands what was put off to the epochs and helps them forward as far as the readers let it, so that what waits becomes
    /// ready; until `enough` says so after a few tries, or nothing became ready `patience` times.
    pub(crate) fn wait_for_readers(&self, patience: u32, mut enough: impl FnMut() -> bool) {
        // An epoch's garbage is two advances away, an advance needs a flush, and a flush collects a few bags at a time, those
        // of the collector's own garbage among them. What others put off meanwhile is not waited for: that might never end.
        const FEW: u32 = 4;
        let deferred = &self.deferred;
        let (mut last, mut expired, mut in_vain, mut tries) = (None, deferred.expired(), 0, 0);
        while deferred.waiting() > 0 && in_vain < patience {
            if last.is_none() && self.submit() {
                last = Some(deferred.submitted());
            }
            if last.is_some_and(|last| expired >= last) {
                break;
            }
            self.flush();
            let now = deferred.expired();
            in_vain = if now > expired { 0 } else { in_vain + 1 };
            expired = now;
            tries += 1;
            if tries >= FEW && enough() {
                break;
            }
        }
    }

    /// Hands what was put off to the epochs, if they have room for it.
    pub(super) fn submit(&self) -> bool {
        with_shard(self, |shard, _, _| self.deferred.submit(|| shard.epoch(&self.collector, &self.seats).pin()))
    }

    /// Helps the epoch forward by one step, if the readers let it.
    pub(super) fn flush(&self) {
        with_shard(self, |shard, _, _| shard.epoch(&self.collector, &self.seats).pin().flush());
    }
}

const _: () = assert!(HEADER_BYTES == size_of::<AtomicHeader>());
