//! The child: one trace over one allocator.

use std::io;
use std::mem;
use std::panic;
use std::process::{self, ExitCode};
use std::time::Duration;

use crate::args::{Allocator, Faults};
use crate::backend::{Backend, Global, Handles, Named};
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
    let outcome = match job.allocator {
        Allocator::Shuffler => run_over(Handles::new(job.source).expect("a default configuration"), &job, &ops),
        Allocator::ShufflerDirectory => run_over(Named::new(job.source).expect("a default configuration"), &job, &ops),
        Allocator::System => run_over(Global(std::alloc::System), &job, &ops),
        #[cfg(feature = "mimalloc")]
        Allocator::Mimalloc => run_over(Global(mimalloc::MiMalloc), &job, &ops),
        #[cfg(feature = "jemalloc")]
        Allocator::Jemalloc => run_over(Global(tikv_jemallocator::Jemalloc), &job, &ops),
        #[cfg(not(all(feature = "mimalloc", feature = "jemalloc")))]
        other => unreachable!("the parent refuses {other}, which is not in this build"),
    };
    let good = matches!(outcome, Message::Finished(_));
    tell(&outcome);
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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

fn run_over<B: Backend>(mut backend: B, job: &Job, ops: &[Op]) -> Message {
    let load = Load {
        ops,
        slots: job.slots,
        peak_at: job.peak_at,
        threads: job.threads,
        cross: job.cross,
        settle: Duration::from_millis(job.settle_ms),
    };
    let outcome = replay(&mut backend, &load, &mut |message| tell(&message));
    if outcome.is_err() || job.faults.park_mid_move {
        // The end of a shuffler waits for its compactor, which may be parked for ever, or be what failed.
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

fn tell(message: &Message) {
    if message.send(io::stdout().lock()).is_err() {
        // The parent is gone, and with it whoever wanted to know.
        process::exit(1);
    }
}

/// A panicking worker would leave the others waiting at the gate, so any panic ends the process. The parent sees that
/// no figures came.
fn end_with_the_first_panic() {
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        default(info);
        process::exit(1);
    }));
}
