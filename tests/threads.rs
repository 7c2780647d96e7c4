//! Threads that share a shuffler: hand-overs, races, waits, ends of threads and of the shuffler, fork.

#![allow(clippy::disallowed_types, reason = "tests count with the standard atomics; no model runs them")]

mod common;

use common::{Checked, Ledger, Token, check_fragmented, checked, eventually, fragmented, manual, patterned, quiet};
use memory_shuffler::{AccessError, CompactorState, Freed, Frozen, Handle, OwnedRent, Shuffler, Trigger, Versioned};
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// Tells other threads to stop, also when its owner panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn small(trigger: Trigger) -> (Shuffler, Arc<Checked>) {
    let source = Checked::new();
    let builder = Shuffler::builder().trigger(trigger).arena_bytes(64 << 10).retain_bytes(0);
    (builder.source(source.clone()).build().unwrap(), source)
}

#[test]
fn row_20_threads_come_and_go() {
    const BATCH: usize = 20;
    for trigger in [Trigger::Background, Trigger::Manual] {
        let (shuffler, source) = small(trigger);
        let ledger = Ledger::new(10_000);
        let mut early = 0;
        for batch in 0..10_000 / BATCH / 2 {
            thread::scope(|scope| {
                for _ in 0..BATCH {
                    scope.spawn(|| {
                        let token = shuffler.create(ledger.token()).unwrap();
                        assert!(shuffler.rent(token).unwrap().is_whole());
                        let block = patterned(&shuffler, 7, 3000);
                        let versioned = shuffler.create_versioned(5_u8).unwrap();
                        assert_eq!(shuffler.reader().get(versioned), Ok(&5));
                        assert_eq!(shuffler.free(versioned), Ok(Freed::Now));
                        common::check(&shuffler, block, 7, 3000);
                        assert_eq!(shuffler.free(block), Ok(Freed::Now));
                        assert_eq!(shuffler.free(token), Ok(Freed::Now));
                    });
                }
            });
            if trigger == Trigger::Manual {
                shuffler.shuffle();
            }
            if batch == 50 {
                shuffler.trim();
                early = quiet(&shuffler).resident_bytes;
            }
        }
        shuffler.trim();
        let stats = quiet(&shuffler);
        assert_eq!((stats.live_blocks, ledger.drops()), (0, 5_000));
        assert!(stats.shards <= 3 * BATCH as u64, "{} shards for {BATCH} threads at a time", stats.shards);
        assert!(
            stats.resident_bytes <= early + (1 << 20),
            "{early} bytes early on, {} at the end",
            stats.resident_bytes
        );
        // What the source has not got back may have been discarded, so it may be more.
        assert!(stats.resident_bytes as usize <= source.bytes());
        drop(shuffler);
        eventually("the memory goes back", || source.chunks() == 0);
    }
}

#[test]
fn many_threads_at_a_time() {
    const THREADS: usize = 200;
    let (shuffler, source) = small(Trigger::Background);
    let (all, done) = (Barrier::new(THREADS), Barrier::new(THREADS));
    thread::scope(|scope| {
        for seed in 0..THREADS as u64 {
            let (shuffler, all, done) = (&shuffler, &all, &done);
            let work = move || {
                let block = patterned(shuffler, seed, 1000);
                all.wait();
                common::check(shuffler, block, seed, 1000);
                done.wait();
                assert_eq!(shuffler.free(block), Ok(Freed::Now));
            };
            thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, work).unwrap();
        }
    });
    assert_eq!(quiet(&shuffler).live_blocks, 0);
    drop(shuffler);
    eventually("the memory goes back", || source.chunks() == 0);
}

#[test]
fn row_27_a_rent_outlives_the_shuffler() {
    for trigger in [Trigger::Background, Trigger::Inline, Trigger::Manual] {
        let (shuffler, source) = small(trigger);
        let ledger = Ledger::new(100);
        let kept = fragmented(&shuffler, 64 << 10, 6, 8);
        let handles: Vec<_> = (0..100).map(|_| shuffler.create(ledger.token()).unwrap()).collect();
        let rents: Vec<OwnedRent<Token>> =
            handles.iter().step_by(10).map(|handle| shuffler.rent_owned(*handle).unwrap()).collect();
        let text = shuffler.rent_owned(kept[3]).unwrap();
        let twice = shuffler.rent_owned(kept[3]).unwrap();
        drop(shuffler.clone());
        drop(shuffler);
        assert_eq!(ledger.drops(), 90, "all but the held blocks end with the shuffler");
        assert!(source.chunks() > 0);
        // On other threads, one of which never used the shuffler, and at its end.
        thread_local!(static KEPT: RefCell<Vec<OwnedRent<Token>>> = const { RefCell::new(Vec::new()) });
        thread::spawn(move || {
            assert!(rents.iter().all(|rent| rent.is_whole()));
            KEPT.set(rents);
        })
        .join()
        .unwrap();
        ledger.settled();
        assert!(*text == *common::pattern(24, 1024));
        drop(text);
        assert!(*twice == *common::pattern(24, 1024));
        thread::spawn(move || drop(twice)).join().unwrap();
        eventually("the memory goes back", || source.chunks() == 0);
    }
}

#[test]
fn row_27_a_destructor_in_the_last_drop_still_uses_the_shuffler() {
    // What it holds is a rent of another block, not a clone: no cycle.
    #[expect(dead_code, reason = "they are there to be dropped")]
    struct Holder(OwnedRent<Token>, Token);
    let (shuffler, source) = small(Trigger::Manual);
    let ledger = Ledger::new(60);
    for _ in 0..20 {
        let held = shuffler.create(ledger.token()).unwrap();
        let rent = shuffler.rent_owned(held).unwrap();
        shuffler.create(Holder(rent, ledger.token())).unwrap();
        let early = shuffler.create(ledger.token()).unwrap();
        assert_eq!(shuffler.free(early), Ok(Freed::Now));
    }
    drop(shuffler);
    ledger.settled();
    assert_eq!(source.chunks(), 0);
}

#[test]
fn the_last_clone_ends_on_another_thread() {
    for trigger in [Trigger::Background, Trigger::Inline, Trigger::Manual] {
        let (shuffler, source) = small(trigger);
        let ledger = Ledger::new(64);
        let barrier = Arc::new(Barrier::new(8));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (shuffler, ledger, barrier) = (shuffler.clone(), ledger.clone(), barrier.clone());
                thread::spawn(move || {
                    for _ in 0..8 {
                        shuffler.create(ledger.token()).unwrap();
                    }
                    fragmented(&shuffler, 64 << 10, 3, 8);
                    barrier.wait();
                    drop(shuffler);
                })
            })
            .collect();
        drop(shuffler);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        ledger.settled();
        eventually("the memory goes back", || source.chunks() == 0);
    }
}

#[test]
fn row_29_thread_local_destructors() {
    struct AtExit(Shuffler, Handle<Token>, Versioned<String>, Ledger, Option<OwnedRent<Token>>);
    impl Drop for AtExit {
        fn drop(&mut self) {
            let Self(shuffler, handle, versioned, ledger, held) = self;
            assert!(shuffler.rent(*handle).unwrap().is_whole());
            assert_eq!(shuffler.reader().get(*versioned).unwrap(), "versioned");
            let kept = fragmented(shuffler, 64 << 10, 4, 8);
            shuffler.trim();
            check_fragmented(shuffler, &kept, 64 << 10, 8);
            kept.into_iter().for_each(|block| assert_eq!(shuffler.free(block), Ok(Freed::Now)));
            shuffler.publish(*versioned, String::from("replaced")).unwrap();
            let new = shuffler.create(ledger.token()).unwrap();
            assert_eq!(shuffler.free(new), Ok(Freed::Now));
            assert_eq!(shuffler.free(*handle), Ok(Freed::WhenReturned));
            drop(held.take());
            let _ = shuffler.stats();
        }
    }
    // Two, made before and after the library's own thread-local: one of them is dropped when that is gone.
    thread_local! {
        static FIRST: RefCell<Option<AtExit>> = const { RefCell::new(None) };
        static SECOND: RefCell<Option<AtExit>> = const { RefCell::new(None) };
    }
    for trigger in [Trigger::Background, Trigger::Inline, Trigger::Manual] {
        let (shuffler, source) = small(trigger);
        let ledger = Ledger::new(400);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    // Touched first, so that it is registered first, whatever it holds later.
                    FIRST.with(|first| assert!(first.borrow().is_none()));
                    let make = || {
                        let handle = shuffler.create(ledger.token()).unwrap();
                        let versioned = shuffler.create_versioned(String::from("versioned")).unwrap();
                        let held = shuffler.rent_owned(handle).unwrap();
                        AtExit(shuffler.clone(), handle, versioned, ledger.clone(), Some(held))
                    };
                    FIRST.set(Some(make()));
                    SECOND.set(Some(make()));
                });
            }
        });
        // A scope ends with the threads' main functions; their thread-locals may still be going.
        eventually("the thread-locals are gone", || ledger.drops() == 16);
        ledger.settled();
        eventually("the clones in them too", || {
            shuffler.shuffle();
            shuffler.stats().live_blocks == 8
        });
        drop(shuffler);
        eventually("the memory goes back", || source.chunks() == 0);
    }
}

#[test]
fn row_29_a_reader_outlives_the_thread_local_lease() {
    struct Keeper(&'static Shuffler, RefCell<Option<memory_shuffler::Reader<'static>>>, Versioned<Token2>);
    struct Token2(Token);
    // SAFETY: what changes in a token's ledger lies behind pointers.
    unsafe impl Frozen for Token2 {}
    impl Drop for Keeper {
        fn drop(&mut self) {
            let reader = self.1.take().unwrap();
            let value = reader.get(self.2).unwrap();
            assert_eq!(self.0.free(self.2), Ok(Freed::Now));
            for _ in 0..10 {
                self.0.trim();
            }
            assert!(value.0.is_whole());
        }
    }
    thread_local!(static KEEPER: RefCell<Option<Keeper>> = const { RefCell::new(None) });
    // Leaked, since the thread-local must be `'static`.
    let shuffler: &'static Shuffler = Box::leak(Box::new(manual()));
    let ledger = Ledger::new(1);
    let token = ledger.token();
    thread::spawn(move || {
        KEEPER.with(|keeper| assert!(keeper.borrow().is_none()));
        let versioned = shuffler.create_versioned(Token2(token)).unwrap();
        KEEPER.set(Some(Keeper(shuffler, RefCell::new(Some(shuffler.reader())), versioned)));
    })
    .join()
    .unwrap();
    assert_eq!(quiet(shuffler).live_blocks, 0);
    ledger.settled();
}

/// Whose registration its reader keeps, which counts as a reader until it is gone; and then the seat is another's.
#[test]
fn row_29_a_reader_that_outlives_its_lease_is_counted() {
    struct Late(&'static Shuffler, Option<memory_shuffler::Reader<'static>>, Option<memory_shuffler::Reader<'static>>);
    impl Drop for Late {
        fn drop(&mut self) {
            let Self(shuffler, outer, inner) = self;
            let me = thread::current().id();
            let oldest = || shuffler.stats().oldest_reader;
            assert_eq!(oldest().unwrap().thread, Some(me));
            // Another thread leases the shard meanwhile, and its readers come and go.
            let other = |work: fn(&Shuffler)| thread::scope(|scope| scope.spawn(|| work(shuffler)).join().unwrap());
            other(|shuffler| drop(shuffler.reader()));
            assert_eq!(oldest().unwrap().thread, Some(me));
            drop(outer.take());
            assert_eq!(oldest().unwrap().thread, Some(me), "the inner one is left");
            drop(inner.take());
            assert_eq!(oldest(), None);
            // Without thread-local storage nobody is named.
            let unnamed = shuffler.reader();
            assert_eq!(oldest().unwrap().thread, None);
            drop(unnamed);
            assert_eq!(oldest(), None);
        }
    }
    thread_local!(static LATE: RefCell<Option<Late>> = const { RefCell::new(None) });
    // Leaked, since the thread-local must be `'static`.
    let shuffler: &'static Shuffler = Box::leak(Box::new(manual()));
    for _ in 0..3 {
        thread::spawn(move || {
            // Touched first, so that it is registered first and dropped last.
            LATE.with(|late| assert!(late.borrow().is_none()));
            LATE.set(Some(Late(shuffler, Some(shuffler.reader()), Some(shuffler.reader()))));
        })
        .join()
        .unwrap();
    }
    assert_eq!(shuffler.stats().oldest_reader, None);
}

#[test]
fn row_33_shuffle_from_many_threads() {
    let (shuffler, _) = checked();
    let ledger = Ledger::new(400);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let shufflers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        shuffler.shuffle();
                        shuffler.trim();
                        let pause = shuffler.pause();
                        shuffler.shuffle();
                        drop(pause);
                    }
                })
            })
            .collect();
        let worker = scope.spawn(|| {
            let _stop = Stop(&stop);
            for _ in 0..20 {
                let tokens: Vec<_> = (0..20).map(|_| shuffler.create(ledger.token()).unwrap()).collect();
                let kept = fragmented(&shuffler, 64 << 10, 5, 8);
                check_fragmented(&shuffler, &kept, 64 << 10, 8);
                let rents: Vec<_> = tokens.iter().map(|token| shuffler.rent(*token).unwrap()).collect();
                shuffler.shuffle();
                assert!(rents.iter().all(|rent| rent.is_whole()));
                drop(rents);
                check_fragmented(&shuffler, &kept, 64 << 10, 8);
                for block in kept {
                    assert_eq!(shuffler.free(block), Ok(Freed::Now));
                }
                for token in tokens {
                    assert!(shuffler.take(token).unwrap().is_whole());
                }
            }
        });
        worker.join().unwrap();
        shufflers.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(quiet(&shuffler).live_blocks, 0);
    ledger.settled();
}

#[test]
#[cfg(unix)]
fn row_34_a_child_that_execs() {
    use std::os::unix::process::CommandExt;
    let (shuffler, _) = small(Trigger::Background);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) || rounds == 0 {
                let kept = fragmented(&shuffler, 64 << 10, 4, 8);
                check_fragmented(&shuffler, &kept, 64 << 10, 8);
                for block in kept {
                    assert_eq!(shuffler.free(block), Ok(Freed::Now));
                }
                rounds += 1;
            }
        });
        let stopping = Stop(&stop);
        let held = shuffler.create(String::from("the parent's")).unwrap();
        eventually("the compactor's thread is there, and moves blocks", || {
            shuffler.stats().moves > 0 && shuffler.stats().compactor != CompactorState::None
        });
        for round in 0..30 {
            let rent = shuffler.rent(held).unwrap();
            let mut child = std::process::Command::new("true");
            if round % 2 == 0 {
                // SAFETY: it does nothing. With something to do in the child, the library forks; without, it may not.
                unsafe { child.pre_exec(|| Ok(())) };
            }
            assert!(child.status().unwrap().success());
            assert_eq!(*rent, "the parent's");
        }
        let moves = shuffler.stats().moves;
        eventually("the compactor goes on", || shuffler.stats().moves > moves);
        drop(stopping);
        worker.join().unwrap();
        assert_eq!(shuffler.take(held).as_deref(), Ok("the parent's"));
    });
    assert_eq!(quiet(&shuffler).live_blocks, 0);
}

#[test]
fn waiting_writers_take_turns() {
    // Each waits asleep for the others: one wake-up lost, and a wait ends with `TimedOut`.
    for trigger in [Trigger::Background, Trigger::Inline, Trigger::Manual] {
        let (shuffler, _) = small(trigger);
        let handle = shuffler.create((0_u64, 0_u64)).unwrap();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let mut pair = shuffler.rent_mut_for(handle, PATIENCE).unwrap();
                        pair.0 += 1;
                        thread::yield_now();
                        pair.1 += 1;
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..1000 {
                    let pair = shuffler.rent_for(handle, PATIENCE).unwrap();
                    assert_eq!(pair.0, pair.1);
                }
            });
        });
        assert_eq!(shuffler.take(handle), Ok((3000, 3000)));
    }
}

#[test]
fn strict_hand_overs() {
    // Two threads that can only go on when the other has written: a turn is lost for ever if a wake-up is.
    let (shuffler, _) = small(Trigger::Background);
    let turn = shuffler.create(0_usize).unwrap();
    thread::scope(|scope| {
        for me in 0..2 {
            let shuffler = &shuffler;
            scope.spawn(move || {
                let mut mine = 0;
                while mine < 2000 {
                    let mut turn = shuffler.rent_mut_for(turn, PATIENCE).unwrap();
                    if *turn % 2 == me {
                        *turn += 1;
                        mine += 1;
                    }
                    drop(turn);
                    thread::yield_now();
                }
            });
        }
    });
    assert_eq!(shuffler.take(turn), Ok(4000));
}

#[test]
fn a_long_hold_wakes_all_who_wait_for_it() {
    let (shuffler, _) = small(Trigger::Background);
    for round in 0..100 {
        let handle = shuffler.create(0_u64).unwrap();
        let (readers, entered) = (4, Barrier::new(7));
        let hold = shuffler.rent_mut(handle).unwrap();
        thread::scope(|scope| {
            for _ in 0..readers {
                scope.spawn(|| {
                    entered.wait();
                    drop(shuffler.rent_for(handle, PATIENCE).unwrap());
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    entered.wait();
                    *shuffler.rent_mut_for(handle, PATIENCE).unwrap() += 1;
                });
            }
            entered.wait();
            if round % 4 == 0 {
                // So that they sleep, most of the time. Whether they do changes nothing about what must come.
                thread::sleep(Duration::from_millis(2));
            }
            drop(hold);
        });
        assert_eq!(shuffler.take(handle), Ok(2));
    }
}

#[test]
fn a_wait_ends_when_the_block_does() {
    let (shuffler, _) = small(Trigger::Background);
    for round in 0..200 {
        let handle = shuffler.create(7_u64).unwrap();
        let entered = Barrier::new(3);
        let hold = shuffler.rent(handle).unwrap();
        thread::scope(|scope| {
            let waiters: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        entered.wait();
                        shuffler.rent_mut_for(handle, Duration::MAX).map(|value| *value)
                    })
                })
                .collect();
            entered.wait();
            if round % 8 == 0 {
                // So that they sleep, most of the time.
                thread::sleep(Duration::from_millis(2));
            }
            assert_eq!(shuffler.free(handle), Ok(Freed::WhenReturned));
            for waiter in waiters {
                assert_eq!(waiter.join().unwrap(), Err(AccessError::Stale));
            }
            assert_eq!(*hold, 7);
        });
        drop(hold);
    }
    assert_eq!(quiet(&shuffler).live_blocks, 0);
}

#[test]
fn short_waits_time_out_while_others_go_on() {
    let (shuffler, _) = small(Trigger::Background);
    let handle = shuffler.create(0_u64).unwrap();
    let outcomes = [AtomicUsize::new(0), AtomicUsize::new(0)];
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..500 {
                    match shuffler.rent_mut_for(handle, Duration::from_micros(50)) {
                        Ok(mut value) => {
                            *value += 1;
                            outcomes[0].fetch_add(1, Ordering::Relaxed);
                            thread::yield_now();
                        }
                        Err(error) => {
                            assert_eq!(error, AccessError::TimedOut);
                            outcomes[1].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let [took, late] = outcomes.map(AtomicUsize::into_inner);
    assert_eq!((shuffler.take(handle), took + late), (Ok(took as u64), 1500));
}

#[test]
fn rents_are_handed_from_thread_to_thread() {
    let (shuffler, _) = small(Trigger::Background);
    let ledger = Ledger::new(3000);
    let (send, receive) = mpsc::sync_channel(16);
    let (send_owned, receive_owned) = mpsc::sync_channel::<OwnedRent<Token>>(16);
    let (send_write, receive_write) = mpsc::sync_channel(16);
    thread::scope(|scope| {
        let shuffler = &shuffler;
        scope.spawn(move || {
            receive.into_iter().for_each(|rent: memory_shuffler::Rent<'_, Token>| assert!(rent.is_whole()))
        });
        scope.spawn(move || receive_owned.into_iter().for_each(|rent| assert!(rent.is_whole())));
        scope.spawn(move || {
            receive_write.into_iter().for_each(|rent: memory_shuffler::RentMut<'_, Token>| assert!(rent.is_whole()));
        });
        for _ in 0..1000 {
            let handles = [(); 3].map(|()| shuffler.create(ledger.token()).unwrap());
            send.send(shuffler.rent(handles[0]).unwrap()).unwrap();
            send_owned.send(shuffler.rent_owned(handles[1]).unwrap()).unwrap();
            send_write.send(shuffler.rent_mut(handles[2]).unwrap()).unwrap();
            for handle in handles {
                // Whether it is still rented differs.
                let _ = shuffler.free(handle).unwrap();
            }
        }
        drop((send, send_owned, send_write));
    });
    assert_eq!(quiet(&shuffler).live_blocks, 0);
    ledger.settled();
}

#[test]
fn blocks_made_here_and_freed_there() {
    // Every block is freed by another thread than its maker, while arenas are emptied under both.
    let (shuffler, source) = small(Trigger::Background);
    let ledger = Ledger::new(40_000);
    thread::scope(|scope| {
        for _ in 0..2 {
            let (send, receive) = mpsc::sync_channel(256);
            let (shuffler, ledger) = (&shuffler, &ledger);
            scope.spawn(move || {
                for index in 0..6000_usize {
                    let token = shuffler.create((ledger.token(), [index; 20])).unwrap();
                    let block = patterned(shuffler, index as u64, index % 700);
                    let versioned = shuffler.create_versioned(index).unwrap();
                    send.send((index, token, block, versioned)).unwrap();
                }
            });
            scope.spawn(move || {
                for (index, token, block, versioned) in receive {
                    common::check(shuffler, block, index as u64, index % 700);
                    assert_eq!(shuffler.free(block), Ok(Freed::Now));
                    assert_eq!(shuffler.reader().get(versioned), Ok(&index));
                    assert_eq!(shuffler.free(versioned), Ok(Freed::Now));
                    assert_eq!(shuffler.rent(token).unwrap().1, [index; 20]);
                    if index % 2 == 0 {
                        assert!(shuffler.take(token).unwrap().0.is_whole());
                    } else {
                        assert_eq!(shuffler.free(token), Ok(Freed::Now));
                    }
                }
            });
        }
    });
    let stats = quiet(&shuffler);
    assert_eq!((stats.live_blocks, stats.live_bytes), (0, 0));
    ledger.settled();
    shuffler.trim();
    let _ = quiet(&shuffler);
    shuffler.trim();
    assert!(source.bytes() <= 4 << 20, "{} bytes are held for nothing: {:?}", source.bytes(), quiet(&shuffler));
}

#[test]
fn readers_see_whole_values_while_others_publish() {
    let (shuffler, _) = small(Trigger::Background);
    let values: Vec<_> = (0..50_u64).map(|n| shuffler.create_versioned([n; 64]).unwrap()).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut reads = 0_u64;
                    while !stop.load(Ordering::Relaxed) || reads < 1000 {
                        let reader = shuffler.reader();
                        let seen: Vec<_> = values
                            .iter()
                            .map(|value| (reader.get(*value).unwrap(), *reader.get(*value).unwrap()))
                            .collect();
                        thread::yield_now();
                        for (seen, copy) in seen {
                            assert!(seen.iter().all(|n| *n == seen[0]), "a torn value: {seen:?}");
                            assert!(*seen == copy || copy.iter().all(|n| *n == copy[0]));
                        }
                        reads += 1;
                    }
                })
            })
            .collect();
        let stopping = Stop(&stop);
        for round in 0..200_u64 {
            for value in &values {
                if round % 2 == 0 {
                    shuffler.publish(*value, [round; 64]).unwrap();
                } else {
                    shuffler.update(*value, |old| old.map(|n| n + 1)).unwrap();
                }
            }
            // Other versioned garbage, so that the values move.
            let others: Vec<_> = (0..200_u64).map(|n| shuffler.create_versioned([n; 64]).unwrap()).collect();
            others.iter().for_each(|other| assert_eq!(shuffler.free(*other), Ok(Freed::Now)));
        }
        drop(stopping);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    assert!(values.iter().all(|value| shuffler.reader().get(*value).unwrap()[7] == 199));
    assert_eq!(quiet(&shuffler).live_blocks, 50);
}

#[test]
fn readers_see_whole_slices_while_two_threads_publish_other_lengths() {
    // A slice has one number in all its places, which tells how many there are; so half of one and half of another show.
    const LENGTHS: [usize; 6] = [1, 9, 700, 8_000, 9_000, 30_000];
    let numbers = |number: u64| vec![number; LENGTHS[number as usize % LENGTHS.len()]];
    let text = |number: usize| char::from(b'a' + (number % 6) as u8).to_string().repeat(LENGTHS[number % 6]);
    let is_whole = |slice: &[u64]| slice == numbers(slice[0]);
    let is_whole_text = |slice: &str| slice == text(usize::from(slice.as_bytes()[0] - b'a'));
    for trigger in [Trigger::Background, Trigger::Inline] {
        let (shuffler, _) = small(trigger);
        let slices: Vec<_> = (0..12).map(|n| shuffler.alloc_versioned(&numbers(n)).unwrap()).collect();
        let texts: Vec<_> = (0..12).map(|n| shuffler.alloc_versioned_str(&text(n)).unwrap()).collect();
        let stop = AtomicBool::new(false);
        let sizes = AtomicUsize::new(0);
        thread::scope(|scope| {
            let mut others = Vec::new();
            others.push(scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let reader = shuffler.reader();
                    let seen: Vec<_> = slices.iter().map(|slice| reader.get(*slice).unwrap()).collect();
                    let seen_texts: Vec<_> = texts.iter().map(|text| reader.get(*text).unwrap()).collect();
                    thread::yield_now();
                    assert!(seen.into_iter().all(is_whole), "parts of two slices");
                    assert!(seen_texts.into_iter().all(is_whole_text), "parts of two strings");
                }
            }));
            others.push(scope.spawn(|| {
                // Queries take no hold.
                let mut seen = std::collections::HashSet::new();
                while !stop.load(Ordering::Relaxed) {
                    for slice in &slices {
                        let size = shuffler.get_size(*slice).unwrap();
                        assert!(LENGTHS.contains(&(size / 8)), "a length of nobody's: {size}");
                        assert!(LENGTHS.contains(&(shuffler.inspect(*slice).unwrap().size / 8)));
                        assert_eq!(shuffler.typed_versioned::<[u64]>((*slice).into()), Ok(*slice));
                        seen.insert(size);
                    }
                }
                sizes.store(seen.len(), Ordering::Relaxed);
            }));
            let stopping = Stop(&stop);
            let publishers: Vec<_> = (0..2_u64)
                .map(|thread| {
                    let (shuffler, slices, texts) = (&shuffler, &slices, &texts);
                    scope.spawn(move || {
                        let start = Instant::now();
                        // A reader that keeps much holds up moves of such blocks, so until there were some.
                        let goes_on = |&round: &u64| {
                            round < 150 || (shuffler.stats().moves == 0 && start.elapsed() < common::AT_LAST)
                        };
                        for round in (0..).take_while(goes_on) {
                            for (index, slice) in slices.iter().enumerate() {
                                let number = round * 7 + index as u64 + thread * 1000;
                                let outcomes = [
                                    shuffler.publish_copy(*slice, &numbers(number)),
                                    shuffler.publish_str(texts[index], &text(number as usize)),
                                ];
                                assert!(outcomes.iter().all(|it| matches!(it, Ok(()) | Err(AccessError::Busy))));
                            }
                            // Other garbage beside them, so that the small ones move.
                            let other = |n: usize| shuffler.alloc_versioned(&[n; 50]).unwrap();
                            (0..100).map(other).for_each(|other| assert_eq!(shuffler.free(other), Ok(Freed::Now)));
                            shuffler.shuffle();
                        }
                    })
                })
                .collect();
            publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
            drop(stopping);
            others.into_iter().for_each(|other| other.join().unwrap());
        });
        assert!(sizes.into_inner() > 3, "queries saw no change");
        let reader = shuffler.reader();
        let mut bytes = 0;
        for (slice, text) in slices.iter().zip(&texts) {
            let (numbers, text_now) = (reader.get(*slice).unwrap(), reader.get(*text).unwrap());
            assert!(is_whole(numbers) && is_whole_text(text_now));
            assert_eq!(
                (shuffler.get_size(*slice), shuffler.get_size(*text)),
                (Ok(size_of_val(numbers)), Ok(text_now.len()))
            );
            bytes += size_of_val(numbers) + text_now.len();
        }
        drop(reader);
        let stats = quiet(&shuffler);
        assert_eq!((stats.live_blocks, stats.live_bytes), (24, bytes as u64));
        assert!(stats.moves > 0, "nothing moved");
        for (slice, text) in slices.into_iter().zip(texts) {
            assert_eq!((shuffler.free(slice), shuffler.free(text)), (Ok(Freed::Now), Ok(Freed::Now)));
        }
        let stats = quiet(&shuffler);
        assert_eq!((stats.live_blocks, stats.live_bytes, stats.waiting_bytes), (0, 0, 0));
    }
}

#[test]
fn queries_race_with_everything() {
    // They take no hold: whatever they say was true at one moment, and of this handle's block.
    let (shuffler, _) = small(Trigger::Background);
    let stop = AtomicBool::new(false);
    let shared: Vec<std::sync::atomic::AtomicU64> = (0..64).map(|_| std::sync::atomic::AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        let askers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        for (index, place) in shared.iter().enumerate() {
                            let Some(bits) = std::num::NonZeroU64::new(place.load(Ordering::Acquire)) else { continue };
                            let handle = memory_shuffler::RawHandle::from_bits(bits);
                            let size = [100, 5000, 100_000][index % 3];
                            let refused = |error| matches!(error, AccessError::Stale | AccessError::Invalid);
                            match shuffler.get_size(handle) {
                                Ok(found) => assert_eq!(found, size),
                                Err(error) => assert!(refused(error), "{error:?}"),
                            }
                            match shuffler.inspect(handle) {
                                Ok(info) => assert_eq!((info.size, info.handle), (size, handle)),
                                Err(error) => assert!(refused(error), "{error:?}"),
                            }
                            match shuffler.typed::<[u8]>(handle) {
                                Ok(typed) => match shuffler.rent(typed) {
                                    Ok(rent) => assert!(rent.len() == size && rent.iter().all(|byte| *byte == rent[0])),
                                    Err(error) => assert!(refused(error), "{error:?}"),
                                },
                                Err(error) => assert!(refused(error), "{error:?}"),
                            }
                        }
                        let _ = (shuffler.stats(), shuffler.arenas());
                    }
                })
            })
            .collect();
        let stopping = Stop(&stop);
        for round in 0..150_u8 {
            for (index, place) in shared.iter().enumerate() {
                let size = [100, 5000, 100_000][index % 3];
                let block = shuffler.alloc_copy(&vec![round; size]).unwrap();
                let old = place.swap(memory_shuffler::RawHandle::from(block).to_bits().get(), Ordering::AcqRel);
                if let Some(bits) = std::num::NonZeroU64::new(old) {
                    let _ = shuffler.free(memory_shuffler::RawHandle::from_bits(bits)).unwrap();
                }
            }
            shuffler.shuffle();
        }
        drop(stopping);
        askers.into_iter().for_each(|asker| asker.join().unwrap());
    });
    assert_eq!(quiet(&shuffler).live_blocks, 64);
}
