//! The looks at memory, in the order in which they are taken.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use memory_shuffler::{Paused, Shuffler};

use super::defrag::{Need, wait_until_still};
use super::figures::{Defrag, Figures, Look};
use super::hand::Shared;
use super::job::Job;
use super::processor::compactor_time;
use super::series::Series;
use super::workload::After;
use crate::backend::Backend;
use crate::counters;
use crate::job::Message;
use crate::sampler::{Sample, Sampler};
use crate::stage::Stage;

/// What a block that is rented for ever is allowed to cost.
const ALLOWED_PER_PIN: u64 = 4096;
/// From a call of `shuffle()` to the look, as a part of the time to settle: 0.5 s of 2 s.
const AFTER_SHUFFLE: u32 = 4;
/// The compactor is taken to have stopped when nothing moved for this part of the time to settle.
const QUIET: u32 = 4;
/// The look at 10 s is so many times as late as the one at 2 s.
const LONG: u32 = 5;
const SAMPLES_PER_REPORT: u32 = 10;

/// Watches one load and what comes after it.
pub struct Watch<'a, B: Backend> {
    shared: &'a Shared<'a, B>,
    job: Job,
    sampler: Sampler<'a>,
    series: Series,
    base_resident: Option<u64>,
    report: &'a dyn Fn(Message<Figures>),
}

impl<'a, B: Backend> Watch<'a, B> {
    /// With its own bookkeeping allocated and touched. `report` is told how it goes.
    pub fn new(shared: &'a Shared<'a, B>, job: Job, report: &'a dyn Fn(Message<Figures>)) -> Self {
        let (sampler, series) = (Sampler::new(shared.counters), Series::new());
        Self { shared, job, sampler, series, base_resident: None, report }
    }

    /// Takes the baseline.
    pub fn start(&mut self) {
        self.base_resident = self.sampler.set_baseline();
    }

    /// Samples until the last thread is through, and once more.
    pub fn load(&mut self, stage: &Stage) -> (Figures, Sample) {
        let mut samples = 0;
        stage.watch(|| {
            self.series.push(self.sampler.sample());
            samples += 1;
            if samples % SAMPLES_PER_REPORT == 0 {
                (self.report)(Message::Progress(counters::allocated_bytes(self.shared.counters)));
            }
        });
        let end = self.sampler.sample();
        self.series.push(end);
        let figures = Figures {
            load_ns: counters::longest_load_ns(self.shared.counters),
            base_resident: self.base_resident,
            pinned_blocks: self.pinned(),
            reads_verified: counters::blocks_verified(self.shared.counters),
            end: self.look(end),
            peak_resident: self.sampler.peak_resident(),
            peak: self.series.peak(end),
            last_third: self.series.last_third(),
            ..Figures::default()
        };
        (figures, end)
    }

    /// Gives the compactor time, with everything still alive, and looks again.
    pub fn settle(&self, figures: &mut Figures, end: Sample, pause: Option<Paused<'_>>) {
        (self.report)(Message::Settling);
        let start = Instant::now();
        let settle = Duration::from_millis(self.job.settle_ms);
        let need = self.had_to_move(end);
        drop(pause);
        thread::scope(|scope| {
            let shuffler = self.shared.backend.shuffler();
            let shuffling =
                (self.job.workload.after() == After::Shuffle).then(|| scope.spawn(move || shuffle(shuffler)));
            let stopping = need
                .and(shuffler)
                .map(|shuffler| scope.spawn(move || wait_until_still(shuffler, start, settle / QUIET)));
            if let Some(shuffling) = shuffling {
                figures.after_shuffle = Some(self.look_at(end, start + settle / AFTER_SHUFFLE));
                figures.shuffle_ns = shuffling.join().expect("a panic ends the process").map(nanoseconds);
            }
            self.look_settled(figures, end, start + settle);
            if self.job.long {
                figures.long = Some(self.look_at(end, start + settle * LONG));
            }
            if let (Some(need), Some(shuffler), Some(stopping)) = (need, shuffler, stopping) {
                let moving = stopping.join().expect("a panic ends the process");
                figures.defrag = Some(self.defrag(shuffler, end, need, moving));
            }
        });
    }

    fn look_settled(&self, figures: &mut Figures, end: Sample, at: Instant) {
        figures.settled = self.look_at(end, at);
        if let Some(shuffler) = self.shared.backend.shuffler() {
            let stats = shuffler.stats();
            figures.moves = Some(stats.moves);
            figures.moved_bytes = Some(stats.moved_bytes);
            figures.compactor_cpu_ns = compactor_time().map(nanoseconds);
        }
    }

    /// What the compactor, kept from it so far, has to do at the least.
    fn had_to_move(&self, end: Sample) -> Option<Need> {
        let (census, shuffler) = (self.shared.census?, self.shared.backend.shuffler()?);
        let census = census.lock().unwrap_or_else(PoisonError::into_inner);
        Some(census.need(&shuffler.arenas(), end.resident?, end.floor))
    }

    fn defrag(&self, shuffler: &Shuffler, end: Sample, need: Need, moving: Duration) -> Defrag {
        let stats = shuffler.stats();
        let still = self.look_at(end, Instant::now());
        shuffler.shuffle();
        Defrag {
            had_to_move: need.blocks,
            can_reach: need.is_enough,
            still,
            moves: stats.moves,
            moved_bytes: stats.moved_bytes,
            moves_over_needed: (need.blocks > 0).then(|| stats.moves as f64 / need.blocks as f64),
            moving_ns: nanoseconds(moving),
            moved_again_bytes: shuffler.stats().moved_bytes - stats.moved_bytes,
        }
    }

    /// Waits, and looks. Nothing was allocated or freed since the load's end.
    fn look_at(&self, end: Sample, at: Instant) -> Look {
        thread::sleep(at.saturating_duration_since(Instant::now()));
        self.look(Sample { resident: self.sampler.resident(), ..end })
    }

    fn look(&self, sample: Sample) -> Look {
        Look::new(sample, ALLOWED_PER_PIN * self.pinned())
    }

    fn pinned(&self) -> u64 {
        // Relaxed: a figure; the end of the load orders it.
        self.shared.pinned.load(Ordering::Relaxed)
    }
}

/// How long the call takes, where there is one to make.
fn shuffle(shuffler: Option<&Shuffler>) -> Option<Duration> {
    let start = Instant::now();
    shuffler?.shuffle();
    Some(start.elapsed())
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
