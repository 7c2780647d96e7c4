//! Where moved blocks are put: random placement, and orders that somebody asks for.

mod common;

use memory_shuffler::{AccessError, Handle, Placement, RawHandle, Shuffler, Trigger, Versioned};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

fn random(seed: u64) -> Shuffler {
    let builder = Shuffler::builder().trigger(Trigger::Manual).placement(Placement::Random).seed(seed);
    builder.build().expect("a configuration")
}

fn address(shuffler: &Shuffler, block: impl Into<RawHandle>) -> usize {
    shuffler.inspect(block).expect("a live block").address
}

fn addresses<T>(shuffler: &Shuffler, blocks: &[Handle<T>]) -> Vec<usize> {
    blocks.iter().map(|&block| address(shuffler, block)).collect()
}

/// The order in which blocks lie, as indices, and each one's place in its arena.
fn layout<T>(shuffler: &Shuffler, blocks: &[Handle<T>]) -> Vec<(usize, usize)> {
    let mut places: Vec<_> = addresses(shuffler, blocks).into_iter().enumerate().collect();
    places.sort_unstable_by_key(|&(_, address)| address);
    places.into_iter().map(|(index, address)| (index, address % (1 << 20))).collect()
}

fn fill(shuffler: &Shuffler, blocks: u64) -> Vec<Handle<[u64; 12]>> {
    (0..blocks).map(|number| shuffler.create([number; 12]).expect("memory")).collect()
}

fn check(shuffler: &Shuffler, blocks: &[Handle<[u64; 12]>]) {
    for (number, &block) in (0..).zip(blocks) {
        assert_eq!(*shuffler.rent(block).expect("a live block"), [number; 12]);
    }
}

/// The share of blocks whose successor lies right behind them.
fn neighbours(shuffler: &Shuffler, blocks: &[Handle<[u64; 12]>]) -> f64 {
    let addresses = addresses(shuffler, blocks);
    let pairs = addresses.windows(2).filter(|pair| pair[1] == pair[0] + 104).count();
    pairs as f64 / blocks.len() as f64
}

#[test]
fn a_seed_leads_to_one_placement_and_another_to_another() {
    for blocks in [1_000, 60_000] {
        let placed = |seed| {
            let shuffler = random(seed);
            let blocks = fill(&shuffler, blocks);
            let mut layouts = vec![layout(&shuffler, &blocks)];
            for _ in 0..3 {
                shuffler.shuffle();
                layouts.push(layout(&shuffler, &blocks));
            }
            check(&shuffler, &blocks);
            layouts
        };
        let (first, again, other) = (placed(1), placed(1), placed(2));
        assert_eq!(first, again, "{blocks} blocks, the same seed");
        assert_eq!(first[0], other[0], "they are not placed at random before they move");
        for round in 1..first.len() {
            assert_ne!(first[round], first[round - 1], "round {round} of {blocks} blocks");
            let same = first[round].iter().zip(&other[round]).filter(|(first, other)| first == other).count();
            assert!(same < first[round].len() / 100, "{same} of {blocks} blocks lie alike with another seed");
        }
    }
}

#[test]
fn without_a_seed_no_two_are_alike() {
    let build =
        || Shuffler::builder().trigger(Trigger::Manual).placement(Placement::Random).build().expect("it is sound");
    let layouts = [build(), build()].map(|shuffler| {
        let blocks = fill(&shuffler, 1_000);
        shuffler.shuffle();
        layout(&shuffler, &blocks)
    });
    assert_ne!(layouts[0], layouts[1]);
}

#[test]
fn full_arenas_are_shuffled_too_and_packed_ones_are_not() {
    let shuffler = random(7);
    let blocks = fill(&shuffler, 100_000);
    assert!(neighbours(&shuffler, &blocks) > 0.99);
    for _ in 0..3 {
        let before = addresses(&shuffler, &blocks);
        let report = shuffler.shuffle();
        assert!(report.progress.moves >= blocks.len(), "{report:?}");
        let stayed =
            before.iter().zip(addresses(&shuffler, &blocks)).filter(|&(&before, after)| before == after).count();
        assert!(stayed < blocks.len() / 100, "{stayed} blocks are where they were");
        assert!(neighbours(&shuffler, &blocks) < 0.01);
        check(&shuffler, &blocks);
        // Eight arenas are filled side by side, and some are kept warm.
        let held = shuffler.stats().resident_bytes as usize;
        assert!(held < blocks.len() * 128 + (24 << 20), "{held} bytes held");
    }
    let packed = Shuffler::builder().trigger(Trigger::Manual).build().expect("a configuration");
    let blocks = fill(&packed, 100_000);
    assert_eq!(packed.shuffle().progress.moves, 0);
    check(&packed, &blocks);
}

#[test]
fn blocks_of_one_arena_end_up_in_several() {
    let builder = Shuffler::builder().trigger(Trigger::Manual).placement(Placement::Random).arena_bytes(64 << 10);
    let shuffler = builder.build().expect("a configuration");
    let blocks = fill(&shuffler, 100_000);
    let home = shuffler.inspect(blocks[0]).unwrap().arena;
    let together = shuffler.blocks_in(home);
    shuffler.shuffle();
    let arenas: std::collections::HashSet<u32> =
        together.iter().map(|block| shuffler.inspect(block.handle).unwrap().arena).collect();
    assert!(arenas.len() >= 8, "{} arenas", arenas.len());
}

#[test]
fn held_blocks_stay_and_alignment_is_kept() {
    #[repr(align(256))]
    #[derive(Debug)]
    struct Wide(#[allow(dead_code, reason = "it is there to take room")] [u64; 40]);
    let shuffler = random(11);
    let narrow = fill(&shuffler, 20_000);
    let wide: Vec<_> = (0..2_000).map(|number| shuffler.create(Wide([number; 40])).unwrap()).collect();
    let pages: Vec<_> = (0..200)
        .map(|_| shuffler.alloc_layout(std::alloc::Layout::from_size_align(4096, 4096).unwrap()).unwrap())
        .collect();
    let held: Vec<_> = narrow.iter().step_by(100).map(|&block| shuffler.rent(block).unwrap()).collect();
    let before: Vec<usize> = held.iter().map(|rent| std::ptr::from_ref(&**rent).addr()).collect();
    for _ in 0..5 {
        shuffler.shuffle();
        let now: Vec<usize> = narrow.iter().step_by(100).map(|&block| address(&shuffler, block)).collect();
        assert_eq!(now, before);
        assert!(wide.iter().all(|&block| address(&shuffler, block) % 256 == 0));
        assert!(pages.iter().all(|&page| address(&shuffler, page) % 4096 == 0));
    }
    drop(held);
    check(&shuffler, &narrow);
}

#[test]
fn the_background_thread_moves_what_gains_nothing_and_takes_its_time() {
    let shuffler = Shuffler::builder().placement(Placement::Random).seed(5).build().expect("a configuration");
    let blocks = fill(&shuffler, 50_000);
    let mut before = addresses(&shuffler, &blocks);
    for _ in 0..2 {
        let moved = |before: &[usize]| {
            let now = addresses(&shuffler, &blocks);
            before.iter().zip(now).filter(|&(&before, now)| before != now).count()
        };
        // All but what lies in the arena that this thread fills.
        let most = blocks.len() - (1 << 20) / 104;
        common::eventually("everything was moved", || moved(&before) >= most);
        before = addresses(&shuffler, &blocks);
    }
    let (start, moves) = (Instant::now(), shuffler.stats().moves);
    // Not a wait for anything: what is measured is how much goes on in this time.
    thread::sleep(Duration::from_secs(3));
    let passes = (shuffler.stats().moves - moves) as f64 / blocks.len() as f64;
    assert!(passes <= start.elapsed().as_secs_f64() + 1.5, "{passes} passes in {:?}", start.elapsed());
    check(&shuffler, &blocks);
}

#[test]
fn the_inline_trigger_makes_passes_without_a_thread() {
    let builder = Shuffler::builder().placement(Placement::Random).trigger(Trigger::Inline).seed(5);
    let shuffler = builder.build().expect("a configuration");
    let blocks = fill(&shuffler, 5_000);
    let before = addresses(&shuffler, &blocks);
    common::eventually("rents moved everything", || {
        check(&shuffler, &blocks);
        before.iter().zip(addresses(&shuffler, &blocks)).all(|(&before, now)| before != now)
    });
}

#[test]
fn a_pause_stops_passes_and_nothing_spins() {
    let shuffler = Shuffler::builder().placement(Placement::Random).build().expect("a configuration");
    let blocks = fill(&shuffler, 50_000);
    common::eventually("a pass was made", || shuffler.stats().moves > 0);
    let paused = shuffler.pause();
    assert!(shuffler.shuffle().paused);
    // For a step that is under way.
    thread::sleep(Duration::from_millis(50));
    let moves = shuffler.stats().moves;
    // Not a wait for anything: nothing is to happen in this time.
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(shuffler.stats().moves, moves);
    drop(paused);
    common::eventually("passes go on", || shuffler.stats().moves > moves);
    check(&shuffler, &blocks);
}

#[test]
fn near_the_memory_limit_a_pass_loses_nothing() {
    let limit = 32 << 20;
    let builder = Shuffler::builder().trigger(Trigger::Manual).placement(Placement::Random).seed(1);
    let shuffler = builder.arena_bytes(128 << 10).memory_limit(limit).build().expect("a configuration");
    let mut blocks = Vec::new();
    while let Ok(block) = shuffler.create([blocks.len() as u64; 12]) {
        blocks.push(block);
    }
    for _ in 0..3 {
        shuffler.shuffle();
        check(&shuffler, &blocks);
        assert!(shuffler.stats().resident_bytes as usize <= limit);
    }
    let full = blocks.len();
    for block in blocks.drain(full - full / 10..) {
        let _ = shuffler.free(block).unwrap();
    }
    while let Ok(block) = shuffler.create([blocks.len() as u64; 12]) {
        blocks.push(block);
    }
    assert!(blocks.len() >= full * 98 / 100, "{} of {full} blocks fit again", blocks.len());
    check(&shuffler, &blocks);
}

fn ascending<T>(shuffler: &Shuffler, blocks: &[Handle<T>]) -> bool {
    addresses(shuffler, blocks).is_sorted_by(|before, after| before < after)
}

fn shuffled<T>(blocks: &[T], seed: u64) -> Vec<T>
where
    T: Copy,
{
    let mut order = blocks.to_vec();
    order.shuffle(&mut SmallRng::seed_from_u64(seed));
    order
}

#[test]
fn along_an_order_addresses_ascend() {
    for builder in [Shuffler::builder(), Shuffler::builder().trigger(Trigger::Manual).arena_bytes(64 << 10)] {
        let shuffler = builder.build().expect("a configuration");
        assert_eq!(shuffler.shuffle_along(std::iter::empty::<RawHandle>()).progress.moves, 0);
        let blocks = fill(&shuffler, 100_000);
        for seed in 0..3 {
            let order = shuffled(&blocks, seed);
            assert!(!ascending(&shuffler, &order));
            let report = shuffler.shuffle_along(order.iter().copied());
            assert_eq!((report.progress.moves, report.progress.more), (blocks.len(), false));
            assert!(ascending(&shuffler, &order));
            // As close together as blocks are.
            let addresses = addresses(&shuffler, &order);
            let close = addresses.windows(2).filter(|pair| pair[1] - pair[0] == 104).count();
            assert!(close >= blocks.len() - 1 - blocks.len() * 104 / (60 << 10));
            check(&shuffler, &blocks);
        }
        shuffler.trim();
        let held = shuffler.stats().resident_bytes;
        assert!(held < 100_000 * 128 + (4 << 20), "{held} bytes are held after it");
        check(&shuffler, &blocks);
    }
}

#[test]
fn every_kind_of_block_ascends_by_itself() {
    let shuffler = Shuffler::new();
    let mut random = SmallRng::seed_from_u64(9);
    let (mut plain, mut versioned, mut wide) = (Vec::<RawHandle>::new(), Vec::<Versioned<u64>>::new(), Vec::new());
    let mut all: Vec<RawHandle> = Vec::new();
    for number in 0..20_000 {
        let block = match number % 4 {
            0 | 1 => {
                let bytes = random.random_range(0..3000);
                let layout = std::alloc::Layout::from_size_align(bytes, 1 << random.random_range(0..9)).unwrap();
                plain.push(shuffler.alloc_layout(layout).unwrap());
                plain[plain.len() - 1]
            }
            2 => {
                versioned.push(shuffler.create_versioned(number).unwrap());
                versioned[versioned.len() - 1].into()
            }
            _ => {
                let layout = std::alloc::Layout::from_size_align(1000, 1024).unwrap();
                wide.push(shuffler.alloc_layout(layout).unwrap());
                wide[wide.len() - 1]
            }
        };
        all.push(block);
    }
    let order = shuffled(&all, 1);
    assert_eq!(shuffler.shuffle_along(order.iter().copied()).progress.moves, all.len());
    for kind in [plain, versioned.iter().map(|&block| block.into()).collect(), wide] {
        let kind: std::collections::HashSet<RawHandle> = kind.into_iter().collect();
        let places: Vec<usize> =
            order.iter().filter(|block| kind.contains(block)).map(|&block| address(&shuffler, block)).collect();
        assert!(places.is_sorted_by(|before, after| before < after));
    }
    let reader = shuffler.reader();
    for (number, &block) in versioned.iter().enumerate() {
        assert_eq!(*reader.get(block).unwrap(), number as u64 * 4 + 2);
    }
}

#[test]
fn what_is_got_does_not_depend_on_what_was_got_before() {
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).build().expect("a configuration");
    let blocks: Vec<Versioned<u64>> = (0..10_000).map(|number| shuffler.create_versioned(number).unwrap()).collect();
    let order = shuffled(&(0..blocks.len()).collect::<Vec<_>>(), 6);
    let gone = blocks[order[500]];
    for along in [false, true] {
        if along {
            shuffler.shuffle_along(order.iter().map(|&index| blocks[index]));
        }
        let reader = shuffler.reader();
        let mut before = reader.get(blocks[order[0]]).unwrap();
        for &index in &order[1..] {
            if shuffler.valid_handle(blocks[index]) {
                before = reader.get_after(before, blocks[index]).unwrap();
                assert_eq!(*before, index as u64);
            }
            // Whatever it is that was before.
            for value in [
                reader.get_after(&(), blocks[1]),
                reader.get_after("text", blocks[1]),
                reader.get_after(&blocks[..], blocks[1]),
                reader.get_after(reader.get(blocks[1]).unwrap(), blocks[1]),
            ] {
                assert_eq!(value, Ok(&1));
            }
        }
        if along {
            assert_eq!(reader.get_after(before, gone), Err(AccessError::Stale));
        } else {
            drop(reader);
            let _ = shuffler.free(gone).unwrap();
        }
    }
}

#[test]
fn what_cannot_be_moved_is_left_and_told() {
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).build().expect("a configuration");
    let blocks = fill(&shuffler, 10_000);
    let mut order = shuffled(&blocks, 2);
    let left = [order[5_000], order[7_000]];
    let large = shuffler.alloc::<u8>(100_000).unwrap();
    let held = shuffler.rent(left[0]).unwrap();
    let _ = shuffler.free(left[1]).unwrap();
    let place = address(&shuffler, large);
    let handles: Vec<RawHandle> = [RawHandle::INVALID, large.into()]
        .into_iter()
        .chain(order.iter().map(|&block| block.into()))
        // Once more: the first time counts.
        .chain(order[..100].iter().map(|&block| block.into()))
        .collect();
    let report = shuffler.shuffle_along(handles);
    assert_eq!((report.progress.moves, report.progress.skipped_pinned), (9_998, 1));
    assert_eq!(address(&shuffler, large), place);
    order.retain(|block| !left.contains(block));
    assert!(ascending(&shuffler, &order));
    drop(held);
    let paused = shuffler.pause();
    let report = shuffler.shuffle_along(order.iter().rev().copied());
    assert!(report.paused && report.progress.moves == 0);
    drop(paused);
}

#[test]
fn with_little_memory_the_first_ones_are_moved() {
    let builder = Shuffler::builder().trigger(Trigger::Manual).memory_limit(16 << 20);
    let shuffler = builder.build().expect("a configuration");
    let blocks = fill(&shuffler, 100_000);
    let order = shuffled(&blocks, 4);
    let report = shuffler.shuffle_along(order.iter().copied());
    assert!(report.progress.more, "{report:?}");
    assert!(report.progress.moves > 5_000, "{report:?}");
    assert!(ascending(&shuffler, &order[..report.progress.moves]));
    check(&shuffler, &blocks);
    // And room for a copy of all of them is enough.
    shuffler.set_memory_limit(64 << 20);
    assert_eq!(shuffler.shuffle_along(order.iter().copied()).progress.moves, blocks.len());
    assert!(ascending(&shuffler, &order));
}

/// Each order goes on in the arena that the last one ended in.
#[test]
fn many_small_orders_take_little_room() {
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).build().expect("a configuration");
    let blocks = fill(&shuffler, 100_000);
    let order = shuffled(&blocks, 8);
    // The first time, what it lies in may have to be sealed.
    shuffler.shuffle_along(order[..50].iter().copied());
    let before = shuffler.stats().resident_bytes;
    for order in order.chunks(50) {
        shuffler.shuffle_along(order.iter().copied());
        assert!(ascending(&shuffler, order));
    }
    let more = shuffler.stats().resident_bytes.saturating_sub(before);
    assert!(more < 100_000 * 104 + (4 << 20), "{more} bytes more are held");
    check(&shuffler, &blocks);
}

/// Steps rest while an order is made, but not for ever.
#[test]
fn orders_without_end_do_not_keep_garbage() {
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).build().expect("a configuration");
    let blocks = fill(&shuffler, 200_000);
    let order = shuffled(&blocks[..1000], 9);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                shuffler.shuffle_along(order.iter().copied());
            }
        });
        for block in blocks[1000..].iter().step_by(2) {
            let _ = shuffler.free(*block).unwrap();
        }
        let before = shuffler.stats().resident_bytes;
        let deadline = Instant::now() + common::AT_LAST;
        let mut is_back = false;
        while !is_back && Instant::now() < deadline {
            shuffler.shuffle();
            is_back = shuffler.stats().resident_bytes < before * 3 / 4;
        }
        stop.store(true, Ordering::Relaxed);
        assert!(is_back, "{} of {before} bytes are held", shuffler.stats().resident_bytes);
    });
    check(&shuffler, &blocks[..1000]);
}

#[test]
fn others_go_on_meanwhile() {
    let shuffler = Shuffler::new();
    let blocks = fill(&shuffler, 50_000);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let churns = |seed| {
            let (shuffler, blocks, stop) = (&shuffler, &blocks, &stop);
            move || {
                let mut random = SmallRng::seed_from_u64(seed);
                while !stop.load(Ordering::Relaxed) {
                    let number = random.random_range(0..blocks.len());
                    match shuffler.rent_mut(blocks[number]) {
                        Ok(mut block) => {
                            assert_eq!(std::mem::replace(&mut *block, [number as u64; 12])[3], number as u64)
                        }
                        Err(refused) => assert_eq!(refused, AccessError::Busy),
                    }
                    let extra = shuffler.create([1_u8; 90]).unwrap();
                    let _ = shuffler.free(extra).unwrap();
                }
            }
        };
        scope.spawn(churns(1));
        scope.spawn(churns(2));
        // Two orders at once, too.
        scope.spawn(|| {
            for seed in 0..10 {
                shuffler.shuffle_along(shuffled(&blocks, seed));
            }
        });
        for seed in 10..20 {
            shuffler.shuffle_along(shuffled(&blocks, seed));
        }
        stop.store(true, Ordering::Relaxed);
    });
    check(&shuffler, &blocks);
    // Steps may be at work again that rested for the orders' sake: what they move meanwhile is left out.
    let order = shuffled(&blocks, 30);
    common::eventually("an order is made by itself", || {
        shuffler.shuffle_along(order.iter().copied());
        ascending(&shuffler, &order)
    });
}

#[test]
fn an_order_of_nothing_seals_nothing() {
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).build().expect("a configuration");
    let gone = shuffler.create(0).expect("memory");
    let _ = shuffler.free(gone).expect("a live block");
    for number in 0..50 {
        shuffler.create(number).expect("memory");
        assert_eq!(shuffler.shuffle_along([gone]).progress.moves, 0);
        shuffler.shuffle_along(std::iter::empty::<RawHandle>());
    }
    let held = shuffler.stats().resident_bytes;
    assert!(held < 8 << 20, "{held} bytes are held for fifty numbers");
}

#[test]
fn a_handle_that_is_there_many_times_takes_room_once() {
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).build().expect("a configuration");
    let block = shuffler.alloc::<u8>(60_000).expect("memory");
    let report = shuffler.shuffle_along(std::iter::repeat_n(block, 10_000));
    assert_eq!(report.progress.moves, 1);
    let held = shuffler.stats().resident_bytes;
    assert!(held < 16 << 20, "{held} bytes are held after one block was moved");
}

#[test]
fn a_reader_that_stays_does_not_make_orders_pile_up() {
    let shuffler = Shuffler::new();
    let blocks: Vec<Versioned<u64>> = (0..100_000).map(|number| shuffler.create_versioned(number).unwrap()).collect();
    let reader = shuffler.reader();
    let seen = reader.get(blocks[7]).unwrap();
    let mut waiting = false;
    for seed in 0..30 {
        waiting |= shuffler.shuffle_along(shuffled(&blocks, seed)).progress.waiting;
    }
    let held = shuffler.stats().resident_bytes;
    assert!(held < 20 << 20 && waiting, "{held} bytes are held");
    assert_eq!(*seen, 7);
    drop(reader);
    // Nobody looks now, so each order is carried out, however closely one follows the other.
    for seed in 0..5 {
        let report = shuffler.shuffle_along(shuffled(&blocks, seed));
        // A few may be in the hands of a step that has rested long enough.
        assert!(report.progress.moves > blocks.len() * 9 / 10 && !report.progress.waiting, "{report:?}");
    }
}

#[test]
fn an_order_that_is_paused_begins_no_other_ground() {
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).build().expect("a configuration");
    let (plain, versioned) = thread::scope(|scope| {
        // On a thread that ends, so that nobody fills the arenas.
        let fill = || -> (Vec<_>, _) {
            let plain = (0..200_000_u64).map(|number| shuffler.create(number).unwrap()).collect();
            (plain, shuffler.create_versioned(1_u64).unwrap())
        };
        scope.spawn(fill).join().unwrap()
    });
    let before = address(&shuffler, versioned);
    let order: Vec<RawHandle> = plain.into_iter().map(RawHandle::from).chain([versioned.into()]).collect();
    thread::scope(|scope| {
        let along = scope.spawn(|| shuffler.shuffle_along(order.iter().copied()));
        common::eventually("it has begun", || shuffler.stats().moves > 0);
        let _paused = shuffler.pause();
        assert!(along.join().unwrap().paused, "it was through before it could be paused");
    });
    assert_eq!(address(&shuffler, versioned), before);
}

#[test]
fn what_was_before_may_lie_at_the_end_of_the_address_space() {
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).build().expect("a configuration");
    let block = shuffler.create_versioned(5_u64).unwrap();
    let reader = shuffler.reader();
    for below in 0..16 {
        // SAFETY: nothing is read through a reference to nothing.
        let last: &() = unsafe { &*std::ptr::without_provenance(usize::MAX - below) };
        assert_eq!(reader.get_after(last, block), Ok(&5));
    }
}
