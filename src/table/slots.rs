//! Pages of entries, and the slots that are free in them.
//!
//! A slot's upper bits name its page in a flat directory, its lower bits the entry inside the page. Pages never move and
//! stay mapped while their shuffler lives, so a reference to an entry is good that long. The directory grows by being
//! copied to one of twice the size; the outgrown ones are kept, since a reader may be inside, and a page that is in an old
//! directory is in every later one.
//!
//! Free slots wait in the caches of shards, oldest first: a cache goes over a whole page before it reuses a slot. A cache
//! that overflows spills up to [`PAGE_SLOTS`] of them to the table, as a chain that is linked through the extents of their vacant
//! entries and so needs no memory.

use super::entry::{Entry, LAST_VERSION};
use super::numbers::{LAST_FLOOR, PageNumber, PageNumbers};
use crate::arena::Supply;
use crate::error::AllocError;
use crate::primitive::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::alloc::Layout;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, PoisonError};

const PAGE_BITS: u32 = 12;
/// Entries in a page.
pub(crate) const PAGE_SLOTS: u32 = 1 << PAGE_BITS;
/// Bytes of a page.
pub(crate) const PAGE_BYTES: usize = PAGE_SLOTS as usize * size_of::<Entry>();
const PAGE_LAYOUT: Layout = match Layout::from_size_align(PAGE_BYTES, 4096) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};
/// Pages that the first directory has room for.
const FIRST_DIRECTORY: usize = 64;

type Directory = Box<[AtomicPtr<Entry>]>;

fn directory(pages: usize) -> Directory {
    (0..pages).map(|_| AtomicPtr::new(ptr::null_mut())).collect()
}

/// A page of this table. Its memory stays mapped, and used for entries only, while the table lives.
#[derive(Clone, Copy, Debug)]
struct Page {
    number: PageNumber,
    entries: NonNull<Entry>,
    /// Its memory is given back: every entry reads as zero, which refuses everything.
    dormant: bool,
}

impl Page {
    fn first_slot(&self) -> u32 {
        self.number.number << PAGE_BITS
    }

    fn slots(&self) -> Range<u32> {
        self.first_slot()..self.first_slot() + PAGE_SLOTS
    }

    /// An even number that is not below any version the page's slots had.
    fn highest_version(&self) -> u32 {
        if self.dormant {
            return self.number.floor;
        }
        // SAFETY: a page has `PAGE_SLOTS` entries, which live as long as the table.
        let versions = (0..PAGE_SLOTS as usize).map(|index| unsafe { self.entries.add(index).as_ref() }.version());
        versions.max().unwrap_or(0).next_multiple_of(2)
    }

    /// Makes every entry vacant, at the page's floor. Nobody has a slot of the page.
    fn awaken(&mut self) {
        if self.number.floor > 0 {
            for index in 0..PAGE_SLOTS as usize {
                // SAFETY: as above; a thread with a stale handle may look at the entry meanwhile, through atomics.
                unsafe { self.entries.add(index).as_ref() }.vacate(self.number.floor);
            }
        }
        self.dormant = false;
    }
}

#[derive(Debug)]
struct Growth {
    /// Every directory there was; the last one is current.
    directories: Vec<Directory>,
    pages: Vec<Page>,
    /// What caches spilled, oldest first.
    spilled: VecDeque<Chain>,
}

/// The handle table of one shuffler.
#[derive(Debug)]
pub(crate) struct Table {
    /// The current directory; at least as long as `length` says.
    current: AtomicPtr<AtomicPtr<Entry>>,
    length: AtomicUsize,
    growth: Mutex<Growth>,
    numbers: &'static PageNumbers,
    retired: AtomicU64,
}

// SAFETY: the raw pointers lead to pages and directories that live as long as the table and hold only atomics.
unsafe impl Send for Table {}
// SAFETY: as above; what is not atomic is behind the mutex.
unsafe impl Sync for Table {}

impl Table {
    pub(crate) fn new(numbers: &'static PageNumbers) -> Self {
        let growth = Growth { directories: vec![directory(0)], pages: Vec::new(), spilled: VecDeque::new() };
        Self {
            current: AtomicPtr::new(ptr::null_mut()),
            length: AtomicUsize::new(0),
            growth: Mutex::new(growth),
            numbers,
            retired: AtomicU64::new(0),
        }
    }

    /// The entry of a slot, or `None` if this table never had its page.
    #[inline]
    pub(crate) fn entry(&self, slot: u32) -> Option<&Entry> {
        let index = (slot >> PAGE_BITS) as usize;
        // Acquire: pairs with the release in `add_page`; a directory of at least this length is found below.
        if index >= self.length.load(Ordering::Acquire) {
            return None;
        }
        // Acquire: pairs with the release in `add_page`; the directory's contents are visible.
        let current = self.current.load(Ordering::Acquire);
        // Acquire: pairs with the release in `add_page`; the versions in the page are visible.
        // SAFETY: directories are kept until the table goes, and the index is below the length of every one since.
        let page = unsafe { &*current.add(index) }.load(Ordering::Acquire);
        if page.is_null() {
            return None;
        }
        // SAFETY: a page has `PAGE_SLOTS` entries, which live as long as the table.
        Some(unsafe { &*page.add((slot & (PAGE_SLOTS - 1)) as usize) })
    }

    /// The entry of a slot that this table is known to have.
    ///
    /// Slots come from caches and headers, which have them from this table; so their pages are there.
    #[inline]
    pub(crate) fn known(&self, slot: u32) -> &Entry {
        debug_assert!(self.entry(slot).is_some(), "slot {slot} is not of this table");
        // Acquire: pairs with the release in `add_page`; this may be a later directory than the one that first had the page.
        let current = self.current.load(Ordering::Acquire);
        // Relaxed: the slot came by a way that its page's making happened before.
        // SAFETY: this table made the page of the slot, so every directory since has it.
        let page = unsafe { &*current.add((slot >> PAGE_BITS) as usize) }.load(Ordering::Relaxed);
        // SAFETY: as in `entry`.
        unsafe { &*page.add((slot & (PAGE_SLOTS - 1)) as usize) }
    }

    /// Slots whose versions are used up.
    pub(crate) fn retired(&self) -> u64 {
        self.retired.load(Ordering::Relaxed)
    }

    /// Bytes of pages and directories.
    pub(crate) fn bytes(&self) -> usize {
        let growth = self.lock();
        let directories: usize = growth.directories.iter().map(|directory| size_of_val(&**directory)).sum();
        growth.pages.iter().filter(|page| !page.dormant).count() * PAGE_BYTES + directories
    }

    /// Calls `visit` with every slot and its entry.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(u32, &Entry)) {
        let pages = self.lock().pages.clone();
        for page in pages.iter().filter(|page| !page.dormant) {
            for index in 0..PAGE_SLOTS {
                // SAFETY: as in `entry`.
                let entry = unsafe { page.entries.add(index as usize).as_ref() };
                visit(page.first_slot() | index, entry);
            }
        }
    }

    /// Fills an empty cache: with a chain that another cache spilled, else with a new page.
    #[cold]
    #[inline(never)]
    fn refill(&self, cache: &mut SlotCache, supply: &Supply) -> Result<(), AllocError> {
        {
            let mut growth = self.lock();
            if let Some(chain) = growth.spilled.pop_front() {
                cache.older.unlink(self, chain);
                return Ok(());
            }
            if let Some(page) = growth.pages.iter_mut().find(|page| page.dormant) {
                supply.charge(PAGE_BYTES, 0)?;
                page.awaken();
                cache.fresh = page.slots();
                return Ok(());
            }
        }
        let number = self.numbers.take().ok_or(AllocError::HandlesExhausted)?;
        match supply.acquire_zeroed(PAGE_LAYOUT, 0) {
            Ok(chunk) => {
                let mut page = Page { number, entries: chunk.cast(), dormant: false };
                page.awaken();
                self.add_page(page);
                cache.fresh = page.slots();
                Ok(())
            }
            Err(cause) => {
                self.numbers.give_back(number.number, number.floor);
                Err(cause)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Growth> {
        self.growth.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the memory of pages back whose every slot is free and in the table's own hands.
    ///
    /// Caches that should take part have to be [drained](SlotCache::drain) before.
    pub(crate) fn give_back_pages(&self, supply: &Supply) {
        // Nobody has a slot of these pages now, so only stale handles lead there. No lock is held while they are given back.
        for (index, entries, floor) in self.take_whole_pages() {
            // SAFETY: the range is one chunk of this supply. Its entries are vacant, and reading zeros they refuse everything.
            let discarded = unsafe { supply.discard(entries.cast(), PAGE_BYTES) };
            let mut growth = self.lock();
            let page = &mut growth.pages[index];
            if discarded {
                page.number.floor = floor;
                page.dormant = true;
            } else {
                let slots: Vec<u32> = page.slots().collect();
                growth.spilled.extend(Chain::of(self, &slots));
            }
        }
    }

    /// Takes the slots of pages whose every slot was spilled out of the chains, and returns those pages: their places, their
    /// memory and the floors of their next lives.
    fn take_whole_pages(&self) -> Vec<(usize, NonNull<Entry>, u32)> {
        let mut growth = self.lock();
        let mut free: HashMap<u32, u32> = HashMap::new();
        for slot in growth.spilled.iter().flat_map(|chain| chain.slots(self)) {
            *free.entry(slot >> PAGE_BITS).or_default() += 1;
        }
        let pages = growth.pages.iter().enumerate();
        let full = pages.filter(|(_, page)| free.get(&page.number.number) == Some(&PAGE_SLOTS));
        let floors = full.map(|(index, page)| (index, page.entries, page.highest_version()));
        let whole: Vec<_> = floors.filter(|&(_, _, floor)| floor < LAST_FLOOR).collect();
        if !whole.is_empty() {
            let taken: HashSet<u32> = whole.iter().map(|&(index, ..)| growth.pages[index].number.number).collect();
            for chain in std::mem::take(&mut growth.spilled) {
                growth.spilled.extend(chain.without(self, |slot| taken.contains(&(slot >> PAGE_BITS))));
            }
        }
        whole
    }

    fn add_page(&self, page: Page) {
        let mut growth = self.lock();
        let index = page.number.number as usize;
        let last = growth.directories.last().expect("there is always one");
        if index >= last.len() {
            let mut larger = directory((index + 1).next_power_of_two().max(FIRST_DIRECTORY));
            for (to, from) in larger.iter_mut().zip(last) {
                *to = AtomicPtr::new(from.load(Ordering::Relaxed));
            }
            // Release, both: pair with the acquire in `entry`; the length is published after what has it.
            self.current.store(larger.as_mut_ptr(), Ordering::Release);
            self.length.store(larger.len(), Ordering::Release);
            growth.directories.push(larger);
        }
        let last = growth.directories.last().expect("there is always one");
        // Release: pairs with the acquire in `entry`.
        last[index].store(page.entries.as_ptr(), Ordering::Release);
        growth.pages.push(page);
    }

    /// Gives every page back, with the floor of its versions. Nobody may use the table any more.
    pub(crate) fn dissolve(&mut self, supply: &Supply) {
        let growth = self.growth.get_mut().unwrap_or_else(PoisonError::into_inner);
        for page in growth.pages.drain(..) {
            self.numbers.give_back(page.number.number, page.highest_version());
            if page.dormant {
                supply.recharge(PAGE_BYTES);
            }
            // SAFETY: the page came from this supply with this layout, and nobody uses the table any more.
            unsafe { supply.release(page.entries.cast(), PAGE_LAYOUT) };
        }
        growth.spilled.clear();
        *self.length.get_mut() = 0;
        growth.directories = vec![directory(0)];
    }
}

/// Free slots linked through the extents of their entries.
#[derive(Clone, Copy, Debug)]
struct Chain {
    first: u32,
    count: usize,
}

impl Chain {
    /// Links free slots that are the caller's own. `None`: there are none.
    fn of(table: &Table, slots: &[u32]) -> Option<Self> {
        for pair in slots.windows(2) {
            table.known(pair[0]).set_extent(pair[1]);
        }
        slots.first().map(|&first| Self { first, count: slots.len() })
    }

    /// The slots, oldest first. The link of one is read before it is given out.
    fn slots(self, table: &Table) -> impl Iterator<Item = u32> {
        let mut next = self.first;
        (0..self.count).map(move |index| {
            let slot = next;
            if index + 1 < self.count {
                next = table.known(slot).extent();
            }
            slot
        })
    }

    /// The chain without some of its slots. `None`: nothing is left.
    fn without(self, table: &Table, dropped: impl Fn(u32) -> bool) -> Option<Self> {
        let mut kept: Option<Self> = None;
        let mut last = 0;
        for slot in self.slots(table).filter(|&slot| !dropped(slot)) {
            match &mut kept {
                None => kept = Some(Self { first: slot, count: 1 }),
                Some(chain) => {
                    table.known(last).set_extent(slot);
                    chain.count += 1;
                }
            }
            last = slot;
        }
        kept
    }
}

/// Up to a page's worth of free slots, first in, first out.
#[derive(Debug, Default)]
struct Magazine {
    /// Made at first use.
    slots: Box<[u32]>,
    start: usize,
    end: usize,
}

impl Magazine {
    #[inline]
    fn pop(&mut self) -> Option<u32> {
        if self.start == self.end {
            return None;
        }
        self.start += 1;
        self.slots.get(self.start - 1).copied()
    }

    /// `false`: it is full, or has no memory yet.
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

    /// Gives the empty magazine its memory.
    fn provide(&mut self) {
        self.reset();
        if self.slots.is_empty() {
            self.slots = vec![0; PAGE_SLOTS as usize].into_boxed_slice();
        }
    }

    fn reset(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Empties the magazine into a chain.
    fn link(&mut self, table: &Table) -> Option<Chain> {
        let chain = Chain::of(table, &self.slots[self.start..self.end]);
        self.reset();
        chain
    }

    /// Fills the empty magazine with a chain.
    fn unlink(&mut self, table: &Table, chain: Chain) {
        self.provide();
        for slot in chain.slots(table) {
            self.push(slot);
        }
    }
}

/// The free slots of one shard.
#[derive(Debug, Default)]
pub(crate) struct SlotCache {
    /// Slots of a new page that were never used.
    fresh: Range<u32>,
    older: Magazine,
    newer: Magazine,
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
            if self.newer.end > 0 {
                self.older.reset();
                std::mem::swap(&mut self.older, &mut self.newer);
            } else {
                table.refill(self, supply)?;
            }
        }
    }

    /// Takes back a slot that no life is in, and that is at `version`.
    #[inline]
    pub(crate) fn put(&mut self, table: &Table, slot: u32, version: u32) {
        if version > LAST_VERSION || !self.newer.push(slot) {
            self.put_slow(table, slot, version);
        }
    }

    /// Hands every slot to the table, and lets go of the cache's own memory.
    pub(crate) fn drain(&mut self, table: &Table) {
        let fresh: Vec<u32> = self.fresh.by_ref().collect();
        let chains = [self.older.link(table), self.newer.link(table), Chain::of(table, &fresh)];
        table.lock().spilled.extend(chains.into_iter().flatten());
        // The magazines' own memory goes too; whoever needs it again makes it anew.
        (self.older, self.newer) = Default::default();
    }

    /// Retires a slot whose versions are used up, or makes room for it: what is left of the older magazine is spilled.
    #[cold]
    #[inline(never)]
    fn put_slow(&mut self, table: &Table, slot: u32, version: u32) {
        if version > LAST_VERSION {
            table.retired.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if self.newer.end > 0 {
            if let Some(chain) = self.older.link(table) {
                table.lock().spilled.push_back(chain);
            }
            std::mem::swap(&mut self.older, &mut self.newer);
        }
        self.newer.provide();
        self.newer.push(slot);
    }
}

const _: () = assert!(size_of::<Entry>() == 16);
