//! A replay inside a child: the threads, the baseline, the looks at memory.
//!
//! The order matters, since only the allocator under test may grow after the baseline: the workers allocate and touch
//! their bookkeeping, then the baseline is taken, then the trace runs. What they allocated is kept until the last look.

use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use crate::backend::Backend;
use crate::counters::{self, Counters};
use crate::failure::Failure;
use crate::figures::{Figures, ratio};
use crate::job::Message;
use crate::mailbox::Mailbox;
use crate::sampler::{Sample, Sampler};
use crate::stage::Stage;
use crate::trace::Op;
use crate::worker::{BATCH, Shared, Slots, Worker};

const SAMPLES_PER_REPORT: u32 = 10;

/// What is replayed, and how.
#[derive(Debug)]
pub struct Load<'a> {
    /// The operations of one copy.
    pub ops: &'a [Op],
    /// How many slots they use.
    pub slots: u32,
    /// Where one copy's live bytes are at their highest.
    pub peak_at: usize,
    /// Copies.
    pub threads: u32,
    /// Whether blocks are freed by another thread than the one that made them.
    pub cross: bool,
    /// How long to wait after the load before the second look.
    pub settle: Duration,
}

impl Load<'_> {
    /// A copy each, and with `cross` somebody else to free.
    fn workers(&self) -> u32 {
        if self.cross { self.threads.max(2) } else { self.threads }
    }
}

/// Runs `load` over `backend` and tells `report` how it goes.
pub fn replay<B: Backend>(backend: &mut B, load: &Load, report: &mut dyn FnMut(Message)) -> Result<Figures, Failure> {
    let counters: Vec<_> = (0..load.workers()).map(|_| Counters::default()).collect();
    let mailboxes: Vec<_> =
        (0..if load.cross { load.workers() } else { 0 }).map(|_| Mailbox::with_capacity(BATCH)).collect();
    let sampler = Sampler::new(&counters);
    let failure = OnceLock::new();
    let shared = Shared {
        backend: &*backend,
        load,
        counters: &counters,
        sampler: &sampler,
        mailboxes: &mailboxes,
        failure: &failure,
    };

    let (mut figures, bookkeeping) = run_workers(&shared, report);
    if let Some(failure) = failure.get() {
        return Err(failure.clone());
    }
    let start_source_bytes = figures.shuffler.start_source_bytes;
    figures.shuffler = backend.finish();
    figures.shuffler.start_source_bytes = start_source_bytes;
    figures.final_resident = sampler.resident();
    drop(bookkeeping);
    match figures.shuffler.final_live_blocks {
        Some(blocks) if blocks > 0 => Err(Failure::LeftAlive { blocks }),
        _ => Ok(figures),
    }
}

/// Everything between the baseline and the last free.
fn run_workers<B: Backend>(shared: &Shared<'_, B>, report: &mut dyn FnMut(Message)) -> (Figures, Vec<Slots<B::Block>>) {
    let workers = shared.load.workers();
    let stage = Stage::new(workers);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|number| {
                scope.spawn({
                    let stage = &stage;
                    move || Worker::new(shared, number).run(stage)
                })
            })
            .collect();

        stage.meet();
        let start_resident = shared.sampler.set_baseline();
        let start_source_bytes = shared.backend.source_bytes();
        stage.meet();
        let end = watch(shared, &stage, report);
        let settled = settle(shared, end, report);
        stage.meet();
        let bookkeeping =
            threads.into_iter().map(|thread| thread.join().expect("a worker's panic ends the process")).collect();

        let mut figures = figures(shared, end, settled);
        figures.start_resident = start_resident;
        figures.shuffler.start_source_bytes = start_source_bytes;
        (figures, bookkeeping)
    })
}

/// Samples until the last worker is through, and then once more.
fn watch<B: Backend>(shared: &Shared<'_, B>, stage: &Stage, report: &mut dyn FnMut(Message)) -> Sample {
    let mut samples = 0;
    stage.watch(|| {
        shared.sampler.sample();
        samples += 1;
        if samples % SAMPLES_PER_REPORT == 0 {
            report(Message::Progress(counters::operations_done(shared.counters)));
        }
    });
    shared.sampler.sample()
}

/// Gives a compactor time, with the survivors still alive, and looks again.
fn settle<B: Backend>(shared: &Shared<'_, B>, end: Sample, report: &mut dyn FnMut(Message)) -> Sample {
    if shared.failure.get().is_some() {
        return end;
    }
    report(Message::Settling);
    thread::sleep(shared.load.settle);
    Sample { resident: shared.sampler.resident(), ..end }
}

fn figures<B: Backend>(shared: &Shared<'_, B>, end: Sample, settled: Sample) -> Figures {
    let (peak_live, peak_resident) = (shared.sampler.peak_live(), shared.sampler.peak_resident());
    Figures {
        time_ns: counters::longest_load_ns(shared.counters),
        peak_live,
        peak_resident,
        peak_ratio: ratio(peak_live, peak_resident),
        end_live: end.live,
        end_resident: end.resident,
        end_ratio: ratio(end.live, end.resident),
        settled_live: settled.live,
        settled_resident: settled.resident,
        settled_ratio: ratio(settled.live, settled.resident),
        blocks_verified: counters::blocks_verified(shared.counters),
        ..Figures::default()
    }
}

#[cfg(test)]
mod tests;
