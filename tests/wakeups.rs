//! Work that nobody is told of, and waits without a bound.

#![allow(clippy::disallowed_types, reason = "tests count with the standard atomics; no model runs them")]

mod common;

use common::eventually;
use memory_shuffler::{Budget, CompactorState, Freed, Handle, Reason, Shuffler, Trigger};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const ARENA: usize = 64 << 10;
const BLOCK: usize = 16;

/// Arenas of small blocks: of the first `pinned` arenas most blocks stay and are held, of the rest few stay and none is held.
/// Returns the blocks to hold and the rest of those that stay. What is to go is freed last, while nothing moves.
fn dense_and_sparse(shuffler: &Shuffler, pinned: usize, sparse: usize) -> [Vec<Handle<[u8]>>; 2] {
    let each = ARENA / (BLOCK + 8);
    let all: Vec<_> = (0..(pinned + sparse) * each).map(|_| shuffler.alloc::<u8>(BLOCK).unwrap()).collect();
    let (mut held, mut free, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for (index, handle) in all.into_iter().enumerate() {
        let list = match (index < pinned * each, index % 2 == 0) {
            (true, true) => &mut held,
            (false, true) => &mut free,
            _ => &mut gone,
        };
        list.push(handle);
    }
    for handle in gone {
        assert_eq!(shuffler.free(handle), Ok(Freed::Now));
    }
    [held, free]
}

/// Waits until the compactor has looked at what it was told of, and parks. It still seems parked when it was told just now, so
/// before each look it is given so long to wake up.
fn parks(shuffler: &Shuffler, patience: Duration) {
    eventually("the compactor parks", || {
        thread::sleep(patience);
        shuffler.stats().compactor == CompactorState::Parked
    });
}

#[test]
fn held_blocks_do_not_end_a_background_pass_before_the_rest_was_looked_at() {
    let budget = Budget { bytes: 1 << 20, time: Duration::from_micros(50) };
    let shuffler = Shuffler::builder().arena_bytes(ARENA).retain_bytes(0).budget(budget).build().unwrap();
    let paused = shuffler.pause();
    let [held, free] = dense_and_sparse(&shuffler, 40, 40);
    let rents: Vec<_> = held.iter().map(|&handle| shuffler.rent(handle).unwrap()).collect();
    parks(&shuffler, Duration::from_millis(50));
    drop(paused);
    parks(&shuffler, Duration::from_millis(200));
    let (stats, explanation) = (shuffler.stats(), shuffler.explain());
    let left = explanation.reasons.iter().any(|reason| matches!(reason, Reason::Working { .. }));
    assert!(!left, "parked after {} moves, {} cycles, and: {explanation}", stats.moves, stats.cycles);
    assert!(stats.moves >= free.len() as u64 / 2, "{stats:?}");
    drop(rents);
}

#[test]
fn shuffle_gains_all_that_can_be_gained_though_much_is_held() {
    // 30 ms of headers that are all held come before what can be moved.
    let shuffler = Shuffler::builder().arena_bytes(1 << 20).retain_bytes(0).trigger(Trigger::Manual).build().unwrap();
    let each = (1 << 20) / (BLOCK + 8);
    let all: Vec<_> = (0..60 * each).map(|_| shuffler.alloc::<u8>(BLOCK).unwrap()).collect();
    let mut rents = Vec::new();
    for (index, handle) in all.into_iter().enumerate() {
        if index % 2 == 1 {
            assert_eq!(shuffler.free(handle), Ok(Freed::Now));
        } else if index < 40 * each {
            rents.push(shuffler.rent(handle).unwrap());
        }
    }
    let first = shuffler.shuffle();
    assert!(!first.progress.more && first.progress.moves > 0, "{first:?}, and still: {}", shuffler.explain());
    let second = shuffler.shuffle();
    assert_eq!(second.progress.moves, 0, "{second:?}");
}

#[test]
fn a_higher_limit_is_told_to_the_compactor() {
    let shuffler = Shuffler::builder().arena_bytes(ARENA).retain_bytes(0).build().unwrap();
    let paused = shuffler.pause();
    let kept = common::fragmented(&shuffler, ARENA, 40, 8);
    shuffler.set_memory_limit(ARENA);
    drop(paused);
    eventually("the compactor found no memory", || shuffler.stats().abandoned > 0);
    parks(&shuffler, Duration::from_millis(100));
    let before = shuffler.stats();
    shuffler.set_memory_limit(usize::MAX);
    eventually("it is told, and moves", || shuffler.stats().moves > before.moves);
    drop(kept);
}

/// Each level's block is being made in an arena of its own, which the innermost one empties of all else.
fn nested(shuffler: &Shuffler, depth: usize, junk: &mut Vec<Handle<[u8]>>, made: &mut Vec<Handle<u64>>) {
    if depth == 0 {
        for handle in junk.drain(..) {
            assert_eq!(shuffler.free(handle), Ok(Freed::Now));
        }
        parks(shuffler, Duration::from_millis(700));
        return;
    }
    let handle = shuffler
        .create_with(|| {
            junk.extend((0..66).map(|_| shuffler.alloc::<u8>(1000).unwrap()));
            nested(shuffler, depth - 1, junk, made);
            7_u64
        })
        .unwrap();
    made.push(handle);
}

#[test]
fn blocks_that_were_being_made_are_moved_when_they_are_made() {
    let shuffler = Shuffler::builder().arena_bytes(ARENA).retain_bytes(0).build().unwrap();
    let mut made = Vec::new();
    nested(&shuffler, 40, &mut Vec::new(), &mut made);
    assert_eq!(made.len(), 40);
    // Nothing tells that the compactor has done what it was told of, if it was: it is given far more time than that takes.
    thread::sleep(Duration::from_secs(3));
    let (resident, state) = (shuffler.stats().resident_bytes, shuffler.stats().compactor);
    let more = shuffler.shuffle().progress;
    assert!(
        more.moves < 10,
        "{state:?} with {resident} resident; shuffle() moved {more:?}, now {}",
        shuffler.stats().resident_bytes
    );
}

#[test]
fn shuffle_ends_though_others_make_garbage_all_the_time() {
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).build().unwrap();
    let stop = AtomicBool::new(false);
    let ready = AtomicBool::new(false);
    let (end, ended) = mpsc::channel::<()>();
    let took = thread::scope(|scope| {
        scope.spawn(|| {
            let mut all: Vec<_> = (0..100_000).map(|_| shuffler.alloc::<u8>(200).unwrap()).collect();
            let mut state = 1_u64;
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..1000 {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let index = (state >> 33) as usize % all.len();
                    let new = shuffler.alloc::<u8>(200).unwrap();
                    let _ = shuffler.free(std::mem::replace(&mut all[index], new)).unwrap();
                }
                ready.store(true, Ordering::Relaxed);
            }
        });
        eventually("the other is at work", || ready.load(Ordering::Relaxed));
        let stop = &stop;
        scope.spawn(move || {
            let _ = ended.recv_timeout(Duration::from_secs(15));
            stop.store(true, Ordering::Relaxed);
        });
        let start = Instant::now();
        let report = shuffler.shuffle();
        let took = (start.elapsed(), report, stop.load(Ordering::Relaxed));
        drop(end);
        took
    });
    assert!(!took.2, "shuffle() went on until the other stopped: {took:?}");
}
