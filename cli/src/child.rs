//! The child: one trace over one allocator.

use std::io;
use std::mem;
use std::panic;
use std::process::{self, ExitCode};
use std::time::Duration;

use serde::Serialize;

use crate::args::Faults;
use crate::backend::{self, Backend, Visit};
use crate::failure::Failure;
use crate::job::{self, Job, Message};
use crate::replay::{Load, replay};
use crate::trace::Op;

/// Does the job on standard input and says on standard output how it went.
pub fn run() -> ExitCode {
    end_with_the_first_panic();
    let (job, ops) = match job::receive(io::stdin().lock()) {
        Ok(received) => received,
        Err(error) => {
            eprintln!("shuffler: no job on standard input ({error}): use `shuffler replay`");
            return ExitCode::from(2);
        }
    };
    provoke(job.faults);
    let outcome = backend::over(job.allocator, job.source, Replay { job: &job, ops: &ops });
    finish(&outcome)
}

/// Turns the library's test hooks on.
fn provoke(faults: Faults) {
    #[cfg(feature = "test-hooks")]
    {
        if faults.park_mid_move {
            memory_shuffler::hooks::park_mid_move();
        }
        if faults.corrupt_copy {
            memory_shuffler::hooks::corrupt_next_copy();
        }
    }
    let _ = faults;
}

/// The job, over whichever backend it names.
struct Replay<'a> {
    job: &'a Job,
    ops: &'a [Op],
}

impl Visit for Replay<'_> {
    type Output = Message;

    fn visit<B: Backend>(self, mut backend: B) -> Message {
        let Self { job, ops } = self;
        let load = Load {
            ops,
            slots: job.slots,
            peak_at: job.peak_at,
            threads: job.threads,
            cross: job.cross,
            settle: Duration::from_millis(job.settle_ms),
        };
        let outcome = replay(&mut backend, &load, &mut |message| tell(&message));
        // The end of a shuffler waits for its compactor, which may be parked for ever.
        conclude(backend, outcome, job.faults.park_mid_move)
    }
}

/// Ends the backend and says how the load went.
pub fn conclude<B: Backend, F>(backend: B, outcome: Result<F, Failure>, keep: bool) -> Message<F> {
    if keep || outcome.is_err() {
        // What failed may be the compactor, which the end of a shuffler waits for.
        mem::forget(backend);
    } else {
        // Before the good news: what crashes or hangs at its end is no success.
        drop(backend);
    }
    match outcome {
        Ok(figures) => Message::Finished(Box::new(figures)),
        Err(failure) => Message::Failed(failure),
    }
}

/// Tells the last message; the exit status that goes with it.
pub fn finish<F: Serialize>(outcome: &Message<F>) -> ExitCode {
    tell(outcome);
    if matches!(outcome, Message::Finished(_)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Tells the parent.
pub fn tell<F: Serialize>(message: &Message<F>) {
    if message.send(io::stdout().lock()).is_err() {
        // The parent is gone, and with it whoever wanted to know.
        process::exit(1);
    }
}

/// A panicking worker would leave the others waiting at the gate, so any panic ends the process. The parent sees that
/// no figures came.
pub fn end_with_the_first_panic() {
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        default(info);
        process::exit(1);
    }));
}
