//! Chunks from large reservations of address space.

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
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, reservation_flags()) };
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

    fn acquire_sparse(&self, layout: Layout) -> Option<NonNull<u8>> {
        // Most of what was allowed is for chunks that will be used.
        let spare = lock(&self.growth).allowed / 4;
        if layout.size() > spare {
            return None;
        }
        // The same goes for what the process may have, as far as it tells: it is asked for all of that.
        unmap(&self.reserve(layout.size().checked_mul(4)?)?);
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
    #[cfg(target_pointer_width = "64")]
    fn a_sparse_chunk_reads_as_zero_and_can_be_discarded() {
        let (source, room) = (OsSource::new(), layout(1 << 36, 4096));
        let chunk = source.acquire_sparse(room).unwrap();
        // SAFETY: all three are inside the chunk, which is this test's own.
        let [near, middle, far] = [8, 1 << 35, (1 << 36) - 8].map(|offset| unsafe { chunk.add(offset).cast::<u64>() });
        // SAFETY: as above; zeros are numbers.
        let read = |place: NonNull<u64>| unsafe { place.read_volatile() };
        assert_eq!([near, middle, far].map(read), [0; 3]);
        // SAFETY: as above.
        unsafe { middle.write_volatile(7) };
        assert_eq!([near, middle, far].map(read), [0, 7, 0]);
        // SAFETY: the page lies inside the chunk, and nobody needs it.
        assert!(unsafe { source.discard(middle.cast(), source.page_bytes()) });
        assert_eq!([near, middle, far].map(read), [0; 3]);
        release(&source, chunk, room);

        let limited = OsSource::with_address_limit(1 << 30);
        assert_eq!(limited.acquire_sparse(layout(1 << 29, 4096)), None, "it would leave too little to chunks");
        assert!(limited.acquire_sparse(layout(1 << 28, 4096)).is_some());
        assert_eq!(BumpSource::new().acquire_sparse(layout(4096, 4096)), None);
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
