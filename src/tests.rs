//! Tests that need page numbers of their own: slots whose versions run out, tables that are full, pages that come back; and of
//! parts that the models include, and cannot bring tests of their own along.

use crate::arena::source::DefaultSource;
use crate::builder::Builder;
use crate::table::numbers::PageNumbers;
use crate::table::slots::PAGE_SLOTS;
use crate::{AccessError, AllocError, Freed, RawHandle, Shuffler, Trigger};

fn shuffler(numbers: &'static PageNumbers) -> Shuffler {
    let config = Builder::default().trigger(Trigger::Manual).check().unwrap();
    Shuffler::with_numbers(config, Box::new(DefaultSource::new()), numbers)
}

const INVALID: &str =
    "invalid handle: it names no block of this shuffler; use a handle that this very shuffler returned";
const STALE: &str = "stale handle: its block has been freed; forget this handle and create the block anew";
const EXHAUSTED: &str = "handles exhausted: every slot of the handle table is taken; free some blocks, then try again";

/// The error, whose text is as given.
#[track_caller]
fn refused<T, E: std::error::Error + PartialEq>(outcome: Result<T, E>, error: E, text: &str) {
    let Err(found) = outcome else { panic!("it was let through, not refused with {error:?}") };
    assert_eq!(found.to_string(), text);
    assert_eq!(found, error);
}

#[test]
fn a_slot_whose_versions_are_used_up_is_retired() {
    // The last three lives of each slot: 0xFFFF_FFF9, 0xFFFF_FFFB, 0xFFFF_FFFD.
    let shuffler = shuffler(PageNumbers::single(3, 0xFFFF_FFF8));
    let slots = u64::from(PAGE_SLOTS);
    let mut last = None;
    for _ in 0..3 * slots {
        let handle = shuffler.create(7_u64).unwrap();
        assert_eq!(shuffler.free(handle), Ok(Freed::Now));
        last = Some(handle);
    }
    assert_eq!(shuffler.stats().retired_slots, slots);
    let rejected = shuffler.create(8_u64).unwrap_err();
    refused(Err::<(), _>(rejected.cause()), AllocError::HandlesExhausted, EXHAUSTED);
    assert_eq!(rejected.into_inner(), 8);
    let last = last.unwrap();
    assert_eq!(last.raw().version(), 0xFFFF_FFFD);
    refused(shuffler.rent(last), AccessError::Stale, STALE);
    // The version after the last, and the number after that, are no handle's.
    for never in [0xFFFF_FFFE, 0xFFFF_FFFF] {
        let handle = RawHandle::new(last.raw().slot(), never);
        refused(shuffler.free(handle), AccessError::Invalid, INVALID);
        // SAFETY: nothing is rented, so nobody's hold is returned.
        refused(unsafe { shuffler.return_pointer(handle) }, AccessError::Invalid, INVALID);
    }
    // A page with retired slots is never given back.
    shuffler.trim();
    assert_eq!(shuffler.create(9_u64).unwrap_err().cause(), AllocError::HandlesExhausted);
}

#[test]
fn version_zero_does_not_come_after_the_last_number() {
    let shuffler = shuffler(PageNumbers::single(0, 0));
    let first = shuffler.create(1_u8).unwrap().raw();
    let vacant = RawHandle::new(first.slot() ^ 1, 0xFFFF_FFFF);
    // SAFETY: nothing is rented, so nobody's hold is returned.
    refused(unsafe { shuffler.return_pointer(vacant) }, AccessError::Invalid, INVALID);
    refused(shuffler.inspect(vacant), AccessError::Invalid, INVALID);
    refused(shuffler.free(vacant), AccessError::Invalid, INVALID);
    assert_eq!(shuffler.create(2_u8).unwrap().raw(), RawHandle::new(first.slot() ^ 1, 1), "it was at version 0");
}

#[test]
fn handles_run_out_with_an_error_and_come_back() {
    let shuffler = shuffler(PageNumbers::single(0, 0));
    let all: Vec<_> = (0..PAGE_SLOTS).map(|number| shuffler.create(number).unwrap()).collect();
    let rejected = shuffler.create(1_u32).unwrap_err();
    assert_eq!(rejected.cause(), AllocError::HandlesExhausted);
    refused(shuffler.alloc::<u8>(1 << 20), AllocError::HandlesExhausted, EXHAUSTED);
    assert_eq!(shuffler.free(all[5]), Ok(Freed::Now));
    let again = shuffler.create(2_u32).unwrap();
    assert_eq!(*shuffler.rent(again).unwrap(), 2);
    refused(shuffler.rent(all[5]), AccessError::Stale, STALE);
}

#[test]
fn a_reader_finds_blocks_of_pages_that_were_added_after_it_was_made() {
    // One page more than the first directory has room for.
    const BLOCKS: u32 = 64 * PAGE_SLOTS + 1;
    let shuffler = shuffler(Box::leak(Box::new(PageNumbers::with_limit(65))));
    let before_any = shuffler.reader();
    let first = shuffler.create_versioned(0).unwrap();
    let mut before_growth = shuffler.reader();
    for number in 1..BLOCKS - 1 {
        let _ = shuffler.create_versioned(number).unwrap();
    }
    let last = shuffler.create_versioned(BLOCKS - 1).unwrap();
    assert_ne!(first.raw().slot() / (64 * PAGE_SLOTS), last.raw().slot() / (64 * PAGE_SLOTS));
    assert_eq!((before_any.get(first), before_any.get(last)), (Ok(&0), Ok(&(BLOCKS - 1))));
    assert_eq!((before_growth.get(first), before_growth.get(last)), (Ok(&0), Ok(&(BLOCKS - 1))));
    before_growth.repin();
    assert_eq!((before_growth.get(first), before_growth.get(last)), (Ok(&0), Ok(&(BLOCKS - 1))));
}

#[test]
fn a_page_that_comes_back_brings_no_handle_back() {
    let shuffler = shuffler(PageNumbers::single(9, 0));
    let mut old: Vec<RawHandle> = Vec::new();
    for _ in 0..4 {
        let handles: Vec<_> = (0..1000_u32).map(|number| shuffler.create(number).unwrap()).collect();
        for stale in &old {
            assert!(!shuffler.valid_handle(*stale));
            refused(shuffler.free(*stale), AccessError::Stale, STALE);
        }
        for (number, handle) in (0_u32..).zip(&handles) {
            assert_eq!(*shuffler.rent(*handle).unwrap(), number);
            assert_eq!(shuffler.free(*handle), Ok(Freed::Now));
        }
        old.extend(handles.iter().map(|handle| handle.raw()));
        let held = shuffler.stats().resident_bytes;
        shuffler.trim();
        assert!(shuffler.stats().resident_bytes < held, "the page was not given back");
        for stale in &old {
            // While its page is given back.
            refused(shuffler.free(*stale), AccessError::Invalid, INVALID);
        }
    }
}

#[test]
fn a_number_that_goes_to_another_shuffler_brings_no_handle_along() {
    let numbers = PageNumbers::single(2, 0);
    let first = shuffler(numbers);
    let handle = first.create(1_u8).unwrap();
    drop(first);
    let second = shuffler(numbers);
    // No page yet.
    refused(second.rent(handle), AccessError::Invalid, INVALID);
    let other = second.create(2_u8).unwrap();
    refused(second.rent(handle), AccessError::Stale, STALE);
    assert_eq!(*second.rent(other).unwrap(), 2);
}

#[test]
fn no_handle_of_millions_comes_alive_again() {
    const BLOCKS: usize = if cfg!(debug_assertions) { 200_000 } else { 2_000_000 };
    let numbers: &'static PageNumbers = Box::leak(Box::new(PageNumbers::with_limit(2000)));
    let shuffler = shuffler(numbers);
    let mut rounds: Vec<Vec<RawHandle>> = Vec::new();
    for round in 0..3 {
        let mut handles: Vec<RawHandle> = (0..BLOCKS as u64).map(|n| shuffler.create(n).unwrap().raw()).collect();
        for old in rounds.iter().flatten() {
            assert!(!shuffler.valid_handle(*old), "{old:?} of an earlier round is valid in round {round}");
            assert!(matches!(shuffler.free(*old), Err(AccessError::Stale)), "{old:?} in round {round}");
        }
        // Some pages stay in use, so that those which go and those which stay meet in the next round.
        let kept = handles.split_off(BLOCKS - BLOCKS / 100);
        let mut state = 0x9E37_79B9_7F4A_7C15_u64 + round;
        for end in (1..handles.len()).rev() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            handles.swap(end, (state % (end as u64 + 1)) as usize);
        }
        handles.iter().for_each(|&handle| assert_eq!(shuffler.free(handle), Ok(Freed::Now)));
        let held = shuffler.stats().metadata_bytes;
        shuffler.trim();
        assert!(shuffler.stats().metadata_bytes < held / 4, "the pages were not given back");
        for old in &handles {
            assert!(matches!(shuffler.free(*old), Err(AccessError::Invalid | AccessError::Stale)), "{old:?}");
        }
        for &handle in &kept {
            assert_eq!(shuffler.free(handle), Ok(Freed::Now));
        }
        handles.extend(kept);
        rounds.push(handles);
    }
    let mut all: Vec<RawHandle> = rounds.concat();
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "a handle was given out twice");
}

/// Threads that take the last slots there are, while another gives pages back again and again.
#[test]
fn the_last_slots_are_found_while_pages_are_given_back() {
    use crate::primitive::sync::atomic::{AtomicBool, Ordering};
    const PAGES: u32 = 24;
    let numbers: &'static PageNumbers = Box::leak(Box::new(PageNumbers::with_limit(PAGES)));
    let shuffler = shuffler(numbers);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let upkeep = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                shuffler.trim();
            }
        });
        // All but what the other thread's cache may have at a time.
        for _ in 0..20 {
            let all: Vec<_> = (0..(PAGES - 1) * PAGE_SLOTS).map(|number| shuffler.create(number)).collect();
            for handle in all {
                assert_eq!(shuffler.free(handle.expect("a slot is free")), Ok(Freed::Now));
            }
        }
        stop.store(true, Ordering::Relaxed);
        upkeep.join().unwrap();
    });
}

/// Address space is reserved for the tables of so many shufflers only. The others read, and refuse, as well.
#[test]
fn shufflers_without_a_reserved_range_read_and_refuse_alike() {
    use crate::BumpSource;
    let bumps = |_| Shuffler::builder().trigger(Trigger::Manual).source(BumpSource::new()).build().unwrap();
    let many = |_| Shuffler::builder().trigger(Trigger::Manual).build().unwrap();
    let shufflers: Vec<Shuffler> = (0..2).map(bumps).chain((0..600).map(many)).collect();
    let blocks: Vec<_> = shufflers.iter().map(|shuffler| shuffler.create_versioned(7_u64).unwrap()).collect();
    for (index, shuffler) in shufflers.iter().enumerate() {
        let reader = shuffler.reader();
        assert_eq!(reader.get(blocks[index]), Ok(&7));
        let other = (index + 1) % shufflers.len();
        refused(reader.get(blocks[other]), AccessError::Invalid, INVALID);
        refused(shuffler.free(blocks[other]), AccessError::Invalid, INVALID);
        drop(reader);
        assert!(shuffler.free(blocks[index]).is_ok());
        refused(shuffler.reader().get(blocks[index]), AccessError::Stale, STALE);
    }
}

/// What is dead in an arena of helpers' extents is not counted among the garbage of the arenas that are filled: nobody counts
/// it out again when the arena is emptied.
#[test]
fn what_moves_out_of_a_reserve_arena_is_no_garbage() {
    use crate::arena::Use;
    use crate::engine::lease::with_shard;
    use crate::table::{Begun, Memory};
    const BYTES: usize = 12 << 10;
    let builder = Shuffler::builder().trigger(Trigger::Manual).arena_bytes(64 << 10).memory_limit(2 << 20);
    let shuffler = builder.build().unwrap();
    let core = shuffler.core();
    let mut blocks = Vec::new();
    while let Ok(block) = shuffler.create([7_u8; BYTES]) {
        blocks.push(block);
    }
    // A move is under way, and who helps finds no memory but an extent.
    let (block, raw) = (blocks[0], blocks[0].raw());
    let entry = core.entry(raw).unwrap();
    let source = entry.word().address();
    let claim = core.claim(source).unwrap();
    assert!(matches!(entry.begin_move(source), Begun::Moving(_)));
    assert_eq!(*shuffler.rent(block).unwrap(), [7; BYTES]);
    drop(claim);
    assert_eq!(core.arena_of(entry.word().address()).usage(), Use::Reserve);
    // Most of all, so that there is room, and something dead in arenas that stay.
    for index in (1..blocks.len()).filter(|index| index + 9 < blocks.len() || index % 2 == 0) {
        assert_eq!(shuffler.free(blocks[index]), Ok(Freed::Now));
    }
    core.seal_idle(0);
    let garbage = || with_shard(core, |shard, _, _| shard.uncounted) + core.compactor.survey.dead();
    let before = garbage();
    assert!(core.compactor.survey.dead() > 0, "below zero nothing shows");
    assert_eq!(shuffler.shuffle_along([block]).progress.moves, 1);
    assert_eq!(core.arena_of(entry.word().address()).usage(), Use::Bumped);
    assert_eq!(garbage(), before);
}

/// A step whose time was over before it carried anything out says that there is more to do: who steps until there is not, as
/// `shuffle` does, must not leave what is ready.
#[test]
fn a_step_that_is_late_leaves_nothing_untold() {
    use crate::builder::Budget;
    use std::time::Duration;
    let shuffler = shuffler(PageNumbers::single(0, 0));
    let block = shuffler.create_versioned(String::from("on the heap")).unwrap();
    assert!(shuffler.free(block).is_ok());
    let core = shuffler.core();
    core.wait_for_readers(4096, || false);
    assert_eq!((core.deferred.due(), shuffler.stats().live_blocks), (1, 1));
    let mut steps = 0;
    while shuffler.shuffle_step(Budget { bytes: 0, time: Duration::ZERO }).more && steps < 100 {
        steps += 1;
    }
    assert_eq!((core.deferred.due(), shuffler.stats().live_blocks), (0, 0), "after {steps} steps");
}

/// A batch of records that was handed out to its last one is not in the way of the next batch.
#[test]
fn whoever_comes_for_a_record_finds_what_is_due() {
    let deferred = crate::deferred::Deferred::new();
    for record in 0..3 {
        deferred.make_ready(record, 8);
        assert_eq!(deferred.next().map(|pending| pending.record), Some(record));
        assert_eq!(deferred.backlog(), (0, 0));
    }
    assert!(deferred.next().is_none());
}
