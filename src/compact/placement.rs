//! Where blocks are put that are moved, and when those are moved that gain nothing.
//!
//! **Packed**: survivors of an arena go, in the order in which they lie, to the arena that survivors of their class go to.
//!
//! **Random**: a moving target. The blocks of a victim are taken in a random order, each to a random one of several arenas, and
//! besides what gains memory everything else is moved as well, full arenas too, in *passes*: each takes every arena that is
//! sealed when it begins, in a random order. `shuffle()` is a pass; the background thread and the inline trigger begin one a
//! second at the most, and it goes at the pace of all their work.
//!
//! What is drawn is drawn for a whole victim at once, from a seed of its own, so that a seed leads to one placement however the
//! work is cut into steps.

use super::plan::Victim;
use crate::arena::{ArenaRef, Ground, Use};
use crate::builder::Placement;
use crate::engine::Core;
use crate::engine::lease::MoverLease;
use crate::primitive::sync::atomic::{AtomicU64, Ordering};
use rand::rngs::{SmallRng, StdRng, SysRng};
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng};
use std::time::Duration;

/// From the beginning of one pass to that of the next, at the least.
const PERIOD: Duration = Duration::from_secs(1);

/// How the blocks of one victim are scattered.
#[derive(Debug)]
pub(super) struct Scatter {
    seed: u64,
    /// Over how many arenas.
    targets: u32,
    order: Vec<Draw>,
}

/// A header, in bytes from the arena's first block, and the target of its block, packed: an arena has at most 64 MiB.
#[derive(Clone, Copy, Debug)]
struct Draw(u32);

const TARGET_BITS: u32 = 3;
const MOST_TARGETS: usize = 1 << TARGET_BITS;

impl Scatter {
    /// Draws the order in which the headers of an arena are come to. They are given as they lie.
    pub(super) fn draw(&mut self, headers: impl Iterator<Item = usize>) {
        let mut random = SmallRng::seed_from_u64(self.seed);
        let mut draw = |header: usize| Draw((header as u32 / 8) << TARGET_BITS | random.random_range(0..self.targets));
        self.order.clear();
        self.order.extend(headers.map(&mut draw));
        self.order.shuffle(&mut random);
    }

    /// The header that is come to after so many others, and the target of its block. `None`: those were all.
    pub(super) fn get(&self, position: usize) -> Option<(usize, usize)> {
        let Draw(draw) = *self.order.get(position)?;
        Some(((draw >> TARGET_BITS) as usize * 8, draw as usize % MOST_TARGETS))
    }
}

/// What random placement draws from. `None`: placement is packed.
#[derive(Debug)]
pub(super) struct Dice(Option<StdRng>);

impl Dice {
    pub(super) fn new(placement: Placement, seed: Option<u64>) -> Self {
        Self((placement == Placement::Random).then(|| match seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::try_from_rng(&mut SysRng).expect("the operating system gives random numbers"),
        }))
    }

    /// Puts victims in a random order and has their blocks scattered, if placement is random. `arenas`: how many there are, and
    /// how many more may be had.
    pub(super) fn cast(&mut self, victims: &mut [Victim], arenas: [usize; 2]) {
        let Some(random) = &mut self.0 else { return };
        // Each target is filled in part for most of the time, so they should be few beside the full ones, and beside the room
        // that is left below the memory limit.
        let targets = arenas.map(|arenas| (arenas / 4).clamp(1, MOST_TARGETS));
        let targets = targets[0].max(2).min(targets[1]) as u32;
        victims.shuffle(random);
        for victim in victims {
            victim.scatter = Some(Scatter { seed: random.next_u64(), targets, order: Vec::new() });
        }
    }
}

/// When the next pass may begin, milliseconds from the shuffler's start.
#[derive(Debug, Default)]
pub(crate) struct NextPass(AtomicU64);

impl Core {
    /// Whether everything is moved now and then.
    pub(crate) fn makes_passes(&self) -> bool {
        self.config.placement == Placement::Random
    }

    /// The time until the next pass may begin; `None`: there will be none.
    pub(super) fn until_next_pass(&self) -> Option<Duration> {
        let left = || self.compactor.next_pass.0.load(Ordering::Relaxed).saturating_sub(self.now());
        self.makes_passes().then(|| Duration::from_millis(left()))
    }

    /// Begins a pass if it is time for one, and tells whether it did.
    pub(super) fn begin_pass_in_time(&self) -> bool {
        self.until_next_pass().is_some_and(|left| left.is_zero()) && self.begin_pass()
    }

    /// Begins a pass, if placement is random and the last one is through, and tells whether it did: every sealed arena is to be
    /// emptied once.
    pub(super) fn begin_pass(&self) -> bool {
        if !self.makes_passes() {
            return false;
        }
        let next = self.now() + PERIOD.as_millis() as u64;
        self.compactor.next_pass.0.store(next, Ordering::Relaxed);
        if self.is_paused() {
            return false;
        }
        // What lies in the arenas that are being filled is not left out, unless another thread fills them.
        self.seal_idle(0);
        let mut plan = self.plan();
        if !plan.pass.is_empty() {
            return false;
        }
        // The oldest first, which is an order that does not depend on time.
        let readers_keep_much = self.readers_keep_much();
        let is_asked_for = |arena: &ArenaRef| !(readers_keep_much && arena.ground().versioned);
        let mut pass: Vec<Victim> =
            self.pool.list.iter().filter(is_asked_for).filter_map(|arena| self.whole(arena)).collect();
        pass.reverse();
        let arenas = [pass.len(), self.arenas_to_be_had()];
        plan.dice.cast(&mut pass, arenas);
        plan.pass.extend(pass);
        let begins = arenas[0] > 0;
        self.compactor.totals.cycles.fetch_add(u64::from(begins), Ordering::Relaxed);
        begins
    }

    pub(super) fn arenas_to_be_had(&self) -> usize {
        self.supply.room() / self.pool.arena_bytes()
    }

    /// An arena as the victim of a pass, if it is sealed and something in it is alive.
    fn whole(&self, arena: ArenaRef) -> Option<Victim> {
        // First, as for every victim.
        let life = arena.life();
        let balance = arena.account.balance();
        let is_whole = balance.sealed && balance.live > 0 && arena.usage() == Use::Bumped;
        is_whole.then(|| Victim::new(arena, life, false))
    }

    /// The room that is left where the first survivors of a ground go anyway: what they do not fill is no loss.
    pub(super) fn room_for_survivors(&self, mover: &mut MoverLease<'_>) -> [usize; Ground::COUNT] {
        // Random placement spreads them over more than one.
        Ground::ALL.map(|ground| if self.makes_passes() { 0 } else { mover.private().survivors(ground, 0).room() })
    }
}
