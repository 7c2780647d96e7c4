//! Reads, holds and replacements beside raw pointers, `Arc` and the crates that one would otherwise take, in one run.
//!
//! `cargo bench --bench peers`; `-- --quick` for a short run, `-- 8` for up to 8 threads. 1,000 blocks of 64 bytes again and
//! again (*hot*), or blocks of 1 million and 4 million in an order that no prefetcher guesses, each in its place in an array of
//! handles, pointers, keys; the maps' keys are the indices themselves, so that they need no array. Nothing is moved meanwhile:
//! see `latency` and `pauses` for that. Every contestant's blocks are made in the order of their index, and lie on pages of
//! 4 KiB unless the name says otherwise (then they are mimalloc's, which asks for huge pages, and those of a source that
//! does). Rounds of all are interleaved; medians and minima over the rounds, nanoseconds an operation of one thread; a ratio is
//! the median of those within a round.

#[path = "common/order.rs"]
mod order;
#[path = "common/rounds.rs"]
mod rounds;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use memory_shuffler::{Directory, Handle, OpaqueHandle, OsSource, Rights, Shuffler, Versioned};
use rounds::Contestant;
use sharded_slab::Slab;
use slotmap::{DefaultKey, SlotMap};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::Duration;

type Value = [u64; 8];

const HOT: usize = 1_000;
/// Operations of a thread in a round: on more lines than a cache has, so that none is found there from the round before, and
/// long enough that threads meet.
const OPERATIONS: usize = 400_000;

const RAW: &str = "raw pointer";
const GET: &str = "reader.get";
const RAW_HUGE: &str = "raw pointer, huge pages";
const GET_HUGE: &str = "reader.get, huge pages";
const RENT: &str = "rent, read, return";
const STORE: &str = "arc-swap: store(Arc::new)";
const RCU: &str = "arc-swap: rcu";
/// The safe peers, by how many times slower than `reader.get` they should be: hot, and among a million.
const SAFE: [&str; 4] = [SLAB, PAPAYA, DASHMAP, SLOTMAP];
const SLAB: &str = "sharded-slab";
const PAPAYA: &str = "papaya, guard held";
const DASHMAP: &str = "DashMap";
const SLOTMAP: &str = "RwLock<SlotMap>";

/// Visits objects in an order, and returns something made of what it read.
type Walk<'a> = dyn Fn(&[u32]) -> u64 + Sync + 'a;

/// A name, whom the ratio is to, and what is timed.
type Visit<'a> = (&'static str, &'static str, Box<Walk<'a>>);

/// Every contestant's objects.
struct Population {
    shuffler: Shuffler,
    handles: Vec<Handle<Value>>,
    versioned: Vec<Versioned<Value>>,
    directory: Directory,
    names: Vec<OpaqueHandle>,
    on_huge_pages: Shuffler,
    versioned_on_huge_pages: Vec<Versioned<Value>>,
    raw: Pointers,
    raw_on_huge_pages: Pointers,
    arcs: Vec<Arc<Value>>,
    slab: Slab<Value>,
    keys_in_slab: Vec<usize>,
    papaya: papaya::HashMap<u64, Value>,
    dashmap: DashMap<u64, Value>,
    slotmap: RwLock<SlotMap<DefaultKey, Value>>,
    keys_in_slotmap: Vec<DefaultKey>,
}

impl Population {
    fn new(n: usize) -> Self {
        fn all<O>(n: usize, mut make: impl FnMut(Value) -> O) -> Vec<O> {
            (0..n as u64).map(|number| make([number; 8])).collect()
        }
        let shuffler = Shuffler::new();
        let handles = all(n, |value| shuffler.create(value).expect("memory"));
        let versioned = all(n, |value| shuffler.create_versioned(value).expect("memory"));
        let on_huge_pages = Shuffler::builder().source(OsSource::with_huge_pages()).build().expect("a configuration");
        let versioned_on_huge_pages = all(n, |value| on_huge_pages.create_versioned(value).expect("memory"));
        let directory = Directory::new(&shuffler);
        let names = handles.iter().map(|&handle| directory.grant(handle, Rights::READ)).collect();
        let slab = Slab::new();
        let keys_in_slab = all(n, |value| slab.insert(value).expect("room"));
        let (papaya, dashmap) = (papaya::HashMap::new(), DashMap::new());
        all(n, |value| papaya.pin().insert(value[0], value).is_none());
        all(n, |value| dashmap.insert(value[0], value));
        let mut slotmap = SlotMap::new();
        let keys_in_slotmap = all(n, |value| slotmap.insert(value));
        let arcs = all(n, Arc::new);
        let slotmap = RwLock::new(slotmap);
        Self {
            shuffler,
            handles,
            versioned,
            directory,
            names,
            on_huge_pages,
            versioned_on_huge_pages,
            raw: Pointers(all(n, |value| block(&System, value))),
            raw_on_huge_pages: Pointers(all(n, |value| block(&mimalloc::MiMalloc, value))),
            arcs,
            slab,
            keys_in_slab,
            papaya,
            dashmap,
            slotmap,
            keys_in_slotmap,
        }
    }
}

/// To blocks that are never freed and that nobody writes.
struct Pointers(Vec<*const Value>);

// SAFETY: the blocks are only read while these are shared.
unsafe impl Sync for Pointers {}

/// A block that is never freed.
fn block(allocator: &impl GlobalAlloc, value: Value) -> *const Value {
    // SAFETY: the layout is not empty; the block, which there is, has room for one value.
    unsafe {
        let block = allocator.alloc(Layout::new::<Value>()).cast::<Value>();
        assert!(!block.is_null());
        block.write(value);
        block
    }
}

impl Pointers {
    #[inline]
    fn read(&self, index: u32) -> u64 {
        // SAFETY: the blocks are never freed.
        unsafe { (*self.0[index as usize])[3] }
    }
}

fn sum(order: &[u32], read: impl Fn(u32) -> u64) -> u64 {
    order.iter().fold(0, |sum: u64, &index| sum.wrapping_add(read(index)))
}

fn each(read: impl Fn(u32) -> u64 + Sync) -> impl Fn(&[u32]) -> u64 + Sync {
    move |order| sum(order, &read)
}

fn reads(all: &Population) -> Vec<Visit<'_>> {
    fn under_one_reader<'a>(shuffler: &'a Shuffler, blocks: &'a [Versioned<Value>]) -> Box<Walk<'a>> {
        Box::new(|order| {
            let reader = shuffler.reader();
            sum(order, |i| reader.get(blocks[i as usize]).expect("live")[3])
        })
    }
    let under_one_guard = |order: &[u32]| {
        let guard = all.papaya.guard();
        sum(order, |i| all.papaya.get(&u64::from(i), &guard).expect("there")[3])
    };
    let in_slotmap = |i: u32| {
        let slotmap = all.slotmap.read().expect("nobody panics");
        slotmap[all.keys_in_slotmap[i as usize]][3]
    };
    vec![
        (RAW, RAW, Box::new(each(|i| all.raw.read(i)))),
        (GET, RAW, under_one_reader(&all.shuffler, &all.versioned)),
        (RAW_HUGE, RAW_HUGE, Box::new(each(|i| all.raw_on_huge_pages.read(i)))),
        (GET_HUGE, RAW_HUGE, under_one_reader(&all.on_huge_pages, &all.versioned_on_huge_pages)),
        (
            "reader for each, get",
            RAW,
            Box::new(each(|i| all.shuffler.reader().get(all.versioned[i as usize]).expect("live")[3])),
        ),
        ("Arc clone, read, drop", RAW, Box::new(each(|i| black_box(all.arcs[i as usize].clone())[3]))),
        (
            RENT,
            "Arc clone, read, drop",
            Box::new(each(|i| all.shuffler.rent(all.handles[i as usize]).expect("live")[3])),
        ),
        (
            "by name, rent, read, return",
            RENT,
            Box::new(each(|i| all.directory.rent::<Value>(&all.names[i as usize]).expect("live")[3])),
        ),
        (SLAB, GET, Box::new(each(|i| all.slab.get(all.keys_in_slab[i as usize]).expect("there")[3]))),
        (PAPAYA, GET, Box::new(under_one_guard)),
        (DASHMAP, GET, Box::new(each(|i| all.dashmap.get(&u64::from(i)).expect("there")[3]))),
        (SLOTMAP, GET, Box::new(each(in_slotmap))),
    ]
}

fn replacements<'a>(
    shuffler: &'a Shuffler,
    versioned: &'a [Versioned<Value>],
    arcs: &'a [ArcSwap<Value>],
) -> Vec<Visit<'a>> {
    let next = |value: &Value| value.map(|number| number + 1);
    vec![
        (
            STORE,
            STORE,
            Box::new(each(|i| {
                arcs[i as usize].store(Arc::new([u64::from(i); 8]));
                0
            })),
        ),
        (
            "publish",
            STORE,
            Box::new(each(|i| shuffler.publish(versioned[i as usize], [u64::from(i); 8]).map_or(1, |()| 0))),
        ),
        (
            RCU,
            RCU,
            Box::new(each(move |i| {
                arcs[i as usize].rcu(|value| next(value));
                0
            })),
        ),
        ("update", RCU, Box::new(each(move |i| shuffler.update(versioned[i as usize], next).map_or(1, |()| 0)))),
    ]
}

/// One thread's visits in a round: of all objects, or of a part of the order that is as long as a round.
fn visits(visit: &Walk<'_>, order: &[u32], thread: usize, threads: usize, part: usize) -> Duration {
    // Each thread in another part.
    let parts = (order.len() / OPERATIONS).max(1);
    let part = (thread * parts / threads + part) % parts;
    let order = &order[part * OPERATIONS.min(order.len())..][..OPERATIONS.min(order.len())];
    rounds::timed(|| {
        for _ in 0..OPERATIONS / order.len() {
            black_box(visit(order));
        }
    })
}

/// A round of so many threads at once; the mean of their times.
fn round(visit: &Walk<'_>, order: &[u32], threads: usize, part: usize) -> Duration {
    if threads == 1 {
        return visits(visit, order, 0, 1, part);
    }
    let missing = AtomicUsize::new(threads);
    let work = |thread| {
        // Those who sleep until all are there do not begin at once.
        missing.fetch_sub(1, Ordering::AcqRel);
        while missing.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
        visits(visit, order, thread, threads, part)
    };
    thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        let times = workers.into_iter().map(|worker| worker.join().expect("it only reads"));
        times.sum::<Duration>() / threads as u32
    })
}

fn race(heading: &str, visits: &[Visit<'_>], n: usize, threads: usize, rounds: usize) -> Vec<rounds::Result> {
    let order: Vec<u32> = order::scattered(n).into_iter().map(|index| index as u32).collect();
    let order = &order;
    let contestants = visits.iter().enumerate().map(|(place, (name, against, visit))| {
        // Neighbours have different parts: some share their objects, and who came second would find the last ones cached.
        Contestant::new(name, against, OPERATIONS, move |number| round(visit, order, threads, number + place))
    });
    let results = rounds::race(contestants.collect(), rounds);
    rounds::print(&format!("{heading}, threads: {threads}"), &results);
    println!();
    results
}

/// Tells how far from its goals a race of one thread ended.
fn judge(n: usize, results: &[rounds::Result]) {
    let of = |name: &str| results.iter().find(|result| result.name == name).expect("a contestant");
    let say = |what: &str, figure: f64, goal: String, met: bool| {
        println!("goal: {what}: {figure:.2}, {goal}: {}", if met { "met" } else { "missed" });
    };
    let ratio = of(GET).ratio;
    let (most, least) = match n {
        HOT => {
            let more = of(GET).median - of(RAW).median;
            say("reader.get less a raw pointer, ns", more, "at most 2.5".into(), more <= 2.5);
            (None, Some(8.0))
        }
        1_000_000 => (Some(1.5), Some(3.0)),
        _ => (Some(1.25), None),
    };
    if let Some(most) = most {
        say("reader.get to a raw pointer", ratio, format!("at most {most}"), ratio <= most);
    }
    if let Some(least) = least {
        for name in SAFE {
            let ratio = of(name).ratio;
            say(&format!("{name} to reader.get"), ratio, format!("at least {least}"), ratio >= least);
        }
    }
    println!();
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let asked = std::env::args().find_map(|argument| argument.parse().ok());
    let most = asked.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)).max(1);
    let mut counts: Vec<usize> = [1, 2, most].into_iter().take_while(|&count| count <= most).collect();
    counts.dedup();
    let rounds = if quick { 5 } else { 21 };
    for n in [HOT, 1_000_000, 4_000_000].into_iter().take(if quick { 2 } else { 3 }) {
        let all = Population::new(n);
        for &threads in &counts {
            let results = race(&format!("reads among {n}"), &reads(&all), n, threads, rounds);
            if threads == 1 {
                judge(n, &results);
            }
        }
    }
    let shuffler = Shuffler::new();
    let versioned: Vec<_> = (0..HOT as u64).map(|n| shuffler.create_versioned([n; 8]).expect("memory")).collect();
    let arcs: Vec<_> = (0..HOT as u64).map(|n| ArcSwap::from_pointee([n; 8])).collect();
    for &threads in &counts {
        race(&format!("replacements among {HOT}"), &replacements(&shuffler, &versioned, &arcs), HOT, threads, rounds);
    }
}
