//! Pages that are free whole, and giving their memory back.
//!
//! Whether a page is free whole shows only when the free slots are gone through, and their entries are cold by then. So the
//! upkeep takes all of them out of the table and looks at them with no lock held. Caches that run empty meanwhile find none
//! and take a page, a dormant one or a new one. Only a cache that could have neither [calls the slots back](Table::call_back_slots):
//! the upkeep looks for that call after every few slots, and ends early.
//!
//! What it puts back is sorted by page: one chain has slots of one page, and those of the fullest pages are handed out first.
//! So the free slots of a cache lie in few pages, and pages that are nearly free become so.

use super::chain::{Chain, FreeSlots};
use super::numbers::LAST_FLOOR;
use super::slots::{Growth, PAGE_BITS, PAGE_BYTES, PAGE_SLOTS, Table};
use crate::arena::Supply;
use crate::primitive::sync::atomic::{AtomicBool, Ordering};
use std::mem::take;
use std::ops::Range;
use std::sync::{Condvar, MutexGuard, PoisonError};
use std::time::Duration;

/// Chains that are gone through at once: the cache misses of one are waited for together with those of the others.
const ABREAST: usize = 16;
/// Chains of fewer slots than this are put together with others.
const SHORT: u32 = 64;
/// How long to wait for another thread's upkeep. It answers within microseconds, unless it is kept from running.
const PATIENCE: Duration = Duration::from_millis(100);

/// What the table knows of the upkeep of its pages. Behind its lock.
#[derive(Debug)]
pub(super) struct Upkeep {
    /// A thread has the free slots.
    under_way: bool,
    /// Slots spilled since they were last gone through.
    pub(super) gathered: usize,
    /// How many have to be spilled before another page can be free whole.
    needed: usize,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self { under_way: false, gathered: 0, needed: PAGE_SLOTS as usize }
    }
}

/// How a thread without a slot, and one that has them all, tell each other.
#[derive(Debug, Default)]
pub(super) struct Bell {
    /// A cache is empty, and there is no page to be had for it.
    called: AtomicBool,
    answered: Condvar,
}

/// The free slots of one page.
#[derive(Debug, Default)]
struct FreeInPage {
    chain: Chain,
    /// What was never used: of one page there is one such part at the most.
    fresh: Range<u32>,
}

impl FreeInPage {
    fn count(&self) -> u32 {
        self.chain.len() + self.fresh.len() as u32
    }

    fn put_into(self, free: &mut FreeSlots) {
        free.push(self.chain);
        free.push_fresh(self.fresh);
    }
}

/// The free slots while a thread has them out of the table. However that ends, they go back.
#[derive(Debug)]
struct Round<'a> {
    table: &'a Table,
    free: FreeSlots,
    /// Pages that are free whole, by number.
    whole: Vec<(u32, FreeInPage)>,
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        take(&mut self.whole).into_iter().for_each(|(_, slots)| slots.put_into(&mut self.free));
        let mut growth = self.put_back();
        growth.upkeep.under_way = false;
        drop(growth);
        self.table.bell.answered.notify_all();
    }
}

impl<'a> Round<'a> {
    /// `None`: there is nothing to be gained, or another thread is at it, and stays there.
    fn begin(table: &'a Table) -> Option<Self> {
        let growth = table.lock();
        let at_it = |growth: &mut Growth| growth.upkeep.under_way;
        let waited = table.bell.answered.wait_timeout_while(growth, PATIENCE, at_it);
        let (mut growth, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let upkeep = &mut growth.upkeep;
        if upkeep.under_way || upkeep.gathered < upkeep.needed {
            return None;
        }
        (upkeep.under_way, upkeep.gathered) = (true, 0);
        // Relaxed: written under the lock, and a call that is seen late is answered late.
        table.bell.called.store(false, Ordering::Relaxed);
        Some(Self { table, free: take(&mut growth.free), whole: Vec::new() })
    }

    fn is_called(&self) -> bool {
        // Relaxed: it only says that there is hurry; slots change hands under the lock.
        self.table.bell.called.load(Ordering::Relaxed)
    }

    /// Puts what is not in a whole page back, before what was spilled meanwhile.
    fn put_back(&mut self) -> MutexGuard<'a, Growth> {
        let mut free = take(&mut self.free);
        let mut growth = self.table.lock();
        free.append(take(&mut growth.free));
        growth.free = free;
        growth
    }

    /// Sorts the free slots by page. `None`: it was called off, and all of them are in `free` as before.
    fn sort(&mut self) -> Option<Vec<FreeInPage>> {
        // Acquire: pairs with the release in `add_page`. The slots came through the lock, so their pages are counted in.
        let pages = self.table.length.load(Ordering::Acquire);
        let mut sorted: Vec<FreeInPage> = (0..pages).map(|_| FreeInPage::default()).collect();
        for slots in take(&mut self.free.fresh) {
            let page = (slots.start >> PAGE_BITS) as usize;
            sorted[page].fresh = slots;
        }
        let mut abreast: Vec<Chain> = Vec::with_capacity(ABREAST);
        loop {
            while abreast.len() < ABREAST
                && let Some(chain) = self.free.pop()
            {
                abreast.push(chain);
            }
            if abreast.is_empty() {
                return Some(sorted);
            }
            if self.is_called() {
                abreast.into_iter().for_each(|chain| self.free.push(chain));
                sorted.into_iter().for_each(|slots| slots.put_into(&mut self.free));
                return None;
            }
            abreast.retain_mut(|chain| {
                if let Some((slot, entry)) = chain.pop(self.table) {
                    sorted[(slot >> PAGE_BITS) as usize].chain.push(slot, entry);
                }
                !chain.is_empty()
            });
        }
    }

    /// Takes the pages out that are free whole, and makes the rest ready to be put back. Returns how many slots are missing in
    /// the page that has the most of the rest.
    fn divide(&mut self, sorted: Vec<FreeInPage>) -> u32 {
        let numbered = (0_u32..).zip(sorted).filter(|(_, slots)| slots.count() > 0);
        let (whole, mut rest): (Vec<_>, Vec<_>) = numbered.partition(|(_, slots)| slots.count() == PAGE_SLOTS);
        self.whole = whole;
        // The fewest first: their pages are the fullest.
        rest.sort_unstable_by_key(|(_, slots)| slots.count());
        let most = rest.last().map_or(0, |(_, slots)| slots.count());
        let mut short = Chain::default();
        for (_, mut slots) in rest {
            if slots.chain.len() < SHORT && !self.is_called() {
                while let Some((slot, entry)) = slots.chain.pop(self.table) {
                    short.push(slot, entry);
                }
                if short.len() >= SHORT {
                    self.free.push(take(&mut short));
                }
            }
            slots.put_into(&mut self.free);
        }
        self.free.push(short);
        PAGE_SLOTS - most
    }

    /// Gives the memory of a page back that nobody else has a slot of. `false`: it stays as it is.
    fn give_back(&self, number: u32, supply: &Supply) -> bool {
        let page = self.table.lock().pages[&number];
        let floor = page.highest_version();
        // SAFETY: the range is one chunk of this supply. Its slots are this round's, so only stale handles lead there; its
        // entries are vacant, and reading zeros they refuse everything.
        if floor >= LAST_FLOOR || !unsafe { supply.discard(page.entries.cast(), PAGE_BYTES) } {
            return false;
        }
        let mut growth = self.table.lock();
        let page = growth.pages.get_mut(&number).expect("pages stay as long as the table");
        page.number.floor = floor;
        page.dormant = true;
        growth.dormant.push(number);
        true
    }
}

impl Table {
    /// Gives the memory of pages back whose every slot is free and in the table's own hands.
    ///
    /// Caches that should take part have to be [drained](super::SlotCache::drain) before.
    pub(crate) fn give_back_pages(&self, supply: &Supply) {
        let Some(mut round) = Round::begin(self) else { return };
        let Some(sorted) = round.sort() else {
            // It would have paid, and will the next time.
            let mut growth = self.lock();
            growth.upkeep.gathered += growth.upkeep.needed;
            return;
        };
        let needed = round.divide(sorted);
        round.put_back().upkeep.needed = needed as usize;
        while !round.is_called()
            && let Some((number, slots)) = round.whole.pop()
        {
            if !round.give_back(number, supply) {
                slots.put_into(&mut round.free);
            }
        }
    }

    /// Asks the upkeep, if one is under way, for the slots that it has, and waits for them. `false`: there is none, and no use
    /// in another try.
    #[cold]
    pub(super) fn call_back_slots(&self) -> bool {
        let growth = self.lock();
        if !growth.upkeep.under_way {
            // One may have ended since the caller looked.
            return !(growth.free.is_empty() && growth.dormant.is_empty());
        }
        // Relaxed: as in `is_called`.
        self.bell.called.store(true, Ordering::Relaxed);
        let out = |growth: &mut Growth| growth.upkeep.under_way && growth.free.is_empty();
        // Whoever has them may be kept from running, so there is a bound; the next try tells how it went.
        let _ = self.bell.answered.wait_timeout_while(growth, PATIENCE, out);
        true
    }
}
