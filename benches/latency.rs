//! Holds and blocks beside `Arc` and malloc, in one run, while another thread makes the compactor move blocks.
//!
//! `cargo bench --bench latency`; `-- --quick` for a short run. Rounds of all contestants are interleaved, so that a change
//! of the machine's speed meets all alike; medians and minima over the rounds, nanoseconds an operation; a ratio is the median
//! of those within a round. Each group begins with the contestant that its ratios are to. *Hot*: 1,000 objects, again and again; *far*: 100,000 of
//! 1,000,000, at random.

#[path = "common/order.rs"]
mod order;
#[path = "common/rounds.rs"]
mod rounds;

use memory_shuffler::{Handle, Shuffler, Trigger};
use order::scattered;
use rounds::{Contestant, timed};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Value = [u64; 8];

const BATCH: usize = 64;
const BATCHES: usize = 500;
const HOT: usize = 1_000;
const LAPS: usize = 50;

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
    let arcs: Vec<Arc<Value>> = (0..many as u64).map(|n| Arc::new([n; 8])).collect();
    let hot = scattered(HOT);
    let few = many.min(100_000);
    macro_rules! walk {
        ($name:literal, $against:literal, $order:expr, $laps:expr, $index:ident => $body:expr) => {{
            let order = $order.clone();
            Contestant::new($name, $against, order.len() * $laps, move |_| {
                timed(|| {
                    for _ in 0..$laps {
                        for &$index in &order {
                            black_box($body);
                        }
                    }
                })
            })
        }};
    }

    let far: Vec<usize> = scattered(many)[..few].to_vec();
    let (arcs, handles) = (&arcs, &handles);
    let scrubbing = Shuffler::builder().scrub(true).build().expect("a configuration");
    let mut contestants = vec![
        walk!("hot: Arc clone + drop", "hot: Arc clone + drop", hot, LAPS, i => Arc::as_ptr(&arcs[i].clone())),
        walk!("hot: rent + return", "hot: Arc clone + drop", hot, LAPS, i => {
            &raw const *shuffler.rent(handles[i]).expect("live")
        }),
        walk!("hot: Arc clone, read, drop", "hot: Arc clone, read, drop", hot, LAPS, i => arcs[i].clone()[3]),
        walk!("hot: rent, read, return", "hot: Arc clone, read, drop", hot, LAPS, i => {
            shuffler.rent(handles[i]).expect("live")[3]
        }),
        walk!("far: Arc clone + drop", "far: Arc clone + drop", far, 1, i => Arc::as_ptr(&arcs[i].clone())),
        walk!("far: rent + return", "far: Arc clone + drop", far, 1, i => {
            &raw const *shuffler.rent(handles[i]).expect("live")
        }),
        walk!("far: Arc clone, read, drop", "far: Arc clone, read, drop", far, 1, i => arcs[i].clone()[3]),
        walk!("far: rent, read, return", "far: Arc clone, read, drop", far, 1, i => {
            shuffler.rent(handles[i]).expect("live")[3]
        }),
    ];
    contestants.extend(makers(shuffler, &scrubbing));
    rounds::print("64-byte values", &rounds::race(contestants, rounds));
}

/// 64 bytes, made and unmade in batches.
fn makers<'a>(shuffler: &'a Shuffler, scrubbing: &'a Shuffler) -> [Contestant<'a>; 5] {
    const ARC: &str = "Arc::new + drop on mimalloc";
    fn batches<'a, B: 'a>(name: &'static str, make: impl Fn(u64) -> B + 'a, end: impl Fn(B) + 'a) -> Contestant<'a> {
        let mut batch = Vec::with_capacity(BATCH);
        Contestant::new(name, ARC, BATCH * BATCHES, move |_| {
            timed(|| {
                for _ in 0..BATCHES {
                    batch.extend((0..BATCH as u64).map(&make));
                    batch.drain(..).for_each(&end);
                }
            })
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
    fn pair<'a>(name: &'static str, shuffler: &'a Shuffler) -> Contestant<'a> {
        let make = |number| shuffler.create([number; 8]).expect("memory");
        batches(name, make, |handle| assert!(shuffler.free(handle).is_ok()))
    }
    [
        batches(ARC, |number| Arc::new([number; 8]), drop),
        pair("create + free", shuffler),
        pair("create + free with scrub", scrubbing),
        raw("malloc + free of mimalloc", &GLOBAL),
        raw("malloc + free of the system", &System),
    ]
}
