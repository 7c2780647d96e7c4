//! Which arenas are worth emptying now: what is known of them goes to the policy, its choice is handed out one by one.

use super::placement::{Dice, Scatter};
use super::policy::{Candidate, choose, class_of_survivors, gain_of};
use super::step::{Duty, Progress};
use crate::arena::shard::Role;
use crate::arena::{ArenaRef, Ground, Headers, Use};
use crate::builder::Placement;
use crate::engine::Core;
use crate::engine::lease::{MoverLease, with_shard};
use crate::handle::RawHandle;
use crate::primitive::sync::atomic::Ordering;
use bumpalo::Bump;
use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::{MutexGuard, PoisonError};

/// An arena to empty, and how far it is.
#[derive(Debug)]
pub(super) struct Victim {
    pub(super) arena: ArenaRef,
    /// The life of the descriptor that it was chosen in.
    pub(super) life: u32,
    /// Where the walk goes on, in bytes from the arena's first block, or in headers if they are come to at random; `None`: it
    /// has not begun.
    pub(super) resume: Option<usize>,
    /// `None`: its blocks are taken as they lie.
    pub(super) scatter: Option<Scatter>,
    /// Emptying it is part of a gain; otherwise of a pass.
    pub(super) gains: bool,
    /// The arena's count of punches when the walk was left.
    pub(super) punches: u32,
    pub(super) pinned: usize,
    pub(super) witness: Option<RawHandle>,
}

impl Victim {
    pub(super) fn new(arena: ArenaRef, life: u32, gains: bool) -> Self {
        Self { arena, life, gains, resume: None, scatter: None, punches: 0, pinned: 0, witness: None }
    }
}

/// The victims that no step has taken.
#[derive(Debug)]
pub(super) struct Plan {
    /// Of this cycle: emptying them gains arenas.
    pub(super) victims: VecDeque<Victim>,
    /// Of this pass of random placement.
    pub(super) pass: VecDeque<Victim>,
    pub(super) dice: Dice,
    scratch: Bump,
}

impl Plan {
    pub(super) fn new(placement: Placement, seed: Option<u64>) -> Self {
        let dice = Dice::new(placement, seed);
        Self { victims: VecDeque::new(), pass: VecDeque::new(), dice, scratch: Bump::new() }
    }

    /// The next victim. One that gains nothing is only for those who may do everything.
    fn next(&mut self, duty: Duty) -> Option<Victim> {
        let gains = self.victims.pop_front();
        if duty == Duty::Full { gains.or_else(|| self.pass.pop_front()) } else { gains }
    }

    /// Takes a victim back that is not done with.
    pub(super) fn put_back(&mut self, victim: Victim) {
        let victims = if victim.gains { &mut self.victims } else { &mut self.pass };
        victims.push_front(victim);
    }

    /// Gives up what was planned.
    pub(super) fn clear(&mut self) {
        self.victims.clear();
        self.pass.clear();
    }
}

/// What the notes of an arena's last walk tell.
enum LastWalk {
    /// Something has changed since, or there was none.
    Moot,
    /// A block is held, or being made, that was then; who changes that will tell.
    Held,
    /// Nothing in it can be gained until something dies, and then it shows.
    Stands,
}

/// Sparse arenas, each with the life that it was seen in.
type Candidates<'a> = bumpalo::collections::Vec<'a, Candidate<(ArenaRef, u32)>>;

/// What a choice of victims saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Sealed arenas with something alive.
    arenas: usize,
    /// Bytes of whole arenas that moving gains.
    pub(super) gain: usize,
    /// Sparse arenas that are no gain until a hold changes.
    pub(super) pinned: usize,
    /// Of the blocks that pin them, the one that was met first, and when: milliseconds from the shuffler's start.
    pub(super) oldest: Option<(RawHandle, u64)>,
}

impl Seen {
    fn pin(&mut self, arena: ArenaRef) {
        self.pinned += 1;
        let since = arena.walk.since.load(Ordering::Relaxed);
        let witness = NonZeroU64::new(arena.walk.witness.load(Ordering::Relaxed)).map(RawHandle::from_bits);
        if let Some(witness) = witness.filter(|witness| !witness.version().is_multiple_of(2))
            && self.oldest.is_none_or(|(_, first)| since < first)
        {
            self.oldest = Some((witness, since));
        }
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

    pub(super) fn plan(&self) -> MutexGuard<'_, Plan> {
        self.compactor.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn next_victim(
        &self,
        mover: &mut MoverLease<'_>,
        duty: Duty,
        progress: &mut Progress,
    ) -> Option<Victim> {
        /// Choosing takes as long as there are arenas. With more than this it is left to the background thread.
        const FEW: usize = 1024;
        if duty == Duty::Assistance {
            // Whoever is choosing now may have been stopped, and an allocation waits for nobody.
            let victim = self.compactor.plan.try_lock().ok()?.next(duty);
            if victim.is_some() || self.pool.list.len() > FEW {
                return victim.or_else(|| {
                    self.notify();
                    None
                });
            }
        } else if let Some(victim) = self.plan().next(duty) {
            return Some(victim);
        }
        let dead_at_least = self.pool.worth_sealing();
        if duty != Duty::Assistance {
            // It would take from an allocation the arena that this is paid for.
            self.seal_idle(dead_at_least);
        }
        self.seal(mover.private().take_filled(dead_at_least));
        let room = self.room_for_survivors(mover);
        let mut plan = match duty {
            Duty::Assistance => self.compactor.plan.try_lock().ok()?,
            Duty::Full | Duty::Relief(_) => self.plan(),
        };
        if plan.victims.is_empty() {
            let Plan { victims, scratch, dice, .. } = &mut *plan;
            scratch.reset();
            let mut seen = Seen::default();
            self.choose_victims(duty, room, scratch, victims, &mut seen);
            dice.cast(victims.make_contiguous(), [seen.arenas, self.arenas_to_be_had()]);
            progress.waiting |= seen.pinned > 0;
            self.compactor.survey.note_gain(seen.gain);
            if !victims.is_empty() {
                self.compactor.totals.cycles.fetch_add(1, Ordering::Relaxed);
            }
        }
        plan.next(duty)
    }

    /// The arenas that are sparse, by the index of their ground.
    fn candidates<'a>(&self, duty: Duty, scratch: &'a Bump, seen: &mut Seen) -> [Candidates<'a>; Ground::COUNT] {
        // At the limit it is the next arena that counts, not the cheapest in the long run: all are of one age.
        let now = if matches!(duty, Duty::Relief(_)) { 0 } else { self.now() };
        let readers_keep_much = self.readers_keep_much();
        let mut candidates = Ground::ALL.map(|_| bumpalo::collections::Vec::new_in(scratch));
        for arena in self.pool.list.iter() {
            // First, so that an arena which begins another life after this is not taken for the one that is looked at.
            let life = arena.life();
            let balance = arena.account.balance();
            // One with nothing alive is retired already, or waits for readers.
            if !balance.sealed || balance.live == 0 || arena.usage() != Use::Bumped {
                continue;
            }
            seen.arenas += 1;
            if balance.claims > 0 || !self.is_sparse(arena, balance.live, duty) {
                continue;
            }
            if readers_keep_much && arena.ground().versioned {
                continue;
            }
            match self.last_walk(arena, balance.live) {
                LastWalk::Moot => {
                    let (live, age) = (self.fill(arena, balance.live), now.saturating_sub(arena.sealed_at()));
                    candidates[arena.ground().index()].push(Candidate { arena: (arena, life), live, age });
                }
                LastWalk::Held => seen.pin(arena),
                LastWalk::Stands => {}
            }
        }
        candidates
    }

    /// Whether so much waits for readers that no `Versioned` block should be moved: its arena would wait as well, so nothing would
    /// be gained before they go, and `publish` would be refused for what is none of its doing. (The reader that goes last tells.)
    pub(super) fn readers_keep_much(&self) -> bool {
        let share = (self.compactor.survey.used() / 8).max(self.pool.arena_bytes());
        self.deferred.waiting_bytes() > share.min(self.config.reader_limit / 2)
    }

    /// What a choice would see now, without choosing.
    pub(super) fn look(&self) -> Seen {
        let scratch = Bump::new();
        let mut seen = Seen::default();
        for (ground, candidates) in Ground::ALL.into_iter().zip(&mut self.candidates(Duty::Full, &scratch, &mut seen)) {
            self.worth_emptying(ground, candidates, 0, &mut seen);
        }
        seen
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
        let mut candidates = self.candidates(duty, scratch, seen);
        let batch = self.batch(duty, seen);
        for ((ground, candidates), room) in Ground::ALL.into_iter().zip(&mut candidates).zip(room) {
            // All that could be gained tells the pace; a part of it is the next batch.
            let worth = self.worth_emptying(ground, candidates, room, seen);
            let count = choose(worth, self.capacity(ground.headers), room, batch);
            let victim = |&Candidate { arena: (arena, life), .. }: &Candidate<_>| Victim::new(arena, life, true);
            victims.extend(worth[..count].iter().map(victim));
        }
    }

    /// Those of the candidates that are worth emptying; counts what that gains.
    fn worth_emptying<'c>(
        &self,
        ground: Ground,
        candidates: &'c mut Candidates<'_>,
        room: usize,
        seen: &mut Seen,
    ) -> &'c mut [Candidate<(ArenaRef, u32)>] {
        let capacity = self.capacity(ground.headers);
        let count = choose(candidates, capacity, room, usize::MAX);
        let worth = &mut candidates[..count];
        seen.gain += gain_of(worth, capacity, room) * capacity;
        worth
    }

    /// How many arenas the next victims should gain. A choice costs a look at every arena, so it should gain a share of them.
    fn batch(&self, duty: Duty, seen: &Seen) -> usize {
        match duty {
            Duty::Relief(wanted) => wanted / self.pool.arena_bytes() + 1,
            Duty::Full | Duty::Assistance => seen.arenas / 64 + 1,
        }
    }

    /// The class of the arenas that survivors of an arena go to. In a small heap, and where there is little room, a partly filled
    /// arena of each class would weigh more than keeping them apart gains.
    pub(super) fn class_of_survivors(&self, arena: ArenaRef) -> u8 {
        const SMALL: usize = 64;
        const LITTLE: usize = 16;
        let is_small = self.compactor.survey.used() / self.pool.arena_bytes() < SMALL;
        class_of_survivors(if is_small || self.arenas_to_be_had() < LITTLE { 0 } else { arena.class() })
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
        // Slot 0 at version 0, whose block is being made, is the one witness that no handle can name.
        let slot = if witness.is_invalid() { 0 } else { witness.slot() };
        let Some(entry) = self.table.entry(slot) else { return LastWalk::Moot };
        let since = entry.version().wrapping_sub(witness.version());
        let unchanged = if witness.version().is_multiple_of(2) {
            since == 0
        } else {
            // Held without a break since the walk asked to be told, or freed and held still.
            let word = entry.word();
            if since == 0 { word.is_waited() } else { since == 1 && word.is_held() }
        };
        if unchanged { LastWalk::Held } else { LastWalk::Moot }
    }

    /// Seals the arenas of shards that nobody uses, and the caller's own, if they hold at least so many dead bytes or nothing
    /// at all.
    pub(crate) fn seal_idle(&self, dead_at_least: usize) {
        for role in [Role::Mutator, Role::Mover] {
            self.shards.for_each_idle(role, |shard| self.seal(shard.take_filled(dead_at_least)));
        }
        self.seal(with_shard(self, |shard, _, _| shard.take_filled(dead_at_least)));
    }
}
