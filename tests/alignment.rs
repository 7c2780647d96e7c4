//! Blocks aligned to 512 bytes or more: they cost little more than their own bytes, and keep their alignment and contents
//! wherever they are moved.

#![allow(clippy::disallowed_types, reason = "tests count with the standard atomics; no model runs them")]

mod common;

use common::{Checked, Ledger, Token, eventually, fill, manual, pattern};
use memory_shuffler::{Builder, BumpSource, Freed, Frozen, Handle, RawHandle, Shuffler, Trigger, Versioned};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::alloc::Layout;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const KIB: usize = 1 << 10;

/// Both sources, with small and with usual arenas; nothing is kept, and nothing moves unasked.
fn builders() -> impl Iterator<Item = (String, usize, Builder)> {
    let arenas = [64 * KIB, 1024 * KIB];
    arenas.into_iter().flat_map(|arena_bytes| {
        [false, true].map(|bump| {
            let builder = Shuffler::builder().trigger(Trigger::Manual).arena_bytes(arena_bytes).retain_bytes(0);
            let builder = if bump { builder.source(BumpSource::new()) } else { builder.source(Checked::new()) };
            (format!("arenas of {} KiB, BumpSource: {bump}", arena_bytes / KIB), arena_bytes, builder)
        })
    })
}

/// A block of some layout, and how its contents were made.
#[derive(Clone, Copy)]
struct Made {
    raw: RawHandle,
    layout: Layout,
    seed: u64,
}

impl Made {
    fn new(shuffler: &Shuffler, layout: Layout, seed: u64) -> Self {
        let raw = shuffler.alloc_layout(layout).unwrap();
        let made = Self { raw, layout, seed };
        if layout.size() > 0 {
            let pointer = shuffler.rent_pointer_mut::<u8>(raw).unwrap();
            // SAFETY: the block is rented to write, and has that many bytes.
            let bytes = unsafe { std::slice::from_raw_parts_mut(pointer.as_ptr(), layout.size()) };
            assert!(bytes.iter().all(|byte| *byte == 0), "{layout:?} is not zeroed");
            fill(bytes, seed);
            // SAFETY: rented above, and the pointer is used no more.
            unsafe { shuffler.return_pointer(raw) }.unwrap();
        }
        made
    }

    #[track_caller]
    fn verify(self, shuffler: &Shuffler) {
        let Self { raw, layout, seed } = self;
        let info = shuffler.inspect(raw).unwrap();
        assert_eq!((info.address % layout.align(), info.size), (0, layout.size()), "{layout:?}");
        if layout.size() > 0 {
            let pointer = shuffler.rent_pointer::<u8>(raw).unwrap();
            assert_eq!(pointer.addr().get() % layout.align(), 0, "{layout:?}");
            // SAFETY: the block is rented to read, and has that many bytes.
            let bytes = unsafe { std::slice::from_raw_parts(pointer.as_ptr(), layout.size()) };
            assert!(*bytes == *pattern(seed, layout.size()), "{layout:?} lost its contents");
            // SAFETY: rented above, and the pointer is used no more.
            unsafe { shuffler.return_pointer(raw) }.unwrap();
        }
    }

    fn free(self, shuffler: &Shuffler) {
        assert!(shuffler.free(self.raw).is_ok());
    }
}

/// Sizes about granules, pages and the bounds of what is moved; small ones more often.
fn some_layout(random: &mut StdRng, powers: std::ops::RangeInclusive<u32>) -> Layout {
    const SIZES: [usize; 24] = [
        0, 1, 8, 100, 511, 512, 513, 520, 1000, 1023, 1024, 1025, 2048, 4095, 4096, 4097, 8192, 12_000, 16_383, 16_384,
        16_385, 65_024, 65_528, 65_536,
    ];
    let largest = if random.random_bool(0.1) { SIZES.len() } else { SIZES.len() - 4 };
    Layout::from_size_align(SIZES[random.random_range(0..largest)], 1 << random.random_range(powers)).unwrap()
}

/// Every arena goes back: of none a byte is left on its account. (Those of `Versioned` blocks wait for the next step.)
fn check_empty(shuffler: &Shuffler) {
    eventually("all arenas go back", || {
        shuffler.trim();
        shuffler.stats().arenas == 0
    });
    let stats = shuffler.stats();
    assert_eq!((stats.live_blocks, stats.live_bytes, stats.dead_bytes), (0, 0, 0), "{stats:?}");
}

#[test]
fn layouts_keep_their_alignment_and_contents_through_fifty_shuffles() {
    for (scene, _, builder) in builders() {
        println!("{scene}");
        let shuffler = builder.build().unwrap();
        let mut random = StdRng::seed_from_u64(7);
        let make = |random: &mut StdRng, seed| {
            // Those that are aligned most widely have memory of their own and do not move.
            let powers = if random.random_bool(0.2) { 9..=16 } else { 9..=12 };
            Made::new(&shuffler, some_layout(random, powers), seed)
        };
        let mut blocks: Vec<Made> = (0..400).map(|seed| make(&mut random, seed)).collect();
        let mut seed = blocks.len() as u64;
        for round in 0..50 {
            let third = blocks.len() / 3;
            for _ in 0..third {
                blocks.swap_remove(random.random_range(0..blocks.len())).free(&shuffler);
            }
            blocks.extend((0..third as u64).map(|number| make(&mut random, seed + number)));
            seed += third as u64;
            shuffler.shuffle();
            // All of them now and then, else some.
            let sample = if round % 10 == 9 { 1 } else { 7 };
            blocks.iter().skip(round % sample).step_by(sample).for_each(|block| block.verify(&shuffler));
        }
        assert!(shuffler.stats().moves > 500, "{:?}", shuffler.stats());
        blocks.drain(..).for_each(|block| block.free(&shuffler));
        check_empty(&shuffler);
    }
}

/// A page.
#[derive(Clone, Copy)]
#[repr(align(4096))]
struct Page([u8; 4096]);

// SAFETY: bytes.
unsafe impl Frozen for Page {}

impl Page {
    fn new(seed: u64) -> Self {
        let mut page = Self([0; 4096]);
        fill(&mut page.0, seed);
        page
    }
}

/// Aligned more widely than it is long, and dropped.
#[repr(align(1024))]
struct Guarded {
    token: Token,
    seed: u64,
}

/// Longer than it is aligned, by less than a granule.
#[derive(Clone, Copy)]
#[repr(align(512))]
struct Sector([u64; 72]);

// SAFETY: numbers.
unsafe impl Frozen for Sector {}

#[test]
fn types_keep_their_alignment_and_contents_through_fifty_shuffles() {
    for (scene, _, builder) in builders() {
        println!("{scene}");
        let shuffler = builder.build().unwrap();
        let mut random = StdRng::seed_from_u64(8);
        let ledger = Ledger::new(200 + 50 * 60);
        let guarded = |seed| (shuffler.create(Guarded { token: ledger.token(), seed }).unwrap(), seed);
        let page = |seed| (shuffler.create_versioned(Page::new(seed)).unwrap(), seed);
        let slice = |seed| (shuffler.alloc_copy(&[Page::new(seed), Page::new(!seed)]).unwrap(), seed);
        let sector = |seed| (shuffler.create_versioned(Sector([seed; 72])).unwrap(), seed);
        let mut all: Vec<(Handle<Guarded>, u64)> = (0..200).map(guarded).collect();
        let mut pages: Vec<(Versioned<Page>, u64)> = (0..200).map(page).collect();
        let mut slices: Vec<(Handle<[Page]>, u64)> = (0..100).map(slice).collect();
        let mut sectors: Vec<(Versioned<Sector>, u64)> = (0..200).map(sector).collect();
        for round in 1..=50_u64 {
            for number in 0..60 {
                let seed = round << 32 | number;
                let index = random.random_range(0..100);
                assert_eq!(shuffler.free(std::mem::replace(&mut all[index], guarded(seed)).0), Ok(Freed::Now));
                assert_eq!(shuffler.free(std::mem::replace(&mut slices[index], slice(seed)).0), Ok(Freed::Now));
                let (old, _) = std::mem::replace(&mut sectors[index], sector(seed));
                assert!(shuffler.free(old).is_ok());
                let (handle, now) = &mut pages[index];
                *now = seed;
                match number % 3 {
                    0 => shuffler.publish(*handle, Page::new(seed)).unwrap(),
                    1 => shuffler.update(*handle, |_| Page::new(seed)).unwrap(),
                    _ => {
                        assert!(shuffler.free(*handle).is_ok());
                        *handle = shuffler.create_versioned(Page::new(seed)).unwrap();
                    }
                }
            }
            shuffler.shuffle();
            let step = if round % 10 == 0 { 1 } else { 9 };
            let reader = shuffler.reader();
            for index in (0..100).step_by(step) {
                let (handle, seed) = all[index];
                let rent = shuffler.rent(handle).unwrap();
                assert_eq!((&raw const *rent).addr() % 1024, 0);
                assert!(rent.token.is_whole() && rent.seed == seed);
                let (handle, seed) = slices[index];
                let rent = shuffler.rent(handle).unwrap();
                assert_eq!((rent.len(), rent.as_ptr().addr() % 4096), (2, 0));
                assert!(rent[0].0 == *pattern(seed, 4096) && rent[1].0 == *pattern(!seed, 4096));
                let (handle, seed) = pages[index];
                let page = reader.get(handle).unwrap();
                assert_eq!((&raw const *page).addr() % 4096, 0);
                assert!(page.0 == *pattern(seed, 4096));
                let (handle, seed) = sectors[index];
                let sector = reader.get(handle).unwrap();
                assert_eq!((&raw const *sector).addr() % 512, 0);
                assert_eq!(sector.0, [seed; 72]);
            }
        }
        assert!(shuffler.stats().moves > 500, "{:?}", shuffler.stats());
        let raws = |raws: &mut dyn Iterator<Item = RawHandle>| raws.for_each(|raw| assert!(shuffler.free(raw).is_ok()));
        raws(&mut all.iter().map(|block| block.0.into()));
        raws(&mut pages.iter().map(|block| block.0.into()));
        raws(&mut slices.iter().map(|block| block.0.into()));
        raws(&mut sectors.iter().map(|block| block.0.into()));
        check_empty(&shuffler);
        ledger.settled();
    }
}

#[test]
fn pages_cost_little_more_than_themselves() {
    const PAGES: usize = 20_000;
    for (scene, arena_bytes, builder) in builders() {
        let shuffler = builder.build().unwrap();
        let mut random = StdRng::seed_from_u64(9);
        let page = |seed: usize| shuffler.create(Page([seed as u8; 4096])).unwrap();
        let mut pages: Vec<Handle<Page>> = (0..PAGES).map(page).collect();
        for (index, place) in pages.iter_mut().enumerate() {
            if random.random_bool(0.5) {
                assert_eq!(shuffler.free(std::mem::replace(place, page(index))), Ok(Freed::Now));
            }
        }
        let sparse = shuffler.stats().resident_bytes as f64;
        shuffler.shuffle();
        shuffler.trim();
        let resident = shuffler.stats().resident_bytes as f64;
        let requested = (PAGES * 4096) as f64;
        println!("{scene}: {:.4}, before the shuffle {:.4}", resident / requested, sparse / requested);
        // The column of a small arena costs it a page in sixteen; that of a large one, four in 256.
        let ratio = if arena_bytes < 1024 * KIB { 1.075 } else { 1.06 };
        assert!(resident <= ratio * requested + (24 * PAGES) as f64, "{scene}: {:?}", shuffler.stats());
        for (index, handle) in pages.iter().enumerate() {
            let rent = shuffler.rent(*handle).unwrap();
            assert!(rent.0.iter().all(|byte| *byte == index as u8), "page {index}");
        }
        pages.drain(..).for_each(|page| assert_eq!(shuffler.free(page), Ok(Freed::Now)));
        check_empty(&shuffler);
    }
}

#[test]
fn arenas_with_a_column_are_made_when_first_used() {
    let shuffler = manual();
    let _small = shuffler.create([1_u8; 256]).unwrap();
    let _versioned = shuffler.create_versioned(1).unwrap();
    // Each kind has one to fill and one for helpers.
    assert_eq!(shuffler.stats().arenas, 4);
    let page = shuffler.create(Page::new(1)).unwrap();
    assert_eq!(shuffler.stats().arenas, 6);
    let pages: Vec<_> = (0..200).map(|seed| shuffler.create(Page::new(seed)).unwrap()).collect();
    assert_eq!(shuffler.stats().arenas, 6);
    let arenas: std::collections::HashSet<u32> =
        pages.iter().map(|page| shuffler.inspect(*page).unwrap().arena).collect();
    assert_eq!(arenas, [shuffler.inspect(page).unwrap().arena].into(), "one megabyte holds 201 pages");
}

#[test]
fn the_bytes_of_a_page_are_a_page() {
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).arena_bytes(64 * KIB).build().unwrap();
    // The column and the gap behind it take the first page; the sixteenth block begins another arena, so the first is sealed.
    let pages: Vec<_> = (0..16).map(|seed| shuffler.create(Page::new(seed)).unwrap()).collect();
    let arena = shuffler.inspect(pages[0]).unwrap().arena;
    let info = || shuffler.arenas().into_iter().find(|info| info.id == arena).unwrap();
    let gap = 3 * KIB;
    assert_eq!((info().live, info().dead), (15 * 4 * KIB, gap));
    assert_eq!(shuffler.free(pages[3]), Ok(Freed::Now));
    assert_eq!((info().live, info().dead), (14 * 4 * KIB, gap + 4 * KIB));
}

/// Threads that make, check and free blocks of every alignment, each its own and each other's, while others shuffle.
#[test]
fn mixed_alignments_in_a_storm() {
    let configurations = [
        Shuffler::builder().arena_bytes(64 * KIB).retain_bytes(0),
        Shuffler::builder().source(BumpSource::new()),
        Shuffler::builder().arena_bytes(64 * KIB).trigger(Trigger::Inline).source(Checked::new()),
    ];
    for builder in configurations {
        let shuffler = builder.build().unwrap();
        let shared: Mutex<Vec<Made>> = Mutex::default();
        let over = AtomicBool::new(false);
        let work = |thread: u64| {
            let mut random = StdRng::seed_from_u64(thread);
            let mut own: Vec<Made> = Vec::new();
            let mut seed = thread << 48;
            while !over.load(Ordering::Relaxed) {
                seed += 1;
                match random.random_range(0..10) {
                    0..4 if own.len() < 300 => own.push(Made::new(&shuffler, some_layout(&mut random, 0..=14), seed)),
                    4..6 if !own.is_empty() => own[random.random_range(0..own.len())].verify(&shuffler),
                    6..8 if !own.is_empty() => {
                        own.swap_remove(random.random_range(0..own.len())).free(&shuffler);
                    }
                    8 if !own.is_empty() => {
                        let block = own.swap_remove(random.random_range(0..own.len()));
                        shared.lock().unwrap().push(block);
                    }
                    _ => {
                        let block = shared.lock().unwrap().pop();
                        if let Some(block) = block {
                            block.verify(&shuffler);
                            block.free(&shuffler);
                        }
                    }
                }
            }
            own.into_iter().for_each(|block| {
                block.verify(&shuffler);
                block.free(&shuffler);
            });
        };
        thread::scope(|scope| {
            (0..4).for_each(|thread| drop(scope.spawn(move || work(thread))));
            let start = Instant::now();
            let is_enough = |elapsed| elapsed > Duration::from_millis(700) && shuffler.stats().moves > 0;
            while !is_enough(start.elapsed()) && start.elapsed() < common::AT_LAST {
                shuffler.shuffle();
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(shuffler.stats().moves > 0);
        for block in shared.into_inner().unwrap() {
            block.verify(&shuffler);
            block.free(&shuffler);
        }
        shuffler.shuffle();
        assert_eq!(shuffler.stats().live_blocks, 0);
    }
}
