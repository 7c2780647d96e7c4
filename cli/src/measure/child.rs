//! The child: one workload over one allocator.
//!
//! As in a replay, only the allocator under test may grow after the baseline: the threads allocate and touch their maps,
//! then the baseline is taken, then the load runs. What they allocated is kept until the last look.

use std::io;
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::{Barrier, Mutex, OnceLock};
use std::thread;

use memory_shuffler::Shuffler;

use super::defrag::Census;
use super::figures::Figures;
use super::hand::{Hand, Shared};
use super::job::Job;
use super::watch::Watch;
use super::workload::{After, Scale};
use crate::args::Source;
use crate::backend::{self, Backend, Visit};
use crate::child::{conclude, end_with_the_first_panic, finish, tell};
use crate::counters::{self, Counters};
use crate::failure::Failure;
use crate::job::Message;
use crate::stage::Stage;

/// Does the job on standard input and says on standard output how it went.
pub fn run() -> ExitCode {
    end_with_the_first_panic();
    match serde_json::from_reader::<_, Job>(io::stdin().lock()) {
        Ok(job) => finish(&backend::over(job.allocator, Source::Os, job)),
        Err(error) => {
            eprintln!("shuffler: no job on standard input ({error}): use `shuffler measure`");
            ExitCode::from(2)
        }
    }
}

impl Visit for Job {
    type Output = Message<Figures>;

    fn visit<B: Backend>(self, mut backend: B) -> Message<Figures> {
        let outcome = measure(&mut backend, self, &|message| tell(&message));
        conclude(backend, outcome, false)
    }
}

fn measure<B: Backend>(backend: &mut B, job: Job, report: &dyn Fn(Message<Figures>)) -> Result<Figures, Failure> {
    let threads = job.workload.threads();
    let counters: Vec<_> = (0..threads).map(|_| Counters::default()).collect();
    let census = Mutex::new(Census::default());
    let failure = OnceLock::new();
    let shared = Shared {
        backend: &*backend,
        script: &job.workload.script(Scale { percent: job.percent }),
        pace: job.workload.pace(),
        counters: &counters,
        meeting: &Barrier::new(threads as usize),
        census: (job.workload.after() == After::Resume).then_some(&census),
        pinned: &AtomicU64::new(0),
        failure: &failure,
    };
    let figures = run_hands(&shared, job, report);
    if let Some(failure) = failure.get() {
        return Err(failure.clone());
    }
    match backend.finish().final_live_blocks {
        Some(blocks) if blocks > 0 => Err(Failure::LeftAlive { blocks }),
        _ => Ok(figures),
    }
}

fn run_hands<B: Backend>(shared: &Shared<'_, B>, job: Job, report: &dyn Fn(Message<Figures>)) -> Figures {
    let threads = job.workload.threads();
    let stage = Stage::new(threads);
    let mut watch = Watch::new(shared, job, report);
    thread::scope(|scope| {
        let hands: Vec<_> = (0..threads)
            .map(|thread| {
                let stage = &stage;
                scope.spawn(move || Hand::new(shared, thread).run(stage))
            })
            .collect();

        stage.meet();
        let pause = shared.census.and(shared.backend.shuffler()).map(Shuffler::pause);
        watch.start();
        stage.meet();
        let (mut figures, end) = watch.load(&stage);
        if shared.failure.get().is_none() {
            watch.settle(&mut figures, end, pause);
        }
        stage.meet();
        for hand in hands {
            let had = hand.join().expect("a hand's panic ends the process");
            figures.blocks += had.blocks;
            figures.slots += had.slots;
        }
        figures.blocks_verified = counters::blocks_verified(shared.counters) - figures.reads_verified;
        figures
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Allocator;
    use crate::backend::faulty::{Fault, Faulty};
    use crate::backend::global::Global;
    use crate::failure::Trouble;
    use crate::measure::workload::Workload;

    fn run<B: Backend>(mut backend: B, workload: Workload) -> Result<Figures, Failure> {
        let job = Job { workload, allocator: Allocator::System, percent: 0.1, settle_ms: 1, long: false };
        measure(&mut backend, job, &|_| ())
    }

    #[test]
    fn all_that_is_left_is_verified() {
        let figures = run(Global(std::alloc::System), Workload::Pages).unwrap();
        assert_eq!((figures.blocks, figures.slots, figures.blocks_verified), (100, 100, 100));
        assert_eq!((figures.end.live, figures.end.floor), (100 * 4096, 100 * 4120));
        assert_eq!((figures.settled.live, figures.moves, figures.pinned_blocks), (100 * 4096, None, 0));
        let figures = run(Global(std::alloc::System), Workload::DefragHalf).unwrap();
        assert_eq!((figures.blocks, figures.slots, figures.blocks_verified), (250, 500, 250));
    }

    #[test]
    fn a_spoilt_byte_fails_the_run_wherever_it_is() {
        // Of the blocks made first 50 are replaced, one of them perhaps before anybody looks at it; those made then stay.
        for birth in 100..150 {
            let failure = run(Faulty::new(Fault::Spoil, birth), Workload::Pages).unwrap_err();
            let Failure::Block { thread: 0, birth: found, trouble: Trouble::Content { offset: 4095, size: 4096, .. } } =
                failure
            else {
                panic!("{failure:?}");
            };
            assert_eq!(u64::from(found), birth);
        }
    }

    #[test]
    fn refusals_and_leaks_are_told_and_nobody_is_left_waiting() {
        let refused = run(Faulty::new(Fault::Refuse, 0), Workload::Spike).unwrap_err();
        assert!(matches!(refused, Failure::Block { trouble: Trouble::Refused { .. }, .. }), "{refused:?}");
        let left = run(Faulty::new(Fault::LeaveAlive, 0), Workload::Pages).unwrap_err();
        assert_eq!(left, Failure::LeftAlive { blocks: 1 });
    }
}
