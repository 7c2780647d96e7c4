//! Where memory comes from: the parent allocator of arenas, large blocks and tables.
//!
//! | source | memory | gives pages back |
//! |---|---|---|
//! | `OsSource` (default on Unix) | large reservations of address space | yes, also out of the middle of a chunk |
//! | [`BumpSource`] (default elsewhere) | the global allocator, one `Bump` a chunk | whole chunks, if that does |
//! | [`RegionSource`] | a region that the program owns | never |

use std::alloc::{self, Layout};
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bumpalo::Bump;

use super::ranges::RangeMap;

mod bump;
#[cfg(unix)]
mod os;
mod region;

pub use bump::BumpSource;
#[cfg(unix)]
pub use os::OsSource;
pub use region::RegionSource;

/// The source that a shuffler uses unless it is given another.
#[cfg(unix)]
pub type DefaultSource = OsSource;
/// The source that a shuffler uses unless it is given another.
#[cfg(not(unix))]
pub type DefaultSource = BumpSource;

/// Chunks end at or below this address: the packed words of the handle table have room for no more.
const ADDRESS_END: u64 = 1 << 48;

/// The parent allocator: where a shuffler gets the memory for arenas, large blocks and tables.
///
/// # Safety
///
/// Each chunk that [`acquire`](Self::acquire) or [`acquire_zeroed`](Self::acquire_zeroed) returns
/// - is exclusively the caller's until it is released, or until the source is dropped,
/// - has at least `layout.size()` bytes and is aligned to `layout.align()`,
/// - lies entirely below address 2<sup>48</sup>, and
/// - stays mapped, readable and writable from every thread, until then.
///
/// No method uses a shuffler that has its memory from this source: it is called in the middle of that one's work.
///
/// Bytes are zero where the methods say so.
#[doc(alias = "parent_allocator")]
pub unsafe trait ArenaSource: Send + Sync + 'static {
    /// A chunk of memory whose contents are unspecified; `None` if it is refused, as for a layout of no bytes. It
    /// neither panics nor aborts.
    fn acquire(&self, layout: Layout) -> Option<NonNull<u8>>;

    /// As [`acquire`](Self::acquire), and every byte is zero.
    fn acquire_zeroed(&self, layout: Layout) -> Option<NonNull<u8>> {
        let chunk = self.acquire(layout)?;
        // SAFETY: by the trait's contract the chunk has that many writable bytes, and nobody else uses them yet.
        unsafe { chunk.write_bytes(0, layout.size()) };
        Some(chunk)
    }

    /// As [`acquire_zeroed`](Self::acquire_zeroed), for a chunk far larger than what will be used of it: it costs address
    /// space and no memory. What was never written, or was [discarded](Self::discard) since, may be read and stays without memory.
    /// `None` if this source has no such chunks, or no address space to spare.
    ///
    /// The table of a shuffler asks for one of 64 GiB, to read faster; without, it takes chunks as it grows.
    fn acquire_sparse(&self, layout: Layout) -> Option<NonNull<u8>> {
        let _ = layout;
        None
    }

    /// Takes a chunk back whole.
    ///
    /// # Safety
    ///
    /// The chunk came from this source for this very layout, has not been released since, and nobody uses it any more.
    unsafe fn release(&self, chunk: NonNull<u8>, layout: Layout);

    /// Gives the pages of a part of a live chunk back to the system: they stay mapped and read as zero from now on.
    /// `start` and `bytes` are multiples of [`page_bytes`](Self::page_bytes). False if the source cannot do that; then
    /// nothing has changed.
    ///
    /// # Safety
    ///
    /// The range lies inside one live chunk of this source, and nobody needs what it contains.
    unsafe fn discard(&self, start: NonNull<u8>, bytes: usize) -> bool;

    /// The size of the pages that [`discard`](Self::discard) works in: a power of two, in bytes.
    fn page_bytes(&self) -> usize;
}

// SAFETY: everything is passed on to the source inside, which keeps the contract.
unsafe impl<S: ArenaSource + ?Sized> ArenaSource for Arc<S> {
    fn acquire(&self, layout: Layout) -> Option<NonNull<u8>> {
        (**self).acquire(layout)
    }

    fn acquire_zeroed(&self, layout: Layout) -> Option<NonNull<u8>> {
        (**self).acquire_zeroed(layout)
    }

    fn acquire_sparse(&self, layout: Layout) -> Option<NonNull<u8>> {
        (**self).acquire_sparse(layout)
    }

    unsafe fn release(&self, chunk: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { (**self).release(chunk, layout) }
    }

    unsafe fn discard(&self, start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller's promise is passed on.
        unsafe { (**self).discard(start, bytes) }
    }

    fn page_bytes(&self) -> usize {
        (**self).page_bytes()
    }
}

/// Locks, also after a panic elsewhere: none of the code under these locks leaves things half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether `bytes` from `start` lie where chunks may.
fn is_addressable(start: usize, bytes: usize) -> bool {
    (start as u64).checked_add(bytes as u64).is_some_and(|end| end <= ADDRESS_END)
}

/// The pointer to a chunk at an address whose provenance was exposed when its range became known.
fn chunk_at(address: usize) -> Option<NonNull<u8>> {
    NonNull::new(ptr::with_exposed_provenance_mut(address))
}

/// What sources call a page that cannot give any back.
const NOMINAL_PAGE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    pub(super) const MIB: usize = 1 << 20;

    pub(super) fn layout(bytes: usize, align: usize) -> Layout {
        Layout::from_size_align(bytes, align).unwrap()
    }

    pub(super) fn contents(chunk: NonNull<u8>, layout: Layout) -> &'static mut [u8] {
        // SAFETY: the tests ask only for live chunks that are initialised, and drop the slice before the chunk.
        unsafe { std::slice::from_raw_parts_mut(chunk.as_ptr(), layout.size()) }
    }

    pub(super) fn release(source: &impl ArenaSource, chunk: NonNull<u8>, layout: Layout) {
        // SAFETY: the tests pass each chunk here once, with the layout it was acquired for.
        unsafe { source.release(chunk, layout) }
    }

    fn region() -> RegionSource {
        RegionSource::from_slice(Box::leak(Box::new_uninit_slice(64 * MIB)))
    }

    /// Every claim of the contract, from several threads at once.
    pub(super) fn check_contract(source: &impl ArenaSource) {
        assert!(source.page_bytes().is_power_of_two());
        assert_eq!(source.acquire(layout(0, 8)), None);
        assert_eq!(source.acquire_zeroed(layout(0, 8)), None);
        assert_eq!(source.acquire(layout(isize::MAX as usize - 4095, 4096)), None);
        assert_eq!(source.acquire_zeroed(layout(isize::MAX as usize - 4095, 4096)), None);
        assert_eq!(source.acquire(layout(1 << 47, 1)), None);

        let work = |seed: u8| {
            let mut random = StdRng::seed_from_u64(seed.into());
            let mut live = Vec::new();
            for round in 0..200 {
                if live.len() < 6 && random.random_bool(0.6) {
                    let sizes = [1, 24, 4096, 5000, 65_536, 300_000, MIB];
                    let align = 1 << random.random_range(0..=21);
                    let layout = layout(sizes[random.random_range(0..sizes.len())], align);
                    let zeroed = random.random_bool(0.5);
                    let chunk = if zeroed { source.acquire_zeroed(layout) } else { source.acquire(layout) };
                    let chunk = chunk.expect("there is memory for a few small chunks");
                    assert_eq!(chunk.addr().get() % align, 0);
                    assert!(chunk.addr().get() + layout.size() <= 1 << 48);
                    assert!(!zeroed || contents(chunk, layout).iter().all(|&byte| byte == 0));
                    let mark = seed.wrapping_mul(51).wrapping_add(round) | 1;
                    // SAFETY: the chunk is this thread's, and this long.
                    unsafe { chunk.write_bytes(mark, layout.size()) };
                    live.push((chunk.expose_provenance().get(), layout, mark));
                } else if !live.is_empty() {
                    let (address, layout, mark) = live.swap_remove(random.random_range(0..live.len()));
                    let chunk = chunk_at(address).unwrap();
                    assert!(contents(chunk, layout).iter().all(|&byte| byte == mark), "somebody else wrote here");
                    release(source, chunk, layout);
                }
            }
            live.drain(..).for_each(|(address, layout, _)| release(source, chunk_at(address).unwrap(), layout));
        };
        std::thread::scope(|scope| (1..=4).for_each(|seed| drop(scope.spawn(move || work(seed)))));
    }

    #[test]
    fn bump_keeps_the_contract_and_gives_everything_back() {
        let source = Arc::new(BumpSource::new());
        check_contract(&source);
        assert_eq!(source.held_bytes(), 0);
    }

    #[test]
    fn bump_does_not_double_the_memory() {
        for bytes in [4096, 65_536, MIB, 3 * MIB] {
            for align in [8, 4096, MIB] {
                let (source, layout) = (BumpSource::new(), layout(bytes, align));
                let chunk = source.acquire(layout).unwrap();
                assert!(source.held_bytes() <= bytes.next_multiple_of(align) + 4096);
                release(&source, chunk, layout);
                assert!(source.acquire_zeroed(layout).is_some());
                assert!(source.held_bytes() <= bytes + bytes / 16);
            }
        }
    }

    #[test]
    fn region_keeps_the_contract_and_gets_everything_back() {
        let source = region();
        let bytes = source.free_bytes();
        assert!(bytes > 64 * MIB - 2 * region::REGION_GRAIN);
        check_contract(&source);
        assert_eq!(source.free_bytes(), bytes);
    }

    #[test]
    fn region_ends() {
        let source = region();
        let layout = layout(MIB, MIB);
        let chunks: Vec<_> = std::iter::from_fn(|| source.acquire(layout)).collect();
        assert!((63..=64).contains(&chunks.len()));
        release(&source, chunks[7], layout);
        assert_eq!(source.acquire(layout), Some(chunks[7]));
    }

    #[test]
    fn region_too_small_or_too_high_has_nothing() {
        assert_eq!(RegionSource::from_slice(&mut []).acquire(layout(1, 1)), None);
        assert_eq!(RegionSource::from_slice(Box::leak(Box::new_uninit_slice(60))).acquire(layout(64, 1)), None);
        let high = NonNull::new(ptr::without_provenance_mut(1 << 48)).unwrap();
        // SAFETY: nothing of this region is ever handed out, which is what is tested.
        assert_eq!(unsafe { RegionSource::new(high, MIB) }.acquire(layout(1, 1)), None);
    }

    #[test]
    fn sources_that_cannot_discard_say_so_and_change_nothing() {
        fn check(source: &impl ArenaSource) {
            let layout = layout(MIB, MIB);
            let chunk = source.acquire(layout).unwrap();
            // SAFETY: the chunk is ours, and this long; nobody needs its contents.
            let discarded = unsafe {
                chunk.write_bytes(7, MIB);
                source.discard(chunk, MIB)
            };
            assert!(!discarded && contents(chunk, layout).iter().all(|&byte| byte == 7));
        }
        check(&BumpSource::new());
        check(&region());
    }

    #[test]
    fn addresses_end_at_48_bits() {
        assert!(is_addressable((1 << 48) - 4096, 4096));
        assert!(!is_addressable((1 << 48) - 4096, 4097));
        assert!(!is_addressable(usize::MAX, 1));
    }
}
