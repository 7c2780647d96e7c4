//! Threads that share nothing but the bits of handles, in relaxed atomics. Whatever orders one thread's use of a block before
//! another's is then the library's own doing, so that under ThreadSanitizer (`ci/sanitize.sh`) an ordering that is missing shows as
//! a race. The storm locks and counts so much beside the library that most would stay hidden.
//!
//! `QUIET_SECONDS` for each configuration, else half a second.

#![allow(clippy::disallowed_types, reason = "tests count with the standard atomics; no model runs them")]

use memory_shuffler::{
    AccessError, Budget, BumpSource, Handle, Placement, RawHandle, ResizeError, Shuffler, Stats, Trigger, Versioned,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const THREADS: u64 = 4;

/// What blocks a place may have, and what can be done with them. None of it counts or locks anything.
trait Kind {
    type Handle: Copy + Into<RawHandle>;

    fn make(shuffler: &Shuffler, random: &mut StdRng) -> Self::Handle;
    fn typed(shuffler: &Shuffler, raw: RawHandle) -> Result<Self::Handle, AccessError>;
    /// Looks at the block, or writes to it.
    fn touch(shuffler: &Shuffler, handle: Self::Handle, random: &mut StdRng) -> Result<(), AccessError>;
}

/// Every word is the same, but for zeros that a resize has added.
fn check(words: &[u64]) {
    assert!(words.iter().all(|&word| word == words[0] || word == 0), "{words:?}");
}

fn resized(outcome: Result<(), ResizeError>) -> Result<(), AccessError> {
    outcome.map_err(|error| match error {
        ResizeError::Access(refused) => refused,
        other => panic!("{other}"),
    })
}

/// Takes and lets go of memory, so that what others left is used again, and lets them go on.
fn litter<K: Kind>(shuffler: &Shuffler, random: &mut StdRng) -> Result<(), AccessError> {
    for _ in 0..20 {
        let block = K::make(shuffler, random);
        let _ = shuffler.free(block)?;
    }
    thread::sleep(Duration::from_micros(100));
    Ok(())
}

/// Slices, written in place.
struct Words;

impl Kind for Words {
    type Handle = Handle<[u64]>;

    fn make(shuffler: &Shuffler, random: &mut StdRng) -> Self::Handle {
        let word = random.random_range(1..100);
        shuffler.alloc_copy(&vec![word; random.random_range(1..200)]).unwrap()
    }

    fn typed(shuffler: &Shuffler, raw: RawHandle) -> Result<Self::Handle, AccessError> {
        shuffler.typed(raw)
    }

    fn touch(shuffler: &Shuffler, handle: Self::Handle, random: &mut StdRng) -> Result<(), AccessError> {
        match random.random_range(0..8) {
            0..3 => check(&shuffler.rent(handle)?),
            3 => {
                let rent = shuffler.rent(handle)?;
                if random.random_ratio(1, 4) {
                    litter::<Self>(shuffler, random)?;
                }
                check(&rent);
            }
            4 => shuffler.rent_mut_for(handle, Duration::from_micros(200))?.fill(random.random_range(1..100)),
            5..7 => shuffler.rent_mut(handle)?.fill(random.random_range(1..100)),
            _ => resized(shuffler.resize(handle, random.random_range(1..200)))?,
        }
        Ok(())
    }
}

/// Blocks too large for an arena.
struct Large;

impl Kind for Large {
    type Handle = Handle<[u8]>;

    fn make(shuffler: &Shuffler, random: &mut StdRng) -> Self::Handle {
        shuffler.alloc(random.random_range(66_000..200_000)).unwrap()
    }

    fn typed(shuffler: &Shuffler, raw: RawHandle) -> Result<Self::Handle, AccessError> {
        shuffler.typed(raw)
    }

    fn touch(shuffler: &Shuffler, handle: Self::Handle, random: &mut StdRng) -> Result<(), AccessError> {
        match random.random_range(0..4) {
            0 => assert!(shuffler.rent(handle)?.iter().step_by(1000).all(|&byte| byte < 9)),
            1..3 => {
                shuffler.rent_mut(handle)?.iter_mut().step_by(1000).for_each(|byte| *byte = random.random_range(0..9))
            }
            _ => resized(shuffler.resize(handle, random.random_range(60_000..200_000)))?,
        }
        Ok(())
    }
}

/// Values with a destructor, which are moved out as well.
struct Boxed;

impl Kind for Boxed {
    type Handle = Handle<Box<u64>>;

    fn make(shuffler: &Shuffler, _: &mut StdRng) -> Self::Handle {
        shuffler.create(Box::new(1)).unwrap()
    }

    fn typed(shuffler: &Shuffler, raw: RawHandle) -> Result<Self::Handle, AccessError> {
        shuffler.typed(raw)
    }

    fn touch(shuffler: &Shuffler, handle: Self::Handle, random: &mut StdRng) -> Result<(), AccessError> {
        match random.random_range(0..12) {
            0..6 => assert!(**shuffler.rent(handle)? > 0),
            6..11 => **shuffler.rent_mut(handle)? += 1,
            _ => assert!(*shuffler.take(handle)? > 0),
        }
        Ok(())
    }
}

/// Values that are replaced while others read them, some of them with a destructor.
struct Frozen;

type Value = (Box<u64>, [u64; 20]);

impl Frozen {
    fn check((word, words): &Value) {
        assert!(words.iter().all(|other| other == &**word), "{word} {words:?}");
    }
}

impl Kind for Frozen {
    type Handle = Versioned<Value>;

    fn make(shuffler: &Shuffler, random: &mut StdRng) -> Self::Handle {
        let word = random.random();
        shuffler.create_versioned((Box::new(word), [word; 20])).unwrap()
    }

    fn typed(shuffler: &Shuffler, raw: RawHandle) -> Result<Self::Handle, AccessError> {
        shuffler.typed_versioned(raw)
    }

    fn touch(shuffler: &Shuffler, handle: Self::Handle, random: &mut StdRng) -> Result<(), AccessError> {
        match random.random_range(0..8) {
            0..5 => {
                let mut reader = shuffler.reader();
                Self::check(reader.get(handle)?);
                reader.repin();
                Self::check(reader.get(handle)?);
            }
            5..7 => {
                let word = random.random();
                shuffler.publish(handle, (Box::new(word), [word; 20])).map_err(|rejected| rejected.cause())?;
            }
            _ => shuffler.update(handle, |(word, words)| (word.clone(), *words))?,
        }
        Ok(())
    }
}

/// Handles of one kind, and which of them this thread knows the type of: to ask for that is an ordering too.
struct Places<'a, K: Kind> {
    shared: &'a [AtomicU64],
    known: Vec<Option<(u64, K::Handle)>>,
}

impl<'a, K: Kind> Places<'a, K> {
    fn new(shared: &'a [AtomicU64]) -> Self {
        Self { shared, known: vec![None; shared.len()] }
    }

    fn turn(&mut self, shuffler: &Shuffler, random: &mut StdRng) {
        // Half of all turns meet in a few places.
        let most = if random.random() { 4 } else { self.shared.len() };
        let index = random.random_range(0..most);
        let change = |from, to| self.shared[index].compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
        let bits = self.shared[index].load(Ordering::Relaxed);
        let Some(raw) = NonZeroU64::new(bits).map(RawHandle::from_bits) else {
            let handle = K::make(shuffler, random);
            let bits = handle.into().to_bits().get();
            self.known[index] = Some((bits, handle));
            if change(0, bits).is_err() {
                let _ = shuffler.free(handle).unwrap();
            }
            return;
        };
        let handle = match self.known[index] {
            Some((known, handle)) if known == bits => Ok(handle),
            _ => K::typed(shuffler, raw).inspect(|&handle| self.known[index] = Some((bits, handle))),
        };
        let is_freed = random.random_ratio(1, 12);
        let outcome = handle.and_then(|handle| match is_freed {
            true => shuffler.free(handle).map(drop),
            false => K::touch(shuffler, handle, random),
        });
        match outcome {
            Ok(()) if !is_freed => {}
            // Or another thread was faster, and has put another block there.
            Ok(()) | Err(AccessError::Stale) => drop(change(bits, 0)),
            Err(AccessError::Busy | AccessError::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn free_all(&self, shuffler: &Shuffler) {
        for bits in self.shared.iter().filter_map(|place| NonZeroU64::new(place.load(Ordering::Relaxed))) {
            // The last turn there may have been a free.
            let _ = shuffler.free(RawHandle::from_bits(bits));
        }
    }
}

fn quiet(shuffler: &Shuffler) {
    let seconds = std::env::var("QUIET_SECONDS").map_or(0.5, |text| text.parse().unwrap());
    let places = |count: usize| -> Vec<AtomicU64> { (0..count).map(|_| AtomicU64::new(0)).collect() };
    let [words, large, boxed, frozen] = [places(300), places(6), places(300), places(300)];
    let work = |seed| {
        let (mut words, mut large) = (Places::<Words>::new(&words), Places::<Large>::new(&large));
        let (mut boxed, mut frozen) = (Places::<Boxed>::new(&boxed), Places::<Frozen>::new(&frozen));
        let mut random = StdRng::seed_from_u64(seed);
        let mut rents = VecDeque::new();
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        while Instant::now() < end {
            for _ in 0..100 {
                words.turn(shuffler, &mut random);
                boxed.turn(shuffler, &mut random);
                frozen.turn(shuffler, &mut random);
            }
            large.turn(shuffler, &mut random);
            // Held for a while, so that there are arenas that cannot be emptied, and holes in them.
            let (_, handle) = words.known[random.random_range(0..words.known.len())].unzip();
            rents.extend(handle.and_then(|handle| shuffler.rent(handle).ok()));
            if rents.len() > 8 {
                rents.pop_front().iter().for_each(|rent| check(rent));
            }
            match random.random_range(0..9) {
                0..2 => drop(shuffler.shuffle_step(Budget { bytes: 1 << 16, time: Duration::from_millis(1) })),
                2..4 => {
                    // Those that everybody is at come first, so that some are held while they are moved.
                    let order = frozen.known.iter().flatten().map(|&(_, handle)| RawHandle::from(handle));
                    shuffler.shuffle_along(words.known.iter().flatten().map(|&(_, handle)| handle.into()).chain(order));
                }
                4 => shuffler.trim(),
                5 => shuffler.arenas().iter().for_each(|arena| drop(shuffler.blocks_in(arena.id))),
                // More slots than a page of the table has, so that pages come and go.
                6 => {
                    let burst: Vec<_> = (0..10_000).map(|_| shuffler.create(0_u64).unwrap()).collect();
                    burst.into_iter().for_each(|handle| assert!(shuffler.free(handle).is_ok()));
                }
                7 => {
                    let reader = shuffler.reader();
                    let values = frozen.known.iter().flatten().filter_map(|&(_, handle)| reader.get(handle).ok());
                    let values: Vec<&Value> = values.collect();
                    litter::<Frozen>(shuffler, &mut random).unwrap();
                    values.into_iter().for_each(Frozen::check);
                }
                _ => {}
            }
        }
    };
    thread::scope(|scope| (0..THREADS).for_each(|seed| drop(scope.spawn(move || work(seed)))));
    Places::<Words>::new(&words).free_all(shuffler);
    Places::<Large>::new(&large).free_all(shuffler);
    Places::<Boxed>::new(&boxed).free_all(shuffler);
    Places::<Frozen>::new(&frozen).free_all(shuffler);
    // What readers might have seen goes in steps.
    let patience = Instant::now() + Duration::from_secs(60);
    let is_left = |stats: Stats| stats.live_blocks + stats.waiting > 0;
    while is_left(shuffler.stats()) && Instant::now() < patience {
        shuffler.trim();
    }
    let stats = shuffler.stats();
    assert_eq!((stats.live_blocks, stats.waiting), (0, 0), "{stats:?}");
    assert!(stats.moves > 0, "{stats:?}");
    println!("{} blocks moved, {} of them by those who wanted to hold them", stats.moves, stats.helped);
}

#[test]
fn default_configuration() {
    quiet(&Shuffler::new());
}

#[test]
fn tiny_arenas() {
    quiet(&Shuffler::builder().arena_bytes(64 << 10).retain_bytes(0).trigger(Trigger::Manual).build().unwrap());
}

#[test]
fn recycled_arenas() {
    quiet(&Shuffler::builder().arena_bytes(64 << 10).trigger(Trigger::Background).build().unwrap());
}

#[test]
fn scrubbed() {
    quiet(&Shuffler::builder().arena_bytes(64 << 10).scrub(true).build().unwrap());
}

#[test]
fn bump_source() {
    quiet(&Shuffler::builder().arena_bytes(64 << 10).source(BumpSource::new()).build().unwrap());
}

#[test]
fn inline_trigger() {
    quiet(&Shuffler::builder().arena_bytes(64 << 10).trigger(Trigger::Inline).build().unwrap());
}

#[test]
fn random_placement() {
    quiet(&Shuffler::builder().arena_bytes(64 << 10).placement(Placement::Random).build().unwrap());
}
