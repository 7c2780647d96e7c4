//! Bad input and bad luck: what each gets, as variant and as text. The numbers are those of the misuse table in the
//! documentation.

#![allow(clippy::disallowed_types, reason = "tests count with the standard atomics; no model runs them")]

mod common;

use common::{AT_LAST, Checked, Ledger, check_fragmented, checked, fragmented, manual, patterned, quiet};
use memory_shuffler::{
    AccessError, AllocError, Budget, Directory, Error, Freed, Handle, OpaqueHandle, RawHandle, Rights, Shuffler,
    Trigger, Versioned, Zeroable,
};
use std::alloc::Layout;
use std::fmt::Debug;
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

const INVALID: &str =
    "invalid handle: it names no block of this shuffler; use a handle that this very shuffler returned";
const STALE: &str = "stale handle: its block has been freed; forget this handle and create the block anew";
const BUSY: &str = "block is busy: another hold excludes this access; return that hold first, wait with rent_for or \
                    rent_mut_for, or try again";
const TIMED_OUT: &str =
    "timed out: the block was still held at the deadline; wait longer, or look in stats for the oldest rent";
const TOO_MANY: &str = "too many rents: one block can be rented 32767 times at once; return some rents, and look for any \
                        that were forgotten";
const NOT_RENTED: &str = "block is not rented: there is nothing to return; return each rented pointer exactly once";
const DENIED: &str = "access denied: this key has no grant with that right; ask the block's owner to grant the right";
const NO_MEMORY: &str = "out of memory: this access needed a new copy of the block and there was no memory for it; free some \
                         blocks, then try again";
const OVERFLOW: &str = "layout overflow: size, header and alignment together exceed isize::MAX bytes; ask for fewer bytes \
                        or elements";

/// The error, whose text is as given.
#[track_caller]
fn refused<T, E: Into<Error> + Debug + Copy + PartialEq>(outcome: Result<T, E>, error: E, text: &str) {
    let Err(found) = outcome else { panic!("it was let through, not refused with {error:?}") };
    assert_eq!(found, error);
    assert_eq!(found.into().to_string(), text);
}

/// Panics without a message on the terminal.
fn quietly() -> ! {
    resume_unwind(Box::new("on purpose"))
}

fn panics<R>(work: impl FnOnce() -> R) -> bool {
    catch_unwind(AssertUnwindSafe(work)).is_err()
}

fn bits(slot: u32, version: u32) -> RawHandle {
    RawHandle::from_bits(NonZeroU64::new(u64::from(slot) << 32 | u64::from(version)).unwrap())
}

fn parts(handle: impl Into<RawHandle>) -> (u32, u32) {
    let bits = handle.into().to_bits().get();
    ((bits >> 32) as u32, bits as u32)
}

/// What a slice, a string and two types of a raw handle get from every call that takes one.
#[track_caller]
fn every_use(shuffler: &Shuffler, handle: RawHandle, error: AccessError, text: &str) {
    assert!(!shuffler.valid_handle(handle), "{handle:?} is called valid");
    refused(shuffler.get_size(handle), error, text);
    refused(shuffler.inspect(handle), error, text);
    refused(shuffler.typed::<u64>(handle), error, text);
    refused(shuffler.typed::<[u64]>(handle), error, text);
    refused(shuffler.typed::<str>(handle), error, text);
    refused(shuffler.typed_versioned::<u64>(handle), error, text);
    refused(shuffler.rent_pointer::<u64>(handle), error, text);
    refused(shuffler.rent_pointer_mut::<u64>(handle), error, text);
    // SAFETY: nothing is rented by this handle, so nobody's hold is returned: that it is refused is what is tested.
    match unsafe { shuffler.return_pointer(handle) } {
        // The first free leaves a version that a holder may still return to: nobody does.
        Err(AccessError::NotRented) if error == AccessError::Stale => {}
        outcome => refused(outcome, error, text),
    }
    let directory = Directory::new(shuffler);
    let name = directory.grant(handle, Rights::ALL);
    refused(directory.resolve::<u64>(&name, Rights::READ).map(drop), error, text);
    // Last: were it let through, it would end a block.
    refused(shuffler.free(handle), error, text);
}

/// The same for a typed handle.
#[track_caller]
fn every_typed_use<T: Send + Sync + 'static>(shuffler: &Shuffler, handle: Handle<T>, error: AccessError, text: &str) {
    refused(shuffler.rent(handle).map(drop), error, text);
    refused(shuffler.rent_mut(handle).map(drop), error, text);
    refused(shuffler.rent_owned(handle).map(drop), error, text);
    refused(shuffler.rent_for(handle, Duration::MAX).map(drop), error, text);
    refused(shuffler.rent_mut_for(handle, Duration::MAX).map(drop), error, text);
    refused(shuffler.take(handle).map(drop), error, text);
    every_use(shuffler, handle.into(), error, text);
}

#[test]
fn row_01_invalid_and_invented_handles() {
    let shuffler = manual();
    every_use(&shuffler, RawHandle::INVALID, AccessError::Invalid, INVALID);
    every_use(&shuffler, RawHandle::default(), AccessError::Invalid, INVALID);
    let live = shuffler.create(7_u64).unwrap();
    every_use(&shuffler, RawHandle::INVALID, AccessError::Invalid, INVALID);

    let (slot, version) = parts(live);
    assert_eq!(version % 2, 1, "a live version is odd");
    for odd in [version + 2, version + 0x1000, 0x7FFF_FFFF, 0x8000_0001, 0xFFFF_FFFD] {
        every_use(&shuffler, bits(slot, odd), AccessError::Invalid, INVALID);
    }
    for even in [version - 1, version + 1, 0x8000_0000, 0xFFFF_FFFC, 0xFFFF_FFFE] {
        if (slot, even) != (0, 0) {
            every_use(&shuffler, bits(slot, even), AccessError::Invalid, INVALID);
        }
    }
    for never in [slot ^ 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF, 0x7FFF_F000] {
        every_use(&shuffler, bits(never, 1), AccessError::Invalid, INVALID);
    }
    // Slots of the page that no block was ever in.
    for vacant in [slot ^ 1, slot ^ 2047] {
        every_use(&shuffler, bits(vacant, version), AccessError::Invalid, INVALID);
    }
    assert_eq!(*shuffler.rent(live).unwrap(), 7);
    assert_eq!(shuffler.stats().live_blocks, 1);
}

#[test]
fn row_01_the_last_odd_version_there_is() {
    // No slot ever has it, and it has no successor.
    let shuffler = manual();
    let live = shuffler.create(7_u64).unwrap();
    every_use(&shuffler, bits(parts(live).0, 0xFFFF_FFFF), AccessError::Invalid, INVALID);
    assert_eq!(*shuffler.rent(live).unwrap(), 7);
}

#[test]
fn row_01_random_bits() {
    let shuffler = manual();
    let live: Vec<_> = (0..100_u64).map(|n| shuffler.create(n).unwrap()).collect();
    let mut state = 1_u64;
    for _ in 0..20_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = state ^ state >> 29;
        // Half of them in the slots that there are, where versions alone must tell.
        let guess = if mixed & 1 == 0 { mixed | 2 } else { (mixed & 127) << 32 | state >> 32 | 0x100 };
        let handle = RawHandle::from_bits(NonZeroU64::new(guess).unwrap());
        if live.iter().any(|live| RawHandle::from(*live) == handle) {
            continue;
        }
        assert!(!shuffler.valid_handle(handle));
        refused(shuffler.get_size(handle), AccessError::Invalid, INVALID);
        refused(shuffler.free(handle), AccessError::Invalid, INVALID);
    }
    for (n, handle) in live.into_iter().enumerate() {
        assert_eq!(shuffler.take(handle), Ok(n as u64));
    }
}

#[test]
fn row_02_freed_and_reused() {
    let shuffler = manual();
    let old = shuffler.create(1_u64).unwrap();
    let old_address = shuffler.inspect(old).unwrap().address;
    assert_eq!(shuffler.free(old), Ok(Freed::Now));
    every_typed_use(&shuffler, old, AccessError::Stale, STALE);

    // Until the slot is used again, and until a block lies at the old address again.
    let (mut same_slot, mut same_address) = (false, false);
    for round in 0..20_000_u64 {
        let next = shuffler.create(round).unwrap();
        let slot_now = parts(next).0 == parts(old).0;
        let address_now = shuffler.inspect(next).unwrap().address == old_address;
        if slot_now && !same_slot || address_now && !same_address {
            every_typed_use(&shuffler, old, AccessError::Stale, STALE);
            assert_eq!(*shuffler.rent(next).unwrap(), round);
        }
        (same_slot, same_address) = (same_slot | slot_now, same_address | address_now);
        assert_eq!(shuffler.free(next), Ok(Freed::Now));
        if same_slot && same_address {
            every_typed_use(&shuffler, old, AccessError::Stale, STALE);
            return;
        }
    }
    panic!("slot used again: {same_slot}; address used again: {same_address}");
}

#[test]
fn row_02_every_call_ends_a_handle_for_good() {
    let shuffler = manual();
    let taken = shuffler.create(String::from("taken")).unwrap();
    assert_eq!(shuffler.take(taken).as_deref(), Ok("taken"));
    every_typed_use(&shuffler, taken, AccessError::Stale, STALE);

    let owned = shuffler.owned(shuffler.create(5_u8).unwrap());
    let handle = owned.handle();
    drop(owned);
    every_typed_use(&shuffler, handle, AccessError::Stale, STALE);

    let versioned = shuffler.create_versioned(String::from("v")).unwrap();
    assert_eq!(shuffler.free(versioned), Ok(Freed::Now));
    refused(shuffler.reader().get(versioned).map(drop), AccessError::Stale, STALE);
    every_use(&shuffler, versioned.into(), AccessError::Stale, STALE);

    for length in [3, 100_000] {
        let slice = shuffler.alloc_versioned(&vec![1_u8; length]).unwrap();
        let text = shuffler.alloc_versioned_str(&"t".repeat(length)).unwrap();
        assert_eq!((shuffler.free(slice), shuffler.free(text)), (Ok(Freed::Now), Ok(Freed::Now)));
        for other in [0, 5, 200_000] {
            refused(shuffler.publish_copy(slice, &vec![2; other]), AccessError::Stale, STALE);
            refused(shuffler.publish_str(text, &"u".repeat(other)), AccessError::Stale, STALE);
        }
        every_use(&shuffler, slice.into(), AccessError::Stale, STALE);
        every_use(&shuffler, text.into(), AccessError::Stale, STALE);
    }

    let large = shuffler.alloc::<u8>(1 << 20).unwrap();
    assert_eq!(shuffler.free(large), Ok(Freed::Now));
    every_use(&shuffler, large.into(), AccessError::Stale, STALE);
}

#[test]
fn row_02_bits_from_disk_and_a_page_that_came_back() {
    let shuffler = manual();
    let handle = shuffler.create(1_u64).unwrap();
    let file = RawHandle::from(handle).to_bits().get().to_le_bytes();
    drop(shuffler);
    // Page numbers are used again, in whichever shuffler: above every version they had.
    let saved = RawHandle::from_bits(NonZeroU64::new(u64::from_le_bytes(file)).unwrap());
    for _ in 0..50 {
        let other = manual();
        let mine = other.create(2_u64).unwrap();
        for handle in [saved, bits(parts(saved).0, parts(saved).1 + 2)] {
            if handle == mine.into() {
                continue;
            }
            assert!(!other.valid_handle(handle));
            let error = other.typed::<u64>(handle).unwrap_err();
            assert!(matches!(error, AccessError::Invalid | AccessError::Stale), "{error:?}");
            assert_eq!(other.free(handle), Err(error));
        }
        assert_eq!(*other.rent(mine).unwrap(), 2);
    }
}

#[test]
fn row_03_handles_of_another_shuffler() {
    let (one, other) = (manual(), manual());
    let ours: Vec<_> = (0..5000_u64).map(|n| one.create(n).unwrap()).collect();
    let theirs: Vec<_> = (0..5000_u64).map(|n| other.create(n).unwrap()).collect();
    for (ours, theirs) in ours.iter().zip(&theirs) {
        refused(one.rent(*theirs).map(drop), AccessError::Invalid, INVALID);
        refused(other.rent_mut(*ours).map(drop), AccessError::Invalid, INVALID);
        refused(other.free(*ours), AccessError::Invalid, INVALID);
        refused(one.take(*theirs).map(drop), AccessError::Invalid, INVALID);
    }
    every_typed_use(&one, theirs[0], AccessError::Invalid, INVALID);
    let versioned = other.create_versioned(1_u8).unwrap();
    refused(one.reader().get(versioned).map(drop), AccessError::Invalid, INVALID);
    let (slice, text) = (other.alloc_versioned(&[1_u8]).unwrap(), other.alloc_versioned_str("theirs").unwrap());
    refused(one.publish_copy(slice, &[2, 3]), AccessError::Invalid, INVALID);
    refused(one.publish_str(text, "ours"), AccessError::Invalid, INVALID);
    assert_eq!(other.reader().get(text), Ok("theirs"));
    assert_eq!((one.stats().live_blocks, other.stats().live_blocks), (5000, 5003));
    for (n, handle) in ours.into_iter().enumerate() {
        assert_eq!(one.take(handle), Ok(n as u64));
    }
}

#[test]
fn row_04_double_free() {
    let shuffler = manual();
    let ledger = Ledger::new(1);
    let handle = shuffler.create(ledger.token()).unwrap();
    assert_eq!(shuffler.free(handle), Ok(Freed::Now));
    ledger.settled();
    refused(shuffler.free(handle), AccessError::Stale, STALE);
    refused(shuffler.take(handle).map(drop), AccessError::Stale, STALE);
    ledger.settled();
    assert_eq!(shuffler.stats().live_blocks, 0);
}

#[test]
fn row_04_double_free_by_racing_threads() {
    let shuffler = manual();
    let rounds = 2_000;
    let ledger = Ledger::new(rounds);
    let handles: Vec<_> = (0..rounds).map(|_| shuffler.create(ledger.token()).unwrap()).collect();
    let barrier = Barrier::new(2);
    let freed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..2 {
            let (shuffler, handles, barrier, freed) = (&shuffler, &handles, &barrier, &freed);
            scope.spawn(move || {
                for batch in handles.chunks(50) {
                    barrier.wait();
                    for (index, handle) in batch.iter().enumerate() {
                        // One frees, the other takes or frees.
                        let outcome = if thread == 1 && index % 2 == 0 {
                            shuffler.take(*handle).map(drop)
                        } else {
                            shuffler.free(*handle).map(drop)
                        };
                        match outcome {
                            Ok(()) => drop(freed.fetch_add(1, Ordering::Relaxed)),
                            Err(error) => assert_eq!(error, AccessError::Stale),
                        }
                    }
                }
            });
        }
    });
    assert_eq!(freed.into_inner(), rounds);
    // A free may have had to leave the settling to the other thread's call, never to nobody.
    assert_eq!(quiet(&shuffler).live_blocks, 0);
    ledger.settled();
}

#[test]
fn row_05_free_while_rented() {
    let shuffler = manual();
    let ledger = Ledger::new(3);
    let handle = shuffler.create(ledger.token()).unwrap();
    let (first, second) = (shuffler.rent(handle).unwrap(), shuffler.rent_owned(handle).unwrap());
    assert_eq!(shuffler.free(handle), Ok(Freed::WhenReturned));
    refused(shuffler.rent(handle).map(drop), AccessError::Stale, STALE);
    refused(shuffler.rent_mut(handle).map(drop), AccessError::Stale, STALE);
    refused(shuffler.rent_for(handle, Duration::MAX).map(drop), AccessError::Stale, STALE);
    refused(shuffler.free(handle), AccessError::Stale, STALE);
    assert!(!shuffler.valid_handle(handle));
    let info = shuffler.inspect(handle).unwrap();
    assert!(info.pending_free && info.rents == 2 && !info.exclusive);
    shuffler.shuffle();
    assert!(first.is_whole() && second.is_whole());
    assert_eq!((ledger.drops(), shuffler.stats().live_blocks), (0, 1));
    drop(first);
    assert!(second.is_whole());
    assert_eq!(ledger.drops(), 0);
    drop(second);
    ledger.settled();
    assert_eq!(shuffler.stats().live_blocks, 0);
    every_typed_use(&shuffler, handle, AccessError::Stale, STALE);

    // By another thread, and while it is rented to write.
    let handle = shuffler.create(ledger.token()).unwrap();
    let rent = shuffler.rent_mut(handle).unwrap();
    let outcome = thread::scope(|scope| scope.spawn(|| shuffler.free(handle)).join().unwrap());
    assert_eq!(outcome, Ok(Freed::WhenReturned));
    let info = shuffler.inspect(handle).unwrap();
    assert!(info.pending_free && info.rents == 0 && info.exclusive);
    assert!(rent.is_whole());
    assert_eq!(ledger.drops(), 1);
    drop(rent);
    ledger.settled();

    // Inside what the rent is given to.
    let handle = shuffler.create(ledger.token()).unwrap();
    let mapped = memory_shuffler::Rent::map(shuffler.rent(handle).unwrap(), |token| {
        assert_eq!(shuffler.free(handle), Ok(Freed::WhenReturned));
        token
    });
    assert!(mapped.is_whole());
    drop(mapped);
    ledger.settled();
}

#[test]
fn row_05_a_pointer_is_returned_after_the_free() {
    let shuffler = manual();
    let handle = shuffler.create(11_u64).unwrap();
    let pointer = shuffler.rent_pointer::<u64>(handle.into()).unwrap();
    assert_eq!(shuffler.free(handle), Ok(Freed::WhenReturned));
    // SAFETY: rented above and not returned yet.
    assert_eq!(unsafe { pointer.read() }, 11);
    // SAFETY: rented above, and the pointer is used no more.
    assert_eq!(unsafe { shuffler.return_pointer(handle.into()) }, Ok(()));
    // SAFETY: nothing is rented, so nobody's hold is returned.
    let again = unsafe { shuffler.return_pointer(handle.into()) };
    assert!(matches!(again, Err(AccessError::NotRented | AccessError::Stale)), "{again:?}");
    assert_eq!(shuffler.stats().live_blocks, 0);
}

#[test]
fn row_06_rent_after_free() {
    let shuffler = manual();
    let handle = shuffler.create(vec![1, 2, 3]).unwrap();
    assert_eq!(shuffler.free(handle), Ok(Freed::Now));
    refused(shuffler.rent(handle).map(drop), AccessError::Stale, STALE);
    refused(shuffler.rent_mut(handle).map(drop), AccessError::Stale, STALE);
    let text = shuffler.alloc_str("text").unwrap();
    assert_eq!(shuffler.free(text), Ok(Freed::Now));
    refused(shuffler.rent(text).map(drop), AccessError::Stale, STALE);
}

#[test]
fn row_07_double_return() {
    let shuffler = manual();
    let handle = RawHandle::from(shuffler.create(1_u64).unwrap());
    // SAFETY: nothing is rented, so nobody's hold is returned.
    refused(unsafe { shuffler.return_pointer(handle) }, AccessError::NotRented, NOT_RENTED);
    for exclusive in [false, true] {
        let rent = if exclusive { Shuffler::rent_pointer_mut::<u64> } else { Shuffler::rent_pointer::<u64> };
        let _pointer = rent(&shuffler, handle).unwrap();
        // SAFETY: rented just now, and the pointer is not used.
        assert_eq!(unsafe { shuffler.return_pointer(handle) }, Ok(()));
        // SAFETY: as above.
        refused(unsafe { shuffler.return_pointer(handle) }, AccessError::NotRented, NOT_RENTED);
    }
    let info = shuffler.inspect(handle).unwrap();
    assert_eq!((info.rents, info.exclusive), (0, false));
    assert_eq!(shuffler.take(shuffler.typed::<u64>(handle).unwrap()), Ok(1));
}

/// A return by pointer goes by the block's life: the handle's own, or the next version while a holder is left.
#[test]
fn row_07_a_return_never_meets_another_life() {
    let shuffler = manual();
    let give_back = |handle| {
        // SAFETY: what is rented by this handle, if anything, is used no more, and nobody else holds the block.
        unsafe { shuffler.return_pointer(handle) }
    };
    let first = RawHandle::from(shuffler.create(1_u64).unwrap());
    let (slot, version) = parts(first);
    for vacant in [slot ^ 1, slot ^ 2047] {
        for never in [0x7FFF_FFFF, 0xFFFF_FFFD, 0xFFFF_FFFF] {
            refused(give_back(bits(vacant, never)), AccessError::Invalid, INVALID);
        }
    }
    for wrong in [version - 1, version + 1, version + 2, 0xFFFF_FFFE, 0xFFFF_FFFF] {
        if (slot, wrong) != (0, 0) {
            refused(give_back(bits(slot, wrong)), AccessError::Invalid, INVALID);
        }
    }
    refused(give_back(RawHandle::INVALID), AccessError::Invalid, INVALID);

    // Two pointers, and a free between their returns: version v, then v + 1.
    shuffler.rent_pointer::<u64>(first).unwrap();
    shuffler.rent_pointer::<u64>(first).unwrap();
    assert_eq!(give_back(first), Ok(()));
    assert_eq!(shuffler.free(first), Ok(Freed::WhenReturned));
    refused(shuffler.rent_pointer::<u64>(first), AccessError::Stale, STALE);
    refused(shuffler.rent_pointer_mut::<u64>(first), AccessError::Stale, STALE);
    assert_eq!(give_back(first), Ok(()));
    assert_eq!(shuffler.stats().live_blocks, 0);
    refused(give_back(first), AccessError::NotRented, NOT_RENTED);

    // The slot's next block, v + 2: its holds are not the old handle's to return.
    let next = loop {
        let next = RawHandle::from(shuffler.create(2_u64).unwrap());
        if parts(next).0 == slot {
            break next;
        }
        assert_eq!(shuffler.free(next), Ok(Freed::Now));
    };
    let pointer = shuffler.rent_pointer_mut::<u64>(next).unwrap();
    refused(give_back(first), AccessError::Stale, STALE);
    assert!(shuffler.inspect(next).unwrap().exclusive);
    // SAFETY: rented above, to write.
    unsafe { pointer.write(3) };
    assert_eq!(give_back(next), Ok(()));
    refused(give_back(next), AccessError::NotRented, NOT_RENTED);
    assert_eq!(shuffler.take(shuffler.typed::<u64>(next).unwrap()), Ok(3));
}

#[test]
fn row_08_conflicting_holds() {
    let shuffler = manual();
    let handle = shuffler.create(1_u64).unwrap();
    let rent = shuffler.rent(handle).unwrap();
    refused(shuffler.rent_mut(handle).map(drop), AccessError::Busy, BUSY);
    refused(shuffler.take(handle), AccessError::Busy, BUSY);
    refused(shuffler.rent_pointer_mut::<u64>(handle.into()), AccessError::Busy, BUSY);
    let soon = Duration::from_millis(5);
    refused(shuffler.rent_mut_for(handle, soon).map(drop), AccessError::TimedOut, TIMED_OUT);
    refused(shuffler.rent_mut_for(handle, Duration::ZERO).map(drop), AccessError::TimedOut, TIMED_OUT);
    // Other readers are no conflict, also while somebody has waited.
    assert_eq!(*shuffler.rent(handle).unwrap(), 1);
    assert_eq!(*shuffler.rent_for(handle, Duration::ZERO).unwrap(), 1);
    drop(rent);

    let mut write = shuffler.rent_mut(handle).unwrap();
    refused(shuffler.rent(handle).map(drop), AccessError::Busy, BUSY);
    refused(shuffler.rent_owned(handle).map(drop), AccessError::Busy, BUSY);
    refused(shuffler.rent_mut(handle).map(drop), AccessError::Busy, BUSY);
    refused(shuffler.take(handle), AccessError::Busy, BUSY);
    refused(shuffler.rent_pointer::<u64>(handle.into()), AccessError::Busy, BUSY);
    refused(shuffler.rent_for(handle, soon).map(drop), AccessError::TimedOut, TIMED_OUT);
    refused(shuffler.rent_mut_for(handle, soon).map(drop), AccessError::TimedOut, TIMED_OUT);
    *write += 1;
    drop(write);
    // Nothing is left behind by those who waited.
    assert_eq!(*shuffler.rent_mut(handle).unwrap(), 2);
    assert_eq!(shuffler.take(handle), Ok(2));
}

#[test]
fn row_08_two_who_replace_a_slice_at_a_time() {
    let shuffler = manual();
    let slice = shuffler.alloc_versioned(&[0_u8; 100]).unwrap();
    let is_refused = AtomicBool::new(false);
    let deadline = Instant::now() + AT_LAST;
    thread::scope(|scope| {
        for values in [vec![1_u8; 10], vec![2; 100_000]] {
            let (shuffler, is_refused) = (&shuffler, &is_refused);
            scope.spawn(move || {
                while !is_refused.load(Ordering::Relaxed) && Instant::now() < deadline {
                    if let Err(error) = shuffler.publish_copy(slice, &values) {
                        refused(Err::<(), _>(error), AccessError::Busy, BUSY);
                        is_refused.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert!(is_refused.into_inner(), "they never met");
    let reader = shuffler.reader();
    let values = reader.get(slice).unwrap();
    assert!(*values == [1; 10] || *values == [2; 100_000]);
    assert_eq!(shuffler.get_size(slice), Ok(values.len()));
}

#[test]
fn row_08_a_wait_is_as_long_as_it_says() {
    let shuffler = manual();
    let handle = shuffler.create(1_u64).unwrap();
    let _write = shuffler.rent_mut(handle).unwrap();
    let start = Instant::now();
    let patience = Duration::from_millis(60);
    refused(shuffler.rent_for(handle, patience).map(drop), AccessError::TimedOut, TIMED_OUT);
    assert!(start.elapsed() >= patience);
}

#[test]
fn row_08_a_free_ends_the_wait() {
    let shuffler = manual();
    let handle = shuffler.create(1_u64).unwrap();
    let rent = shuffler.rent(handle).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| shuffler.rent_mut_for(handle, Duration::MAX).map(drop));
        // To free it while the waiter sleeps, most of the time; if it does not yet, it gets the same answer.
        thread::sleep(Duration::from_millis(20));
        assert_eq!(shuffler.free(handle), Ok(Freed::WhenReturned));
        refused(waiter.join().unwrap(), AccessError::Stale, STALE);
    });
    assert_eq!(*rent, 1);
}

#[track_caller]
fn mismatch<T>(outcome: Result<T, AccessError>) -> (&'static str, &'static str) {
    let Err(error) = outcome else { panic!("the type was not compared") };
    let AccessError::TypeMismatch { stored, requested } = error else { panic!("{error:?}") };
    let text =
        format!("type mismatch: the block holds {stored}, not {requested}; ask for the type and kind it was made with");
    assert_eq!(error.to_string(), text);
    (stored, requested)
}

#[test]
fn row_09_wrong_type() {
    let shuffler = manual();
    let number = RawHandle::from(shuffler.create(1_u32).unwrap());
    assert_eq!(mismatch(shuffler.typed::<f32>(number)), ("u32", "f32"));
    assert_eq!(mismatch(shuffler.typed::<i32>(number)), ("u32", "i32"));
    assert_eq!(mismatch(shuffler.rent_pointer::<u64>(number)), ("u32", "u64"));
    assert_eq!(mismatch(shuffler.rent_pointer_mut::<u8>(number)), ("u32", "u8"));
    mismatch(shuffler.typed::<str>(number));
    mismatch(shuffler.typed::<[u32]>(number));
    mismatch(shuffler.typed_versioned::<u32>(number));
    let directory = Directory::new(&shuffler);
    let name = directory.grant(number, Rights::ALL);
    assert_eq!(mismatch(directory.rent::<f32>(&name).map(drop)), ("u32", "f32"));
    assert_eq!(directory.len(), 1, "another type is no reason to forget the grant");
    assert_eq!(*shuffler.rent(shuffler.typed::<u32>(number).unwrap()).unwrap(), 1);

    let slice = RawHandle::from(shuffler.alloc_copy(&[1_u32, 2]).unwrap());
    mismatch(shuffler.typed::<u32>(slice));
    mismatch(shuffler.typed::<[f32]>(slice));
    mismatch(shuffler.rent_pointer::<f32>(slice));
    let text = RawHandle::from(shuffler.alloc_str("text").unwrap());
    mismatch(shuffler.typed::<[u8]>(text));
    mismatch(shuffler.typed::<u8>(text));
    let versioned = RawHandle::from(shuffler.create_versioned(1_u32).unwrap());
    mismatch(shuffler.typed::<u32>(versioned));
    mismatch(shuffler.rent_pointer::<u32>(versioned));
    mismatch(shuffler.rent_pointer_mut::<u32>(versioned));
    mismatch(shuffler.typed_versioned::<[u32]>(versioned));
    let versioned = RawHandle::from(shuffler.alloc_versioned(&[1_u32]).unwrap());
    mismatch(shuffler.typed::<[u32]>(versioned));
    mismatch(shuffler.rent_pointer::<u32>(versioned));
    let raw = shuffler.alloc_layout(Layout::new::<u32>()).unwrap();
    mismatch(shuffler.typed::<u32>(raw));
    mismatch(shuffler.typed::<[u8]>(raw));
    // Bytes of a layout are any type that fits, and no other.
    mismatch(shuffler.rent_pointer::<u64>(raw));
    mismatch(shuffler.rent_pointer::<[u8; 5]>(raw));
    let pointer = shuffler.rent_pointer_mut::<u32>(raw).unwrap();
    // SAFETY: rented above; zeroed bytes are a number.
    assert_eq!(unsafe { pointer.read() }, 0);
    // SAFETY: rented above, and the pointer is used no more.
    unsafe { shuffler.return_pointer(raw) }.unwrap();
    let unaligned = shuffler.alloc_layout(Layout::from_size_align(64, 1).unwrap()).unwrap();
    mismatch(shuffler.rent_pointer::<u32>(unaligned));
    assert!(shuffler.inspect(unaligned).unwrap().rents == 0, "a refused rent holds nothing");
}

#[test]
fn row_09_a_pointer_of_another_type_or_kind() {
    let shuffler = manual();
    let number = RawHandle::from(shuffler.create(1_u64).unwrap());
    let slice = shuffler.alloc_copy(&[1_u64]).unwrap().into();
    let text = shuffler.alloc_str("text").unwrap().into();
    let versioned = shuffler.create_versioned(1_u64).unwrap().into();
    let words = shuffler.alloc_versioned_str("text").unwrap().into();
    let large = shuffler.alloc::<u8>(1 << 20).unwrap().into();
    let all = [number, slice, text, versioned, words, large];
    let read = all.map(|handle| mismatch(shuffler.rent_pointer::<f64>(handle)));
    let write = all.map(|handle| mismatch(shuffler.rent_pointer_mut::<f64>(handle)));
    assert_eq!(read, write);
    assert!(read.iter().all(|(_, requested)| *requested == "f64"));
    // The bytes of a string are not there to be written through a pointer, nor a pair where one value is.
    mismatch(shuffler.rent_pointer::<u8>(text));
    mismatch(shuffler.rent_pointer_mut::<u8>(text));
    mismatch(shuffler.rent_pointer::<[u64; 1]>(number));
    mismatch(shuffler.rent_pointer::<[u64; 1]>(slice));
    mismatch(shuffler.rent_pointer::<u64>(versioned));
    mismatch(shuffler.rent_pointer::<u8>(words));
    for handle in all {
        let info = shuffler.inspect(handle).unwrap();
        assert_eq!((info.rents, info.exclusive), (0, false), "a refused rent holds nothing");
        // SAFETY: nothing is rented, so nobody's hold is returned.
        refused(unsafe { shuffler.return_pointer(handle) }, AccessError::NotRented, NOT_RENTED);
    }
}

#[test]
fn row_09_the_message_tells_the_two_apart() {
    let shuffler = manual();
    let number = RawHandle::from(shuffler.create(1_u8).unwrap());
    let slice = RawHandle::from(shuffler.alloc_copy(&[1_u8]).unwrap());
    let text = RawHandle::from(shuffler.alloc_str("t").unwrap());
    let versioned = RawHandle::from(shuffler.create_versioned(1_u8).unwrap());
    let told = [
        mismatch(shuffler.typed::<[u8]>(number)),
        mismatch(shuffler.typed_versioned::<u8>(number)),
        mismatch(shuffler.typed::<u8>(slice)),
        mismatch(shuffler.typed::<[u8]>(text)),
        mismatch(shuffler.typed::<str>(slice)),
        mismatch(shuffler.typed::<u8>(versioned)),
        mismatch(shuffler.rent_pointer::<u8>(versioned)),
    ];
    for (stored, requested) in told {
        assert_ne!(stored, requested, "“the block holds {stored}, not {requested}” helps nobody");
    }
}

#[test]
fn row_10_nothing_at_all() {
    let shuffler = manual();
    let start = shuffler.stats();
    let units: Vec<_> = (0..100).map(|_| shuffler.create(()).unwrap()).collect();
    let empty = shuffler.alloc::<u64>(0).unwrap();
    let no_text = shuffler.alloc_str("").unwrap();
    let raw = shuffler.alloc_layout(Layout::from_size_align(0, 64).unwrap()).unwrap();
    let many = shuffler.alloc::<()>(usize::MAX).unwrap();
    let mut addresses: Vec<_> = units.iter().map(|unit| shuffler.inspect(*unit).unwrap().address).collect();
    for handle in [RawHandle::from(empty), no_text.into(), raw, many.into()] {
        let info = shuffler.inspect(handle).unwrap();
        assert_eq!((info.size, shuffler.get_size(handle)), (0, Ok(0)));
        addresses.push(info.address);
    }
    assert_eq!(shuffler.inspect(raw).unwrap().address % 64, 0);
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 104, "each has its own address");
    let stats = shuffler.stats();
    assert_eq!((stats.live_blocks - start.live_blocks, stats.live_bytes - start.live_bytes), (104, 0));
    assert_eq!((shuffler.rent(empty).unwrap().len(), &*shuffler.rent(no_text).unwrap()), (0, ""));
    assert_eq!(shuffler.rent(many).unwrap().len(), 0);
    assert_eq!(shuffler.rent_mut(many).unwrap().len(), 0);
    let (slice, text) = (shuffler.alloc_versioned(&[7_u8]).unwrap(), shuffler.alloc_versioned_str("text").unwrap());
    shuffler.publish_copy(slice, &[]).unwrap();
    shuffler.publish_str(text, "").unwrap();
    assert_eq!((shuffler.get_size(slice), shuffler.reader().get(slice)), (Ok(0), Ok(&[][..])));
    assert_eq!((shuffler.get_size(text), shuffler.reader().get(text)), (Ok(0), Ok("")));
    assert_ne!(shuffler.inspect(slice).unwrap().address, shuffler.inspect(text).unwrap().address);
    assert_eq!(shuffler.stats().live_bytes - start.live_bytes, 0);
    assert_eq!((shuffler.free(slice), shuffler.free(text)), (Ok(Freed::Now), Ok(Freed::Now)));
    shuffler.shuffle();
    for unit in units {
        drop(shuffler.rent_mut(unit).unwrap());
        assert_eq!(shuffler.take(unit), Ok(()));
    }
    for handle in [RawHandle::from(empty), no_text.into(), raw, many.into()] {
        assert_eq!(shuffler.free(handle), Ok(Freed::Now));
    }
    assert_eq!(shuffler.stats().live_blocks, 0);
}

#[test]
fn row_10_a_zero_sized_value_is_dropped_once() {
    static DROPS: AtomicUsize = AtomicUsize::new(0);
    struct Nothing;
    impl Drop for Nothing {
        fn drop(&mut self) {
            DROPS.fetch_add(1, Ordering::Relaxed);
        }
    }
    let shuffler = manual();
    let handle = shuffler.create(Nothing).unwrap();
    assert_eq!(DROPS.load(Ordering::Relaxed), 0);
    assert_eq!(shuffler.free(handle), Ok(Freed::Now));
    assert_eq!(DROPS.load(Ordering::Relaxed), 1);
    let taken = shuffler.take(shuffler.create(Nothing).unwrap()).unwrap();
    assert_eq!(DROPS.load(Ordering::Relaxed), 1);
    drop(taken);
    shuffler.create(Nothing).unwrap();
    drop(shuffler);
    assert_eq!(DROPS.load(Ordering::Relaxed), 3);
}

#[test]
fn row_11_sizes_that_no_address_space_has() {
    let (shuffler, source) = checked();
    let half = isize::MAX as usize;
    refused(shuffler.alloc::<u64>(usize::MAX), AllocError::LayoutOverflow, OVERFLOW);
    refused(shuffler.alloc::<u64>(usize::MAX / 8 + 1), AllocError::LayoutOverflow, OVERFLOW);
    for bytes in [usize::MAX, half + 1, half, half - 8] {
        refused(shuffler.alloc::<u8>(bytes), AllocError::LayoutOverflow, OVERFLOW);
    }
    for align in [1, 8, 4096, 2 << 20] {
        let layout = Layout::from_size_align((half + 1) - align, align).unwrap();
        refused(shuffler.alloc_layout(layout), AllocError::LayoutOverflow, OVERFLOW);
    }
    assert_eq!(source.chunks(), 0, "nothing was even asked for");
    // What could be, but is not there, is out of memory.
    for bytes in [half - (4 << 20), 1 << 60, 1 << 50] {
        let outcome = shuffler.alloc::<u8>(bytes);
        let Err(AllocError::OutOfMemory { requested }) = outcome else { panic!("{outcome:?}") };
        assert!(requested >= bytes);
    }
    let stats = shuffler.stats();
    assert_eq!((stats.live_blocks, stats.live_bytes), (0, 0));
    assert_eq!(stats.resident_bytes as usize, source.bytes());
    shuffler.create(1_u8).unwrap();
}

#[test]
fn row_12_alignments() {
    let (shuffler, _) = checked();
    let max = 2 << 20;
    let text = "unsupported alignment: blocks are aligned to at most 2097152 bytes; ask for no more than that";
    for power in 0..=21 {
        let layout = Layout::from_size_align(100, 1 << power).unwrap();
        let handle = shuffler.alloc_layout(layout).unwrap();
        assert_eq!(shuffler.inspect(handle).unwrap().address % layout.align(), 0);
    }
    for power in [22, 23, 30, 47] {
        let layout = Layout::from_size_align(100, 1 << power).unwrap();
        refused(shuffler.alloc_layout(layout), AllocError::UnsupportedAlignment { max }, text);
    }

    #[derive(Clone, Copy)]
    #[repr(align(4194304))]
    struct TooWide(#[expect(dead_code, reason = "no value is ever made")] [u8; 4 << 20]);
    // SAFETY: bytes.
    unsafe impl Zeroable for TooWide {}
    // Calls that have a place for such a value on their stack need a stack with that place.
    let spacious = thread::Builder::new().stack_size(256 << 20);
    let small = shuffler.clone();
    let calls = move || {
        refused(small.alloc::<TooWide>(1), AllocError::UnsupportedAlignment { max }, text);
        refused(small.alloc::<TooWide>(0), AllocError::UnsupportedAlignment { max }, text);
        refused(small.alloc_copy::<TooWide>(&[]), AllocError::UnsupportedAlignment { max }, text);
        let made = small.create_with::<TooWide>(|| panic!("it is not to be made"));
        refused(made, AllocError::UnsupportedAlignment { max }, text);
    };
    spacious.spawn(calls).unwrap().join().unwrap();

    #[derive(Clone, Copy)]
    #[repr(align(2097152))]
    struct Wide([u8; 2 << 20]);
    // SAFETY: bytes.
    unsafe impl Zeroable for Wide {}
    let wide = shuffler.alloc::<Wide>(2).unwrap();
    let rent = shuffler.rent(wide).unwrap();
    assert_eq!(rent.as_ptr() as usize % (2 << 20), 0);
    assert!(rent.iter().all(|wide| wide.0.iter().all(|byte| *byte == 0)));
}

#[test]
fn row_13_larger_than_an_arena() {
    let (shuffler, source) = checked();
    let before = source.bytes();
    let large = patterned(&shuffler, 3, 5 << 20);
    common::check(&shuffler, large, 3, 5 << 20);
    assert_eq!(shuffler.get_size(large), Ok(5 << 20));
    let address = shuffler.inspect(large).unwrap().address;
    shuffler.trim();
    common::check(&shuffler, large, 3, 5 << 20);
    assert_eq!(shuffler.inspect(large).unwrap().address, address);
    assert!(source.bytes() - before >= 5 << 20);
    assert_eq!(shuffler.free(large), Ok(Freed::Now));
    shuffler.trim();
    assert!(source.bytes() - before < 3 << 20, "a large block's memory goes back with it");
    let value = shuffler.create([7_u64; 20_000]).unwrap();
    assert_eq!(shuffler.take(value), Ok([7; 20_000]));
}

fn limited(limit: usize) -> Shuffler {
    let builder = Shuffler::builder().trigger(Trigger::Manual).arena_bytes(64 << 10).retain_bytes(0);
    builder.memory_limit(limit).build().unwrap()
}

/// Fills a shuffler to its limit; the error at the end.
fn stuffed(shuffler: &Shuffler, bytes: usize) -> (Vec<Handle<[u8]>>, AllocError) {
    let mut blocks = Vec::new();
    loop {
        match shuffler.alloc::<u8>(bytes) {
            Ok(block) => blocks.push(block),
            Err(error) => return (blocks, error),
        }
        assert!(blocks.len() < 1_000_000, "no limit");
    }
}

#[test]
fn row_14_the_memory_limit() {
    let limit_bytes = 4 << 20;
    let shuffler = limited(limit_bytes);
    let (blocks, error) = stuffed(&shuffler, 1000);
    let AllocError::MemoryLimit { limit, used, requested, pinned } = error else { panic!("{error:?}") };
    assert_eq!((limit, pinned), (limit_bytes, 0));
    // A little is kept back, so that movers can make room.
    assert!(used <= limit && used + requested > limit - (256 << 10) && requested > 0, "{error:?}");
    let text = format!(
        "memory limit reached: {requested} bytes were requested, {used} of {limit} are in use and 0 pinned by holds; \
         free blocks, return rents, or raise the limit with set_memory_limit"
    );
    assert_eq!(error.to_string(), text);
    let stats = shuffler.stats();
    assert!(stats.resident_bytes as usize <= limit);
    assert!(stats.live_bytes as usize > limit / 2, "{} of {limit} bytes could be used", stats.live_bytes);
    assert_eq!(stats.live_blocks, blocks.len() as u64);
    // The value comes back.
    let rejected = (0..100).find_map(|_| shuffler.create([5_u8; 4000]).err()).unwrap();
    assert!(matches!(rejected.cause(), AllocError::MemoryLimit { .. }));
    assert_eq!(rejected.into_inner(), [5; 4000]);
    // And a block that is larger than what is left, or than the limit.
    assert!(matches!(shuffler.alloc::<u8>(limit * 2), Err(AllocError::MemoryLimit { .. })));
    for block in blocks {
        assert_eq!(shuffler.free(block), Ok(Freed::Now));
    }
    shuffler.alloc::<u8>(1000).unwrap();
}

#[test]
fn row_14_garbage_makes_room_at_the_limit() {
    let shuffler = limited(4 << 20);
    let (blocks, _) = stuffed(&shuffler, 1000);
    let mut kept = 0;
    for (index, block) in blocks.iter().enumerate() {
        if index % 4 == 0 {
            shuffler.rent_mut(*block).unwrap().fill(index as u8);
            kept += 1;
        } else {
            assert_eq!(shuffler.free(*block), Ok(Freed::Now));
        }
    }
    // Three quarters are garbage now, spread over every arena. An allocation at the limit makes room for itself; on a busy
    // machine the bounded step that it makes may come to its end too early, so a few tries are let pass.
    let (mut new, mut tries) = (0, 0);
    while new < blocks.len() / 2 {
        match shuffler.alloc::<u8>(1000) {
            Ok(_) => new += 1,
            Err(error) => {
                tries += 1;
                assert!(tries < 100, "after {new} of {} blocks, {kept} kept: {error}", blocks.len());
            }
        }
    }
    for (index, block) in blocks.iter().enumerate().step_by(4) {
        assert!(shuffler.rent(*block).unwrap().iter().all(|byte| *byte == index as u8));
    }
}

#[test]
fn row_14_pins_at_the_limit() {
    let shuffler = limited(4 << 20);
    let (blocks, _) = stuffed(&shuffler, 1000);
    let rents: Vec<_> = blocks.iter().step_by(2).map(|block| shuffler.rent(*block).unwrap()).collect();
    for block in blocks.iter().skip(1).step_by(2) {
        assert_eq!(shuffler.free(*block), Ok(Freed::Now));
    }
    // All that could make room is held. It says so, at once each time.
    let error = stuffed(&shuffler, 1000).1;
    let AllocError::MemoryLimit { pinned, used, .. } = error else { panic!("{error:?}") };
    assert!(pinned > 0 && pinned <= used, "{error:?}");
    assert!(error.to_string().contains(&format!("{pinned} pinned by holds")), "{error}");
    let before = shuffler.stats().moves;
    for _ in 0..100 {
        assert!(matches!(shuffler.alloc::<u8>(4000), Err(AllocError::MemoryLimit { .. })));
    }
    assert_eq!(shuffler.stats().moves, before);
    drop(rents);
    // As above, a few tries.
    let gained = (0..100).any(|_| shuffler.alloc::<u8>(1000).is_ok());
    assert!(gained, "with the rents returned, the garbage can be gained");
}

/// What a program does; `Err` as soon as memory is refused. Its blocks are checked by the caller.
fn use_up(shuffler: &Shuffler, ledger: &Ledger, blocks: &mut Vec<Handle<common::Token>>) -> Result<(), Error> {
    for index in 0..600 {
        blocks.push(shuffler.create(ledger.token())?);
        if index % 3 == 0 {
            let filler = shuffler.alloc::<u8>(1500)?;
            assert!(shuffler.rent(filler).unwrap().iter().all(|byte| *byte == 0));
            assert_eq!(shuffler.free(filler), Ok(Freed::Now));
        }
        if index % 50 == 0 {
            let versioned = shuffler.create_versioned(vec![index; 10])?;
            assert_eq!(shuffler.reader().get(versioned).unwrap()[3], index);
            assert_eq!(shuffler.free(versioned), Ok(Freed::Now));
            let large = shuffler.alloc::<u64>(20_000)?;
            assert_eq!(shuffler.free(large), Ok(Freed::Now));
        }
        if index % 100 == 99 {
            shuffler.shuffle();
        }
    }
    Ok(())
}

#[test]
fn row_15_the_parent_refuses() {
    // Whichever acquisition it is that fails: nothing is lost, and later it works.
    let mut refusals = 0;
    for grants in 0..60 {
        let (shuffler, source) = checked();
        let ledger = Ledger::new(2000);
        let mut blocks = Vec::new();
        source.refuse_after(grants);
        if let Err(error) = use_up(&shuffler, &ledger, &mut blocks) {
            let Error::Alloc(AllocError::OutOfMemory { requested }) = error else { panic!("{error:?}") };
            let text = format!(
                "out of memory: the parent allocator refused {requested} bytes; free memory or raise the process's \
                 limits, then try again"
            );
            assert_eq!(error.to_string(), text);
            refusals += 1;
        }
        let stats = shuffler.stats();
        assert_eq!(stats.resident_bytes as usize, source.bytes(), "after {grants} grants");
        for handle in &blocks {
            assert!(shuffler.rent(*handle).unwrap().is_whole());
        }
        source.relent();
        use_up(&shuffler, &ledger, &mut blocks).unwrap();
        for handle in blocks.drain(..) {
            assert_eq!(shuffler.free(handle), Ok(Freed::Now));
        }
        assert_eq!(quiet(&shuffler).live_blocks, 0, "after {grants} grants");
        ledger.settled();
        drop(shuffler);
        assert_eq!(source.chunks(), 0, "after {grants} grants");
    }
    assert!(refusals > 5);
}

#[test]
fn row_15_a_rejected_value_comes_back() {
    let (shuffler, source) = checked();
    source.refuse_after(0);
    let ledger = Ledger::new(3);
    let rejected = shuffler.create(ledger.token()).unwrap_err();
    assert!(matches!(rejected.cause(), AllocError::OutOfMemory { .. }));
    assert!(rejected.to_string().starts_with("value not stored (into_inner gives it back): out of memory: "));
    assert!(format!("{rejected:?}").contains("OutOfMemory"));
    assert_eq!(ledger.drops(), 0);
    assert!(rejected.into_inner().is_whole());
    assert_eq!(ledger.drops(), 1);
    drop(shuffler.create(ledger.token()));
    let called = shuffler.create_with(|| ledger.token());
    assert!(matches!(called, Err(AllocError::OutOfMemory { .. })));
    assert_eq!((ledger.made(), ledger.drops()), (2, 2), "create_with makes room first");
    let rejected = shuffler.create_versioned(String::from("back")).unwrap_err();
    assert_eq!(rejected.into_inner(), "back");
}

#[test]
fn row_15_a_slice_that_cannot_be_replaced_stays() {
    let (shuffler, source) = checked();
    let small = shuffler.alloc_versioned(&[1_u8; 100]).unwrap();
    let large = shuffler.alloc_versioned(&[2_u8; 100_000]).unwrap();
    let text = shuffler.alloc_versioned_str("text").unwrap();
    source.refuse_after(0);
    let before = shuffler.stats();
    let unchanged = || {
        let reader = shuffler.reader();
        assert!(*reader.get(small).unwrap() == [1; 100] && *reader.get(large).unwrap() == [2; 100_000]);
        assert_eq!((shuffler.get_size(small), shuffler.get_size(large)), (Ok(100), Ok(100_000)));
        assert_eq!((reader.get(text), shuffler.get_size(text)), (Ok("text"), Ok(4)));
        let stats = shuffler.stats();
        assert_eq!((stats.live_blocks, stats.live_bytes, stats.waiting), (3, 100_104, 0));
        assert_eq!(stats.resident_bytes, before.resident_bytes);
    };
    for _ in 0..3 {
        refused(shuffler.publish_copy(small, &[3; 200_000]), AccessError::OutOfMemory, NO_MEMORY);
        refused(shuffler.publish_copy(large, &[3; 200_000]), AccessError::OutOfMemory, NO_MEMORY);
        refused(shuffler.publish_str(text, &"t".repeat(70_000)), AccessError::OutOfMemory, NO_MEMORY);
        unchanged();
    }
    source.relent();
    shuffler.publish_copy(small, &[3; 200_000]).unwrap();
    shuffler.publish_copy(large, &[4; 10]).unwrap();
    assert_eq!((shuffler.get_size(small), shuffler.get_size(large)), (Ok(200_000), Ok(10)));

    // The same below a limit, where the replaced ones are gained again.
    let shuffler = limited(2 << 20);
    let slice = shuffler.alloc_versioned(&[5_u8; 1000]).unwrap();
    for _ in 0..100 {
        refused(shuffler.publish_copy(slice, &vec![6; 4 << 20]), AccessError::OutOfMemory, NO_MEMORY);
        assert_eq!(shuffler.reader().get(slice), Ok(&[5; 1000][..]));
        shuffler.publish_copy(slice, &vec![7; 1 << 20]).unwrap();
        shuffler.shuffle();
        shuffler.publish_copy(slice, &[5; 1000]).unwrap();
        shuffler.shuffle();
    }
    assert_eq!(shuffler.stats().live_bytes, 1000);
}

#[test]
fn row_16_the_parent_refuses_during_a_shuffle() {
    let (shuffler, source) = checked();
    let kept = fragmented(&shuffler, 64 << 10, 12, 4);
    let live = shuffler.stats().live_blocks;
    source.refuse_after(0);
    shuffler.shuffle();
    let stats = shuffler.stats();
    assert!(source.refused() > 0, "the test is to refuse the shuffle's memory");
    assert!(stats.abandoned > 0);
    assert_eq!(stats.live_blocks, live);
    check_fragmented(&shuffler, &kept, 64 << 10, 4);
    source.relent();
    let report = shuffler.shuffle();
    assert!(report.progress.moves > 0, "{report:?}");
    check_fragmented(&shuffler, &kept, 64 << 10, 4);
}

#[test]
fn row_19_too_many_rents() {
    let shuffler = manual();
    let handle = shuffler.create(5_u8).unwrap();
    for _ in 0..32_767 {
        std::mem::forget(shuffler.rent(handle).unwrap());
    }
    for _ in 0..3 {
        refused(shuffler.rent(handle).map(drop), AccessError::TooManyRents, TOO_MANY);
        refused(shuffler.rent_owned(handle).map(drop), AccessError::TooManyRents, TOO_MANY);
        refused(shuffler.rent_pointer::<u8>(handle.into()), AccessError::TooManyRents, TOO_MANY);
        refused(shuffler.rent_for(handle, Duration::MAX).map(drop), AccessError::TooManyRents, TOO_MANY);
    }
    refused(shuffler.rent_mut(handle).map(drop), AccessError::Busy, BUSY);
    assert_eq!(shuffler.inspect(handle).unwrap().rents, 32_767);
    // One place comes free, and is the only one.
    // SAFETY: one of the forgotten rents is given up.
    unsafe { shuffler.return_pointer(handle.into()) }.unwrap();
    let last = shuffler.rent(handle).unwrap();
    refused(shuffler.rent(handle).map(drop), AccessError::TooManyRents, TOO_MANY);
    assert_eq!(shuffler.free(handle), Ok(Freed::WhenReturned));
    refused(shuffler.rent(handle).map(drop), AccessError::Stale, STALE);
    assert_eq!(*last, 5);
}

#[test]
fn row_21_returned_and_freed_elsewhere() {
    let shuffler = manual();
    let ledger = Ledger::new(2000);
    let handles: Vec<_> = (0..2000).map(|_| shuffler.create(ledger.token()).unwrap()).collect();
    let rents: Vec<_> = handles.iter().map(|handle| shuffler.rent(*handle).unwrap()).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            for handle in &handles {
                // Which of the two it is depends on whether the return came first.
                assert!(matches!(shuffler.free(*handle), Ok(Freed::Now | Freed::WhenReturned)));
            }
        });
        scope.spawn(move || rents.into_iter().for_each(|rent| assert!(rent.is_whole())));
    });
    // The frees and the returns race: which is last differs, that there is one does not.
    assert_eq!(quiet(&shuffler).live_blocks, 0);
    ledger.settled();
}

#[test]
fn row_22_a_leaked_rent() {
    let (shuffler, source) = checked();
    let kept = fragmented(&shuffler, 64 << 10, 8, 16);
    let leaked = kept[3];
    let address = std::mem::ManuallyDrop::new(shuffler.rent(leaked).unwrap()).as_ptr() as usize;
    for _ in 0..5 {
        shuffler.trim();
    }
    let stats = shuffler.stats();
    assert_eq!(shuffler.inspect(leaked).unwrap().address, address);
    assert!(stats.pinned_bytes >= 1024 && stats.skipped_pinned > 0, "{stats:?}");
    assert!(shuffler.arenas().iter().any(|arena| arena.pinned >= 1024));
    check_fragmented(&shuffler, &kept, 64 << 10, 16);
    drop(shuffler);
    assert_eq!(source.chunks(), 0, "a rent that was leaked holds nobody up");
}

#[test]
fn row_23_panic_while_rented() {
    let shuffler = manual();
    let handle = shuffler.create(String::from("a")).unwrap();
    let reading = || {
        let _rent = shuffler.rent(handle).unwrap();
        quietly()
    };
    assert!(panics(reading));
    let writing = || {
        let mut rent = shuffler.rent_mut(handle).unwrap();
        rent.push('b');
        quietly()
    };
    assert!(panics(writing));
    let mapping = || drop(memory_shuffler::Rent::map(shuffler.rent(handle).unwrap(), |_| -> &str { quietly() }));
    assert!(panics(mapping));
    let info = shuffler.inspect(handle).unwrap();
    assert_eq!((info.rents, info.exclusive), (0, false));
    assert_eq!(shuffler.take(handle).as_deref(), Ok("ab"));
}

#[test]
fn row_24_panic_in_a_closure() {
    let (shuffler, source) = checked();
    shuffler.create(0_u8).unwrap();
    let before = shuffler.stats();
    for round in 0..10_000 {
        let large = round % 100 == 0;
        let made = || {
            if large {
                shuffler.create_with(|| -> [u8; 100_000] { quietly() }).map(drop)
            } else {
                shuffler.create_with(|| -> u64 { quietly() }).map(drop)
            }
        };
        assert!(panics(made));
    }
    let after = shuffler.stats();
    assert_eq!((after.live_blocks, after.live_bytes), (before.live_blocks, before.live_bytes));
    shuffler.trim();
    assert!(shuffler.stats().resident_bytes <= before.resident_bytes + (128 << 10), "slots and memory came back");
    drop(shuffler);
    assert_eq!(source.chunks(), 0);
}

/// Panics when it is dropped, if it is armed.
struct Bomb {
    ledger: common::Token,
    armed: bool,
}

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(self.ledger.is_whole());
        if self.armed {
            quietly()
        }
    }
}

// SAFETY: it has no interior mutability inline: the ledger is behind pointers.
unsafe impl memory_shuffler::Frozen for Bomb {}

#[test]
fn row_25_panic_in_a_destructor() {
    let shuffler = manual();
    let ledger = Ledger::new(100);
    let bomb = || shuffler.create(Bomb { ledger: ledger.token(), armed: true }).unwrap();

    let handle = bomb();
    assert!(panics(|| shuffler.free(handle)), "it surfaces in the call that owns the drop");
    ledger.settled();
    every_use(&shuffler, handle.into(), AccessError::Stale, STALE);

    let handle = bomb();
    let rent = shuffler.rent(handle).unwrap();
    assert_eq!(shuffler.free(handle), Ok(Freed::WhenReturned));
    assert!(panics(|| drop(rent)));
    ledger.settled();

    let handle = bomb();
    let rent = shuffler.rent_mut(handle).unwrap();
    assert_eq!(shuffler.free(handle), Ok(Freed::WhenReturned));
    assert!(panics(|| drop(rent)));
    ledger.settled();

    let handle = bomb();
    let rent = shuffler.rent_owned(handle).unwrap();
    assert_eq!(shuffler.free(handle), Ok(Freed::WhenReturned));
    assert!(panics(|| drop(rent)));
    ledger.settled();

    let owned = shuffler.owned(bomb());
    assert!(panics(|| drop(owned)));
    ledger.settled();

    // While the thread unwinds already it is caught: a second panic would end the process.
    let owned = shuffler.owned(bomb());
    let unwinding = || {
        let _owned = owned;
        quietly()
    };
    assert!(panics(unwinding));
    ledger.settled();

    // A value that is taken is the caller's.
    let taken = shuffler.take(bomb()).unwrap();
    assert_eq!(ledger.drops(), ledger.made() - 1);
    assert!(panics(|| drop(taken)));
    ledger.settled();

    assert_eq!(shuffler.stats().live_blocks, 0);
    // Every slot is used again: no page is added.
    let resident = shuffler.stats().metadata_bytes;
    for _ in 0..10_000 {
        shuffler.take(shuffler.create(1_u8).unwrap()).unwrap();
    }
    assert_eq!(shuffler.stats().metadata_bytes, resident);
}

#[test]
fn row_25_a_panic_does_not_surface_in_a_step_or_a_reader() {
    for trigger in [Trigger::Manual, Trigger::Inline, Trigger::Background] {
        let shuffler = Shuffler::builder().trigger(trigger).build().unwrap();
        let ledger = Ledger::new(50);
        let other = shuffler.create(1_u8).unwrap();
        for _ in 0..50 {
            let bomb = shuffler.create_versioned(Bomb { ledger: ledger.token(), armed: true }).unwrap();
            assert!(shuffler.reader().get(bomb).unwrap().armed);
            assert_eq!(shuffler.free(bomb), Ok(Freed::Now));
            drop(shuffler.reader());
            drop(shuffler.rent(other).unwrap());
        }
        common::eventually("the destructors run", || {
            shuffler.shuffle();
            ledger.drops() == 50
        });
        ledger.settled();
        let stats = quiet(&shuffler);
        assert!(stats.panics == 50 && stats.live_blocks == 1, "{stats:?}");
        assert_ne!(stats.compactor, memory_shuffler::CompactorState::Panicked);
    }
}

#[test]
fn row_25_a_panic_in_the_last_drop() {
    let (shuffler, source) = checked();
    let ledger = Ledger::new(30);
    for index in 0..30 {
        shuffler.create(Bomb { ledger: ledger.token(), armed: index % 3 == 0 }).unwrap();
    }
    assert!(panics(|| drop(shuffler)), "the last drop owns the drops of what is left");
    ledger.settled();
    assert_eq!(source.chunks(), 0);

    // While unwinding, it is caught.
    let (shuffler, source) = checked();
    let ledger = Ledger::new(1);
    shuffler.create(Bomb { ledger: ledger.token(), armed: true }).unwrap();
    let unwinding = || {
        let _shuffler = shuffler;
        quietly()
    };
    assert!(panics(unwinding));
    ledger.settled();
    assert_eq!(source.chunks(), 0);
}

/// Does `work` when it is dropped.
struct Last<F: FnMut()>(F);

impl<F: FnMut()> Drop for Last<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn row_28_a_destructor_uses_the_same_shuffler() {
    for trigger in [Trigger::Manual, Trigger::Inline, Trigger::Background] {
        let shuffler = Shuffler::builder().trigger(trigger).arena_bytes(64 << 10).retain_bytes(0).build().unwrap();
        let done = Arc::new(AtomicUsize::new(0));
        let all = {
            let (done, weak) = (done.clone(), shuffler.clone());
            move || {
                let shuffler = &weak;
                let kept = fragmented(shuffler, 64 << 10, 3, 4);
                let number = shuffler.create(1_u64).unwrap();
                let text = shuffler.create_with(|| String::from("inner")).unwrap();
                *shuffler.rent_mut(number).unwrap() += 1;
                shuffler.shuffle();
                shuffler.trim();
                let _ = shuffler.shuffle_step(Budget::default());
                drop(shuffler.pause());
                check_fragmented(shuffler, &kept, 64 << 10, 4);
                let versioned = shuffler.create_versioned(3_u8).unwrap();
                let reader = shuffler.reader();
                assert_eq!(reader.get(versioned), Ok(&3));
                assert_eq!(shuffler.free(versioned), Ok(Freed::Now));
                assert_eq!(reader.get(versioned).err(), Some(AccessError::Stale));
                drop(reader);
                assert_eq!(shuffler.take(number), Ok(2));
                drop(shuffler.owned(text));
                kept.into_iter().for_each(|block| assert_eq!(shuffler.free(block), Ok(Freed::Now)));
                assert!(shuffler.stats().live_blocks > 0, "this block is live until it is settled");
                done.fetch_add(1, Ordering::SeqCst);
            }
        };
        // By free, by the last return, by an owner.
        let handle = shuffler.create(Last(all.clone())).unwrap();
        assert_eq!(shuffler.free(handle), Ok(Freed::Now));
        assert_eq!(done.load(Ordering::SeqCst), 1);
        let handle = shuffler.create(Last(all.clone())).unwrap();
        drop(shuffler.owned(handle));
        assert_eq!(done.load(Ordering::SeqCst), 2);
        // By a step, which it must not deadlock.
        struct Inside(#[expect(dead_code, reason = "it is there to be dropped")] Box<dyn Send + Sync>);
        // SAFETY: a box is a pointer.
        unsafe impl memory_shuffler::Frozen for Inside {}
        let versioned: Versioned<Inside> = shuffler.create_versioned(Inside(Box::new(Last(all.clone())))).unwrap();
        assert_eq!(shuffler.free(versioned), Ok(Freed::Now));
        common::eventually("the versioned destructor runs", || {
            shuffler.shuffle();
            done.load(Ordering::SeqCst) == 3
        });
        assert_eq!(quiet(&shuffler).live_blocks, 0);
    }
}

#[test]
fn row_28_a_closure_uses_the_same_shuffler() {
    let (shuffler, _) = checked();
    let outer = shuffler.create_with(|| {
        let kept = fragmented(&shuffler, 64 << 10, 8, 4);
        shuffler.trim();
        check_fragmented(&shuffler, &kept, 64 << 10, 4);
        shuffler.create_with(|| kept.len()).unwrap()
    });
    let inner = *shuffler.rent(outer.unwrap()).unwrap();
    assert_eq!(shuffler.take(inner), Ok(128));
}

#[test]
fn row_30_nonsense_configuration() {
    let arena = "it must be a power of two from 64 KiB to 64 MiB";
    let limit = "it must have room for at least eight arenas";
    let share = "it must be from 0.5 to 0.99";
    let budget = "a step of no bytes or no time would do nothing, so both must be more than zero";
    let second = Duration::from_secs(1);
    let cases = [
        (Shuffler::builder().arena_bytes(0), "arena_bytes", "0", arena),
        (Shuffler::builder().arena_bytes(32 << 10), "arena_bytes", "32768", arena),
        (Shuffler::builder().arena_bytes(100_000), "arena_bytes", "100000", arena),
        (Shuffler::builder().arena_bytes(usize::MAX), "arena_bytes", "18446744073709551615", arena),
        (Shuffler::builder().arena_bytes(1 << 63), "arena_bytes", "9223372036854775808", arena),
        (Shuffler::builder().memory_limit(0), "memory_limit", "0", limit),
        (Shuffler::builder().memory_limit((8 << 20) - 1), "memory_limit", "8388607", limit),
        (Shuffler::builder().target_utilization(f64::NAN), "target_utilization", "NaN", share),
        (Shuffler::builder().target_utilization(f64::INFINITY), "target_utilization", "inf", share),
        (Shuffler::builder().target_utilization(-1.0), "target_utilization", "-1", share),
        (Shuffler::builder().target_utilization(1.0), "target_utilization", "1", share),
        (
            Shuffler::builder().budget(Budget { bytes: 0, time: second }),
            "budget",
            "Budget { bytes: 0, time: 1s }",
            budget,
        ),
        (
            Shuffler::builder().budget(Budget { bytes: 1, time: Duration::ZERO }),
            "budget",
            "Budget { bytes: 1, time: 0ns }",
            budget,
        ),
    ];
    for (builder, field, value, why) in cases {
        let Err(error) = builder.build() else { panic!("{field} = {value} was accepted") };
        assert_eq!((error.field, error.value.as_str(), error.why), (field, value, why));
        assert_eq!(error.to_string(), format!("bad configuration: {field} cannot be {value}: {why}"));
        assert_eq!(Error::from(error.clone()).to_string(), error.to_string());
    }
    for arena_bytes in [64 << 10, 1 << 20, 64 << 20] {
        let limit = arena_bytes * 8;
        let builder = Shuffler::builder().arena_bytes(arena_bytes).memory_limit(limit).target_utilization(0.5);
        builder.budget(Budget { bytes: 1, time: Duration::from_nanos(1) }).build().unwrap().create(1_u8).unwrap();
    }
}

#[test]
fn row_32_a_reader_held_for_ever() {
    const LIMIT: usize = 1 << 20;
    let source = Checked::new();
    let builder = Shuffler::builder().trigger(Trigger::Manual).arena_bytes(64 << 10).retain_bytes(0);
    let shuffler = builder.source(source.clone()).reader_limit(LIMIT).build().unwrap();
    let value = shuffler.create_versioned([0_u8; 1000]).unwrap();
    let spare = shuffler.create_versioned([7_u8; 1000]).unwrap();
    let slice = shuffler.alloc_versioned(&[5_u8]).unwrap();
    let (ask, asked) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        // Moved in, so that the other thread ends with this one's panic.
        let (shuffler, ask) = (&shuffler, ask);
        let sleeper = thread::Builder::new().name("sleeper".into()).spawn_scoped(scope, move || {
            let mut reader = shuffler.reader();
            let first = *reader.get(value).unwrap();
            tell.send(first).unwrap();
            asked.recv().unwrap();
            assert_eq!(*reader.get(spare).err().unwrap().to_string(), *STALE);
            reader.repin();
            tell.send(*reader.get(value).unwrap()).unwrap();
            asked.recv().unwrap();
        });
        let sleeper = sleeper.unwrap().thread().id();
        assert_eq!(told.recv(), Ok([0; 1000]));
        let seen = Instant::now();
        assert_eq!(shuffler.stats().oldest_reader.unwrap().thread, Some(sleeper));

        // What it holds back grows up to the limit, and then no new version is made.
        let mut published = 0_usize;
        let rejected = loop {
            match shuffler.publish(value, [published as u8; 1000]) {
                Ok(()) => published += 1,
                Err(rejected) => break rejected,
            }
            assert!(published < 10_000, "no limit");
        };
        assert_eq!(rejected.into_inner(), [published as u8; 1000]);
        let waiting = shuffler.stats().waiting_bytes as usize;
        assert!((LIMIT..LIMIT + 1100).contains(&waiting) && published >= LIMIT / 1100, "{published}: {waiting} bytes");
        let text = format!(
            "readers are behind: {waiting} bytes of Versioned blocks are waiting for them, and the limit is {LIMIT}; drop or repin the \
             reader of thread {sleeper:?}, or raise the limit with reader_limit"
        );
        let behind = AccessError::ReadersBehind { waiting, limit: LIMIT, thread: Some(sleeper) };
        refused(shuffler.publish(value, [9; 1000]).map_err(|rejected| rejected.cause()), behind, &text);
        refused(shuffler.update(value, |_| unreachable!()), behind, &text);
        refused(shuffler.publish_copy(slice, &[1, 2]), behind, &text);
        assert_eq!(shuffler.reader().get(slice), Ok(&[5][..]));
        let behind = AllocError::ReadersBehind { waiting, limit: LIMIT, thread: Some(sleeper) };
        refused(shuffler.create_versioned([1_u8; 10]).map_err(|rejected| rejected.cause()), behind, &text);
        refused(shuffler.alloc_versioned(&[1_u8]), behind, &text);
        refused(shuffler.alloc_versioned_str("no"), behind, &text);
        assert_eq!(shuffler.thread_name(sleeper).as_deref(), Some("sleeper"));
        assert!(shuffler.thread_name(thread::current().id()).is_none_or(|name| name != "sleeper"));

        // The value is as it was published last, and freeing never fails for it.
        assert_eq!(shuffler.reader().get(value).unwrap()[0], (published - 1) as u8);
        assert_eq!(shuffler.free(spare), Ok(Freed::Now));
        assert!(shuffler.stats().waiting_bytes as usize > waiting);

        // Other memory is made and reclaimed as before.
        let held = shuffler.stats().resident_bytes;
        let kept = fragmented(shuffler, 64 << 10, 32, 16);
        shuffler.trim();
        check_fragmented(shuffler, &kept, 64 << 10, 16);
        let left = shuffler.stats().resident_bytes - held;
        assert!(left < 8 * (64 << 10), "{left} bytes are left of 32 arenas with a sixteenth live");

        // It is named, with its age; the newer reader of this thread is not.
        // Its age is looked at.
        thread::sleep(Duration::from_millis(20));
        let newer = shuffler.reader();
        let oldest = shuffler.stats().oldest_reader.unwrap();
        assert_eq!(oldest.thread, Some(sleeper));
        // Between two looks at a clock that tells whole milliseconds.
        let most = seen.elapsed() + Duration::from_millis(1);
        assert!((Duration::from_millis(19)..most).contains(&oldest.age), "{oldest:?}");
        drop(newer);

        // Once it lets go, all is reclaimed, and it is as young as this look.
        ask.send(()).unwrap();
        assert_eq!(told.recv(), Ok([(published - 1) as u8; 1000]));
        assert!(shuffler.stats().oldest_reader.unwrap().age < Duration::from_millis(20));
        shuffler.publish(value, [1; 1000]).unwrap();
        ask.send(()).unwrap();
    });
    assert_eq!((quiet(&shuffler).waiting_bytes, shuffler.stats().oldest_reader), (0, None));
    assert_eq!(shuffler.stats().live_bytes, 1000 + 1 + 128 * (1 << 10));
}

#[test]
fn row_33_shuffle_from_anywhere() {
    let (shuffler, _) = checked();
    let kept = fragmented(&shuffler, 64 << 10, 8, 4);
    {
        let pause = shuffler.pause();
        let second = shuffler.pause();
        let report = shuffler.shuffle();
        assert!(report.paused && report.progress.moves == 0, "{report:?}");
        drop(pause);
        assert!(shuffler.shuffle().paused);
        shuffler.trim();
        assert_eq!(shuffler.stats().moves, 0);
        drop(second);
    }
    let read = shuffler.rent(kept[0]).unwrap();
    let write = shuffler.rent_mut(kept[9]).unwrap();
    let reader = shuffler.reader();
    let report = shuffler.shuffle();
    assert!(!report.paused && report.progress.moves > 0, "{report:?}");
    drop((read, write, reader));
    check_fragmented(&shuffler, &kept, 64 << 10, 4);
}

#[test]
fn row_35_opaque_handles() {
    let shuffler = manual();
    let directory = Directory::new(&shuffler);
    let handle = shuffler.create(5_u64).unwrap();
    let reader = directory.grant(handle, Rights::READ);
    let owner = directory.grant(handle, Rights::ALL);
    assert_eq!(*directory.rent::<u64>(&reader).unwrap(), 5);
    refused(directory.rent_mut::<u64>(&reader).map(drop), AccessError::Denied, DENIED);
    refused(directory.resolve_raw(&reader, Rights::FREE), AccessError::Denied, DENIED);
    refused(directory.resolve::<u64>(&reader, Rights::READ | Rights::WRITE), AccessError::Denied, DENIED);
    for guess in [0, 1, u64::MAX, reader.to_bits() ^ 1, reader.to_bits().wrapping_add(1)] {
        let name = OpaqueHandle::from_bits(guess);
        refused(directory.resolve::<u64>(&name, Rights::READ), AccessError::Denied, DENIED);
        assert!(!directory.revoke(&name));
    }
    let rent = directory.rent::<u64>(&reader).unwrap();
    assert!(directory.revoke(&reader));
    assert!(!directory.revoke(&reader));
    assert_eq!(*rent, 5, "a rent that was there stays good");
    drop(rent);
    refused(directory.rent::<u64>(&reader).map(drop), AccessError::Denied, DENIED);
    *directory.rent_mut::<u64>(&owner).unwrap() += 1;
    assert_eq!(shuffler.free(directory.resolve_raw(&owner, Rights::FREE).unwrap()), Ok(Freed::Now));
    refused(directory.rent::<u64>(&owner).map(drop), AccessError::Stale, STALE);
    assert!(directory.is_empty(), "a look-up that meets a stale grant removes it");
    refused(directory.rent::<u64>(&owner).map(drop), AccessError::Denied, DENIED);
}

#[test]
fn every_source_is_given_everything_back() {
    let source = Checked::new();
    let shuffler = Shuffler::builder().source(source.clone()).build().unwrap();
    assert_eq!(source.chunks(), 0, "nothing is mapped until it is needed");
    let ledger = Ledger::new(500);
    let mut kept = Vec::new();
    for index in 0..500_usize {
        let token = ledger.token();
        match index % 3 {
            0 => kept.push(shuffler.create(token).unwrap()),
            1 => drop(shuffler.free(shuffler.create(token).unwrap()).unwrap()),
            _ => drop(shuffler.take(shuffler.create(token).unwrap()).unwrap()),
        }
        shuffler.alloc::<u8>(index * 700).unwrap();
        shuffler.create_versioned(vec![1; 10]).unwrap();
    }
    drop(shuffler);
    ledger.settled();
    // The compactor's thread may be the last to let go of the memory, an instant later.
    common::eventually("the memory goes back", || source.chunks() == 0);
}
