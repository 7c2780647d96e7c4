//! How far more threads get: rent and return, create and free, and a mix, beside `Arc` on mimalloc.
//!
//! `cargo bench --bench scaling`; `-- 8` for up to 8 threads instead of as many as the machine has, `-- --quick` for a short
//! run. The compactor is on. Rounds are interleaved; medians of all threads' operations together, millions a second.
#![allow(clippy::disallowed_types, reason = "the models that need the library's own atomics are elsewhere")]

#[path = "common/median.rs"]
mod median;

use median::median;
use memory_shuffler::{Handle, Shuffler};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Value = [u64; 8];

/// Objects that all threads share.
const SHARED: usize = 100_000;
/// Objects that each thread of the mix owns and replaces.
const OWNED: usize = 4096;
const BATCH: usize = 64;

/// What both sides can do.
trait Memory: Sync {
    type Object: Clone + Send + Sync;
    fn make(&self, value: Value) -> Self::Object;
    /// Takes and gives back a counted reference.
    fn touch(&self, object: &Self::Object) -> u64;
    fn end(&self, object: Self::Object);
}

impl Memory for Shuffler {
    type Object = Handle<Value>;

    fn make(&self, value: Value) -> Handle<Value> {
        self.create(value).expect("memory")
    }

    fn touch(&self, object: &Handle<Value>) -> u64 {
        self.rent(*object).expect("live")[3]
    }

    fn end(&self, object: Handle<Value>) {
        assert!(self.free(object).is_ok());
    }
}

struct Arcs;

impl Memory for Arcs {
    type Object = Arc<Value>;

    fn make(&self, value: Value) -> Arc<Value> {
        Arc::new(value)
    }

    fn touch(&self, object: &Arc<Value>) -> u64 {
        black_box(object.clone())[3]
    }

    fn end(&self, object: Arc<Value>) {
        drop(object);
    }
}

#[derive(Clone, Copy)]
enum Load {
    Touch,
    MakeAndEnd,
    Mix,
}

const LOADS: [(Load, &str); 3] = [
    (Load::Touch, "rent + return, of 100,000 shared"),
    (Load::MakeAndEnd, "create + free, batches of 64"),
    (Load::Mix, "1 replaced, 4 rented"),
];

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0) * bound as u128) >> 64) as usize
    }
}

/// One thread's work until it is told to stop; returns its operations.
fn work<M: Memory>(memory: &M, shared: &[M::Object], load: Load, seed: u64, start: &Barrier, stop: &AtomicBool) -> u64 {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut operations = 0;
    let owned = if matches!(load, Load::Mix) { OWNED } else { 0 };
    let mut owned: Vec<_> = (0..owned as u64).map(|number| memory.make([number; 8])).collect();
    let mut batch = Vec::with_capacity(BATCH);
    start.wait();
    while !stop.load(Ordering::Relaxed) {
        match load {
            Load::Touch => {
                for _ in 0..256 {
                    black_box(memory.touch(&shared[random.below(shared.len())]));
                }
                operations += 256;
            }
            Load::MakeAndEnd => {
                batch.extend((0..BATCH as u64).map(|number| memory.make([number; 8])));
                batch.drain(..).for_each(|object| memory.end(object));
                operations += BATCH as u64;
            }
            Load::Mix => {
                for _ in 0..32 {
                    let place = random.below(OWNED);
                    let old = std::mem::replace(&mut owned[place], memory.make([place as u64; 8]));
                    memory.end(old);
                    for _ in 0..2 {
                        black_box(memory.touch(&owned[random.below(OWNED)]));
                        black_box(memory.touch(&shared[random.below(shared.len())]));
                    }
                }
                operations += 32 * 5;
            }
        }
    }
    owned.into_iter().for_each(|object| memory.end(object));
    operations
}

/// Millions of operations a second of all threads together.
fn measure<M: Memory>(memory: &M, shared: &[M::Object], load: Load, threads: usize, length: Duration) -> f64 {
    let (start, stop, total) = (Barrier::new(threads + 1), AtomicBool::new(false), AtomicU64::new(0));
    let mut elapsed = Duration::ZERO;
    thread::scope(|scope| {
        for seed in 1..=threads as u64 {
            let (start, stop, total) = (&start, &stop, &total);
            scope.spawn(move || {
                total.fetch_add(work(memory, shared, load, seed, start, stop), Ordering::Relaxed);
            });
        }
        start.wait();
        let began = Instant::now();
        // The load lasts so long.
        thread::sleep(length);
        stop.store(true, Ordering::Relaxed);
        elapsed = began.elapsed();
    });
    total.into_inner() as f64 / elapsed.as_secs_f64() / 1e6
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let asked = std::env::args().find_map(|argument| argument.parse().ok());
    let most = asked.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)).max(1);
    let (rounds, length) = if quick { (3, Duration::from_millis(50)) } else { (7, Duration::from_millis(300)) };
    let mut counts: Vec<usize> =
        std::iter::successors(Some(1), |count| Some(count * 2)).take_while(|n| *n < most).collect();
    counts.push(most);

    let shuffler = Shuffler::new();
    let handles: Vec<_> = (0..SHARED as u64).map(|number| Memory::make(&shuffler, [number; 8])).collect();
    let arcs: Vec<_> = (0..SHARED as u64).map(|number| Arcs.make([number; 8])).collect();
    println!("| millions a second | threads | Memory Shuffler | Arc on mimalloc | ratio |");
    println!("|---|---|---|---|---|");
    for (load, name) in LOADS {
        for &threads in &counts {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                ours.push(measure(&shuffler, &handles, load, threads, length));
                theirs.push(measure(&Arcs, &arcs, load, threads, length));
            }
            let (ours, theirs) = (median(ours), median(theirs));
            println!("| {name} | {threads} | {ours:.1} | {theirs:.1} | {:.2} |", ours / theirs);
        }
    }
    println!("\n{} blocks were moved meanwhile", shuffler.stats().moves);
}
