//! The storm of `tests/storm.rs` as a measure: operations a second with the compactor off, on, and shuffling without a break.
//!
//! `cargo bench --bench stress`; `-- --quick` for a short run. The three take turns, so that a change of the machine's speed
//! meets all alike. An operation is one of the storm's, with all its checks: compare the columns, not the figures with those
//! of other programs.

mod storm;

use memory_shuffler::{Shuffler, Trigger};
use std::process::ExitCode;
use std::time::Duration;

const CONTESTANTS: [&str; 3] = ["compactor off", "compactor on", "shuffling without a break"];

fn config(contestant: usize, length: Duration, seed: u64) -> storm::Config {
    let off = || Shuffler::builder().trigger(Trigger::Manual).build().expect("a configuration");
    storm::Config {
        name: CONTESTANTS[contestant],
        threads: 8,
        length,
        seed,
        // Only what the contestant stands for moves blocks.
        shuffles: false,
        without_a_break: contestant == 2,
        limited: false,
        build: if contestant == 1 { Shuffler::new } else { off },
    }
}

fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, length) = if quick { (3, 0.5) } else { (7, 3.0) };
    let length = Duration::from_secs_f64(length);
    let mut outcomes = CONTESTANTS.map(|_| Vec::new());
    for round in 0..rounds {
        for (contestant, outcomes) in outcomes.iter_mut().enumerate() {
            match storm::run(&config(contestant, length, round)) {
                Ok(outcome) => outcomes.push(outcome),
                Err(failure) => {
                    eprintln!("{failure}");
                    return ExitCode::FAILURE;
                }
            }
        }
    }

    println!("{rounds} rounds of {length:?}, 8 threads\n");
    println!("| | operations a second, median | minimum | to off | moves a second | helped | longest step |");
    println!("|---|---|---|---|---|---|---|");
    let mut off = None;
    for (name, outcomes) in CONTESTANTS.iter().zip(&outcomes) {
        let mut speeds: Vec<f64> = outcomes.iter().map(storm::Outcome::operations_per_second).collect();
        speeds.sort_by(f64::total_cmp);
        let median = speeds[speeds.len() / 2];
        let moves: u64 = outcomes.iter().map(|outcome| outcome.moves).sum();
        let seconds: f64 = outcomes.iter().map(|outcome| outcome.elapsed.as_secs_f64()).sum();
        let helped: u64 = outcomes.iter().map(|outcome| outcome.stats.helped).sum();
        let longest = outcomes.iter().map(|outcome| outcome.stats.max_step).max().unwrap_or_default();
        let ratio = median / *off.get_or_insert(median);
        let (minimum, moves) = (speeds[0], moves as f64 / seconds);
        println!("| {name} | {median:.0} | {minimum:.0} | {ratio:.2} | {moves:.0} | {helped} | {longest:.1?} |");
    }
    ExitCode::SUCCESS
}
