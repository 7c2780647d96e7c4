//! Slices that become longer and shorter under their handles.

mod common;

use common::{Ledger, Parent, Token, World, checked, eventually, fill, manual, pattern, quiet};
use memory_shuffler::{
    AccessError, AllocError, BumpSource, Error, Freed, Handle, RawHandle, ResizeError, Shuffler, Trigger, Zeroable,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The largest payload that lies in an arena of the default size.
const SMALL: usize = 65_528;
const MIB: usize = 1 << 20;

/// Every source that has something to say on resizing, with large arenas and with small ones.
fn worlds(trigger: Trigger, mut test: impl FnMut(World)) {
    for parent in [Parent::Os, Parent::Bump, Parent::Checked] {
        for tiny in [false, true] {
            eprintln!("{parent:?}, tiny: {tiny}, {trigger:?}");
            test(World::new(parent, tiny, trigger));
        }
    }
}

/// A number of up to so many bits, each length of it as likely as another.
fn skewed(random: &mut StdRng, bits: u32) -> usize {
    let bound = 1 << random.random_range(0..bits);
    random.random_range(0..bound)
}

fn address(shuffler: &Shuffler, handle: impl Into<RawHandle>) -> usize {
    shuffler.inspect(handle).unwrap().address
}

/// An element that is empty when zeroed, and otherwise counts its end and then acts.
#[derive(Default)]
struct Element(Option<Box<Content>>);

struct Content {
    token: Token,
    at_the_end: Option<Box<dyn FnOnce() + Send>>,
}

// SAFETY: `None` of an optional box is the null pointer.
unsafe impl Zeroable for Element {}

impl Element {
    fn counted(ledger: &Ledger) -> Self {
        Self(Some(Box::new(Content { token: ledger.token(), at_the_end: None })))
    }

    fn acting(ledger: &Ledger, at_the_end: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(Content { token: ledger.token(), at_the_end: Some(Box::new(at_the_end)) })))
    }
}

impl Drop for Element {
    fn drop(&mut self) {
        if let Some(content) = self.0.take() {
            let Content { token, at_the_end } = *content;
            drop(token);
            if let Some(act) = at_the_end {
                act();
            }
        }
    }
}

/// A slice of counted elements.
fn elements(shuffler: &Shuffler, ledger: &Ledger, n: usize) -> Handle<[Element]> {
    let handle = shuffler.alloc::<Element>(n).unwrap();
    refill(shuffler, ledger, handle);
    handle
}

/// Puts counted elements where there are none. How many there were.
fn refill(shuffler: &Shuffler, ledger: &Ledger, handle: Handle<[Element]>) -> usize {
    let mut slice = shuffler.rent_mut(handle).unwrap();
    let empty = slice.iter_mut().filter(|element| element.0.is_none());
    empty.map(|element| *element = Element::counted(ledger)).count()
}

#[test]
fn values_are_kept_and_new_ones_are_zero() {
    worlds(Trigger::Manual, |world| {
        let shuffler = &world.shuffler;
        let mut lengths = vec![0, 1, 7, 8, 9, 15, 16, 17, 1000, 16_376, 16_377, SMALL - 1, SMALL, SMALL + 1, 70_000];
        lengths.extend([
            MIB - 1,
            MIB,
            MIB + 1,
            3 * MIB,
            MIB + 5,
            MIB,
            200_000,
            SMALL + 1,
            SMALL,
            30_000,
            100,
            9,
            8,
            1,
            0,
        ]);
        let mut random = StdRng::seed_from_u64(7);
        lengths.extend((0..200).map(|_| skewed(&mut random, 21)));
        // Neighbours, so that walks have something to go on to.
        let fence = |seed| common::patterned(shuffler, seed, 100);
        let mut fences = vec![(0, fence(0))];
        let handle = shuffler.alloc::<u8>(0).unwrap();
        let mut before = Vec::new();
        for (round, &length) in lengths.iter().enumerate() {
            shuffler.resize(handle, length).unwrap();
            let mut slice = shuffler.rent_mut(handle).unwrap();
            let kept = length.min(before.len());
            assert_eq!(slice.len(), length);
            assert!(slice[..kept] == before[..kept], "what was kept is not the same at {length}");
            assert!(slice[kept..].iter().all(|&byte| byte == 0), "what is new is not zero at {length}");
            fill(&mut slice, round as u64);
            before = slice.to_vec();
            drop(slice);
            assert_eq!(shuffler.get_size(handle), Ok(length));
            assert_eq!(shuffler.inspect(handle).unwrap().size, length);
            assert_eq!(shuffler.stats().live_bytes, (length + 100 * fences.len()) as u64);
            fences.push((round as u64 + 1, fence(round as u64 + 1)));
            if round % 3 == 0 {
                shuffler.trim();
                assert!(*shuffler.rent(handle).unwrap() == before[..]);
            }
        }
        for (seed, fence) in fences {
            common::check(shuffler, fence, seed, 100);
            assert_eq!(shuffler.free(fence), Ok(Freed::Now));
        }
        assert_eq!(shuffler.free(handle), Ok(Freed::Now));
        let stats = quiet(shuffler);
        assert_eq!((stats.live_blocks, stats.live_bytes), (0, 0));
        shuffler.trim();
        assert_eq!(shuffler.arenas().len(), 0, "memory is kept that nobody uses");
        drop(world.shuffler);
        assert!(world.held.bytes().unwrap_or(0) == 0);
    });
}

#[test]
fn other_types_keep_their_values() {
    let shuffler = manual();
    let handle = shuffler.alloc_copy(&[1_u64, 2, 3]).unwrap();
    shuffler.resize(handle, 5).unwrap();
    assert_eq!(*shuffler.rent(handle).unwrap(), [1, 2, 3, 0, 0]);
    shuffler.resize(handle, 2).unwrap();
    assert_eq!(*shuffler.rent(handle).unwrap(), [1, 2]);
    let odd = shuffler.alloc_copy(&[[1_u8, 2, 3]; 3]).unwrap();
    shuffler.resize(odd, 4).unwrap();
    assert_eq!(*shuffler.rent(odd).unwrap(), [[1, 2, 3], [1, 2, 3], [1, 2, 3], [0, 0, 0]]);
    let wide = shuffler.alloc_copy(&[7_u128]).unwrap();
    let _between = shuffler.alloc::<u8>(3).unwrap();
    for n in [2, 9, 4000, 5000, 100_000, 6, 1] {
        shuffler.resize(wide, n).unwrap();
        assert!(address(&shuffler, wide).is_multiple_of(align_of::<u128>()));
        let rent = shuffler.rent(wide).unwrap();
        assert!(rent.len() == n && rent[0] == 7 && rent[1..].iter().all(|&value| value == 0));
    }
}

#[test]
fn a_slice_stays_where_it_is_when_there_is_room() {
    worlds(Trigger::Manual, |world| {
        let shuffler = &world.shuffler;
        let handle = common::patterned(shuffler, 1, 100);
        let after = common::patterned(shuffler, 2, 50);
        let home = address(shuffler, handle);
        for length in [104, 97, 60, 64, 57, 8, 1, 7, 8, 0] {
            shuffler.resize(handle, length).unwrap();
            assert_eq!((address(shuffler, handle), shuffler.get_size(handle)), (home, Ok(length)));
        }
        shuffler.resize(handle, 9).unwrap();
        assert_ne!(address(shuffler, handle), home, "the tail is nobody's any more");
        common::check(shuffler, after, 2, 50);
    });
}

#[test]
fn a_shortened_slice_gives_its_tail_back() {
    worlds(Trigger::Manual, |world| {
        let shuffler = &world.shuffler;
        let block = world.arena_bytes / 32;
        let slices: Vec<_> = (0..256).map(|seed| common::patterned(shuffler, seed, block - 8)).collect();
        assert!(shuffler.arenas().len() >= 8);
        for &handle in &slices {
            shuffler.resize(handle, block / 16).unwrap();
        }
        shuffler.trim();
        let stats = shuffler.stats();
        assert!(shuffler.arenas().len() <= 2 && stats.moves >= 128, "{stats:?}");
        for (seed, &handle) in slices.iter().enumerate() {
            assert!(*shuffler.rent(handle).unwrap() == pattern(seed as u64, block - 8)[..block / 16]);
        }
    });
}

/// What a large slice costs is its pages, whatever room it has.
#[test]
fn a_large_slice_grows_where_it_is() {
    worlds(Trigger::Manual, |world| {
        let (shuffler, arena) = (&world.shuffler, world.arena_bytes);
        let handle = common::patterned(shuffler, 3, arena / 2);
        let home = address(shuffler, handle);
        let start = shuffler.stats().resident_bytes;
        let extra = |length: usize| (length.next_multiple_of(4096) - arena / 2) as u64;
        for length in [arena / 2 + 1, arena / 2 + 9000, arena - 1, arena] {
            shuffler.resize(handle, length).unwrap();
            assert_eq!((address(shuffler, handle), shuffler.get_size(handle)), (home, Ok(length)));
            assert_eq!(shuffler.stats().resident_bytes, start + extra(length));
            let slice = shuffler.rent(handle).unwrap();
            assert!(slice[..arena / 2] == pattern(3, arena / 2)[..]);
            assert!(slice[arena / 2..].iter().all(|&byte| byte == 0));
        }
        fill(&mut shuffler.rent_mut(handle).unwrap(), 4);
        shuffler.resize(handle, arena / 2 + 5000).unwrap();
        assert_eq!(address(shuffler, handle), home);
        // What cannot be given back is held still.
        let held = if world.held.gives_pages() { extra(arena / 2 + 5000) } else { extra(arena) };
        assert_eq!(shuffler.stats().resident_bytes, start + held);
        shuffler.resize(handle, arena).unwrap();
        assert_eq!(shuffler.stats().resident_bytes, start + extra(arena));
        let slice = shuffler.rent(handle).unwrap();
        assert!(slice[..arena / 2 + 5000] == pattern(4, arena)[..arena / 2 + 5000]);
        assert!(slice[arena / 2 + 5000..].iter().all(|&byte| byte == 0), "zeros behind what was cut off");
        drop(slice);
        shuffler.resize(handle, arena + 1).unwrap();
        assert_ne!(address(shuffler, handle), home);
        assert_eq!(shuffler.rent(handle).unwrap()[..arena / 2 + 5000], pattern(4, arena)[..arena / 2 + 5000]);
        let info = shuffler.inspect(handle).unwrap();
        let held = shuffler.arenas().into_iter().find(|arena| arena.id == info.arena).unwrap();
        assert_eq!((held.live, held.dead), ((arena + 1).next_multiple_of(4096), 0));
        assert_eq!(shuffler.free(handle), Ok(Freed::Now));
        shuffler.trim();
        assert_eq!(shuffler.arenas().len(), 0);
        assert!(shuffler.stats().resident_bytes < start);
    });
}

#[test]
fn slices_become_large_and_small_again() {
    worlds(Trigger::Manual, |world| {
        let shuffler = &world.shuffler;
        let handle = common::patterned(shuffler, 5, 900);
        for _ in 0..5 {
            shuffler.resize(handle, 2 * MIB + 3).unwrap();
            assert!(address(shuffler, handle).is_multiple_of(world.arena_bytes), "a chunk of its own");
            assert_eq!(shuffler.get_size(handle), Ok(2 * MIB + 3));
            shuffler.resize(handle, 900).unwrap();
            assert!(!address(shuffler, handle).is_multiple_of(world.arena_bytes), "in an arena");
            common::check(shuffler, handle, 5, 900);
        }
        shuffler.trim();
        assert_eq!(shuffler.arenas().iter().filter(|arena| arena.live > MIB).count(), 0);
        common::check(shuffler, handle, 5, 900);
    });
}

#[test]
fn destructors_run_exactly_once() {
    worlds(Trigger::Manual, |world| {
        let shuffler = &world.shuffler;
        let ledger = Ledger::new(300_000);
        let handle = elements(shuffler, &ledger, 3);
        let mut random = StdRng::seed_from_u64(11);
        for _ in 0..25 {
            let before = shuffler.rent_mut(handle).unwrap().len();
            let n = skewed(&mut random, 15);
            let dropped = ledger.drops();
            shuffler.resize(handle, n).unwrap();
            assert_eq!(ledger.drops() - dropped, before.saturating_sub(n));
            assert_eq!(refill(shuffler, &ledger, handle), n.saturating_sub(before));
            shuffler.shuffle();
        }
        assert!(shuffler.rent_mut(handle).unwrap().iter().all(|element| element.0.as_ref().unwrap().token.is_whole()));
        assert_eq!(shuffler.free(handle), Ok(Freed::Now));
        ledger.settled();
    });
}

/// Elements of one byte: the last units stay, and the elements that leave them are dropped all the same.
#[test]
fn destructors_run_for_less_than_a_unit() {
    static DROPPED: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    struct Byte(u8);
    // SAFETY: a byte may be zero.
    unsafe impl Zeroable for Byte {}
    impl Drop for Byte {
        fn drop(&mut self) {
            DROPPED.lock().unwrap().push(self.0);
        }
    }
    let shuffler = manual();
    let handle = shuffler.alloc::<Byte>(7).unwrap();
    for (index, byte) in shuffler.rent_mut(handle).unwrap().iter_mut().enumerate() {
        byte.0 = index as u8;
    }
    shuffler.resize(handle, 5).unwrap();
    assert_eq!(*DROPPED.lock().unwrap(), [5, 6]);
    shuffler.resize(handle, 8).unwrap();
    assert_eq!(
        shuffler.rent_mut(handle).unwrap().iter().map(|byte| byte.0).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4, 0, 0, 0]
    );
    let _ = shuffler.free(handle);
    assert_eq!(*DROPPED.lock().unwrap(), [5, 6, 0, 1, 2, 3, 4, 0, 0, 0]);
}

/// Lengths to shrink from and to: in an arena, in a chunk, from a chunk into an arena. Elements of 8 bytes.
const SHRINKS: [(usize, usize); 3] = [(100, 20), (40_000, 20_000), (40_000, 20)];

#[test]
fn a_panic_goes_on_when_everything_is_done() {
    for (from, to) in SHRINKS {
        let shuffler = manual();
        let ledger = Ledger::new(100_000);
        let handle = elements(&shuffler, &ledger, from);
        {
            let mut slice = shuffler.rent_mut(handle).unwrap();
            for (index, words) in [(to, "first"), (to + 3, "second"), (from - 1, "third")] {
                slice[index] = Element::acting(&ledger, move || panic!("{words}"));
            }
        }
        let before = ledger.drops();
        let outcome = catch_unwind(AssertUnwindSafe(|| shuffler.resize(handle, to)));
        assert_eq!(*outcome.unwrap_err().downcast::<String>().unwrap(), "first");
        assert_eq!(ledger.drops() - before, from - to);
        assert_eq!(shuffler.get_size(handle), Ok(to * size_of::<Element>()));
        assert_eq!(shuffler.rent_mut(handle).unwrap().len(), to, "the hold was given back");
        shuffler.resize(handle, from).unwrap();
        assert_eq!(refill(&shuffler, &ledger, handle), from - to);
        assert_eq!(shuffler.free(handle), Ok(Freed::Now));
        ledger.settled();
        assert_eq!(quiet(&shuffler).live_bytes, 0);
    }
}

#[test]
fn a_panic_while_unwinding_is_swallowed() {
    struct Resizes<'a>(&'a Shuffler, Handle<[Element]>);
    impl Drop for Resizes<'_> {
        fn drop(&mut self) {
            self.0.resize(self.1, 1).unwrap();
        }
    }
    let shuffler = manual();
    let ledger = Ledger::new(10);
    let handle = elements(&shuffler, &ledger, 4);
    shuffler.rent_mut(handle).unwrap()[2] = Element::acting(&ledger, || panic!("inner"));
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _resizes = Resizes(&shuffler, handle);
        panic!("outer");
    }));
    assert_eq!(*outcome.unwrap_err().downcast::<&str>().unwrap(), "outer");
    assert_eq!(shuffler.rent_mut(handle).unwrap().len(), 1);
    assert_eq!(shuffler.free(handle), Ok(Freed::Now));
    ledger.settled();
}

#[test]
fn a_destructor_may_use_the_same_slice() {
    for (from, to) in SHRINKS {
        let shuffler = manual();
        let ledger = Ledger::new(100_000);
        let handle = elements(&shuffler, &ledger, from);
        let (again, raw) = (shuffler.clone(), RawHandle::from(handle));
        let acts = Element::acting(&ledger, move || {
            assert_eq!(again.resize(handle, 1), Err(ResizeError::Access(AccessError::Busy)));
            assert_eq!(again.rent_mut(handle).err(), Some(AccessError::Busy));
            assert!(again.valid_handle(handle) && again.inspect(raw).unwrap().exclusive);
            let size = again.get_size(handle).unwrap() / size_of::<Element>();
            assert!(size == from || size == to, "neither the old length nor the new one: {size}");
            let _ = again.shuffle();
            let other = again.alloc::<u8>(100).unwrap();
            again.resize(other, 200_000).unwrap();
            assert_eq!(again.free(other), Ok(Freed::Now));
        });
        shuffler.rent_mut(handle).unwrap()[from - 1] = acts;
        shuffler.resize(handle, to).unwrap();
        assert_eq!(shuffler.rent_mut(handle).unwrap().len(), to);
        assert_eq!(shuffler.free(handle), Ok(Freed::Now));
        ledger.settled();
    }
}

#[test]
fn a_destructor_may_free_the_same_slice() {
    for (from, to) in SHRINKS {
        let shuffler = manual();
        let ledger = Ledger::new(100_000);
        let handle = elements(&shuffler, &ledger, from);
        let again = shuffler.clone();
        let acts = Element::acting(&ledger, move || {
            assert_eq!(again.free(handle), Ok(Freed::WhenReturned));
            assert_eq!(again.resize(handle, 1), Err(ResizeError::Access(AccessError::Stale)));
            assert_eq!(again.get_size(handle), Err(AccessError::Stale));
            assert!(again.inspect(handle).unwrap().pending_free);
        });
        shuffler.rent_mut(handle).unwrap()[to] = acts;
        shuffler.resize(handle, to).unwrap();
        assert!(!shuffler.valid_handle(handle));
        ledger.settled();
        let stats = quiet(&shuffler);
        assert_eq!((stats.live_blocks, stats.live_bytes), (0, 0));
    }
}

/// One destructor frees the slice, and one that the free then runs panics.
#[test]
fn what_a_free_in_a_destructor_leaves_may_panic() {
    let shuffler = manual();
    let ledger = Ledger::new(10);
    let handle = elements(&shuffler, &ledger, 6);
    let again = shuffler.clone();
    {
        let mut slice = shuffler.rent_mut(handle).unwrap();
        slice[1] = Element::acting(&ledger, || panic!("left"));
        slice[4] = Element::acting(&ledger, move || assert_eq!(again.free(handle), Ok(Freed::WhenReturned)));
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| shuffler.resize(handle, 2)));
    assert_eq!(*outcome.unwrap_err().downcast::<&str>().unwrap(), "left");
    ledger.settled();
    assert_eq!(quiet(&shuffler).live_bytes, 0);
}

#[test]
fn refusals_change_nothing() {
    worlds(Trigger::Manual, |world| {
        let shuffler = &world.shuffler;
        for bytes in [40, 200_000] {
            let handle = common::patterned(shuffler, 9, bytes);
            let before = shuffler.stats();
            let refused = |cause: ResizeError, n| {
                assert_eq!(shuffler.resize(handle, n), Err(cause));
                assert_eq!(shuffler.stats().live_bytes, before.live_bytes);
                assert_eq!(shuffler.stats().resident_bytes, before.resident_bytes);
                common::check(shuffler, handle, 9, bytes);
            };
            refused(AllocError::LayoutOverflow.into(), usize::MAX);
            refused(AllocError::LayoutOverflow.into(), isize::MAX as usize - 3);
            for n in [0, bytes, bytes + 1, 300_000] {
                let rent = shuffler.rent(handle).unwrap();
                assert_eq!(shuffler.resize(handle, n), Err(AccessError::Busy.into()));
                drop(rent);
                let rent = shuffler.rent_mut(handle).unwrap();
                assert_eq!(shuffler.resize(handle, n), Err(AccessError::Busy.into()));
                drop(rent);
                common::check(shuffler, handle, 9, bytes);
            }
            assert_eq!(shuffler.free(handle), Ok(Freed::Now));
            for n in [0, 1, 300_000] {
                assert_eq!(shuffler.resize(handle, n).map_err(Error::from), Err(Error::Access(AccessError::Stale)));
            }
        }
        let words = shuffler.alloc::<u64>(3).unwrap();
        assert_eq!(shuffler.resize(words, usize::MAX / 4), Err(AllocError::LayoutOverflow.into()));
        let foreign = manual().alloc::<u64>(3).unwrap();
        assert!(matches!(shuffler.resize(foreign, 5), Err(ResizeError::Access(_))));
    });
}

#[test]
fn values_of_no_size_take_none() {
    let shuffler = manual();
    let handle = shuffler.alloc::<()>(3).unwrap();
    let length = shuffler.rent(handle).unwrap().len();
    for n in [0, 5, usize::MAX] {
        shuffler.resize(handle, n).unwrap();
        assert_eq!((shuffler.get_size(handle), shuffler.rent(handle).unwrap().len()), (Ok(0), length));
    }
    let _ = shuffler.free(handle);
    assert_eq!(shuffler.resize(handle, 1), Err(AccessError::Stale.into()));
}

#[test]
fn the_memory_limit_leaves_everything_as_it_was() {
    worlds(Trigger::Manual, |world| {
        let (shuffler, arena) = (&world.shuffler, world.arena_bytes);
        let small = common::patterned(shuffler, 1, 1000);
        let large = common::patterned(shuffler, 2, arena / 2);
        // Warm, so that whatever is needed once is there.
        shuffler.trim();
        let before = shuffler.stats();
        shuffler.set_memory_limit(before.resident_bytes as usize);
        for (handle, n) in [(small, 300_000), (large, arena / 2 + 5000), (large, 3 * arena), (small, 1 << 40)] {
            let refused = shuffler.resize(handle, n);
            assert!(matches!(refused, Err(ResizeError::Alloc(AllocError::MemoryLimit { .. }))), "{refused:?}");
            common::check(shuffler, small, 1, 1000);
            common::check(shuffler, large, 2, arena / 2);
            let stats = shuffler.stats();
            assert_eq!(stats.live_bytes, before.live_bytes);
            assert!(stats.resident_bytes <= before.resident_bytes);
        }
        // Within its page, and shorter: needs nothing. From its chunk into an arena would need one.
        shuffler.resize(large, arena / 2 - 5000).unwrap();
        shuffler.resize(small, 10).unwrap();
        shuffler.set_memory_limit(0);
        shuffler.resize(large, 300).unwrap();
        assert_eq!(shuffler.get_size(large), Ok(300));
        assert!(*shuffler.rent(large).unwrap() == pattern(2, arena / 2)[..300]);
        shuffler.resize(large, 200).unwrap();
        shuffler.set_memory_limit(usize::MAX);
        shuffler.resize(large, 100).unwrap();
        assert!(!address(shuffler, large).is_multiple_of(arena), "in an arena at last");
        assert!(*shuffler.rent(large).unwrap() == pattern(2, arena / 2)[..100]);
    });
}

#[test]
fn a_source_that_refuses_leaves_everything_as_it_was() {
    let (shuffler, source) = checked();
    let small = common::patterned(&shuffler, 1, 1000);
    let large = common::patterned(&shuffler, 2, 100_000);
    source.refuse_after(0);
    for n in [200_000, 400_000] {
        let refused = shuffler.resize(large, n);
        assert!(matches!(refused, Err(ResizeError::Alloc(AllocError::OutOfMemory { .. }))), "{refused:?}");
        assert!(matches!(shuffler.resize(small, n), Err(ResizeError::Alloc(AllocError::OutOfMemory { .. }))));
    }
    assert!(source.refused() > 0);
    common::check(&shuffler, small, 1, 1000);
    common::check(&shuffler, large, 2, 100_000);
    // Room of its own needs nobody's leave.
    shuffler.resize(large, 131_072).unwrap();
    assert_eq!(shuffler.rent(large).unwrap()[..100_000], pattern(2, 100_000)[..]);
    source.relent();
    shuffler.resize(large, 400_000).unwrap();
    assert_eq!(shuffler.rent(large).unwrap()[..100_000], pattern(2, 100_000)[..]);
}

#[test]
fn who_waits_for_a_slice_is_woken() {
    let shuffler = manual();
    let ledger = Ledger::new(100_000);
    for (from, to) in SHRINKS {
        let handle = elements(&shuffler, &ledger, from);
        let [holds, waits] = [(); 2].map(|()| std::sync::Arc::new(AtomicBool::new(false)));
        let (holding, seen) = (holds.clone(), waits.clone());
        let act = move || {
            holding.store(true, Ordering::Release);
            eventually("the other waits", || seen.load(Ordering::Acquire));
            // So that it sleeps, most of the time. Whether it does changes nothing about what must come.
            std::thread::sleep(Duration::from_millis(20));
        };
        shuffler.rent_mut(handle).unwrap()[from - 1] = Element::acting(&ledger, act);
        std::thread::scope(|scope| {
            let resize = scope.spawn(|| shuffler.resize(handle, to));
            // (Not by `inspect`, which holds a large block for an instant: the resize might find it busy.)
            eventually("the resize holds", || holds.load(Ordering::Acquire));
            waits.store(true, Ordering::Release);
            assert_eq!(shuffler.rent_mut_for(handle, common::AT_LAST).unwrap().len(), to);
            assert_eq!(resize.join().unwrap(), Ok(()));
        });
    }
}

/// Byte `index` of slice `slot`, never zero.
fn byte(slot: usize, index: usize) -> u8 {
    ((slot * 31 + index * 7 + index / 251) % 255) as u8 + 1
}

/// After any number of fills and resizes a slice is filled up to some point, and zero from there on.
fn assert_whole(slot: usize, slice: &[u8]) {
    let filled = slice.iter().position(|&byte| byte == 0).unwrap_or(slice.len());
    assert!((0..filled).all(|index| slice[index] == byte(slot, index)), "slice {slot} of {} bytes", slice.len());
    assert!(slice[filled..].iter().all(|&byte| byte == 0), "slice {slot} of {} bytes, new from {filled}", slice.len());
}

fn storm_length(random: &mut StdRng, arena_bytes: usize) -> usize {
    match random.random_range(0..20) {
        0..10 => random.random_range(0..300),
        10..15 => random.random_range(0..5000),
        15..18 => random.random_range(arena_bytes.min(262_144) / 4 - 40..arena_bytes.min(262_144) / 4 + 40),
        _ => random.random_range(0..3 * arena_bytes.min(262_144)),
    }
}

#[test]
fn a_storm_of_resizes() {
    const SLOTS: usize = 48;
    for trigger in [Trigger::Background, Trigger::Manual] {
        worlds(trigger, |world| {
            let shuffler = &world.shuffler;
            let slots: Vec<_> = (0..SLOTS).map(|_| Mutex::new(shuffler.alloc::<u8>(0).unwrap())).collect();
            let done = AtomicBool::new(false);
            let work = |seed: u64| {
                let mut random = StdRng::seed_from_u64(seed);
                let (mut resized, mut busy) = (0, 0);
                for _ in 0..1000 {
                    let slot = random.random_range(0..SLOTS);
                    let handle = *slots[slot].lock().unwrap();
                    let tolerate =
                        |error: AccessError| assert!(matches!(error, AccessError::Busy | AccessError::Stale));
                    match random.random_range(0..20) {
                        0..8 => match shuffler.resize(handle, storm_length(&mut random, world.arena_bytes)) {
                            Ok(()) => resized += 1,
                            Err(ResizeError::Access(AccessError::Busy)) => busy += 1,
                            Err(error) => assert_eq!(error, ResizeError::Access(AccessError::Stale)),
                        },
                        8..12 => match shuffler.rent(handle) {
                            Ok(slice) => assert_whole(slot, &slice),
                            Err(error) => tolerate(error),
                        },
                        12..15 => match shuffler.rent_mut(handle) {
                            Ok(mut slice) => {
                                assert_whole(slot, &slice);
                                slice.iter_mut().enumerate().for_each(|(index, to)| *to = byte(slot, index));
                            }
                            Err(error) => tolerate(error),
                        },
                        15..18 => match shuffler.get_size(handle) {
                            Ok(size) => assert!(size <= 3 * MIB, "a length of nobody's: {size}"),
                            Err(error) => tolerate(error),
                        },
                        18 => drop(shuffler.shuffle()),
                        _ => {
                            let next = shuffler.alloc::<u8>(storm_length(&mut random, world.arena_bytes)).unwrap();
                            let last = std::mem::replace(&mut *slots[slot].lock().unwrap(), next);
                            let _ = shuffler.free(last).unwrap();
                        }
                    }
                }
                (resized, busy)
            };
            std::thread::scope(|scope| {
                let shuffles = scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        shuffler.trim();
                    }
                });
                let workers: Vec<_> = (0..4).map(|seed| scope.spawn(move || work(seed))).collect();
                let resized: usize = workers.into_iter().map(|worker| worker.join().unwrap().0).sum();
                done.store(true, Ordering::Relaxed);
                shuffles.join().unwrap();
                assert!(resized > 500, "{resized} resizes");
            });
            for (slot, handle) in slots.iter().enumerate() {
                let handle = *handle.lock().unwrap();
                assert_whole(slot, &shuffler.rent(handle).unwrap());
                assert_eq!(shuffler.free(handle), Ok(Freed::Now));
            }
            let stats = quiet(shuffler);
            assert_eq!((stats.live_blocks, stats.live_bytes), (0, 0));
            assert!(stats.moves > 0, "nothing was moved");
            drop(world.shuffler);
            assert!(world.held.bytes().unwrap_or(0) == 0);
        });
    }
}

#[test]
fn a_storm_of_destructors() {
    const SLOTS: usize = 12;
    worlds(Trigger::Background, |world| {
        let shuffler = &world.shuffler;
        let ledger = Ledger::new(4_000_000);
        let slots: Vec<_> = (0..SLOTS).map(|_| Mutex::new(elements(shuffler, &ledger, 2))).collect();
        let work = |seed: u64| {
            let mut random = StdRng::seed_from_u64(seed);
            for round in 0..300 {
                let slot = random.random_range(0..SLOTS);
                let handle = *slots[slot].lock().unwrap();
                if round % 50 == 49 {
                    let last = std::mem::replace(&mut *slots[slot].lock().unwrap(), elements(shuffler, &ledger, 5));
                    let _ = shuffler.free(last).unwrap();
                    continue;
                }
                let n = storm_length(&mut random, world.arena_bytes) / size_of::<Element>();
                if shuffler.resize(handle, n).is_ok()
                    && let Ok(mut slice) = shuffler.rent_mut(handle)
                {
                    for element in slice.iter_mut().take(2000) {
                        assert!(element.0.as_ref().is_none_or(|content| content.token.is_whole()));
                        element.0.get_or_insert_with(|| Element::counted(&ledger).0.take().unwrap());
                    }
                }
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|seed| drop(scope.spawn(move || work(seed)))));
        for slot in &slots {
            let _ = shuffler.free(*slot.lock().unwrap()).unwrap();
        }
        assert_eq!(quiet(shuffler).live_bytes, 0);
        ledger.settled();
    });
}

/// Queries take no hold: a length that they tell is one that the slice had.
#[test]
fn queries_tell_lengths_that_there_were() {
    let lengths = [40, 70_000, 90, 3 * MIB, 200_000, 5_000_000, 0, 65_528, 65_529];
    for source in [false, true] {
        let builder = Shuffler::builder().trigger(Trigger::Manual);
        let shuffler = if source { builder.source(BumpSource::new()) } else { builder }.build().unwrap();
        let handle = shuffler.alloc::<u8>(lengths[0]).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let queries = scope.spawn(|| {
                let mut seen = std::collections::HashSet::new();
                while !done.load(Ordering::Relaxed) {
                    let size = shuffler.get_size(handle).unwrap();
                    assert!(lengths.contains(&size), "a length of nobody's: {size}");
                    let info = shuffler.inspect(handle).unwrap();
                    assert!(lengths.contains(&info.size) && info.address > 0);
                    seen.insert(size);
                }
                seen.len()
            });
            // Others of the same chunks and descriptors, of lengths that the slice never has.
            let others = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let other = shuffler.alloc_copy(&[1_u8; 77_777]).unwrap();
                    let _ = shuffler.free(other);
                }
            });
            for round in 0..3000 {
                shuffler.resize(handle, lengths[round % lengths.len()]).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            others.join().unwrap();
            assert!(queries.join().unwrap() > 2);
        });
    }
}
