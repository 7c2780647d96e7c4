//! Pages of entries, and the slots that are free in them.
//!
//! A slot's upper bits name its page in a flat directory, its lower bits the entry inside the page. Pages never move and
//! stay mapped while their shuffler lives, so a reference to an entry is good that long. The directory grows by being
//! copied to one of twice the size; the outgrown ones are kept, since a reader may be inside, and a page that is in an old
//! directory is in every later one. Where address space can be [reserved](super::reserved) for all pages there can be, reads and
//! holds need no directory.
//!
//! Free slots wait in the [caches](super::cache) of shards, and in the table, in [chains](super::chain) that are handed over
//! whole; [pages that are free whole](super::upkeep) give their memory back. The table's lock is held for a few steps at a time,
//! never while entries are gone through and never across a call to the system.

use super::chain::{Chain, FreeSlots};
use super::entry::Entry;
use super::numbers::{PageNumber, PageNumbers};
use super::reserved::Reserved;
use super::upkeep::{Bell, Upkeep};
use crate::arena::Supply;
use crate::error::AllocError;
use crate::primitive::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) const PAGE_BITS: u32 = 12;
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

/// Pages by number, as the table keeps them. Others look in through a pointer for as long as it is there, which a box does not
/// allow once it is moved: so it is a pointer here too.
#[derive(Debug)]
struct OwnedDirectory(NonNull<[AtomicPtr<Entry>]>);

impl OwnedDirectory {
    fn new(pages: usize) -> Self {
        let pages: Box<[_]> = (0..pages).map(|_| AtomicPtr::new(ptr::null_mut())).collect();
        Self(NonNull::from(Box::leak(pages)))
    }

    fn pages(&self) -> &[AtomicPtr<Entry>] {
        // SAFETY: the box was leaked for this, which alone frees it, when it is dropped.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for OwnedDirectory {
    fn drop(&mut self) {
        // SAFETY: made from a box in `new`; the table, which drops it, is used by nobody any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// A table as it was at some moment. It may lack pages that were added since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageDirectory<'a> {
    /// Of slot 0, if the pages lie in a reserved range.
    entries: Option<NonNull<Entry>>,
    pages: &'a [AtomicPtr<Entry>],
}

// SAFETY: the pointer leads to entries that live as long as the table and hold only atomics.
unsafe impl Send for PageDirectory<'_> {}
// SAFETY: as above.
unsafe impl Sync for PageDirectory<'_> {}

impl<'a> PageDirectory<'a> {
    /// The entry of the slot of a typed handle. Without a page it is `None`, or one that is in no life.
    #[inline]
    pub(crate) fn entry(self, slot: u32) -> Option<&'a Entry> {
        match self.entries {
            // SAFETY: the range has room for every slot, reads as zero where there is no page, and lives as long as the table,
            // from which this is borrowed.
            Some(entries) => Some(unsafe { entries.add(slot as usize).as_ref() }),
            None => self.entry_in_page(slot),
        }
    }

    /// The entry of a slot, or `None` if its page is not in this directory.
    #[inline]
    fn entry_in_page(self, slot: u32) -> Option<&'a Entry> {
        // Acquire: pairs with the release in `add_page`; the versions in the page are visible.
        let page = self.pages.get((slot >> PAGE_BITS) as usize)?.load(Ordering::Acquire);
        if page.is_null() {
            return None;
        }
        // SAFETY: a page has `PAGE_SLOTS` entries, which live as long as the table, from which this is borrowed.
        Some(unsafe { &*page.add((slot & (PAGE_SLOTS - 1)) as usize) })
    }
}

/// A page of this table. Its memory stays mapped, and used for entries only, while the table lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    pub(super) number: PageNumber,
    pub(super) entries: NonNull<Entry>,
    /// Its memory is given back: every entry reads as zero, which refuses everything.
    pub(super) dormant: bool,
}

impl Page {
    fn first_slot(&self) -> u32 {
        self.number.number << PAGE_BITS
    }

    fn slots(&self) -> Range<u32> {
        self.first_slot()..self.first_slot() + PAGE_SLOTS
    }

    /// An even number that is not below any version the page's slots had.
    pub(super) fn highest_version(&self) -> u32 {
        if self.dormant {
            return self.number.floor;
        }
        // SAFETY: a page has `PAGE_SLOTS` entries, which live as long as the table.
        let versions = (0..PAGE_SLOTS as usize).map(|index| unsafe { self.entries.add(index).as_ref() }.version());
        versions.max().unwrap_or(0).next_multiple_of(2)
    }

    /// Makes every entry vacant, at the page's floor. Nobody has a slot of the page but the caller.
    fn awaken(&self) {
        if self.number.floor > 0 {
            for index in 0..PAGE_SLOTS as usize {
                // SAFETY: as above; a thread with a stale handle may look at the entry meanwhile, through atomics.
                unsafe { self.entries.add(index).as_ref() }.vacate(self.number.floor);
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Growth {
    /// Every directory there was; the last one is current.
    directories: Vec<OwnedDirectory>,
    /// By number. (A tree, because an array would be copied whole, under the lock, when it outgrows its memory.)
    pub(super) pages: BTreeMap<u32, Page>,
    /// The numbers of those that are dormant.
    pub(super) dormant: Vec<u32>,
    /// What caches spilled.
    pub(super) free: FreeSlots,
    /// The upkeep of pages, and what it knows.
    pub(super) upkeep: Upkeep,
}

impl Growth {
    /// A page that was given back, its memory counted again. Its entries are to be made vacant.
    fn take_dormant(&mut self, supply: &Supply) -> Result<Option<Page>, AllocError> {
        let Some(number) = self.dormant.last() else { return Ok(None) };
        supply.charge(PAGE_BYTES, 0)?;
        let page = self.pages.get_mut(number).expect("a dormant page is one of the table's");
        page.dormant = false;
        self.dormant.pop();
        Ok(Some(*page))
    }
}

/// The handle table of one shuffler.
#[derive(Debug)]
pub(crate) struct Table {
    reserved: Reserved,
    /// The current directory; at least as long as `length` says.
    current: AtomicPtr<AtomicPtr<Entry>>,
    pub(super) length: AtomicUsize,
    growth: Mutex<Growth>,
    pub(super) bell: Bell,
    numbers: &'static PageNumbers,
    retired: AtomicU64,
}

// SAFETY: the raw pointers lead to pages and directories that live as long as the table and hold only atomics.
unsafe impl Send for Table {}
// SAFETY: as above; what is not atomic is behind the mutex.
unsafe impl Sync for Table {}

impl Table {
    pub(crate) fn new(numbers: &'static PageNumbers) -> Self {
        let growth = Growth {
            directories: vec![OwnedDirectory::new(0)],
            pages: BTreeMap::new(),
            dormant: Vec::new(),
            free: FreeSlots::default(),
            upkeep: Upkeep::default(),
        };
        Self {
            reserved: Reserved::new(),
            current: AtomicPtr::new(ptr::dangling_mut()),
            length: AtomicUsize::new(0),
            growth: Mutex::new(growth),
            bell: Bell::default(),
            numbers,
            retired: AtomicU64::new(0),
        }
    }

    /// The entry of a slot, which may come from anywhere. If this table never had its page, it is `None`, or one that is in no
    /// life.
    #[inline]
    pub(crate) fn entry(&self, slot: u32) -> Option<&Entry> {
        match self.reserved.entries() {
            // What is far from any page is not even looked at: that would cost the system's page tables memory.
            // Acquire: as in `directory`.
            Some(_) if (slot >> PAGE_BITS) as usize >= self.length.load(Ordering::Acquire) => None,
            // SAFETY: as in `PageDirectory::entry`.
            Some(entries) => Some(unsafe { entries.add(slot as usize).as_ref() }),
            None => self.directory().entry_in_page(slot),
        }
    }

    /// Whether this table has the page of a slot.
    fn has_page(&self, slot: u32) -> bool {
        self.directory().entry_in_page(slot).is_some()
    }

    /// The directory as it stands. What is looked up in it several times need not be loaded as often.
    #[inline]
    pub(crate) fn directory(&self) -> PageDirectory<'_> {
        // Acquire: pairs with the release in `add_page`; a directory of at least this length is found below.
        let length = self.length.load(Ordering::Acquire);
        // Acquire: pairs with the release in `add_page`; the directory's contents are visible.
        let current = self.current.load(Ordering::Acquire);
        // SAFETY: directories are kept until the table goes, and every one since that length was stored has it.
        let pages = unsafe { slice::from_raw_parts(current, length) };
        PageDirectory { entries: self.reserved.entries(), pages }
    }

    /// The entry of a slot that this table is known to have.
    ///
    /// Slots come from caches and headers, which have them from this table; so their pages are there.
    #[inline]
    pub(crate) fn known(&self, slot: u32) -> &Entry {
        debug_assert!(self.has_page(slot), "slot {slot} is not of this table");
        if let Some(entries) = self.reserved.entries() {
            // SAFETY: as in `PageDirectory::entry`.
            return unsafe { entries.add(slot as usize).as_ref() };
        }
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

    /// Counts a slot whose versions are used up. No cache has it again, so its page is never given back.
    pub(super) fn retire(&self) {
        self.retired.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of pages and directories.
    pub(crate) fn bytes(&self) -> usize {
        let growth = self.lock();
        let directories: usize = growth.directories.iter().map(|directory| size_of_val(directory.pages())).sum();
        (growth.pages.len() - growth.dormant.len()) * PAGE_BYTES + directories
    }

    /// Calls `visit` with every slot and its entry.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(u32, &Entry)) {
        let pages: Vec<Page> = self.lock().pages.values().copied().collect();
        for page in pages.iter().filter(|page| !page.dormant) {
            for index in 0..PAGE_SLOTS {
                // SAFETY: as in `entry`.
                let entry = unsafe { page.entries.add(index as usize).as_ref() };
                visit(page.first_slot() | index, entry);
            }
        }
    }

    /// Every slot and its entry, without the lock: pages are looked for as they are come to.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (u32, &Entry)> {
        // Acquire: as in `entry`, which looks again.
        let is_there = |page: &u32| (*page as usize) < self.length.load(Ordering::Acquire);
        let pages = (0..=u32::MAX >> PAGE_BITS).take_while(is_there).map(|page| page << PAGE_BITS);
        let slots = pages.filter(|first| self.has_page(*first)).flat_map(|first| first..=first | (PAGE_SLOTS - 1));
        slots.filter_map(|slot| Some((slot, self.entry(slot)?)))
    }

    /// Slots for an empty cache: some that another cache spilled, else a page.
    #[cold]
    #[inline(never)]
    pub(super) fn refill(&self, supply: &Supply) -> Result<(Chain, Range<u32>), AllocError> {
        match self.try_refill(supply) {
            // The upkeep may have all the slots there are just now.
            Err(_) if self.call_back_slots() => self.try_refill(supply),
            outcome => outcome,
        }
    }

    fn try_refill(&self, supply: &Supply) -> Result<(Chain, Range<u32>), AllocError> {
        let dormant = {
            let mut growth = self.lock();
            if let Some(slots) = growth.free.fresh.pop() {
                return Ok((Chain::default(), slots));
            }
            if let Some(chain) = growth.free.pop() {
                return Ok((chain, 0..0));
            }
            growth.take_dormant(supply)?
        };
        let page = match dormant {
            Some(page) => {
                page.awaken();
                page
            }
            None => self.make_page(supply)?,
        };
        Ok((Chain::default(), page.slots()))
    }

    fn make_page(&self, supply: &Supply) -> Result<Page, AllocError> {
        let number = self.numbers.take().ok_or(AllocError::HandlesExhausted)?;
        match self.page_memory(number.number, supply) {
            Ok(entries) => {
                let page = Page { number, entries, dormant: false };
                page.awaken();
                self.add_page(page);
                Ok(page)
            }
            Err(cause) => {
                self.numbers.give_back(number.number, number.floor);
                Err(cause)
            }
        }
    }

    /// Zeros for the page of a number that this table never had.
    fn page_memory(&self, number: u32, supply: &Supply) -> Result<NonNull<Entry>, AllocError> {
        let Some(entries) = self.reserved.reserve(supply) else {
            return Ok(supply.acquire_zeroed(PAGE_LAYOUT, 0)?.cast());
        };
        supply.charge(PAGE_BYTES, 0)?;
        // SAFETY: the range has room for every slot.
        Ok(unsafe { entries.add((number << PAGE_BITS) as usize) })
    }

    /// Takes free slots that are the caller's own.
    pub(super) fn spill(&self, chains: [Chain; 3], fresh: Range<u32>) {
        let count = chains.iter().map(|chain| chain.len() as usize).sum::<usize>() + fresh.len();
        if count == 0 {
            return;
        }
        let mut growth = self.lock();
        growth.upkeep.gathered += count;
        chains.into_iter().for_each(|chain| growth.free.gather(self, chain));
        growth.free.push_fresh(fresh);
    }

    /// Takes a chain for the one that has waited longest; or returns it, if there is no other.
    pub(super) fn exchange(&self, worn: Chain) -> Chain {
        let mut growth = self.lock();
        let Some(other) = growth.free.pop() else { return worn };
        growth.upkeep.gathered += worn.len() as usize;
        growth.free.push(worn);
        other
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Growth> {
        self.growth.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_page(&self, page: Page) {
        let mut growth = self.lock();
        let index = page.number.number as usize;
        let last = growth.directories.last().expect("there is always one").pages();
        if index >= last.len() {
            let larger = OwnedDirectory::new((index + 1).next_power_of_two().max(FIRST_DIRECTORY));
            for (to, from) in larger.pages().iter().zip(last) {
                // Relaxed: nobody else knows it yet.
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            // Release, both: pair with the acquire in `entry`; the length is published after what has it.
            self.current.store(larger.0.as_ptr().cast(), Ordering::Release);
            self.length.store(larger.pages().len(), Ordering::Release);
            growth.directories.push(larger);
        }
        let last = growth.directories.last().expect("there is always one").pages();
        // Release: pairs with the acquire in `entry`.
        last[index].store(page.entries.as_ptr(), Ordering::Release);
        growth.pages.insert(page.number.number, page);
    }

    /// Gives every page back, with the floor of its versions. Nobody may use the table any more.
    pub(crate) fn dissolve(&mut self, supply: &Supply) {
        let growth = self.growth.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for page in std::mem::take(&mut growth.pages).into_values() {
            self.numbers.give_back(page.number.number, page.highest_version());
            if page.dormant {
                supply.recharge(PAGE_BYTES);
            }
            if self.reserved.entries().is_none() {
                // SAFETY: the page came from this supply with this layout, and nobody uses the table any more.
                unsafe { supply.release(page.entries.cast(), PAGE_LAYOUT) };
            }
            count += 1;
        }
        self.reserved.release(supply, count * PAGE_BYTES);
        growth.dormant.clear();
        growth.free = FreeSlots::default();
        *self.length.get_mut() = 0;
        growth.directories = vec![OwnedDirectory::new(0)];
    }
}

const _: () = assert!(size_of::<Entry>() == 16);
