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

#[cfg(unix)]
pub use os::OsSource;

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
/// Bytes are zero where the methods say so.
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

#[cfg(unix)]
mod os {
    use std::ffi::c_void;

    use rustix::io::Result;
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

    use super::*;

    /// The first reservation, in bytes. Each later one is twice as large as the one before.
    const FIRST_RESERVATION: usize = 1 << 28;

    /// The largest reservation that is made ahead of need, in bytes: 64 GiB where addresses have 64 bits.
    const LARGEST_RESERVATION: usize = match 1_usize.checked_shl(36) {
        Some(bytes) => bytes,
        None => FIRST_RESERVATION,
    };

    /// Chunks carved from large reservations of address space, the default source.
    ///
    /// A reservation costs address space and no memory: pages become resident when they are first touched. A chunk that
    /// is released gives its pages back to the system at once, and its address range is used again for chunks of any
    /// size. Reservations are unmapped when the source is dropped. So the kernel sees a handful of mappings, however
    /// many chunks come and go.
    ///
    /// Chunk sizes are rounded up to whole pages.
    #[derive(Debug)]
    pub struct OsSource {
        page: usize,
        huge_pages: bool,
        /// Never held across a system call (but its own growth may make the global allocator do one, now and then).
        free: Mutex<RangeMap>,
        /// Held while a reservation is made, so that threads that find no free range make one between them.
        growth: Mutex<Growth>,
    }

    #[derive(Debug)]
    struct Growth {
        reservations: Vec<Range<usize>>,
        /// Bytes that the next reservation should have.
        next: usize,
        /// Bytes that may still be reserved.
        allowed: usize,
    }

    impl OsSource {
        /// A source without huge pages. Nothing is mapped yet.
        ///
        /// Huge pages are off because the system would fill the holes again that shuffling has made.
        #[must_use]
        pub fn new() -> Self {
            Self::with(false, usize::MAX)
        }

        /// A source that asks for transparent huge pages: fewer misses in the processor's address cache, more memory
        /// resident.
        #[must_use]
        pub fn with_huge_pages() -> Self {
            Self::with(true, usize::MAX)
        }

        /// A source that reserves no more than this many bytes of address space, and refuses what does not fit.
        #[must_use]
        pub fn with_address_limit(bytes: usize) -> Self {
            Self::with(false, bytes)
        }

        fn with(huge_pages: bool, allowed: usize) -> Self {
            Self {
                page: rustix::param::page_size(),
                huge_pages,
                free: Mutex::new(RangeMap::new()),
                growth: Mutex::new(Growth { reservations: Vec::new(), next: FIRST_RESERVATION, allowed }),
            }
        }

        /// Bytes of address space reserved, whether in use or not.
        #[must_use]
        pub fn reserved_bytes(&self) -> usize {
            lock(&self.growth).reservations.iter().map(Range::len).sum()
        }

        /// Takes a chunk from a new reservation.
        #[cold]
        fn grow(&self, bytes: usize, align: usize) -> Option<usize> {
            let mut growth = lock(&self.growth);
            // Another thread may have made a reservation while this one waited.
            if let Some(start) = lock(&self.free).take(bytes, align) {
                return Some(start);
            }
            growth.reservations.try_reserve(1).ok()?;
            // A mapping starts at a page, so this holds the chunk wherever that is.
            let need = bytes.checked_add(align - self.page)?;
            let wish = growth.next;
            let reservation = shrinking(wish.min(growth.allowed), need, self.page, |bytes| {
                if bytes <= growth.allowed { self.reserve(bytes) } else { None }
            })?;

            let mut free = lock(&self.free);
            if !free.add(reservation.clone()) {
                drop(free);
                unmap(&reservation);
                return None;
            }
            // Under the same lock, so that no other thread takes what this one reserved.
            let start = free.take(bytes, align);
            drop(free);
            growth.allowed -= reservation.len();
            growth.next = wish.min(reservation.len()).saturating_mul(2).min(LARGEST_RESERVATION);
            growth.reservations.push(reservation);
            start
        }

        /// Reserves address space whose pages read as zero.
        fn reserve(&self, bytes: usize) -> Option<Range<usize>> {
            // SAFETY: a new private mapping at an address that the system chooses touches no other memory.
            let start = unsafe {
                mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, reservation_flags())
            };
            let start = start.ok()?.expose_provenance();
            let reservation = start..start.checked_add(bytes)?;
            if !is_addressable(start, bytes) {
                unmap(&reservation);
                return None;
            }
            advise_huge_pages(&reservation, self.huge_pages);
            Some(reservation)
        }

        /// The bytes and the alignment of the range that holds a chunk of this layout.
        fn extent(&self, layout: Layout) -> Option<(usize, usize)> {
            (layout.size() > 0).then_some(())?;
            Some((layout.size().checked_next_multiple_of(self.page)?, layout.align().max(self.page)))
        }
    }

    impl Default for OsSource {
        fn default() -> Self {
            Self::new()
        }
    }

    impl Drop for OsSource {
        fn drop(&mut self) {
            let growth = self.growth.get_mut().unwrap_or_else(PoisonError::into_inner);
            growth.reservations.iter().for_each(unmap);
        }
    }

    // SAFETY: ranges come from private anonymous read-write mappings that live as long as the source and end below
    // 2^48 (`reserve`), whose provenance is exposed; the range map hands each address out once until it is given back,
    // at the alignment asked for. Pages read as zero when they are new, and `discard_pages` makes them so again.
    unsafe impl ArenaSource for OsSource {
        fn acquire(&self, layout: Layout) -> Option<NonNull<u8>> {
            let (bytes, align) = self.extent(layout)?;
            let free = lock(&self.free).take(bytes, align);
            chunk_at(free.or_else(|| self.grow(bytes, align))?)
        }

        fn acquire_zeroed(&self, layout: Layout) -> Option<NonNull<u8>> {
            self.acquire(layout)
        }

        unsafe fn release(&self, chunk: NonNull<u8>, layout: Layout) {
            let Some((bytes, _)) = self.extent(layout) else { return };
            // SAFETY: the whole pages of this chunk are the caller's, who is done with them.
            if unsafe { discard_pages(chunk, bytes) }.is_err() {
                // Pages locked into memory stay. They must read as zero when they are handed out again.
                // SAFETY: as above; they are mapped and writable.
                unsafe { chunk.write_bytes(0, bytes) };
            }
            lock(&self.free).give(chunk.addr().get(), bytes);
        }

        unsafe fn discard(&self, start: NonNull<u8>, bytes: usize) -> bool {
            // The system would round odd lengths up, into memory that somebody needs.
            let whole_pages = start.addr().get().is_multiple_of(self.page) && bytes.is_multiple_of(self.page);
            // SAFETY: whole pages inside a live chunk, whose contents nobody needs: the caller promises it.
            whole_pages && (bytes == 0 || unsafe { discard_pages(start, bytes) }.is_ok())
        }

        fn page_bytes(&self) -> usize {
            self.page
        }
    }

    /// Tries `map` with `wish` bytes, then with ever fewer, down to the whole pages that hold `need`.
    fn shrinking<T>(wish: usize, need: usize, page: usize, mut map: impl FnMut(usize) -> Option<T>) -> Option<T> {
        let need = need.checked_next_multiple_of(page)?;
        let mut bytes = (wish - wish % page).max(need);
        loop {
            let mapped = map(bytes);
            if mapped.is_some() || bytes == need {
                return mapped;
            }
            bytes = (bytes / 2 / page * page).max(need);
        }
    }

    fn reservation_flags() -> MapFlags {
        #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
        return MapFlags::PRIVATE | MapFlags::NORESERVE;
        #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
        return MapFlags::PRIVATE;
    }

    fn as_pointer(address: usize) -> *mut c_void {
        ptr::with_exposed_provenance_mut(address)
    }

    /// Gives a reservation back whole, chunks and all.
    fn unmap(reservation: &Range<usize>) {
        // SAFETY: the range was mapped by `reserve`, and whoever calls this drops the source, whose chunks end with it,
        // or has handed none out. Nothing can be done about a refusal.
        let _ = unsafe { munmap(as_pointer(reservation.start), reservation.len()) };
    }

    /// Asks for huge pages, or for none. A system without them says so, and does neither.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn advise_huge_pages(reservation: &Range<usize>, wanted: bool) {
        use rustix::mm::{Advice, madvise};
        let advice = if wanted { Advice::LinuxHugepage } else { Advice::LinuxNoHugepage };
        // SAFETY: the range was just mapped by `reserve`; this advice changes no contents.
        let _ = unsafe { madvise(as_pointer(reservation.start), reservation.len(), advice) };
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn advise_huge_pages(_: &Range<usize>, _: bool) {}

    /// Gives pages back; they stay mapped and read as zero. On an error some may have been given back already.
    ///
    /// # Safety
    ///
    /// Whole pages of a reservation, and nobody needs what they contain.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    unsafe fn discard_pages(start: NonNull<u8>, bytes: usize) -> Result<()> {
        use rustix::mm::{Advice, madvise};
        // SAFETY: the caller promises a mapped range whose contents nobody needs.
        unsafe { madvise(start.as_ptr().cast(), bytes, Advice::LinuxDontNeed) }
    }

    /// Gives pages back; they stay mapped and read as zero. Elsewhere than on Linux no advice promises zeros, so fresh
    /// pages are mapped in their place.
    ///
    /// # Safety
    ///
    /// Whole pages of a reservation, and nobody needs what they contain.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    unsafe fn discard_pages(start: NonNull<u8>, bytes: usize) -> Result<()> {
        let flags = reservation_flags() | MapFlags::FIXED;
        let (place, protection) = (start.as_ptr().cast::<c_void>(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: the range replaced is part of a reservation of ours, and the caller promises that nobody needs it.
        unsafe { mmap_anonymous(place, bytes, protection, flags) }.map(|_| ())
    }

    #[cfg(test)]
    mod tests {
        use super::super::tests::{MIB, check_contract, contents, layout, release};
        use super::*;

        /// Whether the pages of a range are resident, one by one.
        #[cfg(target_os = "linux")]
        fn resident(start: NonNull<u8>, bytes: usize) -> Vec<bool> {
            use std::os::unix::fs::FileExt;
            let page = rustix::param::page_size();
            let pagemap = std::fs::File::open("/proc/self/pagemap").unwrap();
            let mut entries = vec![0; bytes / page * 8];
            pagemap.read_exact_at(&mut entries, (start.addr().get() / page * 8) as u64).unwrap();
            entries.chunks(8).map(|entry| entry[7] & 0x80 != 0).collect()
        }

        /// The mappings of this process that overlap a range.
        #[cfg(target_os = "linux")]
        fn mappings(range: &Range<usize>) -> usize {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let bounds = |line: &str| {
                let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
                [start, end].map(|bound| usize::from_str_radix(bound, 16).unwrap())
            };
            maps.lines().map(bounds).filter(|&[start, end]| start < range.end && range.start < end).count()
        }

        #[test]
        fn os_keeps_the_contract() {
            check_contract(&OsSource::new());
            check_contract(&OsSource::with_huge_pages());
        }

        #[test]
        fn nothing_is_mapped_until_the_first_chunk() {
            let source = OsSource::new();
            assert_eq!(source.reserved_bytes(), 0);
            assert_eq!(source.acquire(layout(0, 1)), None);
            assert_eq!(source.reserved_bytes(), 0);
            assert!(source.acquire(layout(1, 1)).is_some());
            assert_eq!(source.reserved_bytes(), FIRST_RESERVATION);
        }

        #[test]
        fn reservations_grow_geometrically_and_with_need() {
            let source = OsSource::new();
            let big = layout(FIRST_RESERVATION, 4096);
            let chunks = [(); 4].map(|()| source.acquire(big).unwrap());
            assert_eq!(source.reserved_bytes(), (1 + 2 + 4) * FIRST_RESERVATION);
            assert!(source.acquire(layout(40 * FIRST_RESERVATION, 2 * MIB)).is_some());
            assert!(source.reserved_bytes() >= 47 * FIRST_RESERVATION);
            chunks.into_iter().for_each(|chunk| release(&source, chunk, big));
            let reserved = source.reserved_bytes();
            assert!(source.acquire(big).is_some());
            assert_eq!(source.reserved_bytes(), reserved);
        }

        #[test]
        #[cfg(target_pointer_width = "64")]
        fn alignment_beyond_the_reservation_is_kept() {
            let (source, huge) = (OsSource::new(), layout(4096, 1 << 34));
            let chunks = [(); 2].map(|()| source.acquire(huge).unwrap().addr().get());
            assert!(chunks[0] != chunks[1] && chunks.iter().all(|chunk| chunk % (1 << 34) == 0));
        }

        #[test]
        fn released_memory_is_used_again_and_reads_as_zero() {
            let (source, layout) = (OsSource::new(), layout(MIB + 1, MIB));
            let chunk = source.acquire(layout).unwrap();
            contents(chunk, layout).fill(7);
            release(&source, chunk, layout);
            assert_eq!(source.acquire(layout), Some(chunk));
            assert!(contents(chunk, layout).iter().all(|&byte| byte == 0));
        }

        #[test]
        #[cfg(target_os = "linux")]
        fn pages_go_back_on_discard_and_on_release() {
            let (source, layout) = (OsSource::new(), layout(MIB, MIB));
            let page = source.page_bytes();
            let chunk = source.acquire(layout).unwrap();
            assert!(resident(chunk, MIB).iter().all(|&here| !here));
            contents(chunk, layout).fill(7);
            assert!(resident(chunk, MIB).iter().all(|&here| here));

            // SAFETY: the part lies inside the chunk, and nobody needs it.
            assert!(unsafe { source.discard(chunk.add(2 * page), 3 * page) });
            let here = resident(chunk, MIB);
            assert!((0..here.len()).all(|index| here[index] != (2..5).contains(&index)));
            for (index, bytes) in contents(chunk, layout).chunks(page).enumerate() {
                let expected = if (2..5).contains(&index) { 0 } else { 7 };
                assert!(bytes.iter().all(|&byte| byte == expected));
            }

            release(&source, chunk, layout);
            assert!(resident(chunk, MIB).iter().all(|&here| !here));
        }

        #[test]
        fn odd_discards_are_refused_whole() {
            let (source, layout) = (OsSource::new(), layout(MIB, MIB));
            let (page, chunk) = (source.page_bytes(), source.acquire(layout).unwrap());
            contents(chunk, layout).fill(7);
            // SAFETY: the parts lie inside the chunk, and nobody needs them.
            unsafe {
                assert!(!source.discard(chunk.add(8), page));
                assert!(!source.discard(chunk, page - 8));
                assert!(source.discard(chunk, 0));
            }
            assert!(contents(chunk, layout).iter().all(|&byte| byte == 7));
        }

        #[test]
        #[cfg(target_os = "linux")]
        fn mappings_stay_few() {
            let source = OsSource::new();
            let page = source.page_bytes();
            let layouts = [layout(MIB, MIB), layout(65_536, 4096), layout(5 * MIB, 2 * MIB)];
            let mut live: Vec<_> = (0..90).map(|index| (source.acquire(layouts[index % 3]).unwrap(), index)).collect();
            for (chunk, index) in &live {
                let layout = layouts[index % 3];
                contents(*chunk, layout).iter_mut().step_by(page).for_each(|byte| *byte = 1);
                // SAFETY: the page lies inside the chunk, and nobody needs it.
                assert!(unsafe { source.discard(chunk.add(page), page) });
            }
            live.retain(|&(chunk, index)| {
                let keep = index % 4 == 0;
                if !keep {
                    release(&source, chunk, layouts[index % 3]);
                }
                keep
            });
            let reservations = lock(&source.growth).reservations.clone();
            assert!(!reservations.is_empty() && reservations.iter().all(|range| mappings(range) == 1));
        }

        #[test]
        #[cfg(target_pointer_width = "64")]
        fn reservations_go_with_the_source() {
            // A tebibyte each: the address space would be full half-way if they stayed.
            for _ in 0..300 {
                assert!(OsSource::new().acquire(layout(1 << 40, MIB)).is_some());
            }
        }

        #[test]
        fn refusals_leave_the_source_usable() {
            let source = OsSource::with_address_limit(8 * MIB);
            let layout = layout(MIB, 4096);
            let chunks: Vec<_> = std::iter::from_fn(|| source.acquire(layout)).collect();
            assert_eq!((chunks.len(), source.reserved_bytes()), (8, 8 * MIB));
            assert_eq!(source.acquire_zeroed(layout), None);
            release(&source, chunks[3], layout);
            assert_eq!(source.acquire_zeroed(layout), Some(chunks[3]));
            assert_eq!(OsSource::with_address_limit(0).acquire(layout), None);
            assert_eq!(OsSource::with_address_limit(MIB + 4095).acquire(Layout::new::<[u8; 2 * MIB]>()), None);
        }

        #[test]
        fn a_refused_reservation_shrinks_to_what_is_needed() {
            let attempts = |wish, need, most| {
                let mut tried = Vec::new();
                let got = shrinking(wish, need, 4096, |bytes| {
                    tried.push(bytes / 4096);
                    (bytes <= most).then_some(bytes / 4096)
                });
                (got, tried)
            };
            assert_eq!(attempts(64 * 4096, 4096, usize::MAX), (Some(64), vec![64]));
            assert_eq!(attempts(100 * 4096, 9000, 30 * 4096), (Some(25), vec![100, 50, 25]));
            assert_eq!(attempts(16 * 4096, 9000, 0), (None, vec![16, 8, 4, 3]));
            assert_eq!(attempts(4096, 20_000, usize::MAX), (Some(5), vec![5]));
            assert_eq!(attempts(4096, usize::MAX, usize::MAX), (None, vec![]));
        }

        #[test]
        fn a_panic_under_a_lock_does_no_harm() {
            let source = OsSource::new();
            let held = || {
                let _held = source.free.lock();
                panic!("on purpose");
            };
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(held)).unwrap_err();
            assert!(source.acquire(layout(1, 1)).is_some());
        }
    }
}

/// Chunks from the global allocator, each a [`bumpalo::Bump`] of its own that holds one aligned chunk: for places
/// without `mmap`.
///
/// How much memory goes back to the system is up to the global allocator. Each chunk costs up to a page more than was
/// asked for, and its size is rounded up to its alignment.
#[derive(Debug, Default)]
pub struct BumpSource {
    held: Mutex<HashMap<usize, Held>>,
}

/// One live chunk of a [`BumpSource`]; dropping it gives the memory back.
#[derive(Debug)]
enum Held {
    Bump(Bump),
    Zeroed(Zeroed),
}

/// Memory that the global allocator zeroed.
#[derive(Debug)]
struct Zeroed {
    memory: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its memory, and the global allocator takes memory back on any thread.
unsafe impl Send for Zeroed {}

impl Zeroed {
    fn new(layout: Layout) -> Option<Self> {
        debug_assert!(layout.size() > 0);
        // SAFETY: the layout has bytes: all callers have checked that.
        let memory = NonNull::new(unsafe { alloc::alloc_zeroed(layout) })?;
        Some(Self { memory, layout })
    }
}

impl Drop for Zeroed {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it with this layout, and only this value owns it.
        unsafe { alloc::dealloc(self.memory.as_ptr(), self.layout) };
    }
}

impl BumpSource {
    /// A source that holds nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes held from the global allocator for live chunks, with what they cost beyond the bytes asked for.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let bytes = |held: &Held| match held {
            Held::Bump(bump) => bump.allocated_bytes_including_metadata(),
            Held::Zeroed(zeroed) => zeroed.layout.size(),
        };
        lock(&self.held).values().map(bytes).sum()
    }

    /// Keeps the owner of a chunk until the chunk is released; refused if there is no memory to note it down.
    fn keep(&self, chunk: NonNull<u8>, bytes: usize, owner: Held) -> Option<NonNull<u8>> {
        let address = chunk.expose_provenance().get();
        if !is_addressable(address, bytes) {
            return None;
        }
        let mut held = lock(&self.held);
        if held.try_reserve(1).is_err() {
            // The owner goes back to the global allocator without the lock.
            drop(held);
            return None;
        }
        held.insert(address, owner);
        Some(chunk)
    }
}

// SAFETY: a chunk is memory of its own from the global allocator, of the layout asked for, kept until it is released or
// the source is dropped; `keep` checks its address. `acquire_zeroed` takes zeroed memory.
unsafe impl ArenaSource for BumpSource {
    fn acquire(&self, layout: Layout) -> Option<NonNull<u8>> {
        (layout.size() > 0).then_some(())?;
        // An empty Bump allocates nothing; the first allocation makes a chunk of the size and alignment it needs.
        let bump = Bump::new();
        let chunk = bump.try_alloc_layout(layout).ok()?;
        self.keep(chunk, layout.size(), Held::Bump(bump))
    }

    fn acquire_zeroed(&self, layout: Layout) -> Option<NonNull<u8>> {
        (layout.size() > 0).then_some(())?;
        // The global allocator has fresh zero pages for large requests of common alignment only; for others it touches
        // every byte. So a little more is taken, and the chunk aligned inside.
        let (common, spare) = (align_of::<u128>(), layout.align());
        let lazy = layout.align() > common && spare <= layout.size() / 16;
        let roomy = Layout::from_size_align(layout.size().checked_add(spare)?, common).ok();
        let owner = Zeroed::new(roomy.filter(|_| lazy).unwrap_or(layout))?;
        let gap = owner.memory.addr().get().next_multiple_of(layout.align()) - owner.memory.addr().get();
        // SAFETY: without spare bytes the memory is aligned and the gap is 0; else the gap is less than they are.
        let chunk = unsafe { owner.memory.add(gap) };
        self.keep(chunk, layout.size(), Held::Zeroed(owner))
    }

    unsafe fn release(&self, chunk: NonNull<u8>, _: Layout) {
        let owner = lock(&self.held).remove(&chunk.addr().get());
        debug_assert!(owner.is_some(), "a chunk was released that this source does not hold");
        // Only here, after the lock, does the memory go.
        drop(owner);
    }

    unsafe fn discard(&self, _: NonNull<u8>, _: usize) -> bool {
        false
    }

    fn page_bytes(&self) -> usize {
        NOMINAL_PAGE
    }
}

/// What sources call a page that cannot give any back.
const NOMINAL_PAGE: usize = 4096;

/// Chunks from a region of memory that the program owns: a static, a mapping of its own, memory of a device.
///
/// What is released is used again for chunks of any size; nothing goes back to the system. Chunk sizes are rounded up
/// to whole cache lines.
#[derive(Debug)]
pub struct RegionSource {
    state: Mutex<RegionState>,
}

#[derive(Debug)]
struct RegionState {
    free: RangeMap,
    /// The region, until the first chunk is asked for: making a source allocates nothing.
    unused: Option<Range<usize>>,
}

/// Chunks of a [`RegionSource`] start at, and extend over, multiples of this: a cache line, in bytes.
const REGION_GRAIN: usize = 64;

impl RegionSource {
    /// A source over `bytes` bytes from `start`.
    ///
    /// # Safety
    ///
    /// The bytes are readable and writable from every thread, and nobody else uses them, as long as the source exists:
    /// that is, until it and all shufflers that it was given to are dropped.
    #[must_use]
    pub unsafe fn new(start: NonNull<u8>, bytes: usize) -> Self {
        let start = start.expose_provenance().get();
        let end = start.saturating_add(bytes).min(usize::try_from(ADDRESS_END).unwrap_or(usize::MAX));
        let first = start.checked_next_multiple_of(REGION_GRAIN).unwrap_or(end);
        let unused = Some(first..end - end % REGION_GRAIN).filter(|range| !range.is_empty());
        Self { state: Mutex::new(RegionState { free: RangeMap::new(), unused }) }
    }

    /// A source over memory that is borrowed for ever.
    #[must_use]
    pub fn from_slice(region: &'static mut [MaybeUninit<u8>]) -> Self {
        let bytes = region.len();
        // SAFETY: the exclusive borrow never ends, so nobody else uses these bytes.
        unsafe { Self::new(NonNull::from(region).cast(), bytes) }
    }

    /// Bytes of the region that are in no chunk.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        let state = lock(&self.state);
        state.free.free_bytes() + state.unused.as_ref().map_or(0, Range::len)
    }

    /// The bytes and the alignment of the range that holds a chunk of this layout.
    fn extent(layout: Layout) -> Option<(usize, usize)> {
        (layout.size() > 0).then_some(())?;
        Some((layout.size().checked_next_multiple_of(REGION_GRAIN)?, layout.align().max(REGION_GRAIN)))
    }
}

// SAFETY: chunks are parts of the region, which whoever made the source promised to be exclusive, readable and writable
// while it exists; `new` exposed its provenance and cut it off at 2^48, and the range map hands each address out once
// until it is given back, at the alignment asked for.
unsafe impl ArenaSource for RegionSource {
    fn acquire(&self, layout: Layout) -> Option<NonNull<u8>> {
        let (bytes, align) = Self::extent(layout)?;
        let mut state = lock(&self.state);
        if let Some(region) = state.unused.take()
            && !state.free.add(region.clone())
        {
            state.unused = Some(region);
        }
        chunk_at(state.free.take(bytes, align)?)
    }

    unsafe fn release(&self, chunk: NonNull<u8>, layout: Layout) {
        if let Some((bytes, _)) = Self::extent(layout) {
            lock(&self.state).free.give(chunk.addr().get(), bytes);
        }
    }

    unsafe fn discard(&self, _: NonNull<u8>, _: usize) -> bool {
        false
    }

    fn page_bytes(&self) -> usize {
        NOMINAL_PAGE
    }
}

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
        assert!(bytes > 64 * MIB - 2 * REGION_GRAIN);
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
