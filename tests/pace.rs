//! What the compactor costs and what it gains: pace, pins, limits, budgets.

use memory_shuffler::{
    AccessError, AllocError, Budget, CompactorState, Freed, Handle, OwnedRent, ResizeError, Shuffler, Trigger,
};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

mod common;
use common::{assert_stays_asleep, eventually, in_a_child, sleeps};

const MIB: u64 = 1 << 20;

/// Blocks of `size` bytes, of which all but every `keep`th are freed again.
fn sparse(shuffler: &Shuffler, blocks: usize, size: usize, keep: usize) -> Vec<Handle<[u8]>> {
    let all: Vec<_> = (0..blocks).map(|_| shuffler.alloc::<u8>(size).unwrap()).collect();
    let mut kept = Vec::new();
    for (index, handle) in all.into_iter().enumerate() {
        if index % keep == 0 {
            kept.push(handle);
        } else {
            assert_eq!(shuffler.free(handle), Ok(Freed::Now));
        }
    }
    kept
}

#[test]
fn an_idle_shuffler_sleeps() {
    // In a process of its own, where no other test has a compactor.
    const CHILD: &str = "IDLE_CHILD";
    if std::env::var_os(CHILD).is_none() {
        print!("{}", in_a_child("an_idle_shuffler_sleeps", CHILD, "1"));
        return;
    }
    if sleeps().is_none() {
        println!("skipped: this system does not tell how often a thread slept");
        return;
    }
    let shuffler = Shuffler::new();
    let paused = shuffler.pause();
    let kept = sparse(&shuffler, 40_000, 400, 10);
    // Held for good: a few blocks in sparse arenas, and a version that a reader looks at.
    let rents: Vec<_> = kept.iter().step_by(200).map(|&handle| shuffler.rent(handle).unwrap()).collect();
    let versioned = shuffler.create_versioned(7_u64).unwrap();
    let reader = shuffler.reader();
    let seen = reader.get(versioned).unwrap();
    assert_eq!(shuffler.free(versioned), Ok(Freed::Now));
    drop(paused);
    // The looks for a reader end within about a second, the giving back after half a second more; nothing tells that they
    // are over.
    eventually("the thread has started", || shuffler.stats().moves > 0);
    thread::sleep(Duration::from_secs(3));
    assert_stays_asleep(&shuffler, Duration::from_secs(10));
    assert_eq!(*seen, 7);
    // What was waited for happens: it is told.
    let moves = shuffler.stats().moves;
    drop(reader);
    eventually("the version is gone", || shuffler.stats().live_blocks == kept.len() as u64);
    drop(rents);
    eventually("what was held is moved", || shuffler.stats().moves > moves);
    eventually("its pages are not held any more", || shuffler.stats().pinned_bytes == 0);
}

#[test]
fn a_pin_costs_its_pages_not_its_arena() {
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).build().unwrap();
    let kept = sparse(&shuffler, 200_000, 400, 16);
    let live: u64 = kept.len() as u64 * 400;
    let pins: Vec<_> = kept.iter().step_by(160).map(|&handle| shuffler.rent(handle).unwrap()).collect();
    // The spike took 78 arenas, and nearly each of them has a pin.
    shuffler.trim();
    let resident = || {
        let stats = shuffler.stats();
        stats.resident_bytes - stats.metadata_bytes + stats.live_blocks * 8
    };
    let most = live * 11 / 10 + pins.len() as u64 * 8192 + 8 * MIB;
    assert!(resident() < most, "{} of {most}: {:?}", resident(), shuffler.stats());
    assert!(shuffler.stats().pinned_bytes >= pins.len() as u64 * 400, "{} pins, {:?}", pins.len(), shuffler.stats());
    for (pin, handle) in pins.iter().zip(kept.iter().step_by(160)) {
        assert!(pin.iter().all(|&byte| byte == 0));
        assert_eq!(shuffler.inspect(*handle).unwrap().rents, 1);
    }
    // Nothing more can be gained, and nothing moves.
    let report = shuffler.shuffle();
    assert_eq!(report.progress.moved_bytes, 0);
    drop(pins);
    shuffler.trim();
    assert!(resident() < live * 11 / 10 + 4 * MIB, "{:?}", shuffler.stats());
    assert_eq!(shuffler.stats().pinned_bytes, 0);
    for handle in kept {
        assert!(shuffler.rent(handle).unwrap().iter().all(|&byte| byte == 0));
        assert_eq!(shuffler.free(handle), Ok(Freed::Now));
    }
}

#[test]
fn pins_that_come_and_go_lose_nothing() {
    let shuffler = Shuffler::builder().arena_bytes(64 << 10).build().unwrap();
    let stop = AtomicUsize::new(0);
    let blocks: Vec<Handle<[u64]>> = (0..20_000_u64).map(|n| shuffler.alloc_copy(&[n; 40]).unwrap()).collect();
    thread::scope(|scope| {
        for seed in 0..2 {
            let (shuffler, stop, blocks) = (&shuffler, &stop, &blocks);
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(seed);
                let mut held = Vec::new();
                while stop.load(Ordering::Relaxed) == 0 {
                    let number = random.random_range(0..blocks.len() / 16) * 16;
                    let rent = shuffler.rent(blocks[number]).unwrap();
                    assert!(rent.iter().all(|&found| found == number as u64), "block {number}");
                    held.push(rent);
                    if held.len() > 500 {
                        held.shuffle(&mut random);
                        held.truncate(250);
                    }
                }
            });
        }
        for (number, handle) in blocks.iter().enumerate() {
            if number % 16 != 0 {
                assert_eq!(shuffler.free(*handle), Ok(Freed::Now));
            }
        }
        for _ in 0..300 {
            shuffler.shuffle();
            // So that other holds are there at the next.
            thread::sleep(Duration::from_millis(1));
        }
        stop.store(1, Ordering::Relaxed);
    });
    shuffler.trim();
    for (number, handle) in blocks.iter().enumerate().step_by(16) {
        assert!(shuffler.rent(*handle).unwrap().iter().all(|&found| found == number as u64), "block {number}");
    }
    assert!(shuffler.stats().moves > 0);
}

#[test]
fn the_second_shuffle_moves_nothing() {
    for trigger in [Trigger::Manual, Trigger::Background] {
        let shuffler = Shuffler::builder().trigger(trigger).build().unwrap();
        let kept = sparse(&shuffler, 60_000, 150, 2);
        shuffler.shuffle();
        if trigger == Trigger::Background {
            // It may be about to finish what this call left to it.
            eventually("the thread parks", || shuffler.stats().compactor == CompactorState::Parked);
        }
        let first = shuffler.stats();
        assert!(first.moves > 0 && first.moves as usize <= kept.len() * 12 / 10, "{first:?}");
        let report = shuffler.shuffle();
        assert_eq!((report.progress.moves, report.progress.moved_bytes), (0, 0), "{report:?}");
        assert_eq!(shuffler.stats().moves, first.moves);
    }
}

#[test]
fn a_budget_bounds_a_step_and_may_change() {
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).build().unwrap();
    let _kept = sparse(&shuffler, 60_000, 150, 2);
    let step = shuffler.shuffle_step(Budget { bytes: 1500, time: Duration::from_secs(10) });
    assert!(step.more && step.moved_bytes >= 1500 && step.moved_bytes < 1500 + 150, "{step:?}");
    let step = shuffler.shuffle_step(Budget { bytes: usize::MAX, time: Duration::from_nanos(1) });
    assert!(step.more && step.moves <= 1, "{step:?}");
    // The background thread goes on with whatever it is given.
    let shuffler = Shuffler::new();
    shuffler.set_budget(Budget { bytes: 0, time: Duration::ZERO });
    let kept = sparse(&shuffler, 60_000, 150, 2);
    eventually("it moves a block at a time", || shuffler.stats().moves > 0);
    shuffler.set_budget(Budget::default());
    eventually("it moves them all", || shuffler.stats().dead_bytes < 2 * MIB);
    assert!(kept.iter().all(|&handle| shuffler.valid_handle(handle)));
}

#[test]
fn at_98_percent_of_the_limit_there_is_progress() {
    // Of small arenas, since each mover has a partly filled one and room for another.
    const ARENA: usize = 128 << 10;
    const LIMIT: usize = 64 << 20;
    for trigger in [Trigger::Manual, Trigger::Background] {
        let shuffler = Shuffler::builder().trigger(trigger).arena_bytes(ARENA).memory_limit(LIMIT).build().unwrap();
        let mut random = StdRng::seed_from_u64(98);
        let mut blocks = Vec::new();
        while let Ok(block) = shuffler.alloc::<u8>(240) {
            blocks.push(block);
        }
        // The limit is reached when what is live, with its headers and entries, is nearly all of it.
        assert!(blocks.len() * (240 + 24) > LIMIT * 93 / 100, "{} of {LIMIT}", blocks.len() * 264);
        let freed = blocks.len() / 50;
        for _ in 0..freed {
            let block = blocks.swap_remove(random.random_range(0..blocks.len()));
            assert_eq!(shuffler.free(block), Ok(Freed::Now));
        }
        // 98 % of it stays live, and it goes on for as long as one likes.
        let mut longest = Duration::ZERO;
        let mut refused = 0;
        for round in 0..blocks.len() / 8 {
            let victim = random.random_range(0..blocks.len());
            assert_eq!(shuffler.free(blocks[victim]), Ok(Freed::Now));
            let start = Instant::now();
            // While the background thread has what room there is, an allocation may be refused; a little later it is not.
            blocks[victim] = loop {
                match shuffler.alloc(240) {
                    Ok(block) => break block,
                    Err(error) => {
                        refused += 1;
                        assert!(refused < 100, "{trigger:?} {round}: {error} {:?}", shuffler.stats());
                        thread::yield_now();
                    }
                }
            };
            longest = longest.max(start.elapsed());
        }
        let stats = shuffler.stats();
        assert!(stats.resident_bytes as usize <= LIMIT, "{stats:?}");
        println!("{trigger:?}: the longest allocation took {longest:?}, {refused} were refused at first, {stats:?}");
    }
}

#[test]
fn with_everything_held_the_limit_answers_in_bounded_time() {
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).memory_limit(16 << 20).build().unwrap();
    let mut rents: Vec<OwnedRent<[u8]>> = Vec::new();
    let refused = loop {
        match shuffler.alloc::<u8>(1000) {
            Ok(block) => rents.push(shuffler.rent_owned(block).unwrap()),
            Err(error) => break error,
        }
    };
    let AllocError::MemoryLimit { limit, used, requested, pinned } = refused else { panic!("{refused}") };
    assert_eq!((limit, requested), (16 << 20, 1 << 20));
    assert!(used > 12 << 20 && used <= limit && pinned <= used, "{refused}");
    // Now with something to gain beside what is held.
    rents.retain(|rent| rent.as_ptr().addr() % 3 != 0);
    for _ in 0..10 {
        let start = Instant::now();
        let _ = shuffler.alloc::<u8>(1000);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
    let pinned: usize = rents.iter().map(|rent| rent.len()).sum();
    assert!(pinned > 6 << 20);
}

#[test]
fn pressure_is_told_before_an_allocation_fails() {
    let evicted = Arc::new(AtomicUsize::new(0));
    let cache: Arc<Mutex<Vec<Handle<[u8]>>>> = Arc::default();
    let place: Arc<std::sync::OnceLock<Shuffler>> = Arc::default();
    let evict = {
        let (evicted, cache, place) = (evicted.clone(), cache.clone(), Arc::downgrade(&place));
        move |bytes: usize| {
            assert!(bytes > 0);
            let place = place.upgrade().unwrap();
            let shuffler = place.wait();
            // An allocation in here that meets the limit fails by itself, without another call.
            assert!(shuffler.alloc::<u8>(15 << 20).is_err());
            let victims: Vec<_> = cache.lock().unwrap().drain(..2000).collect();
            for victim in victims {
                assert_eq!(shuffler.free(victim), Ok(Freed::Now));
                evicted.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let built = Shuffler::builder().trigger(Trigger::Manual).memory_limit(16 << 20).on_pressure(evict).build().unwrap();
    let shuffler = place.get_or_init(|| built);
    for _ in 0..60_000 {
        let block = shuffler.alloc::<u8>(1000).unwrap();
        cache.lock().unwrap().push(block);
    }
    let evicted = evicted.load(Ordering::Relaxed);
    assert!(evicted >= 44_000, "{evicted}");
    assert_eq!(shuffler.stats().live_blocks as usize, 60_000 - evicted);
}

#[test]
fn moving_does_not_pile_up_what_a_reader_keeps() {
    const ARENA: usize = 64 << 10;
    const ARENAS: usize = 128;
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).arena_bytes(ARENA).retain_bytes(0).build().unwrap();
    let paused = shuffler.pause();
    let make = |number: usize| shuffler.create_versioned([number; 128]).unwrap();
    let all: Vec<_> = (0..ARENAS * ARENA / (8 * 128 + 8)).map(make).collect();
    for (_, value) in all.iter().enumerate().filter(|(index, _)| index % 8 != 0) {
        assert_eq!(shuffler.free(*value), Ok(Freed::Now));
    }
    // They are settled, but nothing is moved yet.
    shuffler.shuffle();
    assert_eq!((shuffler.stats().waiting, shuffler.stats().moves), (0, 0));
    drop(paused);
    let (reader, before) = (shuffler.reader(), shuffler.stats().resident_bytes);
    shuffler.shuffle();
    let stats = shuffler.stats();
    assert!(stats.moves > 0 && stats.waiting_bytes <= (ARENAS / 8 + 8) as u64 * ARENA as u64, "{stats:?}");
    for (index, value) in all.iter().enumerate().step_by(8) {
        assert_eq!(reader.get(*value), Ok(&[index; 128]));
    }
    // When it has gone, so does the rest.
    drop(reader);
    shuffler.shuffle();
    assert!(shuffler.stats().resident_bytes < before / 4, "{:?}", shuffler.stats());
    assert!(all.iter().step_by(8).all(|&value| shuffler.valid_handle(value)));
}

#[test]
fn what_can_never_fit_is_refused_at_once() {
    const LIMIT: usize = 64 << 20;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = {
        let calls = calls.clone();
        move |_| {
            calls.fetch_add(1, Ordering::Relaxed);
        }
    };
    let builder = Shuffler::builder().trigger(Trigger::Manual).memory_limit(LIMIT).on_pressure(count);
    let shuffler = builder.build().unwrap();
    let grown = shuffler.alloc::<u8>(1 << 20).unwrap();
    // There is much that a step could move.
    let kept = sparse(&shuffler, 100_000, 400, 10);
    // The last one fits below the limit, but not beside what is left to movers there.
    for bytes in [1 << 30, LIMIT + 1, LIMIT] {
        let refused = |error: AllocError| {
            let AllocError::MemoryLimit { limit, requested, .. } = error else { panic!("{error}") };
            assert!(limit == LIMIT && requested >= bytes, "{error}");
        };
        refused(shuffler.alloc::<u8>(bytes).unwrap_err());
        let Err(ResizeError::Alloc(error)) = shuffler.resize(grown, bytes) else { panic!("{bytes}") };
        refused(error);
        assert_eq!((shuffler.stats().moves, calls.load(Ordering::Relaxed)), (0, 0), "{bytes}");
    }
    // What could fit is worth a step, and a question if that is not enough.
    let half = shuffler.alloc::<u8>(40 << 20).unwrap();
    assert!(shuffler.stats().moves > 0 && calls.load(Ordering::Relaxed) == 0);
    assert!(shuffler.alloc::<u8>(40 << 20).is_err() && shuffler.valid_handle(half));
    assert!(calls.load(Ordering::Relaxed) > 0);
    assert!(kept.iter().all(|&handle| shuffler.valid_handle(handle)));
}

#[test]
fn a_pressure_callback_that_panics_leaves_all_in_order() {
    let shuffler = Shuffler::builder()
        .trigger(Trigger::Manual)
        .memory_limit(16 << 20)
        .on_pressure(|_| panic!("no room"))
        .build()
        .unwrap();
    let mut blocks = Vec::new();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        loop {
            blocks.push(shuffler.alloc::<u8>(1000).unwrap());
        }
    }));
    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"no room"));
    assert_eq!(shuffler.stats().live_blocks as usize, blocks.len());
    for block in blocks {
        assert_eq!(shuffler.free(block), Ok(Freed::Now));
        assert_eq!(shuffler.rent(block).unwrap_err(), AccessError::Stale);
    }
    assert!(shuffler.alloc::<u8>(1000).is_ok());
}
