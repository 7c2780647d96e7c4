//! Holds and blocks beside `Arc` and malloc, in one run, while another thread makes the compactor move blocks.
//!
//! `cargo bench --bench latency`; `-- --quick` for a short run. Rounds of all contestants are interleaved, so that a change
//! of the machine's speed meets all alike; medians and minima over the rounds, nanoseconds an operation. The last column is
//! the ratio of the medians to the contestant named.

use memory_shuffler::{Directory, Handle, Rights, Shuffler, Trigger};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Value = [u64; 8];

const BATCH: usize = 64;
const BATCHES: usize = 500;
const HOT: usize = 1_000;
const LAPS: usize = 50;

/// One thing that is timed.
struct Contestant<'a> {
    name: &'static str,
    /// Whom its ratio is to.
    against: &'static str,
    operations: usize,
    run: Box<dyn FnMut() + 'a>,
    times: Vec<f64>,
}

impl<'a> Contestant<'a> {
    fn new(name: &'static str, against: &'static str, operations: usize, run: impl FnMut() + 'a) -> Self {
        Self { name, against, operations, run: Box::new(run), times: Vec::new() }
    }

    fn round(&mut self) {
        let start = Instant::now();
        (self.run)();
        self.times.push(start.elapsed().as_nanos() as f64 / self.operations as f64);
    }

    fn median(&self) -> f64 {
        let mut times = self.times.clone();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }

    fn minimum(&self) -> f64 {
        self.times.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// Numbers below `n` in an order that no prefetcher guesses.
fn scattered(n: usize) -> Vec<usize> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut order: Vec<usize> = (0..n).collect();
    for end in (1..n).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(end, (state % (end as u64 + 1)) as usize);
    }
    order
}

/// Keeps making sparse arenas and shuffling them, until told to stop.
fn churn(shuffler: &Shuffler, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let blocks: Vec<Handle<Value>> =
            (0..40_000).map(|number| shuffler.create([number; 8]).expect("memory")).collect();
        for (index, &handle) in blocks.iter().enumerate() {
            if index % 4 != 0 {
                let _ = shuffler.free(handle).expect("live");
            }
        }
        shuffler.shuffle();
        for &handle in blocks.iter().step_by(4) {
            let _ = shuffler.free(handle).expect("live");
        }
    }
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let rounds = if quick { 15 } else { 51 };
    let many = if quick { 200_000 } else { 1_000_000 };

    let shuffler = Shuffler::builder().trigger(Trigger::Background).build().expect("a configuration");
    let stop = AtomicBool::new(false);
    let before = shuffler.stats().moves;
    thread::scope(|scope| {
        scope.spawn(|| churn(&shuffler, &stop));
        let contestants = race(&shuffler, rounds, many);
        stop.store(true, Ordering::Relaxed);
        print(&contestants);
    });
    let moves = shuffler.stats().moves - before;
    println!(
        "\n{moves} blocks were moved meanwhile, {} of them by the threads that wanted them",
        shuffler.stats().helped
    );
    assert!(moves >= 10_000, "the compactor hardly moved anything");
}

fn race(shuffler: &Shuffler, rounds: usize, many: usize) -> Vec<Contestant<'_>> {
    let handles: Vec<Handle<Value>> = (0..many as u64).map(|n| shuffler.create([n; 8]).expect("memory")).collect();
    let versioned: Vec<_> = (0..many as u64).map(|n| shuffler.create_versioned([n; 8]).expect("memory")).collect();
    let arcs: Vec<Arc<Value>> = (0..many as u64).map(|n| Arc::new([n; 8])).collect();
    let directory = Directory::new(shuffler);
    let names: Vec<_> = handles[..HOT].iter().map(|&handle| directory.grant(handle, Rights::READ)).collect();
    let hot = scattered(HOT);
    let cold = scattered(many);
    let few = many.min(100_000);
    macro_rules! walk {
        ($name:literal, $against:literal, $order:expr, $laps:expr, $index:ident => $body:expr) => {{
            let order = $order.clone();
            Contestant::new($name, $against, order.len() * $laps, move || {
                for _ in 0..$laps {
                    for &$index in &order {
                        black_box($body);
                    }
                }
            })
        }};
    }

    let cold_few: Vec<usize> = cold[..few].to_vec();
    let (hot_arcs, cold_arcs) = (arcs.clone(), arcs);
    let (hot_handles, cold_handles) = (handles.clone(), handles);
    let (hot_versioned, cold_versioned) = (versioned.clone(), versioned);
    let mut blocks = Vec::with_capacity(BATCH);
    let mut boxes = Vec::with_capacity(BATCH);
    let mut contestants = vec![
        walk!("Arc clone + drop, hot", "Arc clone + drop, hot", hot, LAPS, index => hot_arcs[index].clone()[3]),
        walk!("rent + return, hot", "Arc clone + drop, hot", hot, LAPS, index =>
            shuffler.rent(hot_handles[index]).expect("live")[3]),
        walk!("reader.get, hot", "Arc clone + drop, hot", hot, LAPS, index => {
            // A reader for each read: the dearest way.
            shuffler.reader().get(hot_versioned[index]).expect("live")[3]
        }),
        walk!("directory rent + return, hot", "Arc clone + drop, hot", hot, LAPS, index =>
            directory.rent::<Value>(&names[index]).expect("live")[3]),
        walk!("Arc clone + drop, scattered", "Arc clone + drop, scattered", cold_few, 1, index =>
            cold_arcs[index].clone()[3]),
        walk!("rent + return, scattered", "Arc clone + drop, scattered", cold_few, 1, index =>
            shuffler.rent(cold_handles[index]).expect("live")[3]),
        {
            let order = cold_few.clone();
            Contestant::new("reader.get under one reader, scattered", "Arc clone + drop, scattered", few, move || {
                let reader = shuffler.reader();
                for &index in &order {
                    black_box(reader.get(cold_versioned[index]).expect("live")[3]);
                }
            })
        },
        Contestant::new("Arc::new + drop on mimalloc", "Arc::new + drop on mimalloc", BATCH * BATCHES, move || {
            for _ in 0..BATCHES {
                boxes.extend((0..BATCH as u64).map(|number| Arc::new([number; 8])));
                boxes.drain(..).for_each(drop);
            }
        }),
        Contestant::new("create + free", "Arc::new + drop on mimalloc", BATCH * BATCHES, move || {
            for _ in 0..BATCHES {
                blocks.extend((0..BATCH as u64).map(|number| shuffler.create([number; 8]).expect("memory")));
                blocks.drain(..).for_each(|handle| {
                    let _ = shuffler.free(handle).expect("live");
                });
            }
        }),
    ];
    for round in 0..=rounds {
        contestants.iter_mut().for_each(Contestant::round);
        if round == 0 {
            // To warm up.
            contestants.iter_mut().for_each(|contestant| contestant.times.clear());
        }
    }
    contestants
}

fn print(contestants: &[Contestant<'_>]) {
    println!("| 64-byte values | median, ns | minimum, ns | ratio |");
    println!("|---|---|---|---|");
    for contestant in contestants {
        let peer = contestants.iter().find(|peer| peer.name == contestant.against).expect("a contestant");
        let ratio = contestant.median() / peer.median();
        let (median, minimum) = (contestant.median(), contestant.minimum());
        println!("| {} | {median:.1} | {minimum:.1} | {ratio:.2} |", contestant.name);
    }
}
