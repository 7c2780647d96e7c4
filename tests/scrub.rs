//! What was in a block that has ended, moved or become shorter is nowhere in the memory that the shuffler had or has.
//!
//! The source counts how often a piece of a marker lies in its chunks: in those that come back, when they do, and in those
//! that are out, when nothing goes on. Only what is alive may hold one.

#![allow(clippy::disallowed_types, reason = "tests count with the standard atomics; no model runs them")]

mod common;

use common::{eventually, quiet};
use memory_shuffler::{
    AccessError, ArenaSource, Builder, BumpSource, Freed, Frozen, Handle, OsSource, RegionSource, Shuffler, Trigger,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::alloc::Layout;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::{mem, thread};

const ARENA: usize = 64 << 10;

/// What blocks are full of, over and over. No byte occurs twice, and none is zero.
const MARKER: [u8; 16] =
    [0x9D, 0x3B, 0xE7, 0x51, 0xC6, 0x08, 0xF2, 0x7A, 0x14, 0xAD, 0x63, 0xDB, 0x2E, 0x95, 0x4F, 0xB8];

/// So many bytes of the marker in a row are a piece of it.
const PIECE: usize = 4;

fn marked(bytes: usize) -> Vec<u8> {
    MARKER.iter().copied().cycle().take(bytes).collect()
}

/// How many pieces there are where blocks of these lengths are alive.
fn pieces(blocks: impl IntoIterator<Item = usize>) -> usize {
    blocks.into_iter().map(|bytes| bytes.saturating_sub(PIECE - 1)).sum()
}

/// How many pieces there are in memory.
fn count(memory: &[u8]) -> usize {
    let mut follows = [0; 256];
    for (index, byte) in MARKER.iter().enumerate() {
        follows[usize::from(*byte)] = MARKER[(index + 1) % MARKER.len()];
    }
    let (mut row, mut before, mut found) = (0, 0, 0);
    // Most of it is zero, and is passed over quickly.
    for word in memory.chunks(64) {
        if word.iter().all(|&byte| byte == 0) {
            (row, before) = (0, 0);
            continue;
        }
        for &byte in word {
            let is_next = byte != 0 && follows[usize::from(before)] == byte;
            row = if is_next { row + 1 } else { usize::from(MARKER.contains(&byte)) };
            found += usize::from(row >= PIECE);
            before = byte;
        }
    }
    found
}

/// A source that looks for the marker.
struct Watched {
    inner: Box<dyn ArenaSource>,
    chunks: Mutex<BTreeMap<usize, Layout>>,
    released: AtomicUsize,
}

impl Watched {
    fn new(inner: impl ArenaSource) -> Arc<Self> {
        Arc::new(Self { inner: Box::new(inner), chunks: Mutex::default(), released: AtomicUsize::new(0) })
    }

    /// Pieces in chunks that came back.
    fn released(&self) -> usize {
        self.released.load(Ordering::Relaxed)
    }

    /// Pieces in chunks that are out. Nobody may use the shuffler meanwhile.
    fn held(&self) -> usize {
        let chunks = self.chunks.lock().unwrap();
        let contents = |(&start, layout): (&usize, &Layout)| {
            // SAFETY: the chunk is out, so it is mapped; it was zeroed, and nobody writes to it now.
            count(unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(start), layout.size()) })
        };
        chunks.iter().map(contents).sum()
    }

    /// Asserts that the marker is nowhere but in live blocks of these lengths.
    #[track_caller]
    fn only(&self, live: impl IntoIterator<Item = usize>) {
        assert_eq!((self.released(), self.held()), (0, pieces(live)), "pieces in memory that went back, and is held");
    }

    fn note(&self, chunk: NonNull<u8>, layout: Layout) -> NonNull<u8> {
        self.chunks.lock().unwrap().insert(chunk.expose_provenance().get(), layout);
        chunk
    }
}

// SAFETY: chunks are those of the source inside.
unsafe impl ArenaSource for Watched {
    fn acquire(&self, layout: Layout) -> Option<NonNull<u8>> {
        let chunk = self.inner.acquire(layout)?;
        // What others left there must not be taken for ours.
        // SAFETY: the chunk is new, and that long.
        unsafe { chunk.write_bytes(0, layout.size()) };
        Some(self.note(chunk, layout))
    }

    fn acquire_zeroed(&self, layout: Layout) -> Option<NonNull<u8>> {
        let chunk = self.inner.acquire_zeroed(layout)?;
        Some(self.note(chunk, layout))
    }

    unsafe fn release(&self, chunk: NonNull<u8>, layout: Layout) {
        // SAFETY: the chunk is the caller's, who gives it up here.
        let found = count(unsafe { std::slice::from_raw_parts(chunk.as_ptr(), layout.size()) });
        self.released.fetch_add(found, Ordering::Relaxed);
        self.chunks.lock().unwrap().remove(&chunk.addr().get());
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.release(chunk, layout) }
    }

    unsafe fn discard(&self, start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.discard(start, bytes) }
    }

    fn page_bytes(&self) -> usize {
        self.inner.page_bytes()
    }
}

fn sources() -> [Arc<Watched>; 3] {
    let region = RegionSource::from_slice(Box::leak(Box::new_uninit_slice(64 << 20)));
    [Watched::new(OsSource::new()), Watched::new(BumpSource::new()), Watched::new(region)]
}

fn small(source: &Arc<Watched>) -> Builder {
    Shuffler::builder().arena_bytes(ARENA).trigger(Trigger::Manual).source(source.clone())
}

/// Runs a test over each source, and looks for the marker at its end: in what the shuffler holds when all that the test left is
/// freed, and in what it gave back.
fn scrubbed(test: impl Fn(&Shuffler, &Watched)) {
    for source in sources() {
        let shuffler = small(&source).scrub(true).build().unwrap();
        test(&shuffler, &source);
        drop(shuffler);
        assert_eq!(source.chunks.lock().unwrap().len(), 0, "all went back");
        assert_eq!(source.released(), 0, "pieces went back to the source");
    }
}

fn block(shuffler: &Shuffler, bytes: usize) -> Handle<[u8]> {
    shuffler.alloc_copy(&marked(bytes)).unwrap()
}

fn free(shuffler: &Shuffler, handle: Handle<[u8]>) {
    assert_eq!(shuffler.free(handle), Ok(Freed::Now));
}

/// Lengths of blocks that share arenas.
const LENGTHS: [usize; 9] = [4, 7, 8, 13, 64, 100, 1000, 4093, 16_000];

/// A value that is all marker, and can be told to panic when it is dropped.
#[repr(C)]
struct Secret<const N: usize> {
    bytes: [u8; N],
    panics: bool,
}

impl<const N: usize> Secret<N> {
    fn new(panics: bool) -> Self {
        Self { bytes: marked(N).try_into().unwrap(), panics }
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        assert!(self.bytes == *marked(N), "a value was wiped before its end");
        if self.panics && !thread::panicking() {
            panic!("a destructor that panics");
        }
    }
}

// SAFETY: bytes and a flag, which nothing changes behind a shared reference.
unsafe impl<const N: usize> Frozen for Secret<N> {}

/// What makes the tests below able to fail.
#[test]
fn without_scrubbing_the_marker_is_found() {
    for source in sources() {
        let shuffler = small(&source).build().unwrap();
        let handles: Vec<_> = LENGTHS.iter().map(|&bytes| block(&shuffler, bytes)).collect();
        source.only(LENGTHS);
        let kept = block(&shuffler, 10_000);
        for handle in handles {
            free(&shuffler, handle);
        }
        let all = pieces(LENGTHS);
        assert!(source.held() > all / 2 + pieces([10_000]), "freed blocks are where they were");
        let (mut blocks, large) = (fragmented(&shuffler, 500), block(&shuffler, 300_000));
        blocks.push(kept);
        let before = source.held();
        let moves = shuffler.shuffle().progress.moves;
        assert!(moves > 20, "{moves}");
        assert!(source.released() + source.held() > before, "and so are sources of moves");
        free(&shuffler, large);
        drop(shuffler);
        assert!(source.released() > 0);
    }
}

#[test]
fn blocks_are_wiped_when_they_are_freed() {
    scrubbed(|shuffler, source| {
        let lengths = LENGTHS.iter().copied().chain([70_000, 300_000, 1 << 20]);
        let handles: Vec<_> = lengths.clone().map(|bytes| block(shuffler, bytes)).collect();
        source.only(lengths.clone());
        let mut left: Vec<_> = lengths.collect();
        for handle in handles {
            free(shuffler, handle);
            left.remove(0);
            source.only(left.clone());
        }
        // On another thread, which has arenas of its own.
        let handles: Vec<_> = LENGTHS.iter().map(|&bytes| block(shuffler, bytes)).collect();
        thread::scope(|scope| {
            scope.spawn(|| handles.into_iter().for_each(|handle| free(shuffler, handle)));
        });
        source.only([]);
        // While it is rented.
        for bytes in [100, 70_000] {
            let handle = block(shuffler, bytes);
            let rent = shuffler.rent(handle).unwrap();
            assert_eq!(shuffler.free(handle), Ok(Freed::WhenReturned));
            assert_eq!(*rent, *marked(bytes));
            source.only([bytes]);
            drop(rent);
            source.only([]);
        }
        // By the drop of its owner, with a destructor that looks.
        drop(shuffler.owned(shuffler.create(Secret::<200>::new(false)).unwrap()));
        drop(shuffler.owned(shuffler.create(Secret::<70_000>::new(false)).unwrap()));
        source.only([]);
    });
}

#[test]
fn aligned_blocks_are_wiped() {
    scrubbed(|shuffler, source| {
        for (bytes, align) in [(100, 64), (3000, 4096), (900, 512), (3000, 1 << 20)] {
            let raw = shuffler.alloc_layout(Layout::from_size_align(bytes, align).unwrap()).unwrap();
            let pointer = shuffler.rent_pointer_mut::<u8>(raw).unwrap();
            // SAFETY: the block is rented, has that many bytes, and is returned once.
            unsafe {
                pointer.copy_from_nonoverlapping(NonNull::from(&marked(bytes)[0]), bytes);
                shuffler.return_pointer(raw).unwrap();
            }
            source.only([bytes]);
            assert_eq!(shuffler.free(raw), Ok(Freed::Now));
            source.only([]);
        }
    });
}

#[test]
fn a_value_that_is_taken_leaves_nothing() {
    scrubbed(|shuffler, source| {
        let (small, large) = (Secret::<150>::new(false), Secret::<70_000>::new(false));
        let (small, large) = (shuffler.create(small).unwrap(), shuffler.create(large).unwrap());
        source.only([150, 70_000]);
        drop(shuffler.take(small).unwrap());
        source.only([70_000]);
        drop(shuffler.take(large).unwrap());
        source.only([]);
    });
}

/// Marked blocks, of which every eighth is kept, over several arenas.
fn fragmented(shuffler: &Shuffler, bytes: usize) -> Vec<Handle<[u8]>> {
    let all: Vec<_> = (0..12 * ARENA / (bytes + 8)).map(|_| block(shuffler, bytes)).collect();
    let mut kept = Vec::new();
    for (index, handle) in all.into_iter().enumerate() {
        if index % 8 == 0 { kept.push(handle) } else { free(shuffler, handle) }
    }
    kept
}

#[test]
fn the_place_that_a_block_was_moved_from_is_wiped() {
    scrubbed(|shuffler, source| {
        for bytes in [100, 1000, 4001] {
            let kept = fragmented(shuffler, bytes);
            let live = || std::iter::repeat_n(bytes, kept.len());
            source.only(live());
            // Some stay where they are, so their arenas do.
            let rents: Vec<_> = kept.iter().step_by(10).map(|&handle| shuffler.rent(handle).unwrap()).collect();
            let progress = shuffler.shuffle().progress;
            assert!(progress.moves > 10 && progress.skipped_pinned > 0, "{progress:?}");
            source.only(live());
            drop(rents);
            assert!(shuffler.shuffle().progress.moves > 0);
            source.only(live());
            for &handle in &kept {
                assert_eq!(*shuffler.rent(handle).unwrap(), *marked(bytes));
                free(shuffler, handle);
            }
            source.only([]);
        }
    });
}

#[test]
fn blocks_of_versions_are_wiped_after_their_readers() {
    scrubbed(|shuffler, source| {
        let handle = shuffler.create_versioned(Secret::<100>::new(false)).unwrap();
        let large = shuffler.create_versioned(Secret::<70_000>::new(false)).unwrap();
        let reader = shuffler.reader();
        let (first, second) = (reader.get(handle).unwrap(), reader.get(large).unwrap());
        shuffler.publish(handle, Secret::new(false)).map_err(drop).unwrap();
        shuffler.update(handle, |old| Secret { bytes: old.bytes, panics: false }).unwrap();
        assert_eq!(shuffler.free(handle), Ok(Freed::Now));
        assert_eq!(shuffler.free(large), Ok(Freed::Now));
        shuffler.shuffle();
        assert!(first.bytes == *marked(100) && second.bytes == *marked(70_000), "readers see them still");
        source.only([100, 100, 100, 70_000]);
        drop(reader);
        quiet(shuffler);
        source.only([]);

        // Slices that others of other lengths replace, and one that finds its handle freed.
        let slice = shuffler.alloc_versioned(&marked(70_000)).unwrap();
        let reader = shuffler.reader();
        let seen = reader.get(slice).unwrap();
        for length in [200, 90_000, 65_000, 300] {
            shuffler.publish_copy(slice, &marked(length)).unwrap();
        }
        shuffler.shuffle();
        assert!(*seen == marked(70_000), "a reader sees it still");
        source.only([70_000, 200, 90_000, 65_000, 300]);
        drop(reader);
        quiet(shuffler);
        source.only([300]);
        assert_eq!(shuffler.free(slice), Ok(Freed::Now));
        assert_eq!(shuffler.publish_copy(slice, &marked(500)), Err(AccessError::Stale));
        quiet(shuffler);
        source.only([]);
    });
}

#[test]
fn arenas_of_versions_are_wiped_before_they_are_used_again() {
    scrubbed(|shuffler, source| {
        let all: Vec<_> = (0..6000).map(|_| shuffler.alloc_versioned(&marked(100)).unwrap()).collect();
        let mut kept = Vec::new();
        for (index, handle) in all.into_iter().enumerate() {
            if index % 8 == 0 { kept.push(handle) } else { assert_eq!(shuffler.free(handle), Ok(Freed::Now)) }
        }
        quiet(shuffler);
        let reader = shuffler.reader();
        let values: Vec<_> = kept.iter().map(|&handle| reader.get(handle).unwrap()).collect();
        // What the reader found is where it was, but the blocks of sealed arenas may be elsewhere.
        shuffler.shuffle();
        assert!(values.iter().all(|value| **value == *marked(100)));
        drop(reader);
        shuffler.trim();
        quiet(shuffler);
        let stats = shuffler.stats();
        assert!(stats.moves > 100, "{stats:?}");
        source.only(std::iter::repeat_n(100, kept.len()));
        for handle in kept {
            assert_eq!(shuffler.free(handle), Ok(Freed::Now));
        }
        quiet(shuffler);
        source.only([]);
    });
}

#[test]
fn what_a_resize_leaves_is_wiped() {
    scrubbed(|shuffler, source| {
        // Longer, with a block behind it, and shorter: by less than a unit, by some, to nothing; large, and small again.
        for lengths in [
            &[100, 97, 96, 90, 64, 5, 0][..],
            &[100, 200, 30_000, 29_999, 100],
            &[300_000, 299_999, 299_990, 200_000, 70_001, 69_000, 1000, 9],
            &[50, 300_000, 250_001, 50],
        ] {
            let handle = block(shuffler, lengths[0]);
            let behind = block(shuffler, 20);
            for &bytes in &lengths[1..] {
                shuffler.resize(handle, bytes).unwrap();
                // What a longer one gained is zero.
                let kept = bytes.min(shuffler.rent(handle).unwrap().iter().take_while(|&&byte| byte != 0).count());
                source.only([kept, 20]);
                shuffler.rent_mut(handle).unwrap().copy_from_slice(&marked(bytes));
                source.only([bytes, 20]);
            }
            free(shuffler, handle);
            source.only([20]);
            free(shuffler, behind);
        }
        source.only([]);
    });
}

#[test]
fn panics_leave_nothing() {
    scrubbed(|shuffler, source| {
        for large in [false, true] {
            let made = catch_unwind(AssertUnwindSafe(|| {
                if large {
                    let _ = shuffler.create_with(|| -> Secret<70_000> { panic!("nothing was made") });
                } else {
                    let _ = shuffler.create_with(|| {
                        let _whole = Secret::<300>::new(true);
                        Secret::<300>::new(false)
                    });
                }
            }));
            assert!(made.is_err());
            source.only([]);
        }
        let handle = shuffler.create(Secret::<90>::new(true)).unwrap();
        assert!(catch_unwind(AssertUnwindSafe(|| shuffler.free(handle))).is_err());
        let large = shuffler.create(Secret::<80_000>::new(true)).unwrap();
        assert!(catch_unwind(AssertUnwindSafe(|| shuffler.free(large))).is_err());
        source.only([]);

        let handle = shuffler.create_versioned(Secret::<90>::new(false)).unwrap();
        let update = || shuffler.update(handle, |_| panic!("no successor"));
        assert!(catch_unwind(AssertUnwindSafe(update)).is_err());
        source.only([90]);
        // Freed in the middle of an update: neither the old value nor the new one stays.
        let freed = shuffler.update(handle, |_| {
            let _ = shuffler.free(handle).unwrap();
            Secret::new(false)
        });
        assert_eq!(freed, Err(AccessError::Stale));
        quiet(shuffler);
        source.only([]);
    });
}

#[test]
fn what_is_left_at_the_end_is_wiped() {
    for source in sources() {
        let shuffler = small(&source).scrub(true).build().unwrap();
        let mut kept = fragmented(&shuffler, 700);
        kept.extend([block(&shuffler, 300_000), block(&shuffler, 90_000)]);
        // Forgotten holds keep their blocks from being settled, and a forgotten reader what it sees.
        mem::forget(shuffler.rent(kept[3]).unwrap());
        mem::forget(shuffler.rent(*kept.last().unwrap()).unwrap());
        let handle = shuffler.alloc_versioned(&marked(444)).unwrap();
        mem::forget(shuffler.reader());
        assert_eq!(shuffler.free(handle), Ok(Freed::Now));
        let owned = shuffler.rent_owned(kept[5]).unwrap();
        drop(shuffler);
        assert_eq!(*owned, *marked(700));
        drop(owned);
        assert_eq!(source.chunks.lock().unwrap().len(), 0, "all went back");
        assert_eq!(source.released(), 0);
    }
}

/// The hooks are the process's: one test at a time that has a background thread.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn threads_leave_nothing() {
    let _alone = ALONE.lock();
    for source in sources() {
        let shuffler = small(&source).trigger(Trigger::Background).scrub(true).build().unwrap();
        let shared: Mutex<Vec<(Handle<[u8]>, usize)>> = Mutex::default();
        // Of whole units: behind others there is room, in which old headers may look like the marker going on.
        let length = |random: &mut StdRng| random.random_range(1..375) * 8;
        let work = |seed: u64| {
            let mut random = StdRng::seed_from_u64(seed);
            let mut own: Vec<(Handle<[u8]>, usize)> = Vec::new();
            for _ in 0..3000 {
                match random.random_range(0..10) {
                    0..5 => {
                        let bytes = if random.random_bool(0.002) { 70_000 } else { length(&mut random) };
                        own.push((block(&shuffler, bytes), bytes));
                    }
                    5..7 if !own.is_empty() => {
                        let (handle, _) = own.swap_remove(random.random_range(0..own.len()));
                        let _ = shuffler.free(handle).unwrap();
                    }
                    7 if !own.is_empty() => {
                        let moved = own.swap_remove(random.random_range(0..own.len()));
                        let mut shared = shared.lock().unwrap();
                        shared.push(moved);
                        let index = random.random_range(0..shared.len());
                        let (handle, bytes) = shared.swap_remove(index);
                        drop(shared);
                        assert_eq!(*shuffler.rent(handle).unwrap(), *marked(bytes));
                        let _ = shuffler.free(handle).unwrap();
                    }
                    8 if !own.is_empty() => {
                        let index = random.random_range(0..own.len());
                        let (handle, bytes) = &mut own[index];
                        *bytes = length(&mut random);
                        shuffler.resize(*handle, *bytes).unwrap();
                        shuffler.rent_mut(*handle).unwrap().copy_from_slice(&marked(*bytes));
                    }
                    _ if !own.is_empty() => {
                        let (handle, bytes) = own[random.random_range(0..own.len())];
                        assert_eq!(*shuffler.rent(handle).unwrap(), *marked(bytes));
                    }
                    _ => {}
                }
            }
            own
        };
        let threads = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|seed| scope.spawn(move || work(seed))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let live: Vec<_> = threads.into_iter().chain(shared.into_inner().unwrap()).collect();
        let stats = quiet(&shuffler);
        assert!(stats.moves > 0, "{stats:?}");
        {
            let _paused = shuffler.pause();
            eventually("the compactor rests", || {
                shuffler.stats().compactor != memory_shuffler::CompactorState::Running
            });
            source.only(live.iter().map(|&(_, bytes)| bytes));
        }
        for (handle, bytes) in live {
            assert_eq!(*shuffler.rent(handle).unwrap(), *marked(bytes));
            let _ = shuffler.free(handle).unwrap();
        }
        drop(shuffler);
        assert_eq!(source.released(), 0);
    }
}

/// Others finish a move while the mover copies: what it copies stands until it is done.
#[cfg(feature = "test-hooks")]
mod meanwhile {
    use super::*;
    use memory_shuffler::hooks;

    /// A shuffler whose compactor waits in the middle of a move, and what it was to move.
    fn waiting(source: &Arc<Watched>) -> (Shuffler, Vec<Handle<[u8]>>) {
        let shuffler = small(source).trigger(Trigger::Background).scrub(true).build().unwrap();
        hooks::MOVER.close();
        let kept = fragmented(&shuffler, 1000);
        eventually("the compactor waits in a move", || {
            free(&shuffler, shuffler.alloc(900).unwrap());
            hooks::MOVER.is_occupied()
        });
        (shuffler, kept)
    }

    /// Opens the gates when dropped, so that a test which fails ends.
    struct Opened;

    impl Drop for Opened {
        fn drop(&mut self) {
            hooks::MOVER.open();
            hooks::HELPER.open();
        }
    }

    fn rest(shuffler: &Shuffler) {
        hooks::MOVER.open();
        // Each shuffle that comes to what waits for a mover tells the compactor, so it is left alone to rest.
        for _ in 0..3 {
            shuffler.shuffle();
            eventually("the compactor rests", || {
                shuffler.stats().compactor != memory_shuffler::CompactorState::Running
            });
        }
    }

    #[test]
    fn the_source_of_a_move_waits_for_the_other_mover() {
        let (_alone, _opened) = (ALONE.lock(), Opened);
        for source in sources() {
            let (shuffler, kept) = waiting(&source);
            // The mover's own copy, too.
            source.only(std::iter::repeat_n(1000, kept.len() + 1));
            for &handle in &kept {
                assert_eq!(*shuffler.rent(handle).unwrap(), *marked(1000));
            }
            assert_eq!(shuffler.stats().helped, 1);
            shuffler.shuffle();
            let pieces = source.held();
            assert_eq!(pieces, super::pieces(std::iter::repeat_n(1000, kept.len() + 2)), "the source stands");
            rest(&shuffler);
            source.only(std::iter::repeat_n(1000, kept.len()));
            for handle in kept {
                free(&shuffler, handle);
            }
            rest(&shuffler);
            source.only([]);
        }
    }

    #[test]
    fn a_helper_that_loses_leaves_nothing() {
        let (_alone, _opened) = (ALONE.lock(), Opened);
        for source in sources() {
            let (shuffler, kept) = waiting(&source);
            hooks::HELPER.close();
            thread::scope(|scope| {
                let _opened = Opened;
                // One of these blocks is being moved.
                scope.spawn(|| kept.iter().for_each(|&handle| drop(shuffler.rent(handle).unwrap())));
                eventually("a helper has copied the block", || hooks::HELPER.is_occupied());
                source.only(std::iter::repeat_n(1000, kept.len() + 2));
                rest(&shuffler);
                // And whatever else was moved out of the arena, since the helper claims it.
                let least = pieces(std::iter::repeat_n(1000, kept.len() + 2));
                assert!(source.held() >= least, "the source stands, and the helper's copy");
                hooks::HELPER.open();
            });
            assert_eq!(shuffler.stats().helped, 0, "the mover won");
            rest(&shuffler);
            source.only(std::iter::repeat_n(1000, kept.len()));
        }
    }

    #[test]
    fn a_block_that_is_freed_while_it_moves_waits_for_the_mover() {
        let (_alone, _opened) = (ALONE.lock(), Opened);
        for source in sources() {
            let (shuffler, kept) = waiting(&source);
            for &handle in &kept {
                free(&shuffler, handle);
            }
            shuffler.shuffle();
            source.only([1000, 1000]);
            rest(&shuffler);
            source.only([]);
        }
    }
}
