//! The free slots that a shard keeps, so that blocks come and go without the table's lock.

use super::chain::Chain;
use super::entry::LAST_VERSION;
use super::slots::Table;
use crate::arena::Supply;
use crate::error::AllocError;
use std::mem::{swap, take};
use std::ops::Range;

/// The most slots in a magazine. Few enough that a thread which falls idle keeps few pages from going back, and many enough
/// that the lock costs nothing.
const MOST: usize = 256;
/// The least that a magazine's bound comes down to.
const LEAST: usize = 16;
/// Slots of a chain that are made ready at a time.
const UNLINKED: usize = 32;
/// After so many laps over the same slots the cache changes them for others.
const LAPS: u32 = 1024;

/// A few free slots, first in, first out.
///
/// An array, although a [`Chain`] would need no memory: each take from a chain waits for the load of the link that the take
/// before it followed.
#[derive(Debug)]
struct Magazine {
    slots: Box<[u32; MOST]>,
    start: usize,
    end: usize,
}

impl Magazine {
    fn new() -> Self {
        Self { slots: Box::new([0; MOST]), start: 0, end: 0 }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    #[inline]
    fn pop(&mut self) -> Option<u32> {
        if self.is_empty() {
            return None;
        }
        self.start += 1;
        self.slots.get(self.start - 1).copied()
    }

    /// `false`: it is full.
    #[inline]
    fn push(&mut self, slot: u32) -> bool {
        let room = self.slots.get_mut(self.end);
        let has_room = room.is_some();
        if let Some(place) = room {
            *place = slot;
            self.end += 1;
        }
        has_room
    }

    /// Makes room for `bound` slots in the empty magazine: the end is the same for all bounds, so that `push` need not know.
    fn reset(&mut self, bound: usize) {
        (self.start, self.end) = (MOST - bound, MOST - bound);
    }

    /// Empties the magazine into a chain. Its entries are few, and were in use a moment ago.
    fn link(&mut self, table: &Table) -> Chain {
        let mut chain = Chain::default();
        for &slot in &self.slots[self.start..self.end] {
            chain.push(slot, table.known(slot));
        }
        self.start = self.end;
        chain
    }
}

/// The free slots of one shard.
///
/// What is freed gathers in `newer` while what is made takes from `older`; when that is empty, a *lap* is over and the two
/// change places. So no slot is used again before all others of the lap were, and versions wear evenly. Every so many laps
/// the table changes the slots for others, so that not even a thread that does nothing but make and free one block wears out
/// the same few slots.
///
/// When both are full, the cache spills the older. If it does so twice without running empty in between, more blocks end than
/// begin, and its bound is halved; when it runs empty, it was too small, and its bound is doubled. So a long run of frees
/// leaves next to nothing behind in its thread, where it would keep pages from going back, and a thread whose blocks come and
/// go seldom meets the lock.
#[derive(Debug)]
pub(crate) struct SlotCache {
    older: Magazine,
    newer: Magazine,
    /// How many slots `newer` may have.
    bound: usize,
    /// It has spilled since it last ran empty.
    shrinks: bool,
    /// What the table handed over and was not made ready yet.
    chain: Chain,
    /// Slots of a page that were never used.
    fresh: Range<u32>,
    laps: u32,
}

impl Default for SlotCache {
    fn default() -> Self {
        let (older, newer) = (Magazine::new(), Magazine::new());
        Self { older, newer, bound: MOST, shrinks: false, chain: Chain::default(), fresh: 0..0, laps: 0 }
    }
}

impl SlotCache {
    /// A vacant slot that is the caller's now, if one is at hand.
    #[inline]
    pub(crate) fn take_ready(&mut self) -> Option<u32> {
        if let Some(slot) = self.older.pop() {
            return Some(slot);
        }
        self.fresh.next()
    }

    /// A vacant slot that is the caller's now.
    pub(crate) fn take(&mut self, table: &Table, supply: &Supply) -> Result<u32, AllocError> {
        loop {
            if let Some(slot) = self.take_ready() {
                return Ok(slot);
            }
            if !self.chain.is_empty() {
                self.unlink(table);
            } else if !self.newer.is_empty() {
                self.turn(table);
            } else {
                (self.chain, self.fresh) = table.refill(supply)?;
                self.bound = (2 * self.bound).min(MOST);
                self.shrinks = false;
                self.newer.reset(self.bound);
            }
        }
    }

    /// Makes the first slots of the chain ready. Their entries are cold, so these are few.
    fn unlink(&mut self, table: &Table) {
        self.older.reset(UNLINKED);
        while self.older.end < MOST
            && let Some((slot, _)) = self.chain.pop(table)
        {
            self.older.push(slot);
        }
    }

    /// Takes back a slot that no life is in, and that is at `version`.
    #[inline]
    pub(crate) fn put(&mut self, table: &Table, slot: u32, version: u32) {
        if version > LAST_VERSION || !self.newer.push(slot) {
            self.put_slow(table, slot, version);
        }
    }

    /// Retires a slot whose versions are used up, or makes room for it.
    #[cold]
    #[inline(never)]
    fn put_slow(&mut self, table: &Table, slot: u32, version: u32) {
        if version > LAST_VERSION {
            table.retire();
            return;
        }
        if self.older.is_empty() {
            self.turn(table);
        } else {
            table.spill([take(&mut self.chain), self.older.link(table), Chain::default()], 0..0);
            if self.shrinks {
                self.bound = (self.bound / 2).max(LEAST);
            }
            self.shrinks = true;
            swap(&mut self.older, &mut self.newer);
            self.newer.reset(self.bound);
        }
        let has_room = self.newer.push(slot);
        debug_assert!(has_room, "it was emptied");
    }

    /// Begins the next lap: `older` is empty.
    fn turn(&mut self, table: &Table) {
        swap(&mut self.older, &mut self.newer);
        self.newer.reset(self.bound);
        self.laps += 1;
        if self.laps >= LAPS {
            self.laps = 0;
            self.change(table);
        }
    }

    /// Changes the slots of the last laps for others: the cache's own, if it has any, else the table's.
    #[cold]
    fn change(&mut self, table: &Table) {
        let worn = self.older.link(table);
        if self.chain.is_empty() && self.fresh.is_empty() {
            self.chain = table.exchange(worn);
        } else {
            table.spill([worn, Chain::default(), Chain::default()], 0..0);
        }
    }

    /// Hands every slot to the table.
    pub(crate) fn drain(&mut self, table: &Table) {
        let fresh = take(&mut self.fresh);
        let chains = [take(&mut self.chain), self.older.link(table), self.newer.link(table)];
        table.spill(chains, fresh);
        self.bound = MOST;
        self.newer.reset(MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::source::DefaultSource;
    use crate::table::numbers::PageNumbers;
    use crate::table::slots::{PAGE_BYTES, PAGE_SLOTS};
    use std::collections::HashSet;

    struct World {
        table: Table,
        supply: Supply,
    }

    impl World {
        fn new(pages: u32) -> Self {
            let numbers = Box::leak(Box::new(PageNumbers::with_limit(pages)));
            Self { table: Table::new(numbers), supply: Supply::new(Box::new(DefaultSource::new()), usize::MAX) }
        }

        fn take(&self, cache: &mut SlotCache) -> Result<u32, AllocError> {
            cache.take(&self.table, &self.supply)
        }

        /// Begins and ends a life in a slot, and puts it back.
        fn put(&self, cache: &mut SlotCache, slot: u32) {
            let entry = self.table.known(slot);
            let version = entry.begin_life(8, 0);
            assert!(entry.free(version).is_some());
            cache.put(&self.table, slot, version + 1);
        }

        fn kept(cache: &SlotCache) -> u32 {
            let magazines = [&cache.older, &cache.newer].map(|magazine| (magazine.end - magazine.start) as u32);
            magazines[0] + magazines[1] + cache.chain.len() + cache.fresh.len() as u32
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            self.table.dissolve(&self.supply);
        }
    }

    #[test]
    fn a_chain_gives_back_what_came_in() {
        let world = World::new(1);
        let mut cache = SlotCache::default();
        let slots: Vec<u32> = (0..100).map(|_| world.take(&mut cache).unwrap()).collect();
        let mut chain = Chain::default();
        assert!(chain.pop(&world.table).is_none());
        slots.iter().for_each(|&slot| chain.push(slot, world.table.known(slot)));
        assert_eq!(chain.len(), 100);
        let popped: Vec<u32> = std::iter::from_fn(|| chain.pop(&world.table))
            .map(|(slot, entry)| {
                assert!(std::ptr::eq(entry, world.table.known(slot)));
                slot
            })
            .collect();
        assert!(popped.iter().eq(slots.iter().rev()));
        assert!(chain.is_empty());
    }

    #[test]
    fn every_slot_is_handed_out_once() {
        let world = World::new(8);
        let (mut here, mut there) = (SlotCache::default(), SlotCache::default());
        for round in 0..4 {
            let mut seen = HashSet::new();
            for number in 0..8 * PAGE_SLOTS {
                let slot = world.take(if number % 3 == 0 { &mut there } else { &mut here });
                let slot = slot.or_else(|_| world.take(&mut here)).or_else(|_| world.take(&mut there)).unwrap();
                assert!(seen.insert(slot), "slot {slot} twice in round {round}");
            }
            assert_eq!(world.take(&mut here), Err(AllocError::HandlesExhausted));
            assert_eq!(world.take(&mut there), Err(AllocError::HandlesExhausted));
            for (number, slot) in seen.into_iter().enumerate() {
                world.put(if number % 5 == 0 { &mut here } else { &mut there }, slot);
            }
            if round % 2 == 0 {
                here.drain(&world.table);
                there.drain(&world.table);
                world.table.give_back_pages(&world.supply);
                assert_eq!(world.supply.held(), 0, "round {round}");
            }
        }
    }

    #[test]
    fn a_long_run_of_frees_leaves_little_behind_and_comes_and_goes_restore_the_bound() {
        let world = World::new(16);
        let (mut makes, mut frees) = (SlotCache::default(), SlotCache::default());
        let slots: Vec<u32> = (0..10_000).map(|_| world.take(&mut makes).unwrap()).collect();
        slots.iter().for_each(|&slot| world.put(&mut frees, slot));
        assert_eq!(frees.bound, LEAST);
        assert!(World::kept(&frees) as usize <= 2 * LEAST, "{frees:?}");
        for _ in 0..8 {
            let slots: Vec<u32> = (0..1000).map(|_| world.take(&mut frees).unwrap()).collect();
            slots.iter().take(100).for_each(|&slot| world.put(&mut frees, slot));
        }
        assert_eq!(frees.bound, MOST);
    }

    #[test]
    fn pairs_wear_no_slot_much_more_than_others() {
        let world = World::new(2);
        let (mut other, mut cache) = (SlotCache::default(), SlotCache::default());
        let slots: Vec<u32> = (0..2 * PAGE_SLOTS).map(|_| world.take(&mut other).unwrap()).collect();
        slots.iter().for_each(|&slot| world.put(&mut other, slot));
        other.drain(&world.table);
        // A cache that has shrunk as far as it can, and has only one chain.
        cache.bound = LEAST;
        for _ in 0..2 * PAGE_SLOTS * LAPS {
            let slot = world.take(&mut cache).unwrap();
            world.put(&mut cache, slot);
        }
        let lives = |slot: &u32| world.table.known(*slot).version() / 2;
        // On average it is as many as there are laps; the same few slots would have hundreds of times that.
        let most = slots.iter().map(lives).max().unwrap();
        assert!(most < 4 * LAPS, "{most} lives in a slot");
    }

    #[test]
    fn pages_go_back_but_for_those_with_a_slot_in_a_cache() {
        let world = World::new(64);
        let (mut here, mut there) = (SlotCache::default(), SlotCache::default());
        let mut slots: Vec<u32> = (0..40 * PAGE_SLOTS).map(|_| world.take(&mut here).unwrap()).collect();
        // A step that has no divisor in common with the number of slots: an order that mixes the pages.
        slots = (0..slots.len()).map(|index| slots[index * 100_003 % slots.len()]).collect();
        slots.iter().for_each(|&slot| world.put(&mut there, slot));
        world.table.give_back_pages(&world.supply);
        let kept = world.supply.held() / PAGE_BYTES;
        assert!(kept > 0 && kept <= World::kept(&there) as usize, "{kept} pages");
        // They are taken again before new ones.
        let again: HashSet<u32> =
            (0..40 * PAGE_SLOTS - World::kept(&there)).map(|_| world.take(&mut here).unwrap()).collect();
        assert!(again.is_subset(&slots.iter().copied().collect()));
        again.iter().for_each(|&slot| world.put(&mut here, slot));
        here.drain(&world.table);
        there.drain(&world.table);
        world.table.give_back_pages(&world.supply);
        assert_eq!(world.supply.held(), 0);
    }
}
