//! Giving back the dead pages around blocks that are held.
//!
//! A held block keeps its arena, but not the arena's pages. Where a walk has left blocks behind, the dead headers between them
//! are joined: one filler in front of each run covers it, and the whole pages behind that filler go back to the source. What is
//! dead at either end of the arena is left out of later walks altogether, so that not even a filler's page is kept for it.
//!
//! Only DEAD memory is joined, only by the arena's one walker, and only when nobody else claims the arena: a helper that still
//! copies out of what died under it has a claim. DEAD is read first and the other claims are asked for afterwards; who claims
//! later than that finds no block there to look at.

use crate::arena::{ArenaRef, Header, State};
use crate::engine::Core;
use crate::engine::help::Claim;
use crate::primitive::sync::atomic::Ordering;
use std::ops::Range;
use std::ptr::{self, NonNull};

/// The right to walk an arena that is claimed. There is one at a time.
#[derive(Debug)]
pub(super) struct Walker<'a> {
    claim: &'a Claim<'a>,
}

impl<'a> Walker<'a> {
    /// `None`: somebody walks the arena.
    pub(super) fn new(claim: &'a Claim<'a>) -> Option<Self> {
        claim.arena.begin_walk().then(|| Self { claim })
    }
}

impl Drop for Walker<'_> {
    fn drop(&mut self) {
        self.claim.arena.end_walk();
    }
}

/// Dead memory of an arena that no block lies between, in bytes from its first block.
#[derive(Debug, Default)]
struct DeadRuns {
    /// What is alive lies in here.
    walk: Range<usize>,
    /// Between blocks.
    inner: Vec<Range<usize>>,
}

impl Core {
    /// Gives the dead pages of an arena back that has blocks which could not be moved.
    pub(super) fn punch(&self, walker: &Walker<'_>) {
        let arena = walker.claim.arena;
        // What moves out of versions is dying until the readers are gone, which shows only when the arena is empty.
        let ground = arena.ground();
        if ground.versioned {
            return;
        }
        let page = self.supply.page_bytes();
        let start = arena.start();
        let whole_pages =
            |run: Range<usize>| (start + run.start).next_multiple_of(page)..(start + run.end) / page * page;
        let runs = Self::dead_runs(arena, page);
        if !arena.account.is_sole_claim() {
            return;
        }
        let end = arena.base() + self.pool.arena_bytes() - start;
        let outer = [0..runs.walk.start, runs.walk.end..end];
        // The filler's header in front of a run stays.
        let inner = runs.inner.iter().map(|run| run.start + ground.headers.lead()..run.end);
        let holes: Vec<Range<usize>> =
            outer.into_iter().chain(inner).map(whole_pages).filter(|hole| !hole.is_empty()).collect();
        let total: usize = holes.iter().map(Range::len).sum();
        let before = arena.walk.punched.load(Ordering::Relaxed);
        if total <= before {
            return;
        }
        for run in &runs.inner {
            // SAFETY: the run begins with a block of this arena, which only its one walker joins to others.
            let first = unsafe { arena.header_of(arena.payload_from(start + run.start)) };
            first.store(Header::filler(run.len(), State::Dead));
        }
        arena.shrink_walk(runs.walk.clone());
        arena.walk.punches.fetch_add(1, Ordering::Relaxed);
        // What was punched before is part of what is punched now.
        self.supply.recharge(before);
        let mut punched = 0;
        let mut hollow = 0;
        for hole in holes {
            let first = ptr::with_exposed_provenance_mut::<u8>(hole.start);
            // SAFETY: whole pages of the arena's chunk in which everything is dead: no block will ever lie there again in
            // this life of the arena, no other walker is there, and nobody else claimed the arena after all died.
            if unsafe { self.supply.discard(NonNull::new(first).expect("an arena is not at zero"), hole.len()) } {
                punched += hole.len();
                hollow += if runs.walk.contains(&(hole.start - start)) { hole.len() } else { 0 };
            }
        }
        arena.walk.punched.store(punched, Ordering::Relaxed);
        arena.walk.hollow.store(hollow, Ordering::Relaxed);
    }

    /// The runs of dead headers that may have a whole page in them. The caller walks the arena.
    fn dead_runs(arena: ArenaRef, page: usize) -> DeadRuns {
        let range = arena.walk_range();
        let mut runs = DeadRuns { walk: range.start..range.start, inner: Vec::new() };
        let mut offset = range.start;
        let mut dead_from = offset;
        while offset < range.end {
            // SAFETY: the arena is sealed and claimed, and this is its one walker: in its range there is one header after the
            // other.
            let header = unsafe { arena.header_of(arena.payload_from(arena.start() + offset)) }.load();
            let next = offset + arena.footprint(header);
            if header.state() != State::Dead {
                let run = dead_from..offset;
                if runs.walk.end == range.start {
                    // The first block.
                    runs.walk.start = offset;
                } else if run.len() > page {
                    runs.inner.push(run);
                }
                runs.walk.end = next;
                dead_from = next;
            }
            offset = next;
        }
        runs
    }
}
