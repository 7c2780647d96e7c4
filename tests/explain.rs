//! Every reason that `explain` gives, each brought about.

use memory_shuffler::{Budget, BumpSource, CompactorState, Explanation, Freed, Handle, Reason, Shuffler, Trigger};
use std::time::Duration;

mod common;
use common::{Checked, eventually};
use std::sync::Arc;

fn manual() -> Shuffler {
    Shuffler::builder().trigger(Trigger::Manual).build().unwrap()
}

/// Eight arenas' worth of blocks, of which all but every sixteenth are freed.
fn sparse(shuffler: &Shuffler) -> Vec<Handle<[u8]>> {
    let all: Vec<_> = (0..8000).map(|_| shuffler.alloc::<u8>(1000).unwrap()).collect();
    let mut kept = Vec::new();
    for (index, handle) in all.into_iter().enumerate() {
        if index % 16 == 0 {
            kept.push(handle);
        } else {
            assert_eq!(shuffler.free(handle), Ok(Freed::Now));
        }
    }
    kept
}

fn find(explanation: &Explanation, wanted: impl Fn(&Reason) -> bool) -> Reason {
    let found = explanation.reasons.iter().find(|reason| wanted(reason));
    found.unwrap_or_else(|| panic!("not among {explanation:?}")).clone()
}

#[test]
fn nothing_sparse() {
    let shuffler = manual();
    let text = "nothing sparse: 0 dead bytes do not add up to an arena that could be gained";
    assert_eq!(shuffler.explain().reasons, [Reason::NothingSparse { dead: 0 }]);
    assert_eq!(shuffler.explain().to_string(), text);
    let _kept = sparse(&shuffler);
    shuffler.trim();
    assert!(matches!(shuffler.explain().reasons[..], [Reason::NothingSparse { .. }]), "{:?}", shuffler.explain());
}

#[test]
fn paused() {
    let shuffler = Shuffler::new();
    let (first, second) = (shuffler.pause(), shuffler.pause());
    let _kept = sparse(&shuffler);
    let explanation = shuffler.explain();
    assert_eq!(explanation.reasons[0], Reason::Paused { guards: 2 });
    assert!(
        explanation.to_string().starts_with("paused: 2 guards returned by pause() are alive; drop them to resume\n"),
        "{explanation}"
    );
    assert!(shuffler.shuffle().paused);
    drop((first, second));
    assert!(!shuffler.explain().to_string().contains("paused"));
}

#[test]
fn held_by_whom_and_how_long() {
    let shuffler = manual();
    let kept = sparse(&shuffler);
    let rents: Vec<_> = kept.iter().step_by(60).map(|&handle| shuffler.rent(handle).unwrap()).collect();
    shuffler.shuffle();
    let age = || shuffler.stats().oldest_rent.unwrap().age;
    eventually("they are held for a while", || age() >= Duration::from_millis(30));
    let reason = find(&shuffler.explain(), |reason| matches!(reason, Reason::Held { .. }));
    let Reason::Held { arenas, bytes, oldest: Some((oldest, name)) } = reason.clone() else { panic!("{reason:?}") };
    assert!(arenas >= rents.len() - 1 && bytes >= arenas as u64 * 1000, "{reason:?}");
    assert!(kept.iter().step_by(60).any(|handle| handle.raw() == oldest.handle), "{reason:?}");
    assert!(oldest.age >= Duration::from_millis(30) && oldest.age < Duration::from_secs(60), "{reason:?}");
    assert_eq!(name, "[u8]");
    let text = reason.to_string();
    let start =
        format!("held: {bytes} rented bytes keep {arenas} arenas from being emptied; return the rents, starting with");
    assert!(text.starts_with(&start), "{text}");
    assert!(text.contains(&format!("block {:?} ([u8]), held for at least", oldest.handle)), "{text}");
    let stats = shuffler.stats();
    assert_eq!(stats.oldest_rent.map(|rent| rent.handle), Some(oldest.handle));
    // It grows older as long as it is held, whatever the compactor does.
    shuffler.shuffle();
    assert!(shuffler.stats().oldest_rent.unwrap().age >= oldest.age);
    drop(rents);
    shuffler.shuffle();
    assert_eq!(shuffler.stats().oldest_rent, None);
    assert!(!shuffler.explain().to_string().contains("held"));
}

#[test]
fn a_rent_that_ends_and_another_begins_are_not_one_long_rent() {
    let shuffler = manual();
    let kept = sparse(&shuffler);
    let rent = shuffler.rent(kept[100]).unwrap();
    shuffler.shuffle();
    let age = || shuffler.stats().oldest_rent.unwrap().age;
    eventually("it is held for a while", || age() >= Duration::from_millis(100));
    drop(rent);
    let _other = shuffler.rent(kept[100]).unwrap();
    shuffler.shuffle();
    let oldest = shuffler.stats().oldest_rent.unwrap();
    assert_eq!(oldest.handle, kept[100].raw());
    assert!(oldest.age < Duration::from_millis(100), "{oldest:?}");
}

#[test]
fn waiting_for_a_reader() {
    let shuffler = manual();
    let versioned = shuffler.create_versioned(String::from("old")).unwrap();
    let reader = shuffler.reader();
    let old = reader.get(versioned).unwrap();
    shuffler.publish(versioned, String::from("new")).unwrap();
    shuffler.shuffle();
    let reason = find(&shuffler.explain(), |reason| matches!(reason, Reason::Readers { .. }));
    let text = reason.to_string();
    assert!(
        text.starts_with("waiting for readers: 32 bytes (destructors and arenas that are put off: 1); drop"),
        "{text}"
    );
    assert!(text.contains("that of thread waiting_for_a_reader, taken at least"), "{text}");
    assert_eq!(old, "old");
    drop(reader);
    shuffler.shuffle();
    assert!(!shuffler.explain().to_string().contains("readers"), "{}", shuffler.explain());
}

#[test]
fn over_budget() {
    // So little at a time that it is at it for long.
    let budget = Budget { bytes: 1, time: Duration::from_millis(1) };
    let shuffler = Shuffler::builder().budget(budget).build().unwrap();
    let kept = sparse(&shuffler);
    eventually("it has begun", || shuffler.stats().moves > 0);
    let explanation = shuffler.explain();
    let Reason::Working { gain, share_of_core } = explanation.reasons[0].clone() else { panic!("{explanation:?}") };
    assert!(gain >= 1 << 20 && (0.05..=0.25).contains(&share_of_core), "{explanation:?}");
    assert!(explanation.to_string().starts_with(&format!("working: {gain} bytes to gain, using ")), "{explanation}");
    shuffler.shuffle();
    eventually("there is no more to gain", || {
        !shuffler.explain().reasons.iter().any(|reason| matches!(reason, Reason::Working { .. }))
    });
    assert!(kept.iter().all(|&handle| shuffler.valid_handle(handle)));
}

#[test]
fn unattended() {
    let shuffler = manual();
    let _kept = sparse(&shuffler);
    let explanation = shuffler.explain();
    let Reason::Unattended { gain, compactor } = explanation.reasons[0] else { panic!("{explanation:?}") };
    assert!(gain >= 5 << 20 && compactor == CompactorState::None, "{explanation:?}");
    let text = format!("unattended: {gain} bytes to gain, but no thread to do the work (None); call shuffle()");
    assert_eq!(explanation.to_string(), text);
    shuffler.trim();
    assert!(!shuffler.explain().to_string().contains("unattended"), "{}", shuffler.explain());
}

#[test]
fn no_memory() {
    let source = Arc::new(Checked::default());
    let builder = Shuffler::builder().trigger(Trigger::Manual).retain_bytes(0).source(source.clone());
    let shuffler = builder.build().unwrap();
    let kept = sparse(&shuffler);
    source.refuse_after(0);
    shuffler.shuffle();
    assert!(shuffler.stats().abandoned > 0);
    let reason = find(&shuffler.explain(), |reason| matches!(reason, Reason::NoMemory { .. }));
    assert!(reason.to_string().starts_with("no memory: the last cycle found no room to move blocks to"), "{reason}");
    source.relent();
    shuffler.shuffle();
    assert!(!shuffler.explain().to_string().contains("no memory"), "{}", shuffler.explain());
    assert!(kept.iter().all(|&handle| shuffler.valid_handle(handle)));
}

#[test]
fn the_blocks_of_an_arena() {
    for bump in [false, true] {
        let builder = Shuffler::builder().trigger(Trigger::Manual);
        let builder = if bump { builder.source(BumpSource::new()) } else { builder };
        let shuffler = builder.build().unwrap();
        let kept = sparse(&shuffler);
        let large = shuffler.alloc::<u8>(200_000).unwrap();
        let held = shuffler.rent_owned(kept[7]).unwrap();
        assert_eq!(shuffler.free(kept[7]), Ok(Freed::WhenReturned));
        let arenas = shuffler.arenas();
        let mut all: Vec<_> = arenas.iter().flat_map(|arena| shuffler.blocks_in(arena.id)).collect();
        assert_eq!(all.len(), kept.len() + 1);
        for handle in kept.iter().map(|handle| handle.raw()).chain([large.raw()]) {
            let place = all.iter().position(|block| block.handle == handle);
            let block = all.swap_remove(place.unwrap_or_else(|| panic!("{handle:?} is in no arena")));
            assert_eq!((block.pending_free, block.rents > 0), (handle == kept[7].raw(), handle == kept[7].raw()));
            assert!(arenas.iter().any(|arena| arena.id == block.arena));
        }
        drop(held);
        assert_eq!(shuffler.inspect(kept[7]).unwrap_err(), memory_shuffler::AccessError::Stale);
        assert!(shuffler.blocks_in(u32::MAX).is_empty());
    }
}
