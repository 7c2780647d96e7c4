//! Rents that live longer than a borrow: across `await`, on whichever thread a task goes on, and as the owner of `Bytes`.

#![allow(clippy::disallowed_types, reason = "tests count with the standard atomics; no model runs them")]

mod common;

use bytes::Bytes;
use common::{Ledger, checked, eventually, fragmented, pattern, quiet};
use memory_shuffler::{AccessError, Freed, Handle, OwnedRent, Shuffler};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::runtime::Runtime;
use tokio::task::yield_now;

const ARENA: usize = 64 << 10;
const BLOCK: usize = ARENA / 64;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap()
}

fn address(shuffler: &Shuffler, handle: Handle<[u8]>) -> usize {
    shuffler.inspect(handle).unwrap().address
}

/// How far the two sides of a test are.
#[derive(Default)]
struct Meeting {
    holding: AtomicUsize,
    moved: AtomicBool,
}

/// Holds a block across many an `await`, and at least until others were moved.
async fn hold(shuffler: Shuffler, handle: Handle<[u8]>, contents: Vec<u8>, meeting: Arc<Meeting>) -> OwnedRent<[u8]> {
    let rent = shuffler.rent_owned(handle).unwrap();
    let address = rent.as_ptr().addr();
    meeting.holding.fetch_add(1, Ordering::Relaxed);
    for round in 0.. {
        yield_now().await;
        assert_eq!((rent.as_ptr().addr(), self::address(&shuffler, handle)), (address, address));
        assert!(*rent == *contents);
        if round > 100 && meeting.moved.load(Ordering::Relaxed) {
            break;
        }
    }
    rent
}

#[test]
fn rents_are_held_across_await_while_shuffles_run() {
    const HELD: usize = 64;
    let (shuffler, source) = checked();
    let kept = fragmented(&shuffler, ARENA, 16, 4);
    let meeting = Arc::new(Meeting::default());
    runtime().block_on(async {
        let mover = {
            let (shuffler, meeting) = (shuffler.clone(), meeting.clone());
            tokio::task::spawn_blocking(move || {
                eventually("all are held", || meeting.holding.load(Ordering::Relaxed) == HELD);
                for _ in 0..10 {
                    let churn = fragmented(&shuffler, ARENA, 2, 8);
                    shuffler.shuffle();
                    for handle in churn {
                        assert_eq!(shuffler.free(handle), Ok(Freed::Now));
                    }
                }
                meeting.moved.store(true, Ordering::Relaxed);
                shuffler.stats().moves
            })
        };
        // Those of the first arenas; what is in the others may move.
        let task = |index| hold(shuffler.clone(), kept[index], pattern(index as u64 * 4, BLOCK), meeting.clone());
        let held: Vec<_> = (0..HELD).map(|index| tokio::spawn(task(index))).collect();
        assert!(mover.await.unwrap() > 100);
        let mut rents = Vec::new();
        for task in held {
            rents.push(task.await.unwrap());
        }
        assert!(kept[..HELD].iter().all(|handle| shuffler.inspect(*handle).unwrap().rents == 1));
        // Taken on other threads, and returned on this one.
        drop(rents);
        assert!(kept.iter().all(|handle| shuffler.inspect(*handle).unwrap().rents == 0));
    });
    common::check_fragmented(&shuffler, &kept, ARENA, 4);
    drop(shuffler);
    assert_eq!(source.chunks(), 0);
}

#[test]
fn bytes_own_their_block_without_a_copy() {
    let (shuffler, _) = checked();
    // One block is left in each arena.
    let kept = fragmented(&shuffler, ARENA, 8, 64);
    let places: Vec<_> = kept.iter().map(|handle| address(&shuffler, *handle)).collect();
    let now = || kept.iter().map(|handle| address(&shuffler, *handle)).collect::<Vec<_>>();
    let all: Vec<_> = kept.iter().map(|handle| Bytes::from_owner(shuffler.rent_owned(*handle).unwrap())).collect();
    assert_eq!(all.iter().map(|bytes| bytes.as_ptr().addr()).collect::<Vec<_>>(), places, "no copy");

    // Clones and parts, on other threads: the last one counts.
    let parts = runtime().block_on(async {
        let tasks: Vec<_> = all
            .into_iter()
            .map(|bytes| {
                tokio::spawn(async move {
                    let part = bytes.clone().slice(100..200);
                    drop(bytes);
                    yield_now().await;
                    part
                })
            })
            .collect();
        let mut parts = Vec::new();
        for task in tasks {
            parts.push(task.await.unwrap());
        }
        parts
    });
    shuffler.shuffle();
    assert_eq!((now(), shuffler.stats().moves), (places.clone(), 0), "all are held");
    for ((part, place), index) in parts.iter().zip(&places).zip(0..) {
        assert_eq!(part.as_ptr().addr(), place + 100);
        assert!(*part == pattern(index * 64, BLOCK)[100..200]);
        assert_eq!(shuffler.rent_mut(kept[index as usize]).err(), Some(AccessError::Busy));
    }
    drop(parts);
    shuffler.shuffle();
    assert!(now() != places, "nobody holds them, so they are moved together");
    common::check_fragmented(&shuffler, &kept, ARENA, 64);
}

#[test]
fn a_block_freed_while_bytes_own_it_ends_with_the_last() {
    let (shuffler, source) = checked();
    let handle = shuffler.alloc_copy(&pattern(1, 5000)).unwrap();
    let bytes = Bytes::from_owner(shuffler.rent_owned(handle).unwrap());
    let part = bytes.slice(4000..);
    assert_eq!(shuffler.free(handle), Ok(Freed::WhenReturned));
    drop(bytes);
    assert_eq!(shuffler.stats().live_blocks, 1);
    // It outlives the shuffler as well.
    drop(shuffler);
    assert!(part == pattern(1, 5000)[4000..]);
    assert!(source.chunks() > 0);
    drop(part);
    assert_eq!(source.chunks(), 0);
}

#[test]
fn a_task_that_is_cancelled_returns_what_it_holds() {
    let (shuffler, _) = checked();
    let ledger = Ledger::new(1);
    let handle = shuffler.create(ledger.token()).unwrap();
    runtime().block_on(async {
        let task = tokio::spawn(while_held(shuffler.rent_owned(handle).unwrap(), std::future::pending::<()>()));
        yield_now().await;
        assert_eq!(shuffler.free(handle), Ok(Freed::WhenReturned));
        assert_eq!(ledger.drops(), 0);
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    });
    ledger.settled();
    assert_eq!(quiet(&shuffler).live_blocks, 0);
}

async fn while_held<T: Send + Sync + 'static>(rent: OwnedRent<T>, work: impl Future<Output = ()>) {
    work.await;
    drop(rent);
}
