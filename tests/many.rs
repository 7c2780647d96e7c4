//! Several blocks at a time: rents that come together or not at all, and the live blocks of a type.

#![allow(clippy::disallowed_types, reason = "tests count with the standard atomics; no model runs them")]

mod common;

use common::{Parent, World, everywhere, fragmented, manual};
use memory_shuffler::{AccessError, Freed, Handle, RawHandle, Shuffler, Stored, Trigger, Versioned};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const BUSY: &str = "block is busy: another hold excludes this access; return that hold first, wait with rent_for or \
                    rent_mut_for, or try again";
const STALE: &str = "stale handle: its block has been freed; forget this handle and create the block anew";
const INVALID: &str =
    "invalid handle: it names no block of this shuffler; use a handle that this very shuffler returned";

#[track_caller]
fn refused<T>(outcome: Result<T, AccessError>, error: AccessError, text: &str) {
    let Err(found) = outcome else { panic!("it was let through, not refused with {error:?}") };
    assert_eq!((found, found.to_string().as_str()), (error, text));
}

#[track_caller]
fn unheld<T>(shuffler: &Shuffler, handles: &[Handle<T>]) {
    for handle in handles {
        let info = shuffler.inspect(*handle).unwrap();
        assert_eq!((info.rents, info.exclusive), (0, false), "{handle:?}");
    }
}

#[test]
fn rents_come_together() {
    everywhere(|World { shuffler, .. }| {
        let [a, b, c] = [1_u64, 2, 3].map(|value| shuffler.create(value).unwrap());
        let rents = shuffler.rent_many([a, b, a, c, a]).unwrap();
        assert_eq!(rents.each_ref().map(|rent| **rent), [1, 2, 1, 3, 1]);
        assert_eq!([a, b, c].map(|handle| shuffler.inspect(handle).unwrap().rents), [3, 1, 1]);
        shuffler.shuffle();
        assert_eq!(rents.each_ref().map(|rent| **rent), [1, 2, 1, 3, 1]);
        drop(rents);
        unheld(&shuffler, &[a, b, c]);

        let mut rents = shuffler.rent_many_mut([c, a]).unwrap();
        rents.iter_mut().for_each(|rent| **rent *= 10);
        assert!(shuffler.inspect(a).unwrap().exclusive && shuffler.inspect(c).unwrap().exclusive);
        drop(rents);
        unheld(&shuffler, &[a, b, c]);
        assert_eq!([a, b, c].map(|handle| shuffler.take(handle).unwrap()), [10, 2, 30]);

        let text = shuffler.alloc_str("text").unwrap();
        let [mut words] = shuffler.rent_many_mut([text]).unwrap();
        words.make_ascii_uppercase();
        drop(words);
        let [one, other] = shuffler.rent_many([text, text]).unwrap();
        assert_eq!((&*one, &*other), ("TEXT", "TEXT"));
        assert_eq!(shuffler.rent_many::<str, 0>([]).unwrap().len(), 0);
        assert_eq!(shuffler.rent_many_mut::<str, 0>([]).unwrap().len(), 0);
    });
}

#[test]
fn all_or_none() {
    let shuffler = manual();
    let handles @ [a, b, c] = [1_u64, 2, 3].map(|value| shuffler.create(value).unwrap());
    // The same one twice.
    refused(shuffler.rent_many_mut([a, b, a]).map(drop), AccessError::Busy, BUSY);
    unheld(&shuffler, &handles);
    // One of them in use, wherever it stands.
    let write = shuffler.rent_mut(b).unwrap();
    for order in [[a, b, c], [b, a, c], [a, c, b]] {
        refused(shuffler.rent_many(order).map(drop), AccessError::Busy, BUSY);
        refused(shuffler.rent_many_mut(order).map(drop), AccessError::Busy, BUSY);
        unheld(&shuffler, &[a, c]);
    }
    drop(write);
    let read = shuffler.rent(b).unwrap();
    assert_eq!(shuffler.rent_many([a, b]).unwrap().map(|rent| *rent), [1, 2]);
    refused(shuffler.rent_many_mut([a, b]).map(drop), AccessError::Busy, BUSY);
    drop(read);
    // The first refusal is told, and the ones before it are given back.
    let stranger = manual().create(4_u64).unwrap();
    assert_eq!(shuffler.free(c), Ok(Freed::Now));
    refused(shuffler.rent_many([a, c, stranger]).map(drop), AccessError::Stale, STALE);
    refused(shuffler.rent_many([a, stranger, c]).map(drop), AccessError::Invalid, INVALID);
    refused(shuffler.rent_many_mut([a, b, c]).map(drop), AccessError::Stale, STALE);
    unheld(&shuffler, &[a, b]);
    // A rent that is given back may be the last on a freed block.
    let mut rents = Some(shuffler.rent_many([a, b]).unwrap());
    assert_eq!(shuffler.free(a), Ok(Freed::WhenReturned));
    refused(shuffler.rent_many([b, a]).map(drop), AccessError::Stale, STALE);
    assert_eq!(shuffler.stats().live_blocks, 2);
    rents.take();
    assert_eq!(shuffler.stats().live_blocks, 1);
    unheld(&shuffler, &[b]);
}

/// The system's allocator, with each thread's calls counted.
struct Counting;

thread_local!(static CALLS: Cell<usize> = const { Cell::new(0) });

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn many_rents_allocate_nothing() {
    let shuffler = manual();
    let handles: [_; 100] = std::array::from_fn(|number| shuffler.create(number).unwrap());
    let twice = std::array::from_fn::<_, 101, _>(|index| handles[index % 100]);
    let before = CALLS.get();
    let sum: usize = shuffler.rent_many(handles).unwrap().iter().map(|rent| **rent).sum();
    let refused = shuffler.rent_many_mut(twice).is_err();
    shuffler.rent_many_mut(handles).unwrap().iter_mut().for_each(|rent| **rent += 1);
    assert_eq!(CALLS.get(), before);
    assert!(refused && sum == 4950 && *shuffler.rent(handles[99]).unwrap() == 100);
    assert_ne!((vec![sum], CALLS.get()), (vec![sum], before), "calls are counted");
}

#[test]
fn sums_are_kept_by_writers_of_pairs() {
    // Each moves some from one account to another, in whichever order: nobody waits for ever, and nothing is lost.
    everywhere(|World { shuffler, .. }| {
        let accounts: Vec<_> = (0..8).map(|_| shuffler.create(1000_i64).unwrap()).collect();
        thread::scope(|scope| {
            for thread in 0..4_usize {
                let (shuffler, accounts) = (&shuffler, &accounts);
                scope.spawn(move || {
                    let mut done = 0;
                    for round in 0_usize.. {
                        let (from, to) = ((round * 7 + thread) % 8, (round * 5 + thread * 3 + 1) % 8);
                        match shuffler.rent_many_mut([accounts[from], accounts[to]]) {
                            Ok([mut source, mut target]) => {
                                *source -= 1;
                                *target += 1;
                                done += 1;
                            }
                            Err(error) => assert_eq!(error, AccessError::Busy),
                        }
                        if done == 300 {
                            return;
                        }
                        thread::yield_now();
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..20 {
                    shuffler.shuffle();
                }
            });
        });
        let all: [_; 8] = accounts.try_into().unwrap();
        assert_eq!(shuffler.rent_many(all).unwrap().iter().map(|rent| **rent).sum::<i64>(), 8000);
    });
}

fn sorted<T: ?Sized + Stored>(handles: impl IntoIterator<Item = Handle<T>>) -> Vec<Handle<T>> {
    let mut all: Vec<_> = handles.into_iter().collect();
    all.sort_unstable();
    all
}

#[test]
fn live_blocks_of_each_type() {
    everywhere(|World { shuffler, .. }| {
        assert_eq!(shuffler.handles::<u64>().count(), 0, "before there is a table");
        let mut numbers: Vec<_> = (0..10_000_u64).map(|number| shuffler.create(number).unwrap()).collect();
        let words: Vec<_> = (0..100).map(|_| shuffler.alloc_copy(&[1_u64, 2]).unwrap()).collect();
        let texts: Vec<_> = (0..100).map(|_| shuffler.alloc_str("text").unwrap()).collect();
        let versioned: HashSet<_> = (0..100_u64).map(|number| shuffler.create_versioned(number).unwrap()).collect();
        let large = shuffler.alloc::<u64>(100_000).unwrap();
        assert_eq!(sorted(shuffler.handles::<u64>()), sorted(numbers.iter().copied()));
        assert_eq!(sorted(shuffler.handles::<[u64]>()), sorted(words.iter().copied().chain([large])));
        assert_eq!(sorted(shuffler.handles::<str>()), sorted(texts));
        assert_eq!(shuffler.versioned_handles::<u64>().collect::<HashSet<Versioned<u64>>>(), versioned);
        assert_eq!(shuffler.versioned_handles::<u64>().count(), 100);
        for other in [shuffler.handles::<[u8]>().count(), shuffler.handles::<u32>().count()] {
            assert_eq!(other, 0);
        }
        assert_eq!(shuffler.versioned_handles::<[u64]>().count() + shuffler.versioned_handles::<str>().count(), 0);

        // What is freed is not live, though somebody holds it.
        let held = shuffler.rent(numbers[0]).unwrap();
        for handle in numbers.extract_if(.., |handle| handle.raw().to_bits().get() >> 32 & 1 == 0) {
            assert!(shuffler.free(handle).is_ok());
        }
        shuffler.trim();
        assert_eq!(sorted(shuffler.handles::<u64>()), sorted(numbers.iter().copied()));
        drop(held);
        numbers.into_iter().for_each(|handle| assert!(shuffler.free(handle).is_ok()));
        shuffler.trim();
        assert_eq!(shuffler.handles::<u64>().count(), 0);
    });
}

#[test]
fn no_lock_is_held_while_they_are_gone_through() {
    let shuffler = manual();
    for number in 0..5000_u64 {
        shuffler.create(number).unwrap();
    }
    let mut seen = 0;
    for handle in shuffler.handles::<u64>() {
        seen += 1;
        // Everything that takes the table's lock, and another walk.
        if seen % 1000 == 0 {
            shuffler.trim();
            assert!(shuffler.stats().live_blocks >= 5000);
            assert!(shuffler.handles::<u64>().next().is_some());
            fragmented(&shuffler, 1 << 20, 1, 4);
        }
        let value = shuffler.take(handle).unwrap();
        shuffler.create(value as u32).unwrap();
    }
    assert_eq!((seen, shuffler.handles::<u64>().count(), shuffler.handles::<u32>().count()), (5000, 0, 5000));
}

/// Blocks that live all along are each seen once, whatever others make and free meanwhile; what is seen is of its type.
#[test]
fn walks_beside_churn() {
    for (tiny, trigger) in [(false, Trigger::Background), (true, Trigger::Background), (true, Trigger::Inline)] {
        let World { shuffler, .. } = World::new(Parent::Checked, tiny, trigger);
        let mine: HashSet<Handle<u64>> = (0..3000_u64).map(|number| shuffler.create(number).unwrap()).collect();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for thread in 0..2 {
                let (shuffler, stop) = (&shuffler, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let made: Vec<RawHandle> = (0..5000_u64)
                            .map(|number| match number % 2 {
                                0 => shuffler.create(number | 1 << 40).unwrap().into(),
                                _ => shuffler.create(number as u32).unwrap().into(),
                            })
                            .collect();
                        made.into_iter().for_each(|handle| assert!(shuffler.free(handle).is_ok()));
                        if thread == 0 {
                            shuffler.trim();
                        }
                    }
                });
            }
            for _ in 0..10 {
                let mut once = HashSet::new();
                for handle in shuffler.handles::<u64>() {
                    assert!(once.insert(handle), "{handle:?} was given twice");
                    // Another's may be gone by now; what is there is a number of ours or of theirs.
                    match shuffler.rent(handle) {
                        Ok(value) => assert_eq!(*value >> 40 == 0, mine.contains(&handle)),
                        Err(error) => {
                            assert!(matches!(error, AccessError::Stale | AccessError::Invalid), "{error:?}");
                            assert!(!mine.contains(&handle));
                        }
                    }
                }
                assert!(mine.is_subset(&once));
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
