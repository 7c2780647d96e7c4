//! The storm: threads that do everything to one shuffler at once, with every byte, every hold and every destructor checked
//! against a model. `tests/storm.rs` runs it for its checks, `benches/stress.rs` for its operations a second.
#![allow(clippy::disallowed_types, reason = "the models that need the library's own atomics are elsewhere")]

mod item;
mod model;
mod worker;

use item::Item;
use memory_shuffler::{Directory, Handle, Shuffler, Stats};
use model::{Ledger, Model, Pattern, Phone, Tracked};
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use worker::Worker;

/// What storm to make.
pub struct Config {
    pub name: &'static str,
    pub threads: usize,
    pub length: Duration,
    pub seed: u64,
    /// Whether the threads call `shuffle`, `shuffle_step` and `trim`.
    pub shuffles: bool,
    /// Whether one more thread calls `shuffle` without a break.
    pub without_a_break: bool,
    /// Whether allocations may meet the memory limit.
    pub limited: bool,
    pub build: fn() -> Shuffler,
}

/// What a storm was like.
pub struct Outcome {
    pub operations: u64,
    pub elapsed: Duration,
    pub blocks: u64,
    pub destructors: u64,
    pub checked_bytes: u64,
    /// Moves while it lasted.
    pub moves: u64,
    /// At the end, when every block was freed and trimmed away.
    pub stats: Stats,
}

impl Outcome {
    pub fn operations_per_second(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stats { helped, skipped_pinned, cycles, arenas_returned, resident_bytes, shards, .. } = self.stats;
        write!(
            f,
            "{} operations, {:.0} a second; {} blocks, {} destructors, {} MiB checked; {} moves, {helped} helped, \
             {skipped_pinned} times pinned, {cycles} cycles, {arenas_returned} arenas returned, {shards} shards, longest \
             step {:?}, {} KiB resident at the end of which {} KiB are bookkeeping",
            self.operations,
            self.operations_per_second(),
            self.blocks,
            self.destructors,
            self.checked_bytes >> 20,
            self.moves,
            self.stats.max_step,
            resident_bytes >> 10,
            self.stats.metadata_bytes >> 10,
        )
    }
}

/// What the threads share.
pub struct Shared {
    shuffler: Shuffler,
    by_name: Directory,
    by_id: Directory<u64>,
    slots: Vec<Mutex<Option<Item>>>,
    ledger: Arc<Ledger>,
    phone: Arc<Phone>,
    next_id: AtomicU64,
    /// 0: the population grows; 2: it shrinks; 1 and 3: it stays.
    tide: AtomicU32,
    /// Operations of each thread.
    progress: Vec<AtomicU64>,
    /// Live blocks of another shuffler.
    foreign: Vec<Handle<Tracked<2>>>,
    shuffles: bool,
}

const SLOTS: usize = 8192;
const MAIL: usize = 64;
const TIDE: Duration = Duration::from_millis(400);
/// A thread that finishes no operation for so long is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// Makes a storm; `Err`: what went wrong, with the seed.
pub fn run(config: &Config) -> Result<Outcome, String> {
    let ledger = Arc::new(Ledger::default());
    ledger.limited.store(config.limited, Ordering::Relaxed);
    let stranger = Shuffler::new();
    let shuffler = (config.build)();
    let foreign_models: Vec<_> = (0..4).map(|id| Model::new(&ledger, u64::MAX - id, 0, false)).collect();
    let foreign: Vec<_> =
        foreign_models.iter().map(|model| stranger.create(Tracked::new(model, None)).expect("a few blocks")).collect();
    let shared = Shared {
        by_name: Directory::new(&shuffler),
        by_id: Directory::new(&shuffler),
        slots: (0..SLOTS).map(|_| Mutex::default()).collect(),
        ledger: ledger.clone(),
        phone: Arc::new(Phone::new(Some(shuffler.clone()))),
        next_id: AtomicU64::new(0),
        tide: AtomicU32::new(0),
        progress: (0..config.threads).map(|_| AtomicU64::new(0)).collect(),
        foreign,
        shuffles: config.shuffles,
        shuffler,
    };
    let start = Instant::now();
    rage(config, &shared);
    let elapsed = start.elapsed();
    let operations = shared.progress.iter().map(|count| count.load(Ordering::Relaxed)).sum();
    let moves = shared.shuffler.stats().moves;
    let stats = settle(&shared);
    let blocks = shared.next_id.load(Ordering::Relaxed);
    end(shared, &ledger);
    drop(stranger);

    let [made, dropped, checked_bytes] =
        [&ledger.made, &ledger.dropped, &ledger.checked_bytes].map(|count| count.load(Ordering::SeqCst));
    if made != dropped {
        ledger.fail(format_args!("{made} values were made, {dropped} dropped"));
    }
    let failures = ledger.failures();
    if failures.is_empty() {
        return Ok(Outcome { operations, elapsed, blocks, destructors: dropped, checked_bytes, moves, stats });
    }
    let (name, seed) = (config.name, config.seed);
    let first = failures.iter().take(8).map(|failure| format!("\n  {failure}")).collect::<String>();
    Err(format!("storm '{name}', STORM_SEED={seed}: {} failures, the first:{first}\n{stats:?}", failures.len()))
}

/// The storm itself: until its time is over, or something fails.
fn rage(config: &Config, shared: &Shared) {
    let (peers, mail): (Vec<_>, Vec<_>) = (0..config.threads).map(|_| mpsc::sync_channel(MAIL)).unzip();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, mail) in mail.into_iter().enumerate() {
            let worker = Worker::new(number, shared, config.seed, mail, peers.clone());
            threads.push(scope.spawn(move || worker.run()));
        }
        drop(peers);
        if config.without_a_break {
            threads.push(scope.spawn(|| {
                while !shared.ledger.stopped() {
                    shared.shuffler.shuffle();
                }
            }));
        }
        let (over, watched) = mpsc::channel::<()>();
        scope.spawn(move || watch(config, shared, &watched));
        for thread in threads {
            if thread.join().is_err() {
                shared.ledger.fail("a thread panicked");
            }
        }
        drop(over);
    });
}

/// Ends the storm in time, and the process if a thread is stuck.
fn watch(config: &Config, shared: &Shared, watched: &mpsc::Receiver<()>) {
    let start = Instant::now();
    let mut seen = vec![(0, start); config.threads];
    while watched.recv_timeout(Duration::from_millis(5)) == Err(mpsc::RecvTimeoutError::Timeout) {
        let elapsed = start.elapsed();
        if elapsed >= config.length {
            shared.ledger.stop.store(true, Ordering::SeqCst);
        }
        shared.tide.store((elapsed.as_millis() / TIDE.as_millis() % 4) as u32, Ordering::Relaxed);
        for (thread, (count, since)) in seen.iter_mut().enumerate() {
            let now = shared.progress[thread].load(Ordering::Relaxed);
            if now != *count {
                (*count, *since) = (now, Instant::now());
            } else if since.elapsed() > STUCK {
                let failures = shared.ledger.failures();
                let (name, seed) = (config.name, config.seed);
                eprintln!(
                    "storm '{name}', STORM_SEED={seed}: thread {thread} is stuck since its operation {now}; {failures:?}"
                );
                std::process::abort();
            }
        }
    }
}

/// Frees what is left; nothing may remain.
fn settle(shared: &Shared) -> Stats {
    for slot in &shared.slots {
        let item = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(item) = item {
            item.free(shared);
        }
    }
    // Destructors of what readers might have seen, and the arenas that it was in, go in steps.
    let patience = Instant::now() + Duration::from_secs(10);
    let is_left = |stats: &Stats| stats.live_blocks > 0 || stats.waiting > 0;
    while is_left(&shared.shuffler.stats()) && Instant::now() < patience {
        shared.shuffler.trim();
    }
    shared.shuffler.trim();
    let stats = shared.shuffler.stats();
    if stats.live_blocks != 0 || stats.live_bytes != 0 || stats.panics != 0 {
        shared.ledger.fail("blocks are left");
    }
    stats
}

/// Drops the shuffler while some of its blocks are held.
fn end(shared: Shared, ledger: &Arc<Ledger>) {
    let Shared { shuffler, by_name, by_id, phone, .. } = shared;
    let models: Vec<_> = (0..64).map(|id| Model::new(ledger, id, 0, false)).collect();
    let handles: Vec<_> =
        models.iter().filter_map(|model| shuffler.create(Tracked::<2>::new(model, None)).ok()).collect();
    let held: Vec<_> = handles.iter().step_by(3).filter_map(|handle| shuffler.rent_owned(*handle).ok()).collect();
    for handle in handles.iter().step_by(2) {
        if let Err(error) = shuffler.free(*handle) {
            ledger.fail(format_args!("a last free: {error:?}"));
        }
    }
    if handles.len() != models.len() || held.len() != models.len().div_ceil(3) {
        ledger.fail("the last blocks could not be made and held");
    }
    phone.write().unwrap_or_else(PoisonError::into_inner).take();
    drop((by_name, by_id, shuffler));
    for (i, model) in models.iter().enumerate() {
        let should_live = i.is_multiple_of(3);
        if model.is_dropped() == should_live {
            model.fail(format_args!("held: {should_live}, after the shuffler went: dropped: {}", !should_live));
        }
    }
    for (rent, model) in held.into_iter().zip(models.iter().step_by(3)) {
        rent.check(model, "after the shuffler went");
        drop(rent);
        if !model.is_dropped() {
            model.fail("its last rent was returned, and it was not dropped");
        }
    }
}
