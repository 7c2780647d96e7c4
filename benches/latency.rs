//! Holds and blocks beside `Arc` and malloc, in one run, while another thread makes the compactor move blocks.
//!
//! `cargo bench --bench latency`; `-- --quick` for a short run. Rounds of all contestants are interleaved, so that a change
//! of the machine's speed meets all alike; medians and minima over the rounds, nanoseconds an operation. Each group begins
//! with the contestant that its ratios, of the medians, are to. *Hot*: 1,000 objects, again and again; *far*: 100,000 of
//! 1,000,000, at random.

use memory_shuffler::{Directory, Handle, Rights, Shuffler, Trigger};
use std::alloc::{GlobalAlloc, Layout, System};
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
        race(&shuffler, rounds, many);
        stop.store(true, Ordering::Relaxed);
    });
    let moves = shuffler.stats().moves - before;
    println!(
        "\n{moves} blocks were moved meanwhile, {} of them by the threads that wanted them",
        shuffler.stats().helped
    );
    assert!(moves >= 10_000, "the compactor hardly moved anything");
}

fn race(shuffler: &Shuffler, rounds: usize, many: usize) {
    let handles: Vec<Handle<Value>> = (0..many as u64).map(|n| shuffler.create([n; 8]).expect("memory")).collect();
    let versioned: Vec<_> = (0..many as u64).map(|n| shuffler.create_versioned([n; 8]).expect("memory")).collect();
    let arcs: Vec<Arc<Value>> = (0..many as u64).map(|n| Arc::new([n; 8])).collect();
    let directory = Directory::new(shuffler);
    let names: Vec<_> = handles[..HOT].iter().map(|&handle| directory.grant(handle, Rights::READ)).collect();
    let hot = scattered(HOT);
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

    let pointers: Vec<*const Value> = arcs.iter().map(Arc::as_ptr).collect();
    let far: Vec<usize> = scattered(many)[..few].to_vec();
    let (pointers, arcs, handles, versioned, names) = (&pointers, &arcs, &handles, &versioned, &names);
    let read = |index: usize| {
        // SAFETY: the `Arc`s live as long as the pointers.
        unsafe { (*pointers[index])[3] }
    };
    let under_one_reader = move |order: &[usize], laps: usize| {
        let reader = shuffler.reader();
        for _ in 0..laps {
            for &index in order {
                black_box(reader.get(versioned[index]).expect("live")[3]);
            }
        }
    };
    let (hot_order, far_order) = (hot.clone(), far.clone());
    let mut contestants = vec![
        walk!("hot: Arc clone + drop", "hot: Arc clone + drop", hot, LAPS, i => Arc::as_ptr(&arcs[i].clone())),
        walk!("hot: rent + return", "hot: Arc clone + drop", hot, LAPS, i => {
            &raw const *shuffler.rent(handles[i]).expect("live")
        }),
        walk!("hot: Arc clone, read, drop", "hot: Arc clone, read, drop", hot, LAPS, i => arcs[i].clone()[3]),
        walk!("hot: rent, read, return", "hot: Arc clone, read, drop", hot, LAPS, i => {
            shuffler.rent(handles[i]).expect("live")[3]
        }),
        walk!("hot: by name, rent, read, return", "hot: Arc clone, read, drop", hot, LAPS, i => {
            directory.rent::<Value>(&names[i]).expect("live")[3]
        }),
        walk!("hot: read through a raw pointer", "hot: read through a raw pointer", hot, LAPS, i => read(i)),
        Contestant::new("hot: get under one reader", "hot: read through a raw pointer", HOT * LAPS, move || {
            under_one_reader(&hot_order, LAPS);
        }),
        walk!("hot: get, a reader for each", "hot: read through a raw pointer", hot, LAPS, i => {
            shuffler.reader().get(versioned[i]).expect("live")[3]
        }),
        walk!("far: Arc clone + drop", "far: Arc clone + drop", far, 1, i => Arc::as_ptr(&arcs[i].clone())),
        walk!("far: rent + return", "far: Arc clone + drop", far, 1, i => {
            &raw const *shuffler.rent(handles[i]).expect("live")
        }),
        walk!("far: Arc clone, read, drop", "far: Arc clone, read, drop", far, 1, i => arcs[i].clone()[3]),
        walk!("far: rent, read, return", "far: Arc clone, read, drop", far, 1, i => {
            shuffler.rent(handles[i]).expect("live")[3]
        }),
        walk!("far: read through a raw pointer", "far: read through a raw pointer", far, 1, i => read(i)),
        Contestant::new("far: get under one reader", "far: read through a raw pointer", few, move || {
            under_one_reader(&far_order, 1);
        }),
    ];
    contestants.extend(makers(shuffler));
    for round in 0..=rounds {
        contestants.iter_mut().for_each(Contestant::round);
        if round == 0 {
            // To warm up.
            contestants.iter_mut().for_each(|contestant| contestant.times.clear());
        }
    }
    print(&contestants);
}

/// 64 bytes, made and unmade in batches.
fn makers(shuffler: &Shuffler) -> [Contestant<'_>; 4] {
    const ARC: &str = "Arc::new + drop on mimalloc";
    fn batches<'a, B: 'a>(name: &'static str, make: impl Fn(u64) -> B + 'a, end: impl Fn(B) + 'a) -> Contestant<'a> {
        let mut batch = Vec::with_capacity(BATCH);
        Contestant::new(name, ARC, BATCH * BATCHES, move || {
            for _ in 0..BATCHES {
                batch.extend((0..BATCH as u64).map(&make));
                batch.drain(..).for_each(&end);
            }
        })
    }
    fn raw<'a>(name: &'static str, allocator: &'a impl GlobalAlloc) -> Contestant<'a> {
        let layout = Layout::new::<Value>();
        let make = move |number| {
            // SAFETY: the layout is not empty; the block, which there is, has room for one value.
            unsafe {
                let block = allocator.alloc(layout).cast::<Value>();
                assert!(!block.is_null());
                block.write([number; 8]);
                block
            }
        };
        // SAFETY: allocated above with this layout, and freed once.
        batches(name, make, move |block| unsafe { allocator.dealloc(block.cast(), layout) })
    }
    [
        batches(ARC, |number| Arc::new([number; 8]), drop),
        batches(
            "create + free",
            |number| shuffler.create([number; 8]).expect("memory"),
            |handle| assert!(shuffler.free(handle).is_ok()),
        ),
        raw("malloc + free of mimalloc", &GLOBAL),
        raw("malloc + free of the system", &System),
    ]
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
