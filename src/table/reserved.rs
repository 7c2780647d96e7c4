//! Address space for every page that a table can have.
//!
//! Where the source can reserve so much, the pages lie in one range, in the order of their numbers. A slot leads to its entry
//! by one addition then, with no directory and no check on the way, and reads are a third faster for it: of many reads
//! that miss the cache, as many overlap as the processor has room for the instructions of. What has no page reads as zero,
//! which refuses everything.

use super::entry::Entry;
use crate::arena::Supply;
use crate::primitive::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::alloc::Layout;
use std::mem;
use std::ptr::{self, NonNull};
use std::sync::Once;

/// Room for every slot that a handle can name: 64 GiB.
const LAYOUT: Layout = match Layout::from_size_align(size_of::<Entry>() << 32, 4096) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};

/// Tables of the process that have a range, at the most: later ones do without, so that address space is left for arenas. It is a
/// quarter of what processes have on x86-64; elsewhere some have no more than 512 GiB.
const MOST: usize = if cfg!(target_arch = "x86_64") { 512 } else { 4 };
static TABLES: AtomicUsize = AtomicUsize::new(0);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Reserved {
    /// Null: there is no range, or none yet.
    entries: AtomicPtr<Entry>,
    /// The source was asked: when the first page is made, since an empty table costs nothing.
    asked: Once,
}

impl Reserved {
    pub(super) const fn new() -> Self {
        Self { entries: AtomicPtr::new(ptr::null_mut()), asked: Once::new() }
    }

    /// The entry of slot 0, if there is a range. There is room for every slot, which reads as zero where there is no page.
    #[inline]
    pub(super) fn entries(&self) -> Option<NonNull<Entry>> {
        // Acquire: pairs with the release in `reserve`; the range is there.
        NonNull::new(self.entries.load(Ordering::Acquire))
    }

    /// As [`entries`](Self::entries); the first call asks the source.
    pub(super) fn reserve(&self, supply: &Supply) -> Option<NonNull<Entry>> {
        self.asked.call_once(|| {
            // Relaxed, here and below: the count orders nothing.
            let another = |count: usize| (count < MOST).then_some(count + 1);
            if TABLES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, another).is_err() {
                return;
            }
            match supply.acquire_sparse(LAYOUT) {
                // Release: pairs with the acquire in `entries`.
                Some(entries) => self.entries.store(entries.cast().as_ptr(), Ordering::Release),
                None => drop(TABLES.fetch_sub(1, Ordering::Relaxed)),
            }
        });
        self.entries()
    }

    /// Gives the range back, if there is one, of whose bytes `charged` count as held. Nobody may use it any more.
    pub(super) fn release(&mut self, supply: &Supply, charged: usize) {
        if let Some(entries) = NonNull::new(mem::replace(self.entries.get_mut(), ptr::null_mut())) {
            // SAFETY: it came from this supply with this layout, and nobody uses it any more.
            unsafe { supply.release_charged(entries.cast(), LAYOUT, charged) };
            TABLES.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
