//! Random programs over random configurations, beside a map that knows what every block should be: one for each trigger, source
//! and placement, or as many as `MODEL_SECONDS` have room for. A failure names its seed; `MODEL_SEED` runs the same program
//! again, as far as threads let it be the same.

#![allow(clippy::disallowed_types, reason = "tests count with the standard atomics; no model runs them")]

mod common;

use common::fenced::Fenced;
use common::{Ledger, Token, check, eventually, fill, pattern, patterned, quiet};
use memory_shuffler::{
    AccessError, Budget, BumpSource, Directory, Freed, Handle, OsSource, OwnedRent, Placement, RawHandle, RegionSource,
    ResizeError, Rights, Shuffler, Trigger, Versioned,
};
use rand::rngs::StdRng;
use rand::seq::{IteratorRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use std::alloc::Layout;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const OPERATIONS: u64 = 600;

/// Triggers, placements and sources.
const KINDS: u64 = 3 * 2 * 4;

/// A configuration, and whether its memory may run out. Seeds that follow each other lead to each kind in turn.
fn some_shuffler(seed: u64, random: &mut StdRng) -> (String, Shuffler, bool) {
    let arena_bytes = 64 << 10 << random.random_range(0..5);
    let trigger = [Trigger::Background, Trigger::Inline, Trigger::Manual][seed as usize % 3];
    let placement = [Placement::Packed, Placement::Random][seed as usize / 3 % 2];
    let budget =
        Budget { bytes: 1 << random.random_range(9..22), time: Duration::from_micros(1 << random.random_range(4..11)) };
    let target = random.random_range(0.5..0.99);
    let mut builder = Shuffler::builder().arena_bytes(arena_bytes).trigger(trigger).placement(placement);
    builder = builder.budget(budget).target_utilization(target).seed(random.random());
    builder = builder.scrub(random.random_bool(0.3)).retain_bytes(random.random_range(0..4) * arena_bytes);
    let is_limited = random.random_bool(0.2);
    if is_limited {
        builder = builder.memory_limit(8 * arena_bytes + random.random_range(0..4 << 20));
    }
    let source = seed / 6 % 4;
    builder = match source {
        0 => builder.source(OsSource::new()),
        1 => builder.source(BumpSource::new()),
        2 => builder.source(Fenced::new()),
        _ => {
            let bytes = 12 * arena_bytes + random.random_range(0..4 << 20);
            builder.source(RegionSource::from_slice(Box::leak(Box::new_uninit_slice(bytes))))
        }
    };
    (format!("{builder:?}"), builder.build().unwrap(), is_limited || source == 3)
}

/// A hold that must be had: at once, unless memory may run out. Then a move that it meets may have to end first, since there is no
/// room to finish it here.
#[track_caller]
fn hold<T>(is_limited: bool, mut access: impl FnMut() -> Result<T, AccessError>) -> T {
    let mut hold = None;
    eventually("the hold is had", || {
        hold = match access() {
            Err(AccessError::OutOfMemory) if is_limited => None,
            outcome => Some(outcome.unwrap()),
        };
        hold.is_some()
    });
    hold.unwrap()
}

/// What the model knows of a block.
enum Known {
    /// So many bytes of the pattern, and zeros behind them.
    Bytes {
        handle: Handle<[u8]>,
        seed: u64,
        filled: usize,
        len: usize,
    },
    Raw(RawHandle, u64, Layout),
    Value(Handle<Token>, usize),
    Versioned(Versioned<Vec<u8>>, u64, usize),
    Slice(Versioned<[u8]>, u64, usize),
}

impl Known {
    fn raw(&self) -> RawHandle {
        match self {
            Self::Bytes { handle, .. } => (*handle).into(),
            Self::Raw(handle, ..) => *handle,
            Self::Value(handle, _) => (*handle).into(),
            Self::Versioned(handle, ..) => (*handle).into(),
            Self::Slice(handle, ..) => (*handle).into(),
        }
    }

    fn check(&self, shuffler: &Shuffler, is_limited: bool) {
        match *self {
            Self::Bytes { handle, seed, filled, len } => {
                let rent = hold(is_limited, || shuffler.rent(handle));
                assert_eq!(rent.len(), len);
                assert!(rent[..filled] == pattern(seed, filled) && rent[filled..].iter().all(|&byte| byte == 0));
            }
            Self::Raw(handle, seed, layout) => {
                let info = shuffler.inspect(handle).unwrap();
                assert_eq!((info.address % layout.align(), info.size), (0, layout.size()), "{layout:?}");
                let pointer = hold(is_limited, || shuffler.rent_pointer::<u8>(handle));
                // SAFETY: the block is rented to read, and has that many bytes.
                let bytes = unsafe { std::slice::from_raw_parts(pointer.as_ptr(), layout.size()) };
                assert!(*bytes == pattern(seed, layout.size()), "{layout:?} lost its contents");
                // SAFETY: rented above, and the pointer is used no more.
                unsafe { shuffler.return_pointer(handle) }.unwrap();
            }
            Self::Value(handle, id) => {
                let rent = hold(is_limited, || shuffler.rent(handle));
                assert!(rent.is_whole() && rent.id() == id);
            }
            Self::Versioned(handle, seed, len) => {
                assert!(*shuffler.reader().get(handle).unwrap() == pattern(seed, len));
            }
            Self::Slice(handle, seed, len) => {
                assert!(*shuffler.reader().get(handle).unwrap() == *pattern(seed, len));
            }
        }
        assert!(shuffler.valid_handle(self.raw()));
    }
}

/// A program under way.
struct Program<'a> {
    shuffler: &'a Shuffler,
    random: StdRng,
    /// Memory may run out.
    is_limited: bool,
    ledger: Ledger,
    blocks: BTreeMap<u64, Known>,
    dead: HashSet<RawHandle>,
    /// Of blocks that were freed.
    held: Vec<(OwnedRent<[u8]>, u64)>,
    directory: Directory<u64>,
    /// What the directory was told.
    names: BTreeMap<u64, RawHandle>,
}

impl<'a> Program<'a> {
    fn new(shuffler: &'a Shuffler, random: StdRng, is_limited: bool) -> Self {
        Self {
            shuffler,
            random,
            is_limited,
            ledger: Ledger::new(2 * OPERATIONS as usize),
            blocks: BTreeMap::new(),
            dead: HashSet::new(),
            held: Vec::new(),
            directory: Directory::new(shuffler),
            names: BTreeMap::new(),
        }
    }

    fn size(&mut self) -> usize {
        match self.random.random_range(0..20) {
            0 => 0,
            1..=13 => self.random.random_range(1..600),
            14..=17 => self.random.random_range(600..17_000),
            18 => self.random.random_range(60_000..70_000),
            _ => self.random.random_range(0..300_000),
        }
    }

    /// What came of an allocation, which may fail only where memory may run out.
    fn had<T, E: Into<memory_shuffler::Error>>(&self, outcome: Result<T, E>) -> Option<T> {
        outcome.map_err(|cause| assert!(self.is_limited, "{}", cause.into())).ok()
    }

    fn some_key(&mut self) -> Option<u64> {
        self.blocks.keys().choose(&mut self.random).copied()
    }

    fn make(&mut self, step: u64) {
        let (shuffler, size) = (self.shuffler, self.size());
        let known = match self.random.random_range(0..10) {
            0..=3 => self.had(shuffler.alloc_copy(&pattern(step, size))).map(|handle| Known::Bytes {
                handle,
                seed: step,
                filled: size,
                len: size,
            }),
            4 | 5 => {
                let size = size.max(1);
                let layout = Layout::from_size_align(size, 1 << self.random.random_range(0..14)).unwrap();
                self.had(shuffler.alloc_layout(layout)).map(|raw| {
                    let pointer = hold(self.is_limited, || shuffler.rent_pointer_mut::<u8>(raw));
                    // SAFETY: the block is rented to write, and has that many bytes.
                    fill(unsafe { std::slice::from_raw_parts_mut(pointer.as_ptr(), size) }, step);
                    // SAFETY: rented above, and the pointer is used no more.
                    unsafe { shuffler.return_pointer(raw) }.unwrap();
                    Known::Raw(raw, step, layout)
                })
            }
            6 | 7 => {
                let token = self.ledger.token();
                let id = token.id();
                self.had(shuffler.create(token).map_err(|rejected| rejected.cause()))
                    .map(|handle| Known::Value(handle, id))
            }
            8 => self
                .had(shuffler.create_versioned(pattern(step, size)).map_err(|rejected| rejected.cause()))
                .map(|handle| Known::Versioned(handle, step, size)),
            _ => {
                self.had(shuffler.alloc_versioned(&pattern(step, size))).map(|handle| Known::Slice(handle, step, size))
            }
        };
        self.blocks.extend(known.map(|known| (step, known)));
    }

    fn free(&mut self, known: &Known) {
        assert_eq!(self.shuffler.free(known.raw()), Ok(Freed::Now));
        self.dead.insert(known.raw());
    }

    fn end(&mut self) {
        let Some(known) = self.some_key().and_then(|key| self.blocks.remove(&key)) else { return };
        known.check(self.shuffler, self.is_limited);
        match known {
            Known::Value(handle, id) if self.random.random() => {
                assert_eq!(hold(self.is_limited, || self.shuffler.take(handle)).id(), id);
                self.dead.insert(handle.into());
            }
            // Freed while it is rented: its bytes stay.
            Known::Bytes { handle, seed, filled, len } if filled == len && self.held.len() < 20 => {
                self.held.push((hold(self.is_limited, || self.shuffler.rent_owned(handle)), seed));
                assert_eq!(self.shuffler.free(handle), Ok(Freed::WhenReturned));
                self.dead.insert(handle.into());
            }
            known => self.free(&known),
        }
    }

    fn change(&mut self, step: u64) {
        let (shuffler, size) = (self.shuffler, self.size());
        let (ledger, is_limited) = (self.ledger.clone(), self.is_limited);
        let coin = self.random.random();
        let Some(key) = self.some_key() else { return };
        match self.blocks.get_mut(&key).unwrap() {
            Known::Bytes { handle, seed, filled, len } if coin => match shuffler.resize(*handle, size) {
                Ok(()) => (*filled, *len) = (size.min(*filled), size),
                Err(ResizeError::Alloc(_) | ResizeError::Access(AccessError::OutOfMemory)) if is_limited => {}
                Err(error) => panic!("{error}, {seed}"),
            },
            Known::Bytes { handle, seed, filled, len } => {
                (*seed, *filled) = (step, *len);
                fill(&mut hold(is_limited, || shuffler.rent_mut(*handle)), step);
            }
            Known::Value(handle, id) => {
                let token = ledger.token();
                *id = token.id();
                *hold(is_limited, || shuffler.rent_mut(*handle)) = token;
            }
            Known::Versioned(handle, seed, len) => {
                let outcome = if coin {
                    shuffler.publish(*handle, pattern(step, size)).map_err(|rejected| rejected.cause())
                } else {
                    shuffler.update(*handle, |_| pattern(step, size))
                };
                match outcome {
                    Ok(()) => (*seed, *len) = (step, size),
                    Err(AccessError::OutOfMemory) if is_limited => {}
                    Err(error) => panic!("{error}"),
                }
            }
            Known::Slice(handle, seed, len) => match shuffler.publish_copy(*handle, &pattern(step, size)) {
                Ok(()) => (*seed, *len) = (step, size),
                Err(AccessError::OutOfMemory) if is_limited => {}
                Err(error) => panic!("{error}"),
            },
            Known::Raw(..) => {}
        }
    }

    /// What a reader has seen stays, whatever becomes of it.
    fn read(&mut self) {
        let reader = self.shuffler.reader();
        let mut seen = Vec::new();
        for (key, known) in &self.blocks {
            match *known {
                Known::Versioned(handle, seed, len) => seen.push((*key, &reader.get(handle).unwrap()[..], seed, len)),
                Known::Slice(handle, seed, len) => seen.push((*key, reader.get(handle).unwrap(), seed, len)),
                _ => {}
            }
        }
        let is_whole = |&(_, bytes, seed, len): &(u64, &[u8], u64, usize)| *bytes == pattern(seed, len);
        assert!(seen.iter().all(is_whole));
        for (index, key) in seen.iter().map(|seen| seen.0).enumerate().collect::<Vec<_>>() {
            match (index % 3, &self.blocks[&key]) {
                (0, _) => {
                    let known = self.blocks.remove(&key).unwrap();
                    self.free(&known);
                }
                // It is freed soon, so no model of it is needed.
                (1, &Known::Versioned(handle, ..)) => {
                    let _ = self.shuffler.publish(handle, Vec::new());
                    let known = self.blocks.remove(&key).unwrap();
                    self.free(&known);
                }
                _ => {}
            }
        }
        self.shuffler.shuffle();
        assert!(seen.iter().all(is_whole));
    }

    fn name(&mut self, step: u64) {
        if let Some(key) = self.some_key() {
            let raw = self.blocks[&key].raw();
            let (name, rights) = (step % 50, if self.random.random() { Rights::READ } else { Rights::ALL });
            assert!(self.directory.insert(name, raw, rights).is_none_or(|before| self.names[&name] == before));
            self.names.insert(name, raw);
        }
        let name = self.random.random_range(0..50);
        let lives = self.names.get(&name).filter(|raw| self.shuffler.valid_handle(**raw)).copied();
        match self.directory.resolve_raw(&name, Rights::READ) {
            Ok(found) => assert_eq!(Some(found), lives),
            Err(AccessError::Denied | AccessError::Stale | AccessError::Invalid) => assert_eq!(lives, None),
            Err(error) => panic!("{error}"),
        }
        if self.random.random_bool(0.1) {
            assert!(self.directory.revoke(&name) || lives.is_none());
            self.names.remove(&name);
        }
    }

    fn order(&mut self) {
        let mut order: Vec<RawHandle> = self.blocks.values().map(Known::raw).collect();
        order.extend(self.dead.iter().take(5));
        order.shuffle(&mut self.random);
        self.shuffler.shuffle_along(order);
    }

    fn shuffle(&mut self) {
        match self.random.random_range(0..10) {
            0..=4 => drop(self.shuffler.shuffle()),
            5 => self.shuffler.trim(),
            6 => {
                let budget = Budget { bytes: self.random.random_range(1..10_000), time: Duration::from_micros(50) };
                let _ = self.shuffler.shuffle_step(budget);
            }
            7 => {
                let _paused = self.shuffler.pause();
                assert_eq!(self.shuffler.shuffle().progress.moves, 0);
            }
            _ => self.order(),
        }
    }

    fn ask(&mut self) {
        if let Some(&handle) = self.dead.iter().choose(&mut self.random) {
            assert!(!self.shuffler.valid_handle(handle));
            // Invalid: the page of the slot may have been given back.
            assert!(matches!(self.shuffler.free(handle), Err(AccessError::Stale | AccessError::Invalid)));
        }
        let shown = self.shuffler.explain().to_string();
        assert!(!shown.is_empty());
        for arena in self.shuffler.arenas() {
            let is_there = |handle| !self.dead.contains(handle);
            let blocks = self.shuffler.blocks_in(arena.id);
            assert!(blocks.iter().all(|block| block.pending_free || is_there(&block.handle)));
        }
        self.blocks.values().for_each(|known| known.check(self.shuffler, self.is_limited));
        if !self.held.is_empty() {
            let (rent, seed) = self.held.swap_remove(self.random.random_range(0..self.held.len()));
            assert!(*rent == *pattern(seed, rent.len()));
        }
    }

    fn run(mut self) {
        for step in 0..OPERATIONS {
            match self.random.random_range(0..1000) {
                0..=479 => self.make(step),
                480..=789 => self.end(),
                790..=889 => self.change(step),
                890..=939 => self.name(step),
                940..=979 => self.shuffle(),
                980..=984 => self.read(),
                _ => self.ask(),
            }
        }
        self.ask();
        drop(self.directory);
        for (rent, seed) in self.held.drain(..) {
            assert!(*rent == *pattern(seed, rent.len()));
        }
        for (_, known) in std::mem::take(&mut self.blocks) {
            known.check(self.shuffler, self.is_limited);
            assert_eq!(self.shuffler.free(known.raw()), Ok(Freed::Now));
        }
    }
}

/// Makes, checks and frees blocks of its own, so that there are other shards, some of them idle.
fn disturb(shuffler: &Shuffler, is_limited: bool, over: &AtomicBool, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut own: Vec<(Handle<[u8]>, u64, usize)> = Vec::new();
    let end = |(handle, seed, bytes): (Handle<[u8]>, u64, usize)| {
        assert!(*hold(is_limited, || shuffler.rent(handle)) == *pattern(seed, bytes));
        assert_eq!(shuffler.free(handle), Ok(Freed::Now));
    };
    while !over.load(Ordering::Relaxed) {
        if own.len() < 200 && random.random() {
            let (seed, bytes) = (random.random(), random.random_range(0..2000));
            // Where memory runs out, the program is what is looked at.
            own.extend(shuffler.alloc_copy(&pattern(seed, bytes)).ok().map(|handle| (handle, seed, bytes)));
        } else if !own.is_empty() {
            end(own.swap_remove(random.random_range(0..own.len())));
        }
        if random.random_bool(0.001) {
            thread::sleep(Duration::from_millis(1));
        }
    }
    own.into_iter().for_each(end);
}

/// Says what failed.
struct Scene(u64, String);

impl Drop for Scene {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("MODEL_SEED={}, {}", self.0, self.1);
        }
    }
}

fn program(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (configuration, shuffler, is_limited) = some_shuffler(seed, &mut random);
    let _scene = Scene(seed, configuration);
    let others = if random.random() { random.random_range(1..3) } else { 0 };
    let over = AtomicBool::new(false);
    let program = Program::new(&shuffler, random, is_limited);
    let ledger = program.ledger.clone();
    thread::scope(|scope| {
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _over = Over(&over);
        let (shuffler, over) = (&shuffler, &over);
        (0..others).for_each(|other| drop(scope.spawn(move || disturb(shuffler, is_limited, over, seed ^ other))));
        program.run();
    });
    let stats = quiet(&shuffler);
    assert_eq!((stats.live_blocks, stats.live_bytes, stats.waiting, stats.panics), (0, 0, 0, 0));
    ledger.settled();
    shuffler.trim();
    // The memory is there again.
    let again = (0..8).map(|seed| patterned(&shuffler, seed, 5000)).collect::<Vec<_>>();
    (0..).zip(&again).for_each(|(seed, handle)| check(&shuffler, *handle, seed, 5000));
}

#[test]
fn random_programs() {
    let variable = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = variable("MODEL_SEED") {
        return program(seed);
    }
    let (start, length) = (Instant::now(), variable("MODEL_SECONDS").map(Duration::from_secs));
    let mut seed: u64 = rand::random();
    let mut count = 0;
    while count < KINDS || length.is_some_and(|length| start.elapsed() < length) {
        program(seed);
        (seed, count) = (seed.wrapping_add(1), count + 1);
    }
    println!("{count} programs");
}
