//! Directories: keys of every kind, rights, owned blocks, what is forgotten and when, and how much room it takes.

use memory_shuffler::{
    AccessError, Budget, CompactorState, Directory, Freed, Handle, OpaqueHandle, RawHandle, Rights, Shuffler, Trigger,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock, Weak};
use std::thread;
use std::time::Duration;

mod common;
use common::{Ledger, Token, World, assert_stays_asleep, eventually, everywhere, manual, quiet};

/// Bytes that the program has from the global allocator. (What blocks take comes from elsewhere.)
static IN_USE: AtomicIsize = AtomicIsize::new(0);

struct Counting;

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Tests that measure memory have the process to themselves.
static ALONE: RwLock<()> = RwLock::new(());

fn beside_others() -> impl Drop {
    ALONE.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn alone() -> impl Drop {
    ALONE.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn freed(shuffler: &Shuffler, block: impl Into<RawHandle>) {
    assert_eq!(shuffler.free(block), Ok(Freed::Now));
}

/// Names blocks by their numbers.
fn number<T>(directory: &Directory<u64>, blocks: &[Handle<T>]) {
    for (n, block) in blocks.iter().enumerate() {
        assert_eq!(directory.insert(n as u64, *block, Rights::ALL), None);
    }
}

#[test]
fn rights_are_sets() {
    const BOTH: Rights = Rights::READ.union(Rights::FREE);
    assert_eq!(BOTH, Rights::READ | Rights::FREE);
    assert_eq!(BOTH & (Rights::FREE | Rights::WRITE), Rights::FREE);
    let subsets: Vec<Rights> = (0..8_u8)
        .map(|bits| {
            let all = [Rights::READ, Rights::WRITE, Rights::FREE];
            let mut rights = Rights::NONE;
            all.into_iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).for_each(|(_, right)| rights |= right);
            rights
        })
        .collect();
    for (i, a) in subsets.iter().enumerate() {
        for (j, b) in subsets.iter().enumerate() {
            assert_eq!(a.contains(*b), i & j == j, "{a} contains {b}");
            assert_eq!((*a | *b, *a & *b), (subsets[i | j], subsets[i & j]));
            assert_eq!(a == b, i == j);
        }
        assert_eq!(a.is_empty(), i == 0);
    }
    assert_eq!((subsets[0], subsets[7]), (Rights::default(), Rights::ALL));
    assert_eq!(format!("{:?} {:?}", Rights::ALL, Rights::NONE), "Rights(read|write|free) Rights(none)");
    assert_eq!(format!("{:>12}|{}", Rights::WRITE, Rights::NONE), "       write|none");
}

/// What each right allows, and nothing besides; and that a missing right is told like a missing key.
#[test]
fn rights_decide() {
    let _others = beside_others();
    everywhere(|World { shuffler, .. }| {
        let directory: Directory<u8> = Directory::new(&shuffler);
        for bits in 0..8_u8 {
            let all = [Rights::READ, Rights::WRITE, Rights::FREE];
            let rights = all
                .into_iter()
                .enumerate()
                .filter(|(i, _)| bits >> i & 1 == 1)
                .fold(Rights::NONE, |rights, (_, right)| rights | right);
            let allowed = |needed: Rights| if rights.contains(needed) { None } else { Some(AccessError::Denied) };
            let handle = shuffler.create(5_u64).unwrap();
            let versioned = shuffler.create_versioned(6_u64).unwrap();
            directory.insert(0, handle, rights);
            directory.insert(1, versioned, rights);
            let reader = shuffler.reader();
            assert_eq!(directory.rent::<u64>(&0).err(), allowed(Rights::READ));
            assert_eq!(directory.rent_mut::<u64>(&0).err(), allowed(Rights::WRITE));
            assert_eq!(directory.get::<u64>(&reader, &1).err(), allowed(Rights::READ));
            drop(reader);
            for needed in [Rights::NONE, Rights::READ, Rights::READ | Rights::WRITE, Rights::ALL] {
                assert_eq!(directory.resolve::<u64>(&0, needed).err(), allowed(needed));
                assert_eq!(directory.resolve_raw(&0, needed).err(), allowed(needed));
                assert_eq!(directory.resolve_versioned::<u64>(&1, needed).err(), allowed(needed));
            }
            let publish =
                directory.resolve_versioned::<u64>(&1, Rights::WRITE).map(|at| shuffler.publish(at, 7).is_ok());
            assert_eq!(publish.err(), allowed(Rights::WRITE));
            // The key is there whatever it allows, and a refusal changes nothing.
            assert!(directory.contains(&0) && directory.contains(&1) && directory.len() == 2);
            assert_eq!(directory.take::<u64>(&0).err(), allowed(Rights::READ | Rights::FREE));
            let taken = rights.contains(Rights::READ | Rights::FREE);
            assert_eq!(directory.contains(&0), !taken);
            let first = directory.free(&0);
            let expected = if taken { Some(AccessError::Denied) } else { allowed(Rights::FREE) };
            assert_eq!(first.err(), expected);
            assert_eq!(directory.free(&1).err(), allowed(Rights::FREE));
            assert_eq!(directory.len(), if rights.contains(Rights::FREE) { 0 } else { 2 });
            directory.clear();
            let _ = (shuffler.free(handle), shuffler.free(versioned));
        }
        for denied in [
            directory.rent::<u64>(&9).err(),
            directory.rent_mut::<u64>(&9).err(),
            directory.resolve::<u64>(&9, Rights::NONE).err(),
            directory.resolve_versioned::<u64>(&9, Rights::NONE).err(),
            directory.resolve_raw(&9, Rights::NONE).err(),
            directory.get::<u64>(&shuffler.reader(), &9).err(),
            directory.free(&9).err(),
            directory.take::<u64>(&9).err(),
        ] {
            assert_eq!(denied, Some(AccessError::Denied));
        }
        assert!(!directory.contains(&9) && !directory.revoke(&9));
        assert_eq!(quiet(&shuffler).live_blocks, 0);
    });
}

#[test]
fn what_the_block_refuses_leaves_the_key() {
    let _others = beside_others();
    let shuffler = manual();
    let directory: Directory<&str> = Directory::new(&shuffler);
    let number = shuffler.create(1_u32).unwrap();
    let versioned = shuffler.alloc_versioned_str("text").unwrap();
    directory.insert("number", number, Rights::ALL);
    directory.insert("text", versioned, Rights::ALL);
    let mismatch =
        |error: Option<AccessError>| assert!(matches!(error, Some(AccessError::TypeMismatch { .. })), "{error:?}");
    mismatch(directory.rent::<u64>(&"number").err());
    mismatch(directory.rent_mut::<[u32]>(&"number").err());
    mismatch(directory.take::<i32>(&"number").err());
    mismatch(directory.resolve_versioned::<u32>(&"number", Rights::READ).err());
    mismatch(directory.rent::<str>(&"text").err());
    let reader = shuffler.reader();
    assert_eq!(directory.get::<str>(&reader, &"text"), Ok("text"));
    let other = manual();
    assert_eq!(directory.get::<str>(&other.reader(), &"text"), Err(AccessError::Invalid), "another's reader");
    assert_eq!(directory.get::<str>(&reader, &"text"), Ok("text"), "which is no reason to forget the key");
    drop(reader);
    let rent = directory.rent_mut::<u32>(&"number").unwrap();
    assert_eq!(directory.rent::<u32>(&"number").err(), Some(AccessError::Busy));
    assert_eq!(directory.take::<u32>(&"number").err(), Some(AccessError::Busy));
    drop(rent);
    assert_eq!(directory.take::<u32>(&"number"), Ok(1));
    assert_eq!(directory.free(&"text"), Ok(Freed::Now));
    assert!(directory.is_empty());
    assert_eq!(format!("{directory:?}"), "Directory { len: 0, .. }");
    // Handles that never were anything are refused as such.
    directory.insert("foreign", other.create(1_u8).unwrap(), Rights::ALL);
    assert_eq!(directory.rent::<u8>(&"foreign").err(), Some(AccessError::Invalid));
    directory.insert("invalid", RawHandle::INVALID, Rights::ALL);
    assert_eq!(directory.free(&"invalid").err(), Some(AccessError::Invalid));
    assert!(directory.is_empty(), "they are not kept");
    assert_eq!(quiet(directory.shuffler()).live_blocks, 0);
}

#[test]
fn a_block_has_many_names() {
    let _others = beside_others();
    let shuffler = manual();
    let directory: Directory = Directory::new(&shuffler);
    let block = shuffler.create(1_u64).unwrap();
    let other = shuffler.create(2_u64).unwrap();
    let names: Vec<OpaqueHandle> =
        (0..100).map(|n| directory.grant(block, if n % 2 == 0 { Rights::READ } else { Rights::ALL })).collect();
    let kept = directory.grant(other, Rights::READ);
    let rent = directory.rent::<u64>(&names[0]).unwrap();
    assert_eq!(directory.revoke_all(block), 100);
    assert_eq!(directory.revoke_all(block), 0);
    assert_eq!(directory.revoke_all(RawHandle::INVALID), 0);
    for name in &names {
        assert_eq!(directory.rent::<u64>(name).err(), Some(AccessError::Denied));
    }
    assert_eq!(*rent, 1, "a rent that was there stays good");
    assert!(shuffler.valid_handle(block) && directory.contains(&kept) && directory.len() == 1);
    drop(rent);
    // One name frees; the others are told so once, and then they are forgotten.
    let names = [directory.grant(block, Rights::FREE), directory.grant(block, Rights::READ)];
    assert_eq!(directory.free(&names[0]), Ok(Freed::Now));
    assert_eq!(directory.free(&names[0]), Err(AccessError::Denied));
    assert!(!directory.contains(&names[1]));
    assert_eq!(directory.rent::<u64>(&names[1]).err(), Some(AccessError::Stale));
    assert_eq!(directory.rent::<u64>(&names[1]).err(), Some(AccessError::Denied));
    let owned = [directory.grant_owned(other, Rights::READ), directory.grant_owned(other, Rights::READ)];
    assert_eq!(directory.revoke_all(other), 3);
    assert!(!shuffler.valid_handle(other) && !directory.contains(&owned[0]) && directory.is_empty());
}

#[test]
fn names_are_unguessable() {
    let _alone = alone();
    const NAMES: usize = 1_000_000;
    let build = || Shuffler::builder().trigger(Trigger::Manual).build().unwrap();
    let (first, second) = (build(), build());
    let directories: [Directory; 2] = [Directory::new(&first), Directory::new(&second)];
    let blocks = [first.create(1_u64).unwrap(), second.create(1_u64).unwrap()];
    let mut all = HashSet::with_capacity(NAMES);
    for _ in 0..NAMES / 2 {
        for (directory, block) in directories.iter().zip(blocks) {
            assert!(all.insert(directory.grant(block, Rights::READ)), "one name twice");
        }
    }
    assert_eq!(directories.each_ref().map(Directory::len), [NAMES / 2; 2]);
    // Each bit is as often set as not, within 6 standard deviations of a million throws.
    for bit in 0..64 {
        let set = all.iter().filter(|name| name.to_bits() >> bit & 1 == 1).count();
        assert!(set.abs_diff(NAMES / 2) < 3000, "bit {bit} is set in {set} names");
    }
    let mut generator = StdRng::seed_from_u64(1);
    for _ in 0..100_000 {
        let guess = OpaqueHandle::from_bits(generator.random());
        if !all.contains(&guess) {
            assert_eq!(directories[0].rent::<u64>(&guess).err(), Some(AccessError::Denied));
        }
    }
    assert_eq!((directories[0].revoke_all(blocks[0]), directories[1].revoke_all(blocks[0])), (NAMES / 2, 0));
}

#[test]
fn for_each_shows_every_key_and_may_use_the_directory() {
    let _others = beside_others();
    let shuffler = manual();
    let directory: Directory<String> = Directory::new(&shuffler);
    let mut expected = BTreeMap::new();
    for n in 0..5000_u64 {
        let rights = if n % 3 == 0 { Rights::READ } else { Rights::ALL };
        let block = shuffler.create(n).unwrap();
        directory.insert(n.to_string(), block, rights);
        expected.insert(n.to_string(), (block.raw(), rights.to_string()));
    }
    let mut shown = BTreeMap::new();
    directory.for_each(|key, block, rights| {
        assert!(shown.insert(key.clone(), (block, rights.to_string())).is_none(), "{key} was shown twice");
        assert_eq!(directory.resolve_raw(key, rights), Ok(block));
        directory.insert(format!("new {key}"), block, Rights::READ);
        directory.revoke(&format!("new {key}"));
        let mut others = 0;
        if key == "77" {
            directory.for_each(|_, _, _| others += 1);
            assert_eq!(others, 5000);
        }
    });
    assert_eq!(shown, expected);
    directory.for_each(|key, _, _| assert!(directory.revoke(key)));
    assert!(directory.is_empty());
    directory.for_each(|_, _, _| panic!("nothing is there"));
}

#[test]
fn owned_blocks_go_with_their_keys() {
    let _others = beside_others();
    everywhere(|World { shuffler, .. }| {
        let ledger = Ledger::new(100);
        let drops = || ledger.drops();
        let directory: Directory<u32> = Directory::new(&shuffler);
        let create = || shuffler.create(ledger.token()).unwrap();
        // By `eventually`: a block that was being moved when it was freed is dropped by a step.
        let dropped = |count| {
            eventually("so many are dropped", || {
                shuffler.shuffle();
                drops() >= count
            });
            assert_eq!(drops(), count);
        };
        let first = create();
        assert_eq!(directory.insert_owned(1, first, Rights::ALL), None);
        assert_eq!(directory.insert_owned(1, create(), Rights::ALL), Some(first.raw()));
        dropped(1);
        assert!(directory.revoke(&1) && !directory.revoke(&1));
        dropped(2);
        // The same block again, with less rights: it is not freed, and still owned.
        let block = create();
        directory.insert_owned(2, block, Rights::ALL);
        assert_eq!(directory.insert(2, block, Rights::READ), Some(block.raw()));
        assert!(directory.rent::<Token>(&2).unwrap().is_whole());
        assert_eq!(directory.free(&2).err(), Some(AccessError::Denied));
        assert_eq!(drops(), 2);
        // A plain grant frees nothing, and replaces an owner.
        let plain = create();
        assert_eq!(directory.insert(2, plain, Rights::ALL), Some(block.raw()));
        dropped(3);
        assert!(directory.revoke(&2));
        assert!(shuffler.valid_handle(plain));
        // Freed by handle, by key, taken: once each.
        for key in 3..6 {
            directory.insert_owned(key, create(), Rights::ALL);
        }
        let _ = shuffler.free(directory.resolve_raw(&3, Rights::FREE).unwrap()).unwrap();
        let _ = directory.free(&4).unwrap();
        dropped(5);
        assert!(directory.take::<Token>(&5).unwrap().is_whole());
        directory.revoke(&3);
        assert!(directory.is_empty());
        dropped(6);
        // A rent outlives its key, and the value goes with it.
        directory.insert_owned(7, create(), Rights::ALL);
        let rent = directory.rent::<Token>(&7).unwrap();
        assert!(directory.revoke(&7));
        assert!(rent.is_whole() && drops() == 6);
        drop(rent);
        dropped(7);
        for key in 0..20 {
            directory.insert_owned(key, create(), Rights::NONE);
        }
        directory.clear();
        assert!(directory.is_empty());
        dropped(27);
        for key in 0..20 {
            directory.insert_owned(key, create(), Rights::NONE);
        }
        drop(directory);
        dropped(47);
        drop(shuffler.take(plain).unwrap());
        ledger.settled();
        assert_eq!(quiet(&shuffler).live_blocks, 0);
    });
}

/// A value whose destructor uses its directory.
struct Meddler {
    directory: Weak<Directory<u32>>,
    key: u32,
    block: Arc<OnceLock<RawHandle>>,
    done: Arc<AtomicUsize>,
}

impl Drop for Meddler {
    fn drop(&mut self) {
        let Some(directory) = self.directory.upgrade() else {
            // It is being dropped.
            self.done.fetch_add(1000, Ordering::Relaxed);
            return;
        };
        let shuffler = directory.shuffler();
        // Every shard of the map is written to and read.
        for key in 1000..1100 {
            directory.insert_owned(key, shuffler.create(key).unwrap(), Rights::ALL);
        }
        assert_ne!(directory.resolve_raw(&self.key, Rights::NONE).ok(), self.block.get().copied(), "it is named still");
        let mut shown = 0;
        directory.for_each(|_, _, _| shown += 1);
        assert!(shown >= 100);
        assert_eq!(directory.free(&1000), Ok(Freed::Now));
        for key in 1001..1100 {
            assert!(directory.revoke(&key));
        }
        shuffler.shuffle();
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn destructors_of_owned_values_may_use_the_directory() {
    let _others = beside_others();
    let shuffler = manual();
    let done = Arc::new(AtomicUsize::new(0));
    let directory: Arc<Directory<u32>> = Arc::new(Directory::new(&shuffler));
    let insert = |key| {
        let block = Arc::new(OnceLock::new());
        let meddler = Meddler { directory: Arc::downgrade(&directory), key, block: block.clone(), done: done.clone() };
        let handle = shuffler.create(meddler).unwrap();
        block.set(handle.raw()).unwrap();
        directory.insert_owned(key, handle, Rights::ALL)
    };
    insert(1);
    directory.revoke(&1);
    insert(2);
    assert_eq!(directory.free(&2), Ok(Freed::Now));
    insert(3);
    drop(directory.take::<Meddler>(&3).unwrap());
    insert(4);
    directory.revoke_all(directory.resolve_raw(&4, Rights::NONE).unwrap());
    insert(5);
    let replaced = insert(5);
    assert!(replaced.is_some_and(|block| !shuffler.valid_handle(block)));
    directory.revoke(&5);
    insert(7);
    directory.clear();
    assert_eq!(done.swap(0, Ordering::Relaxed), 7);
    assert!((0..50).all(|key| insert(key).is_none()));
    drop(directory);
    assert_eq!(done.load(Ordering::Relaxed), 50 * 1000);
    assert_eq!(shuffler.stats().live_blocks, 0);
}

/// A key whose destructor uses its directory, and may panic.
struct Restless {
    name: u32,
    directory: Arc<OnceLock<Weak<Directory<Restless>>>>,
    drops: Arc<AtomicUsize>,
    panics: bool,
}

impl PartialEq for Restless {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Restless {}

impl Hash for Restless {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl Drop for Restless {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::Relaxed);
        if let Some(directory) = self.directory.get().and_then(Weak::upgrade) {
            assert!(directory.len() < 1000);
            let _ = directory.contains(&Restless {
                name: self.name,
                directory: Arc::default(),
                drops: Arc::default(),
                panics: false,
            });
        }
        assert!(!self.panics || thread::panicking(), "as it was told");
    }
}

#[test]
fn keys_are_dropped_without_a_lock() {
    let _others = beside_others();
    let shuffler = manual();
    let (drops, place) = (Arc::new(AtomicUsize::new(0)), Arc::new(OnceLock::new()));
    let key = |name, panics| Restless { name, directory: place.clone(), drops: drops.clone(), panics };
    let directory = Arc::new(Directory::new(&shuffler));
    assert!(place.set(Arc::downgrade(&directory)).is_ok());
    let ledger = Ledger::new(700);
    let block = || shuffler.create(ledger.token()).unwrap();
    directory.insert(key(1, false), block(), Rights::ALL);
    directory.insert(key(1, false), block(), Rights::ALL);
    assert!(directory.revoke(&key(1, false)));
    directory.insert(key(2, false), block(), Rights::ALL);
    freed(&shuffler, directory.resolve_raw(&key(2, false), Rights::FREE).unwrap());
    assert_eq!(directory.rent::<Token>(&key(2, false)).err(), Some(AccessError::Stale));
    // By the sweep.
    assert!((10..310).all(|name| directory.insert(key(name, false), block(), Rights::ALL).is_none()));
    let mut blocks = Vec::new();
    (10..310).for_each(|name| blocks.push(directory.resolve_raw(&key(name, false), Rights::ALL).unwrap()));
    blocks.iter().for_each(|block| freed(&shuffler, *block));
    drops.store(0, Ordering::Relaxed);
    let report = shuffler.shuffle();
    assert_eq!((report.progress.swept, drops.load(Ordering::Relaxed), directory.len()), (300, 300, 0));
    // A panic of one keeps neither the others nor any block.
    assert!((10..310).all(|name| directory.insert_owned(key(name, name == 100), block(), Rights::ALL).is_none()));
    drops.store(0, Ordering::Relaxed);
    let before = ledger.drops();
    assert!(catch_unwind(AssertUnwindSafe(|| directory.clear())).is_err());
    assert_eq!((drops.load(Ordering::Relaxed), ledger.drops() - before, directory.len()), (300, 300, 0));
    // A panic in a sweep is counted.
    directory.insert(key(9, true), block(), Rights::ALL);
    freed(&shuffler, directory.resolve_raw(&key(9, false), Rights::FREE).unwrap());
    shuffler.shuffle();
    assert_eq!((shuffler.stats().panics, directory.len()), (1, 0));
    drop(directory);
}

/// A key whose hash panics at will.
#[derive(PartialEq, Eq)]
struct Unhashable(bool);

impl Hash for Unhashable {
    fn hash<H: Hasher>(&self, state: &mut H) {
        assert!(!self.0, "as it was told");
        self.0.hash(state);
    }
}

#[test]
fn a_hash_that_panics_leaves_no_block_and_no_lock() {
    let _others = beside_others();
    let shuffler = manual();
    let directory = Directory::new(&shuffler);
    let ledger = Ledger::new(2);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        directory.insert_owned(Unhashable(true), shuffler.create(ledger.token()).unwrap(), Rights::ALL)
    }));
    assert!(outcome.is_err());
    ledger.settled();
    directory.insert_owned(Unhashable(false), shuffler.create(ledger.token()).unwrap(), Rights::ALL);
    assert!(directory.revoke(&Unhashable(false)));
    ledger.settled();
}

#[test]
fn steps_forget_blocks_that_were_freed_by_handle() {
    let _others = beside_others();
    everywhere(|World { shuffler, .. }| {
        let directories: Vec<Directory<u64>> = (0..3).map(|_| Directory::new(&shuffler)).collect();
        let blocks: Vec<Handle<u64>> = (0..3000).map(|n| shuffler.create(n).unwrap()).collect();
        for (n, block) in blocks.iter().enumerate() {
            directories[n % 3].insert(n as u64, *block, Rights::ALL);
        }
        for (n, block) in blocks.iter().enumerate() {
            if n % 10 != 0 {
                let _ = shuffler.free(*block).unwrap();
            }
        }
        eventually("they are forgotten", || {
            shuffler.shuffle();
            directories.iter().map(Directory::len).sum::<usize>() == 300
        });
        for (n, block) in blocks.iter().enumerate().step_by(10) {
            assert_eq!(directories[n % 3].resolve(&(n as u64), Rights::ALL), Ok(*block));
            let _ = shuffler.free(*block).unwrap();
        }
        // By small steps, each of which does a bounded piece.
        let mut steps = 0;
        eventually("they are forgotten", || {
            shuffler.shuffle_step(Budget { bytes: 1, time: Duration::ZERO });
            steps += 1;
            directories.iter().all(Directory::is_empty)
        });
        assert!(steps >= 3 || !matches!(shuffler.stats().compactor, CompactorState::None), "{steps} steps");
    });
}

#[test]
fn a_step_looks_at_a_bounded_number() {
    let _others = beside_others();
    let shuffler = manual();
    let directory: Directory<u64> = Directory::new(&shuffler);
    const KEYS: u64 = 50_000;
    let blocks: Vec<_> = (0..KEYS).map(|n| shuffler.create(n).unwrap()).collect();
    number(&directory, &blocks);
    blocks.iter().for_each(|block| freed(&shuffler, *block));
    let (mut swept, mut steps, mut most) = (0, 0, 0);
    while swept < KEYS as usize {
        let progress = shuffler.shuffle_step(Budget { bytes: 1, time: Duration::ZERO });
        swept += progress.swept;
        most = most.max(progress.swept);
        steps += 1;
        assert!(progress.more || swept == KEYS as usize, "it says that there is more");
        assert!(steps < 10_000);
    }
    assert!(directory.is_empty() && most <= 256 && steps >= KEYS / 256, "{most} at the most, {steps} steps");
    // And then it is over.
    assert_eq!(shuffler.shuffle().progress.swept, 0);
    assert_eq!(shuffler.shuffle().steps, 1);
}

/// A pass that was inside a shard when its keys changed their places knows that it may have missed some.
#[test]
fn a_pass_that_a_rehash_tore_is_followed_by_another() {
    let _others = beside_others();
    let shuffler = manual();
    let directory: Directory<u64> = Directory::new(&shuffler);
    const KEYS: u64 = 100_000;
    let blocks: Vec<_> = (0..KEYS).map(|n| shuffler.create(n).unwrap()).collect();
    number(&directory, &blocks);
    blocks.iter().step_by(20).for_each(|block| freed(&shuffler, *block));
    // Some way into the first shard.
    let mut swept = 0;
    for _ in 0..30 {
        let progress = shuffler.shuffle_step(Budget { bytes: 1, time: Duration::ZERO });
        assert!(progress.more, "the pass ends before the map shrinks");
        swept += progress.swept;
    }
    // The map becomes small: what the pass had before it is behind it now.
    (0..KEYS).filter(|n| n % 20 != 0).for_each(|n| assert!(directory.revoke(&n)));
    // Nothing was freed since; the next pass comes of itself.
    let report = [shuffler.shuffle(), shuffler.shuffle()];
    println!("{swept} before, then {:?}", report.map(|report| report.progress.swept));
    assert_eq!((directory.len(), shuffler.shuffle().progress.swept), (0, 0));
}

/// A look-up removes the grant that it saw, not one that the key was given since.
#[test]
fn only_the_very_grant_is_removed() {
    let _others = beside_others();
    let shuffler = manual();
    let directory: Directory<u8> = Directory::new(&shuffler);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    match directory.rent::<u64>(&0) {
                        Ok(_) | Err(AccessError::Stale | AccessError::Denied) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            });
        }
        let mut old = shuffler.create(0_u64).unwrap();
        directory.insert(0, old, Rights::ALL);
        for n in 1..20_000_u64 {
            let new = shuffler.create(n).unwrap();
            let _ = shuffler.free(old).unwrap();
            // From here on nobody may remove it.
            directory.insert(0, new, Rights::ALL);
            for _ in 0..3 {
                assert_eq!(directory.resolve_raw(&0, Rights::ALL), Ok(new.raw()));
            }
            old = new;
        }
        ended.store(true, Ordering::Relaxed);
    });
    assert_eq!(directory.len(), 1);
}

fn a_million_come_and_go(end: impl Fn(&Shuffler, &Directory<u64>, Vec<Handle<u64>>)) {
    const KEYS: u64 = 1_000_000;
    let shuffler = manual();
    let directory: Directory<u64> = Directory::new(&shuffler);
    // What threads and shards keep by themselves comes first.
    freed(&shuffler, shuffler.create(0_u64).unwrap());
    shuffler.shuffle();
    let before = IN_USE.load(Ordering::Relaxed);
    let mut peak = 0;
    for round in 0..if cfg!(debug_assertions) { 1 } else { 2 } {
        let blocks: Vec<_> = (0..KEYS).map(|n| shuffler.create(n).unwrap()).collect();
        number(&directory, &blocks);
        assert_eq!(directory.len(), KEYS as usize);
        peak = IN_USE.load(Ordering::Relaxed) - before - 8 * KEYS as isize;
        end(&shuffler, &directory, blocks);
        assert!(directory.is_empty());
        let left = IN_USE.load(Ordering::Relaxed) - before;
        println!("round {round}: {peak} bytes with a million keys, {left} after");
        assert!(left < 64 << 10, "{left} bytes are left of {peak}");
    }
    assert!(peak > 24 * KEYS as isize, "the count counts: {peak}");
    // One key in ten stays: the room for the others goes.
    let blocks: Vec<_> = (0..KEYS).map(|n| shuffler.create(n).unwrap()).collect();
    number(&directory, &blocks);
    for n in (0..KEYS).filter(|n| n % 20 != 0) {
        assert!(directory.revoke(&n));
    }
    drop(blocks);
    let left = IN_USE.load(Ordering::Relaxed) - before;
    println!("{left} bytes with {} keys left", directory.len());
    assert!(left < peak / 4, "{left} bytes for a twentieth of the keys, {peak} for all");
}

#[test]
fn a_million_keys_come_and_are_revoked() {
    let _alone = alone();
    a_million_come_and_go(|shuffler, directory, blocks| {
        for (n, block) in blocks.into_iter().enumerate() {
            assert!(directory.revoke(&(n as u64)));
            freed(shuffler, block);
        }
        shuffler.trim();
    });
}

#[test]
fn a_million_keys_come_and_their_blocks_are_freed_by_handle() {
    let _alone = alone();
    a_million_come_and_go(|shuffler, directory, blocks| {
        blocks.iter().for_each(|block| freed(shuffler, *block));
        assert!(shuffler.shuffle().progress.swept > 0 && directory.is_empty());
        drop(blocks);
        shuffler.trim();
    });
}

/// The background thread forgets by itself what was freed, the last few after a while, and sleeps again.
#[test]
fn the_background_thread_forgets_and_sleeps() {
    let _alone = alone();
    let shuffler = Shuffler::new();
    let directory: Directory<u64> = Directory::new(&shuffler);
    let blocks: Vec<_> = (0..200_000_u64).map(|n| shuffler.create([n; 8]).unwrap()).collect();
    number(&directory, &blocks);
    let (kept, others) = blocks.split_at(1000);
    others.iter().for_each(|block| assert!(shuffler.free(*block).is_ok()));
    eventually("they are forgotten", || directory.len() == kept.len());
    // The giving back comes half a second after the last work, and nothing tells that it is over.
    thread::sleep(Duration::from_secs(2));
    assert_stays_asleep(&shuffler, Duration::from_secs(3));
    assert!(kept.iter().all(|block| shuffler.valid_handle(*block)));
}

#[test]
fn a_directory_keeps_its_shuffler_and_no_shuffler_its_directory() {
    let _others = beside_others();
    let ledger = Ledger::new(10);
    let shuffler = Shuffler::new();
    let directory: Directory<u8> = Directory::new(&shuffler);
    directory.insert_owned(1, shuffler.create(ledger.token()).unwrap(), Rights::ALL);
    shuffler.create(ledger.token()).unwrap();
    drop(shuffler);
    assert_eq!(ledger.drops(), 0);
    assert!(directory.rent::<Token>(&1).unwrap().is_whole());
    drop(directory);
    ledger.settled();
}

/// Threads that insert, grant, revoke, rent, free, take and look at all, while another shuffles.
#[test]
fn a_storm() {
    let _others = beside_others();
    const THREADS: u64 = 4;
    const ROUNDS: usize = if cfg!(debug_assertions) { 20_000 } else { 100_000 };
    let build = || Shuffler::builder().arena_bytes(64 << 10).retain_bytes(0).build().unwrap();
    let seed: u64 = std::env::var("STORM_SEED").map_or_else(|_| rand::rng().random(), |text| text.parse().unwrap());
    println!("STORM_SEED={seed}");
    let shuffler = build();
    let ledger = Ledger::new(THREADS as usize * ROUNDS);
    let directory: Directory<u16> = Directory::new(&shuffler);
    let opaque: Directory = Directory::new(&shuffler);
    let names = Mutex::new(Vec::new());
    let ended = AtomicBool::new(false);
    let done: [AtomicUsize; 10] = Default::default();
    thread::scope(|scope| {
        let shuffling = scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                shuffler.shuffle();
            }
        });
        let workers: Vec<_> = (0..THREADS)
            .map(|id| {
                let (shuffler, ledger, directory, opaque, names, done) =
                    (&shuffler, &ledger, &directory, &opaque, &names, &done);
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed ^ id);
                    for _ in 0..ROUNDS {
                        let key: u16 = random.random_range(0..500);
                        let create = || shuffler.create((u64::from(key), ledger.token())).unwrap();
                        let what = random.random_range(0..10_usize);
                        let answer = match what {
                            0 | 1 => {
                                directory.insert_owned(key, create(), Rights::ALL);
                                Ok(())
                            }
                            2 => {
                                // Owned by the name that is made, and named by the key as well.
                                let block = create();
                                directory.insert(key, block, Rights::READ | Rights::WRITE);
                                names.lock().unwrap().push((key, opaque.grant_owned(block, Rights::READ)));
                                Ok(())
                            }
                            3 => directory.rent::<(u64, Token)>(&key).map(|value| {
                                assert!(value.0 == u64::from(key) && value.1.is_whole());
                            }),
                            4 => directory.rent_mut::<(u64, Token)>(&key).map(|mut value| {
                                assert!(value.0 == u64::from(key) && value.1.is_whole());
                                value.0 = u64::from(key);
                            }),
                            5 => directory.free(&key).map(drop),
                            6 => directory.take::<(u64, Token)>(&key).map(|value| assert_eq!(value.0, u64::from(key))),
                            7 => match directory.resolve_raw(&key, Rights::READ) {
                                Ok(block) if random.random_bool(0.2) => {
                                    directory.revoke_all(block);
                                    Ok(())
                                }
                                Ok(block) => shuffler.free(block).map(drop),
                                Err(error) => Err(error),
                            },
                            8 => {
                                let name = {
                                    let mut names = names.lock().unwrap();
                                    let index = random.random_range(0..names.len().max(1));
                                    (index < names.len()).then(|| names.swap_remove(index))
                                };
                                name.map_or(Ok(()), |(key, name)| {
                                    let rent = opaque.rent::<(u64, Token)>(&name);
                                    assert_eq!(opaque.free(&name).err(), Some(AccessError::Denied));
                                    // Another may have freed the block, and a sweep have forgotten the name.
                                    opaque.revoke(&name);
                                    assert_eq!(opaque.rent::<(u64, Token)>(&name).err(), Some(AccessError::Denied));
                                    rent.map(|value| assert!(value.0 == u64::from(key) && value.1.is_whole()))
                                })
                            }
                            _ if random.random_bool(0.01) => {
                                let mut keys = HashSet::new();
                                directory.for_each(|key, _, _| assert!(keys.insert(*key), "{key} was shown twice"));
                                Ok(())
                            }
                            _ => {
                                directory.revoke(&key);
                                Ok(())
                            }
                        };
                        match answer {
                            Ok(()) => _ = done[what].fetch_add(1, Ordering::Relaxed),
                            Err(AccessError::Denied | AccessError::Stale | AccessError::Busy) => {}
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        ended.store(true, Ordering::Relaxed);
        shuffling.join().unwrap();
        outcomes.into_iter().for_each(|outcome| outcome.unwrap());
    });
    println!("{done:?} of each, {:?}", shuffler.stats());
    assert!(done.iter().all(|count| count.load(Ordering::Relaxed) > 0), "{done:?}");
    assert!(shuffler.stats().moves > 0);
    // What each has left behind: names that are live or that the next pass forgets.
    eventually("no dead block is named", || {
        shuffler.shuffle();
        let mut dead = 0;
        directory.for_each(|_, block, _| dead += usize::from(!shuffler.valid_handle(block)));
        opaque.for_each(|_, block, _| dead += usize::from(!shuffler.valid_handle(block)));
        dead == 0
    });
    drop((directory, opaque));
    eventually("the last are dropped", || {
        shuffler.shuffle();
        ledger.drops() == ledger.made()
    });
    ledger.settled();
    assert_eq!(quiet(&shuffler).live_blocks, 0);
}
