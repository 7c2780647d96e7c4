//! Storms over several configurations: 10 s together, or `STORM_SECONDS` each. A failure names its seed; `STORM_SEED` runs
//! the same storm again, as far as threads let it be the same.

#[path = "../benches/storm/mod.rs"]
mod storm;

#[path = "common/fenced.rs"]
mod fenced;

use fenced::Fenced;
use memory_shuffler::{Budget, BumpSource, Placement, Shuffler, Trigger};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Storms want the machine for themselves.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn variable<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn check(name: &'static str, seconds: f64, limited: bool, build: fn() -> Shuffler) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    let config = storm::Config {
        name,
        threads: 8,
        length: Duration::from_secs_f64(variable("STORM_SECONDS").unwrap_or(seconds)),
        seed: variable("STORM_SEED").unwrap_or_else(clock),
        shuffles: true,
        without_a_break: false,
        limited,
        build,
    };
    match storm::run(&config) {
        Ok(outcome) => {
            println!("storm '{name}', STORM_SEED={}: {outcome}", config.seed);
            assert!(outcome.moves > 0, "nothing moved: {outcome}");
            assert!(outcome.stats.arenas_returned > 0, "no arena went back: {outcome}");
        }
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn default_configuration() {
    check("default", 3.0, false, Shuffler::new);
}

#[test]
fn tiny_arenas() {
    let build = || {
        let budget = Budget { bytes: 4096, time: Duration::from_micros(50) };
        let builder = Shuffler::builder().arena_bytes(64 << 10).retain_bytes(0).budget(budget);
        // Who looks into an arena that went back is killed.
        builder.source(Fenced::new()).build().unwrap()
    };
    check("tiny arenas", 2.5, false, build);
}

#[test]
fn bump_source() {
    check("BumpSource", 1.5, false, || Shuffler::builder().source(BumpSource::new()).build().unwrap());
}

#[test]
fn inline_trigger() {
    let build = || Shuffler::builder().trigger(Trigger::Inline).retain_bytes(0).build().unwrap();
    check("inline trigger", 1.5, false, build);
}

#[test]
fn random_placement() {
    let build = || {
        let builder = Shuffler::builder().arena_bytes(64 << 10).retain_bytes(0).placement(Placement::Random);
        builder.source(Fenced::new()).build().unwrap()
    };
    check("random placement", 1.5, false, build);
}

#[test]
fn memory_limit() {
    let build = || Shuffler::builder().arena_bytes(128 << 10).memory_limit(12 << 20).build().unwrap();
    check("memory limit", 1.5, true, build);
}

/// The first thing that the storm found: an arena of `Versioned` blocks that had been walked, was emptied by deferred frees
/// and waited for the readers was chosen as a victim again and again, and the step never ended.
#[test]
fn a_step_ends_while_an_emptied_arena_waits_for_readers() {
    let budget = Budget { bytes: 1 << 20, time: Duration::from_millis(1) };
    let shuffler = Shuffler::builder().trigger(Trigger::Manual).build().unwrap();
    let blocks: Vec<_> = (0..5000).map(|_| shuffler.alloc_versioned(&[7_u8; 1000]).unwrap()).collect();
    let free = |which: std::ops::Range<usize>| {
        for block in blocks.iter().enumerate().filter(|(i, _)| which.contains(&(i % 10))).map(|(_, block)| *block) {
            assert!(shuffler.free(block).is_ok());
        }
    };
    let paused = shuffler.pause();
    free(0..7);
    for _ in 0..10_000 {
        shuffler.shuffle_step(budget);
    }
    assert_eq!(shuffler.stats().waiting, 0);
    drop(paused);
    // A walk moves one block in ten, and leaves two in ten that are freed and wait for a reader.
    let reader = shuffler.reader();
    free(7..9);
    for _ in 0..2 {
        shuffler.shuffle_step(budget);
    }
    drop(reader);
    for _ in 0..1000 {
        let start = Instant::now();
        shuffler.shuffle_step(budget);
        assert!(start.elapsed() < Duration::from_secs(1));
    }
    assert_eq!((shuffler.stats().live_blocks, shuffler.stats().waiting), (500, 0));
}
