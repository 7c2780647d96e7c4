//! The background thread: a thin loop around `step`.
//!
//! It is started when there is first something to do, and parks without wake-ups when nothing can be gained: whoever frees
//! tells it of each quarter of an arena, the last holder of a block that pins an arena tells it, and so does a reader that
//! ends while something waits for it. How much of a core it takes depends on what there is to gain. When nothing has happened
//! for a while, it gives back what was kept for reuse.

use super::signal::Signal;
use super::step::{Duty, FRUITLESS};
use crate::builder::Trigger;
use crate::engine::Core;
use crate::primitive::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long the thread lets work gather before it begins; twice as long after each time that this led to nothing, so many
/// times at the most.
const GATHER: Duration = Duration::from_millis(2);
const MOST_FUTILE: u32 = 4;
/// The last drop of a shuffler waits this long for a step that is under way.
const STOP_WAIT: Duration = Duration::from_secs(1);
/// After so long without anything to do, what is kept for reuse goes back.
const DECAY: Duration = Duration::from_millis(500);
/// While something waits for a reader or a mover, the thread looks again after so long, then after twice as long, so many
/// times. After that it waits to be told: a reader that ends tells.
const FIRST_LOOK: Duration = Duration::from_millis(4);
const LOOKS: u32 = 8;

/// What the background compactor is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CompactorState {
    /// There is no thread: none was needed yet, the trigger is another, or the OS refused one.
    None,
    /// It works, or rests between two steps.
    Running,
    /// It waits for something to do.
    Parked,
    /// It panicked; `shuffle()` still works.
    Panicked,
    /// The shuffler is being dropped.
    Stopped,
}

/// The thread's side that others can reach.
#[derive(Debug)]
pub(crate) struct Worker {
    signal: Signal,
    stop: AtomicBool,
    state: AtomicU32,
    /// `None` inside: the OS refused a thread.
    thread: OnceLock<Option<Thread>>,
    /// Not the worker's own: the thread tells that it has ended after it has let go of the core.
    ended: Arc<Ended>,
}

#[derive(Debug, Default)]
struct Ended {
    flag: Mutex<bool>,
    changed: Condvar,
}

impl Ended {
    fn tell(&self) {
        *self.flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits until it is told, or for `most`.
    fn wait(&self, most: Duration) {
        let flag = self.flag.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_timeout_while(flag, most, |ended| !*ended));
    }
}

impl Worker {
    pub(crate) fn new() -> Self {
        Self {
            signal: Signal::new(),
            stop: AtomicBool::new(false),
            state: AtomicU32::new(CompactorState::None as u32),
            thread: OnceLock::new(),
            ended: Arc::default(),
        }
    }

    pub(crate) fn state(&self) -> CompactorState {
        use CompactorState::{None, Panicked, Parked, Running, Stopped};
        let state = self.state.load(Ordering::Relaxed);
        [None, Running, Parked, Panicked, Stopped].into_iter().find(|known| *known as u32 == state).unwrap_or(None)
    }

    fn set(&self, state: CompactorState) {
        self.state.store(state as u32, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Ends the thread, and waits for it within bounds: one that is stuck in a step keeps the core, and holds nobody up.
    pub(crate) fn stop(&self) {
        // Release: pairs with the acquire in `is_stopped`.
        self.stop.store(true, Ordering::Release);
        let Some(Some(worker)) = self.thread.get() else { return };
        worker.unpark();
        if worker.id() == thread::current().id() {
            return;
        }
        self.ended.wait(STOP_WAIT);
    }

    /// Sleeps until `until`, or until the shuffler goes.
    fn rest(&self, until: Instant) {
        while !self.is_stopped() {
            let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return;
            };
            thread::park_timeout(left);
        }
    }

    /// Sleeps until the signal is raised, the shuffler goes, or the first of the timers runs out.
    fn wait<const N: usize>(&self, timers: [(Wake, Option<Duration>); N]) -> Wake {
        let now = Instant::now();
        let timers = timers.into_iter().filter_map(|(wake, after)| Some((wake, now + after?)));
        let first = timers.min_by_key(|&(_, until)| until);
        self.set(CompactorState::Parked);
        let mut wake = Wake::Rung;
        while wake == Wake::Rung && !self.signal.lower() && !self.is_stopped() {
            match first.map(|(timer, until)| (timer, until.saturating_duration_since(Instant::now()))) {
                None => thread::park(),
                Some((timer, Duration::ZERO)) => wake = timer,
                Some((_, left)) => thread::park_timeout(left),
            }
        }
        self.set(CompactorState::Running);
        wake
    }
}

/// Why the thread woke.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wake {
    /// There may be something to do.
    Rung,
    /// What waits for a reader or a mover may be ready.
    Look,
    /// Nothing has happened for a while.
    Decay,
    /// It is time to move everything.
    Pass,
}

impl Core {
    /// Tells the background thread that there may be something to do; starts it if there is none.
    #[cold]
    #[inline(never)]
    pub(crate) fn notify(&self) {
        // What the thread does itself, it goes on to look at anyway.
        let is_own = WORKS_FOR.get() == self.number;
        if self.config.trigger != Trigger::Background || is_own || !self.compactor.worker.signal.raise() {
            return;
        }
        let worker = self.compactor.worker.thread.get_or_init(|| {
            // The core may be going; then nobody needs a thread.
            let core = self.weak.upgrade()?;
            let builder = thread::Builder::new().name("shuffler".into());
            builder.spawn(move || run(core)).ok().map(|handle| handle.thread().clone())
        });
        if let Some(worker) = worker {
            worker.unpark();
        }
    }
}

thread_local! {
    /// The number of the core that this thread is the worker of.
    static WORKS_FOR: Cell<u64> = const { Cell::new(0) };
}

fn run(core: Arc<Core>) {
    WORKS_FOR.set(core.number);
    let worker = &core.compactor.worker;
    let ended = catch_unwind(AssertUnwindSafe(|| {
        // Rings in a row that led to nothing, looks at what waits since the last ring, and whether all was given back.
        let (mut futile, mut looks, mut decayed) = (0, 0, true);
        while !worker.is_stopped() {
            let is_waiting = looks < LOOKS && core.is_waiting();
            // Where there are no blocks there is no pass: the first one of them rings.
            let next_pass = core.until_next_pass().filter(|_| core.shards.live_blocks() > 0);
            let timers = [
                (Wake::Look, is_waiting.then(|| FIRST_LOOK * (1 << looks))),
                (Wake::Decay, (!decayed && !is_waiting).then_some(DECAY)),
                (Wake::Pass, next_pass),
            ];
            let wake = worker.wait(timers);
            match wake {
                Wake::Rung => looks = 0,
                Wake::Look => looks += 1,
                Wake::Pass => {}
                Wake::Decay => {
                    // The last blocks freed rang for no step, and may be named still.
                    let freed = core.needs_sweep();
                    if freed.is_some() {
                        core.sweepers.ask();
                        work(&core);
                    }
                    core.decay();
                    // If a lock or a rehash was in the way, again later.
                    decayed = !freed.is_some_and(|freed| core.is_sweep_behind(freed));
                    continue;
                }
            }
            if !core.begin_pass_in_time() && wake == Wake::Pass {
                continue;
            }
            decayed = false;
            worker.rest(Instant::now() + GATHER * (1 << futile));
            futile = if work(&core) { 0 } else { (futile + 1).min(MOST_FUTILE) };
            // What this thread freed for others is of no use to it.
            core.drain_own();
        }
    }));
    worker.set(if ended.is_ok() { CompactorState::Stopped } else { CompactorState::Panicked });
    let told = worker.ended.clone();
    drop(core);
    told.tell();
}

/// Steps until nothing can be gained; returns whether anything was.
fn work(core: &Core) -> bool {
    let worker = &core.compactor.worker;
    let (mut gained, mut fruitless) = (false, 0);
    while !worker.is_stopped() {
        let start = cpu_time();
        let progress = core.step(core.compactor.budget.get(), Duty::Full);
        gained |= !progress.is_fruitless();
        fruitless = if progress.is_fruitless() { fruitless + 1 } else { 0 };
        if !progress.more {
            break;
        }
        if fruitless == FRUITLESS {
            // There may be more to do behind what led to nothing: it is looked at again, a little later each time.
            worker.signal.raise();
            break;
        }
        let excess = core.pool.empty_bytes().saturating_sub(core.config.retain_bytes);
        let rests = 1.0 / core.compactor.survey.share_of_core(excess) - 1.0;
        worker.rest(Instant::now() + (cpu_time() - start).mul_f64(rests));
    }
    gained
}

/// Time that this thread has had on a core, so that it rests in proportion to what it took from others.
#[cfg(unix)]
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Time that has passed.
#[cfg(not(unix))]
fn cpu_time() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}
