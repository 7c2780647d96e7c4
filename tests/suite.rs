//! What the library does, in every configuration: over the OS, over the global allocator, over a region, in the smallest
//! arenas, with each trigger.

#![allow(clippy::disallowed_types, reason = "tests count with the standard atomics; no model runs them")]

mod common;

use common::{
    Held, Ledger, Parent, Token, World, check, check_fragmented, eventually, everywhere, fill, fragmented, manual,
    pattern, patterned, quiet,
};
use memory_shuffler::{
    AccessError, ArenaState, Budget, CompactorState, Directory, Freed, Frozen, OpaqueHandle, OwnedRent, Placement,
    RawHandle, Rent, RentMut, Rights, Shuffler, Trigger, Versioned,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::alloc::Layout;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

#[track_caller]
fn freed(shuffler: &Shuffler, handle: impl Into<RawHandle>) {
    assert_eq!(shuffler.free(handle), Ok(Freed::Now));
}

#[test]
fn values() {
    everywhere(|World { shuffler, .. }| {
        let handle = shuffler.create(String::from("value")).unwrap();
        assert_eq!(*shuffler.rent(handle).unwrap(), "value");
        shuffler.rent_mut(handle).unwrap().push('s');
        let (one, other) = (shuffler.rent(handle).unwrap(), shuffler.rent(handle).unwrap());
        assert_eq!((&**one, &**other), ("values", "values"));
        drop((one, other));
        assert_eq!(shuffler.clone().take(handle).as_deref(), Ok("values"));

        let made = shuffler.create_with(|| [7_u16; 100]).unwrap();
        assert_eq!(*shuffler.rent(made).unwrap(), [7; 100]);
        assert_eq!((shuffler.get_size(made), shuffler.stats().live_blocks), (Ok(200), 1));
        freed(&shuffler, made);
        assert_eq!(shuffler.stats().live_blocks, 0);
    });
}

#[test]
fn slices_and_strings() {
    everywhere(|World { shuffler, .. }| {
        for n in [0, 1, 7, 8, 9, 1000, 20_000] {
            // First rubbish, so that zeros are the library's doing.
            freed(&shuffler, patterned(&shuffler, 1, n * 4 + 64));
            let zeros = shuffler.alloc::<u32>(n).unwrap();
            assert!(*shuffler.rent(zeros).unwrap() == *vec![0_u32; n]);
            assert_eq!(shuffler.get_size(zeros), Ok(n * 4));
            shuffler.rent_mut(zeros).unwrap().iter_mut().zip(0..).for_each(|(item, n)| *item = n);
            assert!(shuffler.rent(zeros).unwrap().iter().copied().eq(0..n as u32));
            freed(&shuffler, zeros);

            let words: Vec<u128> = (0..n as u128).map(|n| n << 100 | n).collect();
            let copy = shuffler.alloc_copy(&words).unwrap();
            assert_eq!(*shuffler.rent(copy).unwrap(), *words);
            freed(&shuffler, copy);

            let text = "ä".repeat(n);
            let copy = shuffler.alloc_str(&text).unwrap();
            assert_eq!(*shuffler.rent(copy).unwrap(), *text);
            if n > 0 {
                shuffler.rent_mut(copy).unwrap().make_ascii_uppercase();
            }
            freed(&shuffler, copy);
        }
        assert_eq!(shuffler.stats().live_blocks, 0);
    });
}

#[test]
fn layouts_and_pointers() {
    everywhere(|World { shuffler, .. }| {
        for power in [0, 1, 3, 4, 6, 9, 12, 13, 15, 16, 17, 20, 21] {
            for size in [0, 1, 8, 100, 5000] {
                let layout = Layout::from_size_align(size, 1 << power).unwrap();
                freed(&shuffler, patterned(&shuffler, 2, size + 64));
                let raw = shuffler.alloc_layout(layout).unwrap();
                let pointer = shuffler.rent_pointer_mut::<u8>(raw);
                if size == 0 {
                    assert!(matches!(pointer, Err(AccessError::TypeMismatch { .. })), "no byte fits in none");
                    shuffler.rent_pointer::<()>(raw).unwrap();
                    assert_eq!(shuffler.inspect(raw).unwrap().rents, 1);
                    // SAFETY: rented just now.
                    unsafe { shuffler.return_pointer(raw) }.unwrap();
                    freed(&shuffler, raw);
                    continue;
                }
                let pointer = pointer.unwrap();
                assert_eq!(pointer.addr().get() % layout.align(), 0);
                // SAFETY: the block is rented to write, and has that many bytes.
                let bytes = unsafe { std::slice::from_raw_parts_mut(pointer.as_ptr(), size) };
                assert!(bytes.iter().all(|byte| *byte == 0), "align {}, size {size}", layout.align());
                fill(bytes, size as u64);
                assert!(shuffler.inspect(raw).unwrap().exclusive);
                assert_eq!(shuffler.rent_pointer::<u8>(raw), Err(AccessError::Busy));
                // SAFETY: rented above, and the pointer is used no more.
                unsafe { shuffler.return_pointer(raw) }.unwrap();
                let (one, two) = (shuffler.rent_pointer::<u8>(raw).unwrap(), shuffler.rent_pointer::<u8>(raw).unwrap());
                assert_eq!((one, shuffler.inspect(raw).unwrap().rents), (two, 2));
                // SAFETY: rented to read, that long.
                assert_eq!(unsafe { std::slice::from_raw_parts(one.as_ptr(), size) }, pattern(size as u64, size));
                // SAFETY: rented twice above, and the pointers are used no more.
                unsafe { (shuffler.return_pointer(raw).unwrap(), shuffler.return_pointer(raw).unwrap()) };
                freed(&shuffler, raw);
            }
        }
        // By pointer into typed blocks.
        let slice = shuffler.alloc_copy(&[1_u64, 2, 3]).unwrap();
        let pointer = shuffler.rent_pointer::<u64>(slice.into()).unwrap();
        // SAFETY: rented above.
        assert_eq!(unsafe { std::slice::from_raw_parts(pointer.as_ptr(), 3) }, [1, 2, 3]);
        assert_eq!(shuffler.rent_mut(slice).err(), Some(AccessError::Busy));
        // SAFETY: rented above, and the pointer is used no more.
        unsafe { shuffler.return_pointer(slice.into()) }.unwrap();
        shuffler.rent_mut(slice).unwrap()[0] = 9;
        freed(&shuffler, slice);
    });
}

#[test]
fn queries() {
    everywhere(|world| {
        let shuffler = &world.shuffler;
        let handle = shuffler.create(5_u64).unwrap();
        assert!(shuffler.valid_handle(handle));
        let info = shuffler.inspect(handle).unwrap();
        assert_eq!((info.size, info.handle, info.rents, info.exclusive), (8, handle.into(), 0, false));
        assert!(!info.pending_free && info.type_name.contains("u64"), "{info:?}");
        let arenas = shuffler.arenas();
        assert!(arenas.iter().any(|arena| arena.id == info.arena && arena.state == ArenaState::Active), "{arenas:?}");
        let rent = shuffler.rent(handle).unwrap();
        assert_eq!(shuffler.inspect(handle).unwrap().address, &raw const *rent as usize);
        assert_eq!(shuffler.inspect(handle).unwrap().rents, 1);
        drop(rent);
        let write = shuffler.rent_mut(handle).unwrap();
        assert!(shuffler.inspect(handle).unwrap().exclusive);
        drop(write);

        for size in [0, 1, 7, 8, 9, 65_520, 65_528, 65_529, 65_536, 100_001, 3 << 20] {
            let block = patterned(shuffler, 3, size);
            assert_eq!((shuffler.get_size(block), shuffler.inspect(block).unwrap().size), (Ok(size), size));
            check(shuffler, block, 3, size);
            let typed = shuffler.typed::<[u8]>(block.into()).unwrap();
            assert_eq!(typed, block);
            freed(shuffler, typed);
            assert_eq!(shuffler.get_size(block), Err(AccessError::Stale));
        }
        let versioned = shuffler.create_versioned(1_u32).unwrap();
        assert_eq!(shuffler.typed_versioned::<u32>(versioned.into()), Ok(versioned));
        let words = shuffler.alloc_versioned_str("words").unwrap();
        assert_eq!(shuffler.typed_versioned::<str>(words.into()), Ok(words));
        assert_eq!(shuffler.get_size(words), Ok(5));
        assert_eq!(format!("{shuffler:?}").split_whitespace().next(), Some("Shuffler"));
    });
}

#[test]
fn guards() {
    everywhere(|World { shuffler, .. }| {
        let handle = shuffler.create((String::from("left"), 5_u8)).unwrap();
        let left: Rent<'_, String> = Rent::map(shuffler.rent(handle).unwrap(), |pair| &pair.0);
        assert_eq!((left.as_ref(), format!("{left} {left:?}")), (&String::from("left"), "left \"left\"".into()));
        let part: Rent<'_, str> = Rent::map(left, |text| &text[1..]);
        assert_eq!((&*part, shuffler.rent_mut(handle).err()), ("eft", Some(AccessError::Busy)));
        drop(part);
        let mut write: RentMut<'_, _> = shuffler.rent_mut(handle).unwrap();
        write.as_mut().1 = 6;
        assert_eq!((write.as_ref().1, format!("{write:?}").as_str()), (6, "(\"left\", 6)"));
        drop(write);
        let owned: OwnedRent<_> = shuffler.rent_owned(handle).unwrap();
        assert_eq!((owned.1, owned.as_ref().1, format!("{owned:?}").as_str()), (6, 6, "(\"left\", 6)"));
        assert_eq!(shuffler.free(handle), Ok(Freed::WhenReturned));
        assert_eq!(owned.0, "left");
        drop(owned);
        assert_eq!(shuffler.stats().live_blocks, 0);

        let patience = Duration::from_secs(60);
        let handle = shuffler.create(1_u8).unwrap();
        *shuffler.rent_mut_for(handle, patience).unwrap() += 1;
        assert_eq!(*shuffler.rent_for(handle, patience).unwrap(), 2);
        assert_eq!(*shuffler.rent_for(handle, Duration::ZERO).unwrap(), 2);
        assert_eq!(*shuffler.rent_mut_for(handle, Duration::MAX).unwrap(), 2);
    });
}

#[test]
fn owners() {
    everywhere(|World { shuffler, .. }| {
        let ledger = Ledger::new(3);
        let owner = shuffler.owned(shuffler.create(ledger.token()).unwrap());
        assert!(owner.rent().unwrap().is_whole() && owner.rent_mut().unwrap().is_whole());
        assert!(shuffler.rent(owner.handle()).unwrap().is_whole());
        assert!(format!("{owner:?}").starts_with("Owned("));
        drop(owner);
        ledger.settled();

        let owner = shuffler.owned(shuffler.create(ledger.token()).unwrap());
        let handle = owner.into_handle();
        assert_eq!(ledger.drops(), 1);
        let owner = shuffler.owned(handle);
        freed(&shuffler, handle);
        assert_eq!(owner.rent().err(), Some(AccessError::Stale));
        drop(owner);
        ledger.settled();

        // An owner keeps the shuffler, and a slice has owners too.
        let slice = shuffler.owned(shuffler.alloc_copy(&[1_u8, 2]).unwrap());
        drop(shuffler);
        assert_eq!(*slice.rent().unwrap(), [1, 2]);
    });
}

#[test]
fn versioned_blocks() {
    everywhere(|world| {
        let shuffler = &world.shuffler;
        let ledger = Ledger::new(1000);
        struct Leaf(Token);
        // SAFETY: what changes in a token's ledger lies behind pointers.
        unsafe impl Frozen for Leaf {}
        let number = shuffler.create_versioned(5_u64).unwrap();
        let slice = shuffler.alloc_versioned(&[1_u16, 2, 3]).unwrap();
        let text = shuffler.alloc_versioned_str("text").unwrap();
        let leaves: Vec<_> = (0..500)
            .map(|_| shuffler.create_versioned(Leaf(ledger.token())).unwrap())
            .collect::<Vec<Versioned<Leaf>>>();
        let mut reader = shuffler.reader();
        assert_eq!((reader.get(number), reader.get(text)), (Ok(&5), Ok("text")));
        assert_eq!(reader.get(slice), Ok(&[1, 2, 3][..]));
        assert_eq!(format!("{reader:?}"), "Reader");

        // What was read stays, moved or freed or replaced; and no destructor runs before the reader lets go.
        let seen: Vec<&Leaf> = leaves.iter().map(|leaf| reader.get(*leaf).unwrap()).collect();
        for (index, leaf) in leaves.iter().enumerate() {
            if index % 8 != 0 {
                freed(shuffler, *leaf);
                assert_eq!(reader.get(*leaf).err(), Some(AccessError::Stale));
            } else {
                shuffler.publish(*leaf, Leaf(ledger.token())).unwrap();
            }
        }
        shuffler.trim();
        shuffler.trim();
        assert!(seen.iter().enumerate().all(|(id, leaf)| leaf.0.is_whole() && leaf.0.id() == id));
        assert_eq!(ledger.drops(), 0);
        for leaf in leaves.iter().step_by(8) {
            assert!(reader.get(*leaf).unwrap().0.id() >= 500);
        }
        drop(seen);
        eventually("the replaced and the freed are dropped", || {
            reader.repin();
            shuffler.shuffle();
            ledger.drops() == 500
        });
        assert_eq!((reader.get(number), reader.get(text)), (Ok(&5), Ok("text")));
        drop(reader);
        for leaf in leaves.iter().step_by(8) {
            freed(shuffler, *leaf);
        }
        assert_eq!(quiet(shuffler).live_blocks, 3);
        ledger.settled();
    });
}

#[test]
fn one_repin_lets_go_of_everything() {
    let shuffler = manual();
    let dropped = std::sync::Arc::new(());
    let values: Vec<_> = (0..100).map(|_| shuffler.create_versioned(dropped.clone()).unwrap()).collect();
    let mut reader = shuffler.reader();
    let [early, late] = [&values[..50], &values[50..]];
    for value in early {
        freed(&shuffler, *value);
    }
    shuffler.shuffle();
    for value in late {
        freed(&shuffler, *value);
    }
    for _ in 0..10 {
        shuffler.shuffle();
    }
    assert_eq!(std::sync::Arc::strong_count(&dropped), 101, "the reader may look at all of them");
    reader.repin();
    for _ in 0..10 {
        shuffler.shuffle();
    }
    assert_eq!(std::sync::Arc::strong_count(&dropped), 1, "some are kept for a reader that has let go of them");
    drop(reader);
}

#[test]
fn readers_nest() {
    let shuffler = manual();
    let dropped = std::sync::Arc::new(());
    let value = shuffler.create_versioned(dropped.clone()).unwrap();
    let is_kept = || {
        for _ in 0..10 {
            shuffler.shuffle();
        }
        std::sync::Arc::strong_count(&dropped) == 2
    };
    let age = || shuffler.stats().oldest_reader.unwrap().age;
    let outer = shuffler.reader();
    let seen = outer.get(value).unwrap();
    let mut inner = shuffler.reader();
    freed(&shuffler, value);
    assert_eq!(inner.get(value).err(), Some(AccessError::Stale));
    // What the outer one may look at stays, whatever the inner one does; and the thread's readers are as old as the first.
    let later = age() + std::time::Duration::from_millis(20);
    eventually("they grow older", || age() >= later);
    inner.repin();
    assert!(is_kept() && age() >= later);
    drop(inner);
    assert!(is_kept() && std::sync::Arc::ptr_eq(seen, &dropped));
    let third = shuffler.reader();
    drop(outer);
    assert!(is_kept(), "the third was made while the first was there, and may have seen the same");
    assert_eq!(shuffler.stats().waiting, 1);
    assert_eq!(shuffler.stats().waiting_bytes, 8 + 8);
    drop(third);
    assert!(!is_kept());
    let stats = shuffler.stats();
    assert_eq!((stats.waiting, stats.waiting_bytes, stats.oldest_reader), (0, 0, None));
}

#[test]
fn publish_and_update() {
    everywhere(|world| {
        let shuffler = &world.shuffler;
        let handle = shuffler.create_versioned(String::from("0")).unwrap();
        let big = shuffler.create_versioned([0_u64; 20_000]).unwrap();
        for round in 1..300 {
            let reader = shuffler.reader();
            let before = reader.get(handle).unwrap();
            shuffler.publish(handle, round.to_string()).unwrap();
            assert_eq!(
                (before.as_str(), reader.get(handle).unwrap().as_str()),
                ((round - 1).to_string().as_str(), round.to_string().as_str())
            );
            shuffler
                .update(handle, |text| {
                    assert_eq!(*text, round.to_string());
                    assert_eq!(shuffler.reader().get(handle), Ok(text));
                    // Nobody else may replace it now; and nobody waits.
                    let rejected = shuffler.publish(handle, String::from("no")).unwrap_err();
                    assert_eq!((rejected.cause(), rejected.into_inner().as_str()), (AccessError::Busy, "no"));
                    assert_eq!(shuffler.update(handle, |_| unreachable!()), Err(AccessError::Busy));
                    shuffler.create(1_u8).map(|block| shuffler.take(block)).unwrap().unwrap();
                    round.to_string()
                })
                .unwrap();
            if round % 50 == 0 {
                shuffler.update(big, |values| values.map(|value| value + 1)).unwrap();
                drop(reader);
                shuffler.shuffle();
            }
        }
        assert!(shuffler.reader().get(big).unwrap().iter().all(|value| *value == 5));
        // A panic leaves the value as it is.
        let outcome = catch_unwind(AssertUnwindSafe(|| shuffler.update(handle, |_| resume_unwind(Box::new(0)))));
        assert!(outcome.is_err());
        assert_eq!(shuffler.reader().get(handle).unwrap(), "299");
        shuffler.publish(handle, String::from("on")).unwrap();
        // Freed while it is updated: the new value is dropped.
        let outcome = shuffler.update(handle, |_| {
            assert_eq!(shuffler.free(handle), Ok(Freed::WhenReturned));
            String::from("too late")
        });
        assert_eq!(outcome, Err(AccessError::Stale));
        let rejected = shuffler.publish(handle, String::from("back")).unwrap_err();
        assert_eq!((rejected.cause(), rejected.into_inner().as_str()), (AccessError::Stale, "back"));
        freed(shuffler, big);
        assert_eq!(quiet(shuffler).live_blocks, 0);
    });
}

#[test]
fn slices_and_strings_are_replaced_by_others_of_any_length() {
    // Nothing, less than a unit, more; what still fits in an arena, and what has memory of its own.
    const LENGTHS: [usize; 9] = [0, 5, 8, 1000, 16_400, 65_520, 65_528, 65_529, 200_000];
    everywhere(|world| {
        let shuffler = &world.shuffler;
        let bytes = shuffler.alloc_versioned(&pattern(0, 3)).unwrap();
        let wide = shuffler.alloc_versioned::<u128>(&[1]).unwrap();
        let text = shuffler.alloc_versioned_str("first").unwrap();
        let units = shuffler.alloc_versioned(&[(); 3]).unwrap();
        let (mut before, mut text_before, mut seed) = (pattern(0, 3), String::from("first"), 0);
        // From each to each other, and to itself.
        for n in LENGTHS.into_iter().flat_map(|from| LENGTHS.into_iter().flat_map(move |to| [from, to])) {
            seed += 1;
            let reader = shuffler.reader();
            let (old, old_text) = (reader.get(bytes).unwrap(), reader.get(text).unwrap());
            let (after, words, after_text) = (pattern(seed, n), vec![u128::from(seed); n / 16], "ä".repeat(n / 2));
            shuffler.publish_copy(bytes, &after).unwrap();
            shuffler.publish_copy(wide, &words).unwrap();
            shuffler.publish_str(text, &after_text).unwrap();
            assert!(*old == *before && *old_text == *text_before, "it changed under a reader");
            assert!(*reader.get(bytes).unwrap() == *after, "{n} bytes were published otherwise");
            assert!(*reader.get(wide).unwrap() == *words && *reader.get(text).unwrap() == *after_text);
            let sizes = [bytes.into(), wide.into(), text.into()].map(|raw: RawHandle| {
                let info = shuffler.inspect(raw).unwrap();
                assert_eq!((shuffler.get_size(raw), info.exclusive), (Ok(info.size), false));
                info.size
            });
            assert_eq!(sizes, [n, n / 16 * 16, n / 2 * 2]);
            assert_eq!(shuffler.typed_versioned::<[u8]>(bytes.into()), Ok(bytes));
            assert_eq!(shuffler.stats().live_bytes, sizes.iter().sum::<usize>() as u64);
            drop(reader);
            (before, text_before) = (after, after_text);
            if seed % 40 == 0 {
                shuffler.shuffle();
            }
        }
        shuffler.publish_copy(units, &[(); 1000]).unwrap();
        assert_eq!(shuffler.get_size(units), Ok(0));
        // A copy of a part of itself, out of the very block that is replaced.
        let reader = shuffler.reader();
        shuffler.publish_copy(bytes, &reader.get(bytes).unwrap()[100_000..]).unwrap();
        drop(reader);
        assert!(*shuffler.reader().get(bytes).unwrap() == pattern(seed, 200_000)[100_000..]);

        for raw in [RawHandle::from(bytes), wide.into(), text.into(), units.into()] {
            freed(shuffler, raw);
        }
        assert_eq!(shuffler.publish_copy(bytes, &[1]), Err(AccessError::Stale));
        assert_eq!(shuffler.publish_str(text, "late"), Err(AccessError::Stale));
        let stats = quiet(shuffler);
        assert_eq!((stats.live_blocks, stats.live_bytes, stats.waiting_bytes), (0, 0, 0));
        shuffler.trim();
        assert!(quiet(shuffler).resident_bytes < 8 << 20, "{:?}", quiet(shuffler));
    });
}

#[test]
fn directories() {
    everywhere(|world| {
        let is_manual = world.is_manual();
        let shuffler = world.shuffler;
        let names: Directory<String> = Directory::new(&shuffler);
        assert!(names.is_empty());
        let handles: Vec<_> = (0..300_u64).map(|n| shuffler.create(n).unwrap()).collect();
        for (n, handle) in handles.iter().enumerate() {
            assert_eq!(names.insert(n.to_string(), *handle, Rights::ALL), None);
        }
        assert_eq!(names.len(), 300);
        shuffler.shuffle();
        for (n, handle) in handles.iter().enumerate() {
            assert_eq!(names.resolve::<u64>(&n.to_string(), Rights::READ), Ok(*handle));
            assert_eq!(*names.rent::<u64>(&n.to_string()).unwrap(), n as u64);
            *names.rent_mut::<u64>(&n.to_string()).unwrap() += 1000;
            assert_eq!(names.resolve_raw(&n.to_string(), Rights::FREE), Ok((*handle).into()));
        }
        let other = shuffler.alloc_str("other").unwrap();
        assert_eq!(names.insert("7".into(), other, Rights::READ), Some(handles[7].into()));
        assert_eq!(*names.rent::<str>(&"7".into()).unwrap(), *"other");
        assert_eq!(names.rent_mut::<str>(&"7".into()).err(), Some(AccessError::Denied));
        assert!(names.revoke(&"7".into()) && !names.revoke(&"7".into()));
        assert_eq!(names.rent::<str>(&"7".into()).err(), Some(AccessError::Denied));
        assert_eq!((names.len(), shuffler.valid_handle(other)), (299, true));

        let opaque: Directory = Directory::new(&shuffler);
        let granted: Vec<OpaqueHandle> = handles
            .iter()
            .flat_map(|handle| [opaque.grant(*handle, Rights::READ), opaque.grant(*handle, Rights::ALL)])
            .collect();
        assert_eq!(granted.iter().collect::<std::collections::HashSet<_>>().len(), 600);
        for (index, name) in granted.iter().enumerate() {
            let same = OpaqueHandle::from_bits(name.to_bits());
            assert_eq!(*opaque.rent::<u64>(&same).unwrap(), index as u64 / 2 + 1000);
            assert_eq!(opaque.rent_mut::<u64>(&same).is_ok(), index % 2 == 1);
        }
        for handle in handles {
            freed(&shuffler, handle);
        }
        for name in &granted {
            let refused = opaque.rent::<u64>(name).err();
            // A step that comes first forgets the grant.
            let is_swept = !is_manual && refused == Some(AccessError::Denied);
            assert!(is_swept || refused == Some(AccessError::Stale), "{refused:?}");
        }
        assert!(opaque.is_empty());
        freed(&shuffler, other);
        drop((names, opaque));
        assert_eq!(shuffler.stats().live_blocks, 0);
    });
}

#[test]
fn shuffling_gives_arenas_back() {
    everywhere(|world| {
        let shuffler = &world.shuffler;
        let kept = fragmented(shuffler, world.arena_bytes, 12, 8);
        let before = shuffler.stats();
        shuffler.trim();
        let after = quiet(shuffler);
        assert!(after.moves > 0 && after.moved_bytes > 0 && after.cycles > 0, "{after:?}");
        assert!(after.arenas_returned > 0 && after.returned_bytes > 0, "{after:?}");
        assert_eq!(after.live_blocks, kept.len() as u64);
        assert_eq!(after.live_bytes, (kept.len() * (world.arena_bytes / 64)) as u64);
        assert!(after.max_step > Duration::ZERO);
        check_fragmented(shuffler, &kept, world.arena_bytes, 8);
        if world.is_manual() {
            assert!(after.resident_bytes < before.resident_bytes / 2, "{before:?}\n{after:?}");
            assert_eq!(after.compactor, CompactorState::None);
            let again = shuffler.shuffle();
            if world.placement == Placement::Random {
                // It is a moving target, and moves what it moved before.
                assert!(again.progress.moves >= kept.len() * 9 / 10, "{again:?}");
                check_fragmented(shuffler, &kept, world.arena_bytes, 8);
                return;
            }
            assert_eq!(again.progress.moves, 0, "with no mutation between, a second shuffle moves nothing: {again:?}");
        }
        if let Some(bytes) = world.held.bytes() {
            assert!(bytes < 12 * world.arena_bytes, "{bytes} bytes are held");
        }
        let steps = shuffler.shuffle_step(Budget { bytes: 1, time: Duration::from_secs(1) });
        assert!(steps.moves <= 1);
        for handle in kept {
            freed(shuffler, handle);
        }
        assert_eq!(shuffler.stats().live_blocks, 0);
    });
}

#[test]
fn a_background_thread_needs_no_call() {
    for parent in [Parent::Os, Parent::Bump] {
        for tiny in [false, true] {
            let world = World::new(parent, tiny, Trigger::Background);
            let shuffler = &world.shuffler;
            let kept = fragmented(shuffler, world.arena_bytes, 16, 8);
            eventually("the garbage is gained", || shuffler.stats().arenas <= 8);
            check_fragmented(shuffler, &kept, world.arena_bytes, 8);
            eventually("the thread parks", || shuffler.stats().compactor == CompactorState::Parked);
        }
    }
}

#[test]
fn an_inline_trigger_needs_no_thread() {
    let world = World::new(Parent::Os, true, Trigger::Inline);
    let shuffler = &world.shuffler;
    let kept = fragmented(shuffler, world.arena_bytes, 16, 8);
    let arenas = shuffler.stats().arenas;
    for _ in 0..5000 {
        drop(shuffler.rent(kept[0]).unwrap());
    }
    let stats = shuffler.stats();
    assert!(stats.arenas < arenas && stats.moves > 0, "{stats:?}");
    assert_eq!(stats.compactor, CompactorState::None);
    check_fragmented(shuffler, &kept, world.arena_bytes, 8);
}

#[test]
fn a_pause_stops_moves() {
    everywhere(|world| {
        let shuffler = &world.shuffler;
        let pause = shuffler.pause();
        let before = shuffler.stats().moves;
        let kept = fragmented(shuffler, world.arena_bytes, 8, 8);
        let addresses: Vec<_> = kept.iter().map(|handle| shuffler.inspect(*handle).unwrap().address).collect();
        for _ in 0..3 {
            let report = shuffler.shuffle();
            assert!(report.paused && report.progress.moves == 0, "{report:?}");
            shuffler.trim();
        }
        assert_eq!(shuffler.stats().moves, before);
        for (handle, address) in kept.iter().zip(&addresses) {
            assert_eq!(shuffler.inspect(*handle).unwrap().address, *address);
        }
        drop(pause);
        shuffler.trim();
        eventually("it goes on", || {
            shuffler.shuffle();
            shuffler.stats().moves > before
        });
        check_fragmented(shuffler, &kept, world.arena_bytes, 8);
    });
}

#[test]
fn arenas_tell_their_states() {
    let world = World::new(Parent::Os, false, Trigger::Manual);
    let shuffler = &world.shuffler;
    assert!(shuffler.arenas().is_empty());
    let full: Vec<_> = (0..64 * 3).map(|n| patterned(shuffler, n, 16_376)).collect();
    let states = |state| shuffler.arenas().iter().filter(|arena| arena.state == state).count();
    assert!(states(ArenaState::Active) >= 1);
    assert!(states(ArenaState::Sealed) >= 2, "{:#?}", shuffler.arenas());
    assert_eq!(states(ArenaState::Stale), 0);
    freed(shuffler, full[0]);
    assert_eq!(states(ArenaState::Stale), 1, "{:#?}", shuffler.arenas());
    let stale = shuffler.arenas().into_iter().find(|arena| arena.state == ArenaState::Stale).unwrap();
    assert_eq!((stale.dead, stale.live + stale.dead <= 1 << 20), (16_384, true), "{stale:?}");
    assert_eq!(shuffler.stats().dead_bytes, 16_384);
    for handle in &full[1..] {
        freed(shuffler, *handle);
    }
    assert!(states(ArenaState::Empty) >= 2, "{:#?}", shuffler.arenas());
    shuffler.trim();
    assert_eq!(states(ArenaState::Empty), 0);
}

#[test]
fn a_rented_block_stays_where_it_is() {
    everywhere(|world| {
        let shuffler = &world.shuffler;
        let kept = fragmented(shuffler, world.arena_bytes, 8, 8);
        let bytes = world.arena_bytes / 64;
        let rent = shuffler.rent(kept[1]).unwrap();
        let mut write = shuffler.rent_mut(kept[10]).unwrap();
        let owned = shuffler.rent_owned(kept[20]).unwrap();
        let raw = shuffler.rent_pointer::<u8>(kept[30].into()).unwrap();
        let addresses = [rent.as_ptr(), write.as_ptr(), owned.as_ptr(), raw.as_ptr().cast_const()];
        for round in 0..50 {
            let churn = fragmented(shuffler, world.arena_bytes, 2, 16);
            shuffler.shuffle();
            write.fill(round);
            check_fragmented(shuffler, &churn, world.arena_bytes, 16);
            for block in churn {
                freed(shuffler, block);
            }
            for (handle, address) in [kept[1], kept[10], kept[20], kept[30]].into_iter().zip(addresses) {
                assert_eq!(shuffler.inspect(handle).unwrap().address, address as usize);
            }
            assert!(*rent == *pattern(8, bytes) && *owned == *pattern(160, bytes) && write.iter().all(|b| *b == round));
        }
        assert!(shuffler.stats().moves > 0);
        fill(&mut write, 80);
        drop((rent, write, owned));
        // SAFETY: rented above, and the pointer is used no more.
        unsafe { shuffler.return_pointer(kept[30].into()) }.unwrap();
        shuffler.trim();
        check_fragmented(shuffler, &kept, world.arena_bytes, 8);
    });
}

#[test]
fn a_value_survives_churn() {
    everywhere(|world| {
        let shuffler = &world.shuffler;
        let ledger = Ledger::new(1);
        let token = shuffler.create(ledger.token()).unwrap();
        let text = shuffler.create(String::from("still here")).unwrap();
        let versioned = shuffler.create_versioned(vec![1, 2, 3]).unwrap();
        let mut addresses = std::collections::HashSet::new();
        for round in 0..50 {
            let kept = fragmented(shuffler, world.arena_bytes, 3, 8);
            shuffler.shuffle();
            for block in kept {
                freed(shuffler, block);
            }
            assert!(shuffler.rent(token).unwrap().is_whole(), "round {round}");
            assert_eq!(*shuffler.rent(text).unwrap(), "still here");
            assert_eq!(*shuffler.reader().get(versioned).unwrap(), [1, 2, 3]);
            addresses.insert(shuffler.inspect(token).unwrap().address);
        }
        assert!(addresses.len() > 1, "in 50 rounds of churn the block was never moved");
        freed(shuffler, token);
        ledger.settled();
    });
}

/// Sizes about every boundary, and alignments from 1 to 2 MiB.
fn awkward_layouts() -> Vec<Layout> {
    let sizes = [
        0,
        1,
        7,
        8,
        9,
        24,
        100,
        1000,
        4096,
        10_000,
        16_376,
        16_377,
        30_000,
        65_520,
        65_521,
        65_527,
        65_528,
        65_529,
        65_536,
        100_000,
        200 << 10,
    ];
    let small = sizes.into_iter().flat_map(|size| [0, 3, 4, 6, 12].map(|power| (size, power)));
    let wide = [0, 1, 5000, 65_528]
        .into_iter()
        .flat_map(|size| [1, 2, 8, 13, 14, 15, 16, 17, 20, 21].map(|power| (size, power)));
    small.chain(wide).map(|(size, power)| Layout::from_size_align(size, 1 << power).unwrap()).collect()
}

fn make(shuffler: &Shuffler, layout: Layout, seed: u64) -> RawHandle {
    let raw = shuffler.alloc_layout(layout).unwrap();
    if layout.size() > 0 {
        let pointer = shuffler.rent_pointer_mut::<u8>(raw).unwrap();
        // SAFETY: the block is rented to write, and has that many bytes.
        fill(unsafe { std::slice::from_raw_parts_mut(pointer.as_ptr(), layout.size()) }, seed);
        // SAFETY: rented above, and the pointer is used no more.
        unsafe { shuffler.return_pointer(raw) }.unwrap();
    }
    raw
}

#[track_caller]
fn verify(shuffler: &Shuffler, raw: RawHandle, layout: Layout, seed: u64) {
    let info = shuffler.inspect(raw).unwrap();
    assert_eq!((info.address % layout.align(), info.size), (0, layout.size()), "{layout:?}");
    if layout.size() > 0 {
        let pointer = shuffler.rent_pointer::<u8>(raw).unwrap();
        assert_eq!(pointer.addr().get() % layout.align(), 0, "{layout:?}");
        // SAFETY: the block is rented to read, and has that many bytes.
        let same =
            unsafe { std::slice::from_raw_parts(pointer.as_ptr(), layout.size()) } == pattern(seed, layout.size());
        assert!(same, "{layout:?} lost its contents");
        // SAFETY: rented above, and the pointer is used no more.
        unsafe { shuffler.return_pointer(raw) }.unwrap();
    }
}

/// Whether a block lies in an arena with others.
fn is_movable(world: &World, layout: Layout) -> bool {
    let most = 65_536.min(world.arena_bytes / 4);
    if layout.align() < 512 {
        return layout.size().next_multiple_of(8) + layout.align().max(8) <= most;
    }
    layout.size() <= most.min(65_528) && layout.align() <= most / 2
}

/// Where blocks of this layout have arenas of their own: fills the one that `raw` is in and another with its likes, begins a
/// third, and keeps one block in each of the two.
fn litter(shuffler: &Shuffler, raw: RawHandle, layout: Layout) -> Vec<RawHandle> {
    let mut kept = Vec::new();
    let mut dropped = Vec::new();
    let arena_of = |block: RawHandle| shuffler.inspect(block).unwrap().arena;
    let mut arena = arena_of(raw);
    while layout.align() >= 512 && kept.len() < 2 {
        let block = shuffler.alloc_layout(layout).unwrap();
        if arena_of(block) == arena {
            dropped.push(block);
        } else {
            arena = arena_of(block);
            kept.push(block);
        }
    }
    for block in dropped {
        freed(shuffler, block);
    }
    kept
}

#[test]
fn always_moving_blocks_keep_their_alignment_and_contents() {
    // After every return a shuffle, among so much garbage that the block moves.
    everywhere(|world| {
        let shuffler = &world.shuffler;
        let layouts = awkward_layouts();
        let mut moved = 0;
        // A few at a time, so that a region of 64 MiB has room for all that start at 2 MiB.
        // All where nothing moves unasked, and a third where others move too.
        let stride = if world.is_manual() { 1 } else { 3 };
        for (index, layout) in layouts.into_iter().enumerate().step_by(stride) {
            let seed = index as u64 + 1;
            let raw = make(shuffler, layout, seed);
            let home = shuffler.inspect(raw).unwrap().address;
            // Held beside it, so that its arena cannot be recycled and it never comes back to the same address.
            let neighbour = shuffler.alloc_layout(Layout::from_size_align(1, layout.align()).unwrap()).unwrap();
            shuffler.rent_pointer::<()>(neighbour).unwrap();
            let kept = fragmented(shuffler, world.arena_bytes, if world.tiny { 3 } else { 2 }, 32);
            let likes = if is_movable(&world, layout) { litter(shuffler, raw, layout) } else { Vec::new() };
            shuffler.trim();
            verify(shuffler, raw, layout, seed);
            shuffler.shuffle();
            verify(shuffler, raw, layout, seed);
            let away = shuffler.inspect(raw).unwrap().address;
            // A block in memory of its own never moves; the others do, here.
            let movable = is_movable(&world, layout);
            assert!(movable || home == away, "{layout:?} was moved");
            if world.is_manual() {
                assert_eq!(movable, home != away, "{layout:?}, at {home:#x}, then {away:#x}");
            }
            moved += usize::from(home != away);
            check_fragmented(shuffler, &kept, world.arena_bytes, 32);
            for block in kept {
                freed(shuffler, block);
            }
            for block in likes {
                freed(shuffler, block);
            }
            freed(shuffler, raw);
            // SAFETY: rented above, and nobody has looked.
            unsafe { shuffler.return_pointer(neighbour) }.unwrap();
            freed(shuffler, neighbour);
        }
        assert!(moved > 0);
        assert_eq!(shuffler.stats().live_blocks, 0);
    });
}

#[test]
fn drops_are_counted_once_however_a_block_ends() {
    everywhere(|world| {
        let shuffler = &world.shuffler;
        let ledger = Ledger::new(3000);
        for round in 0..100 {
            let make = || shuffler.create(ledger.token()).unwrap();
            freed(shuffler, make());
            drop(shuffler.take(make()).unwrap());
            drop(shuffler.owned(make()));
            let _kept = shuffler.owned(make()).into_handle();
            let handle = make();
            let rents = [shuffler.rent(handle).unwrap(), shuffler.rent(handle).unwrap()];
            assert_eq!(shuffler.free(handle), Ok(Freed::WhenReturned));
            drop(rents);
            let handle = make();
            let rent = shuffler.rent_owned(handle).unwrap();
            assert_eq!(shuffler.free(handle), Ok(Freed::WhenReturned));
            drop(rent);
            let handle = make();
            let rent = shuffler.rent_mut(handle).unwrap();
            assert_eq!(shuffler.free(handle), Ok(Freed::WhenReturned));
            drop(rent);
            let handle = make();
            shuffler.rent_pointer::<Token>(handle.into()).unwrap();
            assert_eq!(shuffler.free(handle), Ok(Freed::WhenReturned));
            // SAFETY: rented above.
            unsafe { shuffler.return_pointer(handle.into()) }.unwrap();
            // Replaced in place.
            let handle = make();
            *shuffler.rent_mut(handle).unwrap() = ledger.token();
            let taken = std::mem::replace(&mut *shuffler.rent_mut(handle).unwrap(), ledger.token());
            assert!(taken.is_whole());
            freed(shuffler, handle);
            // A large one, and many in one.
            freed(shuffler, shuffler.create((ledger.token(), [0_u8; 70_000])).unwrap());
            freed(shuffler, shuffler.create([ledger.token(), ledger.token()]).unwrap());
            freed(shuffler, shuffler.create(Some(Box::new(ledger.token()))).unwrap());
            // One that is never freed: it ends with the shuffler. (And those of `into_handle`.)
            make();
            if round % 10 == 0 {
                shuffler.shuffle();
            }
        }
        let stats = quiet(shuffler);
        assert_eq!((stats.live_blocks, ledger.made() - ledger.drops()), (200, 200));
        // One held across the end, one leaked with its rent: the latter never ends.
        let handle = shuffler.create(ledger.token()).unwrap();
        let held = shuffler.rent_owned(handle).unwrap();
        drop(world.shuffler);
        assert_eq!(ledger.made() - ledger.drops(), 1);
        assert!(held.is_whole());
        drop(held);
        ledger.settled();
        eventually("the source gets everything back", || world.held.bytes().unwrap_or(0) == 0);
    });
}

#[test]
fn memory_comes_back() {
    everywhere(|world| {
        let shuffler = &world.shuffler;
        // What a thread and a shuffler need once.
        freed(shuffler, shuffler.create(1_u8).unwrap());
        freed(shuffler, shuffler.create_versioned(1_u8).unwrap());
        shuffler.trim();
        let start = quiet(shuffler);
        let held = world.held.bytes();
        for round in 0..3 {
            let mut random = StdRng::seed_from_u64(round);
            let mut live = Vec::new();
            let mut versioned = Vec::new();
            let mut bytes = 0;
            while bytes < 8 << 20 {
                // Few large ones: each starts where an arena could, and the region is small.
                let size = if random.random_range(0..200) == 0 { 70_000 } else { random.random_range(1..3000) };
                live.push(shuffler.alloc::<u8>(size).unwrap());
                versioned.push(shuffler.create_versioned([bytes; 4]).unwrap());
                bytes += size;
            }
            let loaded = shuffler.stats();
            assert!(loaded.resident_bytes > start.resident_bytes + (8 << 20));
            assert_eq!(loaded.live_blocks, (live.len() + versioned.len()) as u64);
            // In an order of its own.
            while !live.is_empty() {
                freed(shuffler, live.swap_remove(random.random_range(0..live.len())));
            }
            for handle in versioned {
                freed(shuffler, handle);
            }
            // Twice, since what the first one empties of versioned arenas waits for readers.
            shuffler.trim();
            let _ = quiet(shuffler);
            shuffler.trim();
            let end = quiet(shuffler);
            assert_eq!((end.live_blocks, end.live_bytes, end.waiting), (0, 0, 0));
            // A few arenas may be open still: one of each kind for this thread and for the mover, and their reserves.
            let slack = 8 * world.arena_bytes as u64;
            assert!(end.resident_bytes <= start.resident_bytes + slack, "round {round}: {start:?}\n{end:?}");
            assert!(end.arenas_returned > 0);
            if let (Some(held), Some(now)) = (held, world.held.bytes()) {
                assert!(now <= held + slack as usize, "{now} bytes are held, {held} at the start");
            }
        }
    });
}

#[test]
fn resident_is_what_the_source_gave() {
    for tiny in [false, true] {
        let world = World::new(Parent::Checked, tiny, Trigger::Manual);
        let Held::Checked(source) = &world.held else { unreachable!() };
        let kept = fragmented(&world.shuffler, world.arena_bytes, 6, 8);
        assert_eq!(world.shuffler.stats().resident_bytes as usize, source.bytes());
        world.shuffler.trim();
        let stats = world.shuffler.stats();
        assert_eq!(stats.resident_bytes as usize, source.bytes());
        assert_eq!(stats.live_blocks, kept.len() as u64);
        drop(world.shuffler);
        assert_eq!(source.chunks(), 0);
    }
}

#[test]
fn table_pages_go_back_and_old_handles_stay_refused() {
    let shuffler = manual();
    let start = shuffler.stats().metadata_bytes;
    let mut old = Vec::new();
    for _ in 0..4 {
        let handles: Vec<_> = (0..20_000_u64).map(|n| shuffler.create(n).unwrap()).collect();
        for handle in &handles {
            assert_eq!(shuffler.get_size(*handle), Ok(8));
        }
        for (n, handle) in handles.iter().enumerate() {
            assert_eq!(shuffler.take(*handle), Ok(n as u64));
        }
        old.extend(handles);
        shuffler.trim();
        let meanwhile = manual();
        for handle in &old {
            for error in [shuffler.rent(*handle).err(), shuffler.free(*handle).err(), meanwhile.rent(*handle).err()] {
                assert!(matches!(error, Some(AccessError::Stale | AccessError::Invalid)), "{error:?}");
            }
        }
        let distinct: std::collections::HashSet<_> = old.iter().collect();
        assert_eq!(distinct.len(), old.len(), "a handle was given out twice");
    }
    let end = shuffler.stats().metadata_bytes;
    assert!(end <= start + (512 << 10), "{start} bytes of bookkeeping at the start, {end} at the end");
}
