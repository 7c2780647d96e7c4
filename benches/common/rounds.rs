//! Contestants that take turns, so that a change of the machine's speed meets all alike.

#[path = "median.rs"]
mod median;

use median::median;
use std::time::{Duration, Instant};

/// One thing that is timed.
pub struct Contestant<'a> {
    pub name: &'static str,
    /// Whom its ratio is to.
    against: &'static str,
    operations: usize,
    run: Box<dyn FnMut(usize) -> Duration + 'a>,
    times: Vec<f64>,
}

impl<'a> Contestant<'a> {
    /// `run` does the operations of a round, whose number it is given, and tells how long they took.
    pub fn new(
        name: &'static str,
        against: &'static str,
        operations: usize,
        run: impl FnMut(usize) -> Duration + 'a,
    ) -> Self {
        Self { name, against, operations, run: Box::new(run), times: Vec::new() }
    }

    /// Nanoseconds an operation.
    fn median(&self) -> f64 {
        median(self.times.clone())
    }

    fn minimum(&self) -> f64 {
        self.times.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// How long `work` takes.
pub fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// What a race told of one contestant.
pub struct Result {
    pub name: &'static str,
    /// Nanoseconds an operation.
    pub median: f64,
    pub minimum: f64,
    /// To its peer: the median over the rounds of the ratio within a round.
    pub ratio: f64,
}

/// Lets all of them take turns for so many rounds, after one to warm up.
pub fn race(mut contestants: Vec<Contestant<'_>>, rounds: usize) -> Vec<Result> {
    for round in 0..=rounds {
        for contestant in &mut contestants {
            let passed = (contestant.run)(round);
            if round > 0 {
                contestant.times.push(passed.as_nanos() as f64 / contestant.operations as f64);
            }
        }
    }
    let result = |contestant: &Contestant<'_>| {
        let peer = contestants.iter().find(|peer| peer.name == contestant.against).expect("a contestant");
        let ratios = contestant.times.iter().zip(&peer.times).map(|(own, other)| own / other).collect();
        Result {
            name: contestant.name,
            median: contestant.median(),
            minimum: contestant.minimum(),
            ratio: median(ratios),
        }
    };
    contestants.iter().map(result).collect()
}

/// Prints a table.
pub fn print(heading: &str, results: &[Result]) {
    println!("| {heading} | median, ns | minimum, ns | ratio |");
    println!("|---|---|---|---|");
    for Result { name, median, minimum, ratio } in results {
        println!("| {name} | {median:.1} | {minimum:.1} | {ratio:.2} |");
    }
}
