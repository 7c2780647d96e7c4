//! A compactor that is stopped, or panics, in the middle of a move holds nobody up (rows 26 and 31 of the misuse table); a
//! copy that goes wrong is noticed by these tests. Runs with the feature `test-hooks` only.

#![cfg(feature = "test-hooks")]
#![allow(clippy::disallowed_types, reason = "tests count with the standard atomics; no model runs them")]

mod common;

use common::{Checked, Ledger, check_fragmented, eventually, fragmented, pattern};
use memory_shuffler::{AccessError, Budget, CompactorState, Freed, Handle, Progress, Shuffler, Trigger, hooks};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const ARENA: usize = 64 << 10;

/// The hooks are the process's: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn background() -> (Shuffler, Arc<Checked>) {
    let source = Checked::new();
    let builder = Shuffler::builder().arena_bytes(ARENA).retain_bytes(0).source(source.clone());
    (builder.build().unwrap(), source)
}

/// A shuffler whose compactor is stopped in the middle of a move, and what it was to move.
fn parked() -> (Shuffler, Arc<Checked>, Vec<Handle<[u8]>>) {
    let (shuffler, source) = background();
    let before = hooks::parked();
    hooks::park_mid_move();
    let kept = fragmented(&shuffler, ARENA, 12, 8);
    eventually("the compactor parks in a move", || {
        // Its first victims are chosen when something dies.
        let _ = shuffler.free(shuffler.create([0_u8; 1000]).unwrap()).unwrap();
        hooks::parked() > before
    });
    (shuffler, source, kept)
}

#[test]
fn row_26_all_calls_go_on_while_the_compactor_is_stopped() {
    let _alone = alone();
    let (shuffler, _source, kept) = parked();
    check_fragmented(&shuffler, &kept, ARENA, 8);
    let stats = shuffler.stats();
    assert_eq!(stats.helped, 1, "one block was being moved, and whoever rented it finished that: {stats:?}");
    assert_eq!(stats.compactor, CompactorState::Running, "the state can be seen");

    let ledger = Ledger::new(50);
    for round in 0..50 {
        let token = shuffler.create(ledger.token()).unwrap();
        let more = fragmented(&shuffler, ARENA, 3, 8);
        shuffler.shuffle();
        check_fragmented(&shuffler, &more, ARENA, 8);
        for block in more {
            assert_eq!(shuffler.free(block), Ok(Freed::Now));
        }
        let value = shuffler.create_versioned(round).unwrap();
        shuffler.publish(value, round + 1).unwrap();
        assert_eq!(shuffler.reader().get(value), Ok(&(round + 1)));
        assert_eq!(shuffler.free(value), Ok(Freed::Now));
        assert_eq!(shuffler.free(token), Ok(Freed::Now));
    }
    ledger.settled();
    shuffler.trim();
    let stats = shuffler.stats();
    assert!(stats.moves > 1, "shuffle() works: {stats:?}");
    assert!(stats.resident_bytes < 12 * ARENA as u64, "memory comes back: {stats:?}");
    check_fragmented(&shuffler, &kept, ARENA, 8);
    assert_eq!(shuffler.stats().live_blocks, kept.len() as u64);
    // The last drop waits for the compactor, within bounds.
    drop(shuffler);
}

#[test]
fn row_26_the_block_in_the_move_can_be_written_taken_and_freed() {
    let _alone = alone();
    let (shuffler, _source, kept) = parked();
    for handle in &kept {
        shuffler.rent_mut_for(*handle, Duration::from_secs(60)).unwrap().fill(9);
    }
    assert_eq!(shuffler.stats().helped, 1);
    for handle in &kept {
        assert!(shuffler.rent(*handle).unwrap().iter().all(|byte| *byte == 9));
    }
    drop(shuffler);

    let (shuffler, _source, kept) = parked();
    for (index, handle) in kept.iter().enumerate() {
        assert_eq!(shuffler.get_size(*handle), Ok(ARENA / 64));
        assert!(shuffler.valid_handle(*handle) && shuffler.inspect(*handle).unwrap().rents == 0, "block {index}");
        assert_eq!(shuffler.free(*handle), Ok(Freed::Now));
    }
    shuffler.trim();
    assert_eq!(shuffler.stats().helped, 0, "a free finishes no move");
    eventually("all are settled", || {
        shuffler.trim();
        shuffler.stats().live_blocks == 0
    });
}

#[test]
fn row_26_many_threads_meet_the_move_at_once() {
    let _alone = alone();
    for round in 0..6 {
        // Another mover's moves are there to be helped with, too.
        let shuffles = round % 2 == 1;
        let (shuffler, _source, kept) = parked();
        let barrier = std::sync::Barrier::new(4);
        thread::scope(|scope| {
            for thread in 0..4 {
                let (shuffler, kept, barrier) = (&shuffler, &kept, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    if thread == 3 && shuffles {
                        shuffler.shuffle();
                    }
                    check_fragmented(shuffler, kept, ARENA, 8);
                });
            }
        });
        assert!(shuffles || shuffler.stats().helped == 1, "one commit wins");
        check_fragmented(&shuffler, &kept, ARENA, 8);
    }
}

#[test]
fn row_26_the_compactor_panics() {
    let _alone = alone();
    let (shuffler, source) = background();
    hooks::panic_mid_move();
    let kept = fragmented(&shuffler, ARENA, 12, 8);
    eventually("the compactor panics", || {
        let _ = shuffler.free(shuffler.create([0_u8; 1000]).unwrap()).unwrap();
        shuffler.stats().compactor == CompactorState::Panicked
    });
    check_fragmented(&shuffler, &kept, ARENA, 8);
    let report = shuffler.shuffle();
    assert!(report.progress.moves > 0, "{report:?}");
    check_fragmented(&shuffler, &kept, ARENA, 8);
    for handle in kept {
        assert_eq!(shuffler.free(handle), Ok(Freed::Now));
    }
    shuffler.trim();
    shuffler.trim();
    let stats = shuffler.stats();
    assert_eq!((stats.live_blocks, stats.compactor), (0, CompactorState::Panicked));
    assert!(stats.arenas <= 4, "{:#?}", shuffler.arenas());
    drop(shuffler);
    eventually("the memory goes back", || source.chunks() == 0);
}

#[test]
fn row_31_a_writer_meets_a_move_and_there_is_no_memory() {
    let _alone = alone();
    let (shuffler, source, kept) = parked();
    source.refuse_after(0);
    // The shard's reserve serves.
    for handle in &kept {
        shuffler.rent_mut(*handle).unwrap()[0] ^= 1;
        shuffler.rent_mut(*handle).unwrap()[0] ^= 1;
    }
    assert_eq!(shuffler.stats().helped, 1);
    check_fragmented(&shuffler, &kept, ARENA, 8);
    shuffler.shuffle();
    source.relent();
    shuffler.shuffle();
    check_fragmented(&shuffler, &kept, ARENA, 8);
}

/// As long as a quarter of an arena, which is the most that is moved, and aligned so widely that its header is in a column.
#[repr(align(8192))]
struct Wide([u8; ARENA / 4]);

#[test]
fn row_31_a_writer_meets_the_move_of_a_widely_aligned_block() {
    let _alone = alone();
    for refused in [false, true] {
        let (shuffler, source) = background();
        let before = hooks::parked();
        hooks::park_mid_move();
        let wide = |seed| shuffler.create(Wide([seed; ARENA / 4])).unwrap();
        let blocks: Vec<_> = (0..36).map(wide).collect();
        let (kept, dropped): (Vec<_>, Vec<_>) = (0..).zip(blocks).partition(|(index, _)| index % 3 == 0);
        for (_, handle) in dropped {
            assert_eq!(shuffler.free(handle), Ok(Freed::Now));
        }
        eventually("the compactor parks in a move", || {
            let _ = shuffler.free(wide(0)).unwrap();
            hooks::parked() > before
        });
        let mut more = Vec::new();
        if refused {
            source.refuse_after(0);
            // With no room left elsewhere, the shard's reserve serves.
            more.extend(std::iter::from_fn(|| shuffler.create(Wide([0; ARENA / 4])).ok()));
        }
        for (seed, handle) in &kept {
            let mut rent = shuffler.rent_mut(*handle).unwrap();
            assert_eq!((&raw const *rent).addr() % 8192, 0);
            assert!(rent.0.iter().all(|byte| byte == seed));
            rent.0.fill(!seed);
        }
        assert_eq!(shuffler.stats().helped, 1);
        source.relent();
        for handle in more {
            assert_eq!(shuffler.free(handle), Ok(Freed::Now));
        }
        shuffler.shuffle();
        for (seed, handle) in &kept {
            let rent = shuffler.rent(*handle).unwrap();
            assert_eq!((&raw const *rent).addr() % 8192, 0);
            assert!(rent.0.iter().all(|byte| *byte == !seed));
        }
        assert_eq!(shuffler.stats().live_blocks, kept.len() as u64);
    }
}

#[test]
fn row_31_with_the_reserve_in_use_it_is_an_error_and_no_wait() {
    const MOVERS: usize = 12;
    let _alone = alone();
    let source = Checked::new();
    let builder = Shuffler::builder().trigger(Trigger::Manual).arena_bytes(ARENA).retain_bytes(0);
    let shuffler = builder.source(source.clone()).build().unwrap();
    let kept = fragmented(&shuffler, ARENA, 2 * MOVERS, 4);
    // Each stops in the middle of a move of its own.
    let before = hooks::parked();
    for parked in 1..=MOVERS {
        hooks::park_mid_move();
        let shuffler = shuffler.clone();
        thread::Builder::new().name("shuffler".into()).spawn(move || shuffler.shuffle()).unwrap();
        eventually("a mover parks in a move", || hooks::parked() == before + parked);
    }
    source.refuse_after(0);
    // No room is left elsewhere, and the reserve serves for a few.
    let filler: Vec<_> = std::iter::from_fn(|| shuffler.alloc::<u8>(ARENA / 64).ok()).collect();
    let text = "out of memory: this access needed a new copy of the block and there was no memory for it; free some \
                blocks, then try again";
    let refused = |handle: &&Handle<[u8]>| {
        let outcomes = [
            shuffler.rent_mut(**handle).err(),
            shuffler.rent(**handle).err(),
            shuffler.rent_owned(**handle).err(),
            shuffler.rent_for(**handle, Duration::MAX).err(),
        ];
        let Some(error) = outcomes[0] else { return false };
        assert_eq!((error, error.to_string().as_str()), (AccessError::OutOfMemory, text));
        assert_eq!(outcomes, [Some(error); 4], "and again, whatever the hold");
        true
    };
    let stuck: Vec<_> = kept.iter().filter(refused).copied().collect();
    let helped = shuffler.stats().helped as usize;
    assert!(helped > 0 && !stuck.is_empty(), "{helped} were helped, {} refused", stuck.len());
    assert_eq!(helped + stuck.len(), MOVERS);
    // It can be asked after, and freed, without memory.
    assert!(stuck.iter().all(|handle| shuffler.get_size(*handle) == Ok(ARENA / 64)));
    assert_eq!(shuffler.free(stuck[0]), Ok(Freed::Now));
    source.relent();
    for (index, handle) in kept.iter().enumerate().filter(|(_, handle)| **handle != stuck[0]) {
        assert!(*shuffler.rent_mut(*handle).unwrap() == *pattern(index as u64 * 4, ARENA / 64));
    }
    filler.into_iter().for_each(|handle| assert_eq!(shuffler.free(handle), Ok(Freed::Now)));
}

/// A value whose destructor begins, and goes on when it may.
#[derive(Default)]
struct Blocking {
    begun: AtomicBool,
    may_end: AtomicBool,
}

/// Dropped, it blocks the thread that carries it out.
struct Blocks(Arc<Blocking>);

impl Drop for Blocks {
    fn drop(&mut self) {
        self.0.begun.store(true, Ordering::Release);
        eventually("the destructor may end", || self.0.may_end.load(Ordering::Acquire));
    }
}

impl Blocking {
    /// Puts off one that a step comes to.
    fn put_off(shuffler: &Shuffler) -> Arc<Self> {
        let this = Arc::new(Self::default());
        let value = shuffler.create_versioned(Arc::new(Blocks(this.clone()))).unwrap();
        assert_eq!(shuffler.free(value), Ok(Freed::Now));
        this
    }

    fn begins(&self) {
        eventually("the destructor begins", || self.begun.load(Ordering::Acquire));
    }

    fn end(&self) {
        self.may_end.store(true, Ordering::Release);
    }
}

/// Lets the compactor look at all that it may wait for. Nothing tells when it has ceased to look by itself; a second of looks
/// and half a second until it gives back what it kept are over by then.
fn let_it_cease_to_look(shuffler: &Shuffler) {
    thread::sleep(Duration::from_secs(3));
    assert_eq!(shuffler.stats().compactor, CompactorState::Parked);
}

/// A mover, which is not the compactor, is stopped in a move; the block is freed, and its destructor waits for the mover.
/// Meanwhile the compactor is in another destructor.
fn a_death_in_a_stopped_move(shuffler: &Shuffler, ledger: &Ledger) -> (Arc<Blocking>, JoinHandle<Progress>) {
    let compactor = Blocking::put_off(shuffler);
    compactor.begins();
    let tokens: Vec<_> = (0..20_000).map(|_| shuffler.create(ledger.token()).unwrap()).collect();
    let (kept, gone): (Vec<_>, Vec<_>) = tokens.into_iter().enumerate().partition(|(index, _)| index % 8 == 0);
    gone.into_iter().for_each(|(_, token)| assert_eq!(shuffler.free(token), Ok(Freed::Now)));
    let before = hooks::parked();
    hooks::park_mid_move();
    let mover = {
        let shuffler = shuffler.clone();
        let step = move || shuffler.shuffle_step(Budget::default());
        thread::Builder::new().name("shuffler".into()).spawn(step).unwrap()
    };
    eventually("the mover parks in a move", || hooks::parked() > before);
    kept.into_iter().for_each(|(_, token)| assert_eq!(shuffler.free(token), Ok(Freed::Now)));
    assert_eq!(ledger.drops(), ledger.made() - 1, "the block in the move waits");
    (compactor, mover)
}

#[test]
fn what_waits_for_a_mover_is_carried_out_when_the_mover_goes_on() {
    let _alone = alone();
    let (shuffler, _source) = background();
    let ledger = Ledger::new(20_000);
    let (compactor, mover) = a_death_in_a_stopped_move(&shuffler, &ledger);
    compactor.end();
    let_it_cease_to_look(&shuffler);
    assert_eq!(ledger.drops(), ledger.made() - 1);
    hooks::release_last();
    mover.join().unwrap();
    eventually("the compactor is told", || ledger.drops() == ledger.made());
}

#[test]
fn what_a_step_could_not_carry_out_is_told_to_the_compactor() {
    let _alone = alone();
    let (shuffler, _source) = background();
    let ledger = Ledger::new(20_000);
    let (compactor, mover) = a_death_in_a_stopped_move(&shuffler, &ledger);
    // A step has the record in hand, and is kept in the destructor that comes after it.
    let kept = Blocking::put_off(&shuffler);
    let step = {
        let shuffler = shuffler.clone();
        thread::spawn(move || shuffler.shuffle_step(Budget::default()))
    };
    kept.begins();
    compactor.end();
    let_it_cease_to_look(&shuffler);
    hooks::release_last();
    mover.join().unwrap();
    let_it_cease_to_look(&shuffler);
    assert_eq!(ledger.drops(), ledger.made() - 1);
    kept.end();
    step.join().unwrap();
    eventually("the compactor is told", || ledger.drops() == ledger.made());
}

#[test]
fn a_spoilt_copy_is_noticed() {
    let _alone = alone();
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).arena_bytes(ARENA).build().unwrap();
    let kept = fragmented(&shuffler, ARENA, 12, 8);
    hooks::corrupt_next_copy();
    assert!(shuffler.shuffle().progress.moves > 0);
    let spoilt = kept
        .iter()
        .zip(0..)
        .filter(|(handle, index)| *shuffler.rent(**handle).unwrap() != *pattern(index * 8, ARENA / 64));
    assert_eq!(spoilt.count(), 1);
}
