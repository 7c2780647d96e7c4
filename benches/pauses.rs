//! How long single calls take while the compactor works: rent and return, create, free, each timed by itself.
//!
//! `cargo bench --bench pauses`; `-- --quick` for a short run. Each load thread keeps 100,000 blocks of 1 KB; half of its
//! operations read one, half replace one by another, so garbage is made without a break. A control thread beside them uses no
//! shuffler: it times nothing at all, and a write of 1 KB into one of 100,000 places of its own. So the machine's own hiccups,
//! and what a write that misses the cache costs, can be told from pauses of the library's. Time *on core* leaves out what the
//! thread lost to others that wanted its core; a thread that *slept* gave the core up by itself, to wait for a lock.

#[path = "common/order.rs"]
mod order;

use hdrhistogram::Histogram;
use memory_shuffler::{Handle, Shuffler};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

type Value = [u64; 128];

const BLOCKS: usize = 100_000;
const ZIPF_EXPONENT: f64 = 0.99;
/// The most that a p99.99 may exceed the control's.
const GOAL: Duration = Duration::from_micros(100);
/// From here on a call is asked whether it slept. No wait for a lock is over sooner by much.
const SLOW: Duration = Duration::from_micros(20);

/// Which blocks an operation goes to.
#[derive(Clone, Copy, Debug)]
enum Spread {
    Uniform,
    Zipf,
}

impl Spread {
    /// Places in an order that repeats after a while.
    fn places(self, seed: u64) -> Vec<u32> {
        const REPEATS_AFTER: usize = 1 << 20;
        let mut random = SmallRng::seed_from_u64(seed);
        match self {
            Self::Uniform => (0..REPEATS_AFTER).map(|_| random.random_range(0..BLOCKS as u32)).collect(),
            Self::Zipf => {
                let zipf = Zipf::new(BLOCKS as f64, ZIPF_EXPONENT).expect("there are blocks");
                // The ranks lie scattered, not in the order in which the blocks were made.
                let place_of = order::scattered(BLOCKS);
                (0..REPEATS_AFTER).map(|_| place_of[zipf.sample(&mut random) as usize - 1] as u32).collect()
            }
        }
    }
}

/// Times of one kind of call, nanoseconds.
struct Calls {
    passed: Histogram<u64>,
    on_core: Histogram<u64>,
    slept: u64,
}

impl Calls {
    fn new() -> Self {
        let histogram = || Histogram::new(3).expect("three digits");
        Self { passed: histogram(), on_core: histogram(), slept: 0 }
    }

    fn add(&mut self, other: &Self) {
        self.passed.add(&other.passed).expect("of one kind");
        self.on_core.add(&other.on_core).expect("of one kind");
        self.slept += other.slept;
    }

    fn percentiles(&self) -> impl Iterator<Item = u64> {
        let passed = [50.0, 99.0, 99.9, 99.99, 100.0].map(|percentile| self.passed.value_at_percentile(percentile));
        let on_core = [99.99, 100.0].map(|percentile| self.on_core.value_at_percentile(percentile));
        passed.into_iter().chain(on_core)
    }

    /// As time passes, and on core.
    fn p9999(&self) -> [Duration; 2] {
        [&self.passed, &self.on_core].map(|calls| Duration::from_nanos(calls.value_at_percentile(99.99)))
    }
}

/// Times calls of one thread.
struct Timer {
    /// The thread's time on a core when the last call ended. It is asked once a call, since that is a call to the system.
    on_core: Duration,
    /// How often the thread had slept by the last slow call.
    sleeps: u64,
}

impl Timer {
    fn new() -> Self {
        Self { on_core: time_on_core(), sleeps: sleeps() }
    }

    fn time<R>(&mut self, calls: &mut Calls, call: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = call();
        let passed = start.elapsed();
        let on_core = time_on_core();
        // What lies between two calls is counted here too, so that a call which nobody disturbed seems longer than it was.
        let part = (on_core - self.on_core).min(passed);
        self.on_core = on_core;
        calls.passed.record(passed.as_nanos() as u64).expect("it grows");
        calls.on_core.record(part.as_nanos() as u64).expect("it grows");
        if passed >= SLOW {
            let sleeps = sleeps();
            calls.slept += u64::from(sleeps > self.sleeps);
            self.sleeps = sleeps;
            // What that took is no call's.
            self.on_core = time_on_core();
        }
        result
    }
}

/// How often the thread gave up its core by itself; always 0 where the system does not tell.
fn sleeps() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(unix)]
fn time_on_core() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Time that has passed, where the other is not to be had.
#[cfg(not(unix))]
fn time_on_core() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// A thread's calls, by kind.
type Kinds = Vec<(&'static str, Calls)>;

fn kinds(names: &[&'static str]) -> Kinds {
    names.iter().map(|&name| (name, Calls::new())).collect()
}

fn load(shuffler: &Shuffler, spread: Spread, operations: usize, seed: u64) -> Kinds {
    let mut blocks: Vec<Handle<Value>> =
        (0..BLOCKS as u64).map(|number| shuffler.create([number; 128]).expect("memory")).collect();
    let places = spread.places(seed);
    let mut kinds = kinds(&["rent, read, return", "create", "free"]);
    let [(_, rents), (_, creates), (_, frees)] = &mut kinds[..] else { unreachable!() };
    let mut random = SmallRng::seed_from_u64(seed);
    let mut timer = Timer::new();
    for operation in 0..operations {
        let place = places[operation % places.len()] as usize;
        if random.random::<bool>() {
            let read = timer.time(rents, || shuffler.rent(blocks[place]).expect("live")[operation % 128]);
            assert_eq!(read, place as u64, "another block's bytes");
        } else {
            let new = timer.time(creates, || shuffler.create([place as u64; 128]).expect("memory"));
            let old = std::mem::replace(&mut blocks[place], new);
            timer.time(frees, || assert!(shuffler.free(old).is_ok()));
        }
    }
    kinds
}

/// Until no load is left.
fn control(spread: Spread, loads: &AtomicUsize) -> Kinds {
    let mut blocks: Vec<Value> = vec![[1; 128]; BLOCKS];
    let places = spread.places(0);
    let mut kinds = kinds(&["control: nothing", "control: write 1 KB"]);
    let [(_, nothing), (_, writes)] = &mut kinds[..] else { unreachable!() };
    let mut timer = Timer::new();
    let mut operation = 0;
    // Acquire: pairs with the release in `run`; not that much depended on it.
    while loads.load(Ordering::Acquire) > 0 {
        let place = places[operation % places.len()] as usize;
        timer.time(nothing, || ());
        timer.time(writes, || *black_box(&mut blocks[place]) = [operation as u64; 128]);
        operation += 1;
    }
    kinds
}

/// One run; returns the loads' calls together, then the control's, and how many blocks were moved.
fn run(spread: Spread, threads: usize, paused: bool, operations: usize) -> (Kinds, u64) {
    let shuffler = Shuffler::new();
    let loads = AtomicUsize::new(threads);
    let _pause = paused.then(|| shuffler.pause());
    let kinds = thread::scope(|scope| {
        let (shuffler, loads) = (&shuffler, &loads);
        let control = scope.spawn(move || control(spread, loads));
        let work = move |seed| {
            let kinds = load(shuffler, spread, operations, seed);
            loads.fetch_sub(1, Ordering::Release);
            kinds
        };
        let workers: Vec<_> = (1..=threads as u64).map(|seed| scope.spawn(move || work(seed))).collect();
        let mut workers = workers.into_iter().map(|worker| worker.join().expect("it read what it wrote"));
        let mut kinds = workers.next().expect("one at least");
        for others in workers {
            kinds.iter_mut().zip(&others).for_each(|((_, calls), (_, other))| calls.add(other));
        }
        kinds.extend(control.join().expect("it only writes"));
        kinds
    });
    (kinds, shuffler.stats().moves)
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let operations = if quick { 200_000 } else { 2_000_000 };
    println!("| µs | calls | p50 | p99 | p99.9 | p99.99 | longest | on core: p99.99 | longest | slept |");
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut verdicts = Vec::new();
    for threads in [1, 2] {
        for spread in [Spread::Zipf, Spread::Uniform] {
            for paused in [false, true] {
                let (kinds, moves) = run(spread, threads, paused, operations);
                let state = if paused { "paused".into() } else { format!("on, {moves} moves") };
                println!("| **{spread:?}, threads of load: {threads}, compactor {state}** | | | | | | | | | |");
                for (name, calls) in &kinds {
                    print!("| {name} | {} |", calls.passed.len());
                    calls.percentiles().for_each(|nanos| print!(" {:.2} |", nanos as f64 / 1e3));
                    println!(" {} |", calls.slept);
                }
                if !paused {
                    assert!(moves >= operations as u64 / 100, "the compactor hardly moved anything");
                    verdicts.push((spread, threads, kinds));
                }
            }
        }
    }
    println!("\np99.99 beside the control's, of a write of 1 KB; goal: at most {GOAL:?} more");
    for (spread, threads, kinds) in verdicts {
        let (_, control) = kinds.last().expect("the control's");
        for (name, calls) in &kinds[..3] {
            print!("{spread:?}, threads of load: {threads}: {name}:");
            for (clock, ours, theirs) in
                [("", 0), (" on core", 1)].map(|(c, i)| (c, calls.p9999()[i], control.p9999()[i]))
            {
                let verdict = if ours <= theirs + GOAL { "met" } else { "missed" };
                print!(" {ours:.1?}{clock} beside {theirs:.1?}: {verdict};");
            }
            println!(" slept: {} of {}", calls.slept, calls.passed.len());
        }
    }
}
