//! Memory stays bounded however fast `Versioned` values are replaced and freed: who makes the garbage helps.

use memory_shuffler::{Budget, Frozen, Shuffler, Trigger, Versioned};
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

const BLOCKS: usize = 100;
const OPERATIONS: usize = 1_000_000;
/// What lives is a few KiB. Without help, each of these loops leaves more than 64 MB where nobody steps.
const BOUND: u64 = 32 << 20;

/// Two threads that call `operation` in a tight loop beside readers that come and go; the most resident bytes.
fn peak<T: Frozen + Send + Sync + 'static>(
    shuffler: &Shuffler,
    blocks: &[Versioned<T>],
    operation: impl Fn(usize) + Sync,
) -> u64 {
    let (peak, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut reads = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                let reader = shuffler.reader();
                for &block in blocks {
                    reads += u64::from(reader.get(block).is_ok());
                }
                drop(reader);
                thread::yield_now();
            }
            reads
        });
        let work = |start: usize| {
            let (peak, operation) = (&peak, &operation);
            move || {
                for i in 0..OPERATIONS / 2 {
                    operation((start + i) % BLOCKS);
                    if i % 4096 == 0 {
                        peak.fetch_max(shuffler.stats().resident_bytes, Ordering::Relaxed);
                    }
                }
            }
        };
        let workers = [scope.spawn(work(0)), scope.spawn(work(BLOCKS / 2))];
        for worker in workers {
            worker.join().expect("no operation panics");
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(reading.join().expect("a reader") > 0);
    });
    peak.into_inner()
}

fn each_trigger(check: impl Fn(Shuffler)) {
    check(Shuffler::new());
    // Nobody steps: what is carried out, those who put it off carry out.
    check(Shuffler::builder().trigger(Trigger::Manual).build().expect("a configuration"));
}

fn versioned<T: Frozen + Send + Sync + 'static>(shuffler: &Shuffler, make: impl Fn(u64) -> T) -> Vec<Versioned<T>> {
    (0..BLOCKS as u64).map(|n| shuffler.create_versioned(make(n)).expect("memory")).collect()
}

#[test]
fn values_without_a_destructor() {
    each_trigger(|shuffler| {
        let blocks = versioned(&shuffler, |n| [n; 8]);
        let published = AtomicUsize::new(0);
        let peak = peak(&shuffler, &blocks, |i| {
            published.fetch_add(usize::from(shuffler.publish(blocks[i], [i as u64; 8]).is_ok()), Ordering::Relaxed);
        });
        // Two that meet on one block: one is refused.
        assert!(published.into_inner() > OPERATIONS / 2);
        assert!(peak < BOUND, "{peak} bytes resident");
    });
}

/// Counts how many there are.
struct Counted<'a>(&'a AtomicUsize, Vec<u64>);

impl<'a> Counted<'a> {
    fn new(alive: &'a AtomicUsize, n: u64) -> Self {
        alive.fetch_add(1, Ordering::Relaxed);
        Self(alive, vec![n; 8])
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// SAFETY: the count lies elsewhere; the value itself is never written through a shared reference.
unsafe impl Frozen for Counted<'_> {}

#[test]
fn values_with_a_destructor() {
    static ALIVE: AtomicUsize = AtomicUsize::new(0);
    each_trigger(|shuffler| {
        let blocks = versioned(&shuffler, |n| Counted::new(&ALIVE, n));
        let most = AtomicUsize::new(0);
        let peak = peak(&shuffler, &blocks, |i| {
            let updated = shuffler.update(blocks[i], |old| Counted::new(&ALIVE, old.1[0] + 1));
            if updated.is_ok() {
                most.fetch_max(ALIVE.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        });
        assert!(peak < BOUND, "{peak} bytes resident");
        // What they own is beside that.
        let most = most.into_inner();
        assert!(most < OPERATIONS / 4, "{most} values at a time");
        drop(shuffler);
        assert_eq!(ALIVE.load(Ordering::Relaxed), 0, "all are dropped with the shuffler");
    });
}

#[test]
fn blocks_made_and_freed() {
    each_trigger(|shuffler| {
        let blocks = versioned(&shuffler, |n| [n; 8]);
        let peak = peak(&shuffler, &blocks, |i| {
            let block = shuffler.create_versioned([i as u64; 8]).expect("memory");
            let _ = shuffler.free(block).expect("live");
        });
        assert!(peak < BOUND, "{peak} bytes resident");
    });
}

/// While a reader keeps everything, helping is in vain, and harms nothing.
#[test]
fn a_reader_that_stays() {
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).build().expect("a configuration");
    let block = shuffler.create_versioned(0_u64).expect("memory");
    let reader = shuffler.reader();
    let first = reader.get(block).expect("live");
    const PUBLISHED: u64 = 10_000;
    for n in 1..=PUBLISHED {
        shuffler.publish(block, n).expect("nobody else publishes");
    }
    assert_eq!(*first, 0);
    let stats = shuffler.stats();
    assert_eq!((stats.waiting, stats.waiting_bytes), (PUBLISHED, 16 * PUBLISHED), "all of them wait");
    drop(reader);
    shuffler.shuffle();
    assert_eq!(shuffler.stats().waiting, 0);
}

/// Panics when dropped, while it is told to.
struct Bomb;

static IS_ARMED: AtomicBool = AtomicBool::new(true);

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!IS_ARMED.load(Ordering::Relaxed), "a destructor that panics");
    }
}

// SAFETY: there is nothing in it.
unsafe impl Frozen for Bomb {}

#[test]
fn a_panic_in_anothers_destructor_is_counted() {
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).build().expect("a configuration");
    let block = shuffler.create_versioned(Bomb).expect("memory");
    let all_went_well = (0..2_000).all(|_| shuffler.publish(block, Bomb).is_ok());
    IS_ARMED.store(false, Ordering::Relaxed);
    assert!(all_went_well);
    let panics = shuffler.stats().panics;
    assert!(panics > 0, "nobody helped");
}

/// Publishes another of its kind when dropped.
struct Chained;

static CHAIN: OnceLock<(Shuffler, Versioned<Chained>)> = OnceLock::new();
static LEFT: AtomicUsize = AtomicUsize::new(20_000);
static DEEPEST: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

impl Drop for Chained {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() + 1);
        DEEPEST.fetch_max(DEPTH.get(), Ordering::Relaxed);
        let (shuffler, block) = CHAIN.get().expect("set before anything is dropped");
        if LEFT.load(Ordering::Relaxed) > 0 {
            LEFT.fetch_sub(1, Ordering::Relaxed);
            shuffler.publish(*block, Self).expect("nobody else publishes");
        }
        DEPTH.set(DEPTH.get() - 1);
    }
}

// SAFETY: there is nothing in it.
unsafe impl Frozen for Chained {}

#[test]
fn destructors_that_publish_are_not_carried_out_inside_each_other() {
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).build().expect("a configuration");
    let block = shuffler.create_versioned(Chained).expect("memory");
    let (shuffler, block) = CHAIN.get_or_init(|| (shuffler, block));
    for _ in 0..2_000 {
        shuffler.publish(*block, Chained).expect("nobody else publishes");
    }
    assert!(LEFT.load(Ordering::Relaxed) < 20_000, "nobody helped");
    assert_eq!(DEEPEST.load(Ordering::Relaxed), 1);
}

#[test]
fn a_step_that_is_late_from_the_first_carries_out_one_value() {
    static ALIVE: AtomicUsize = AtomicUsize::new(0);
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).build().expect("a configuration");
    for block in versioned(&shuffler, |n| Counted::new(&ALIVE, n)) {
        let _ = shuffler.free(block).expect("it is there");
    }
    let budget = Budget { bytes: 1, time: Duration::from_nanos(1) };
    let mut steps = 0;
    while ALIVE.load(Ordering::Relaxed) > 0 {
        let progress = shuffler.shuffle_step(budget);
        assert!(progress.carried_out <= 1, "{progress:?}");
        steps += 1;
        assert!(steps < 100 * BLOCKS, "{progress:?}, {:?}", shuffler.stats());
    }
}
