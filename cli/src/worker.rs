//! One thread of a replay: runs its copy of the trace, fills and checks every block.

use std::alloc::Layout;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::counters::Counters;
use crate::failure::Failure;
use crate::living::{Living, Made};
use crate::mailbox::Mailbox;
use crate::replay::Load;
use crate::sampler::Sampler;
use crate::stage::Stage;
use crate::trace::Op;

/// Blocks handed over at once.
pub const BATCH: usize = 512;
/// Operations between two looks at the mailbox and at whether another thread failed.
const STRIDE: usize = 256;

/// What all workers of a replay share.
pub struct Shared<'a, B: Backend> {
    /// What is tested.
    pub backend: &'a B,
    /// What is replayed.
    pub load: &'a Load<'a>,
    /// A set for each worker.
    pub counters: &'a [Counters],
    /// Asked where a worker's own live bytes are at their highest.
    pub sampler: &'a Sampler<'a>,
    /// With `cross`, a box for each worker, filled by the worker before it in the ring; else none.
    pub mailboxes: &'a [Mailbox<Living<B::Block>>],
    /// The first failure; once it is there, everybody stops.
    pub failure: &'a OnceLock<Failure>,
}

/// The reason is in [`Shared::failure`].
pub struct Stopped;

/// The blocks that a worker has, by slot.
pub type Slots<K> = Vec<Option<Living<K>>>;

/// One thread's part.
pub struct Worker<'a, B: Backend> {
    shared: &'a Shared<'a, B>,
    thread: u32,
    ops: &'a [Op],
    slots: Slots<B::Block>,
    births: u32,
    outbox: Vec<Living<B::Block>>,
    inbox: Vec<Living<B::Block>>,
    rounds: u32,
}

impl<'a, B: Backend> Worker<'a, B> {
    /// A worker with all its bookkeeping allocated and touched.
    pub fn new(shared: &'a Shared<'a, B>, thread: u32) -> Self {
        // With one copy and `cross` there is a second worker, which only frees.
        let ops = if thread < shared.load.threads { shared.load.ops } else { &[] };
        let mut slots = Vec::new();
        slots.resize_with(if ops.is_empty() { 0 } else { shared.load.slots as usize }, || None);
        let batch = || Vec::with_capacity(if shared.mailboxes.is_empty() { 0 } else { BATCH });
        Self { shared, thread, ops, slots, births: 0, outbox: batch(), inbox: batch(), rounds: 0 }
    }

    /// The whole life of the thread. Gives back the map of slots, to be kept until the last look at resident memory.
    pub fn run(mut self, stage: &Stage) -> Slots<B::Block> {
        stage.ready();
        let start = Instant::now();
        let loaded = self.replay();
        self.counters().set_load_ns(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        stage.loaded();
        if loaded.is_ok() {
            // A failure is recorded where it happened.
            let _ = self.verify_survivors().and_then(|()| self.free_survivors());
        }
        self.slots
    }

    fn replay(&mut self) -> Result<(), Stopped> {
        let mut at = 0;
        for stride in self.ops.chunks(STRIDE) {
            for op in stride {
                self.apply(*op)?;
                if at == self.shared.load.peak_at {
                    self.shared.sampler.sample();
                }
                at += 1;
            }
            self.counters().done(stride.len() as u64);
            self.collect()?;
            self.check_others()?;
        }
        self.end_round()
    }

    fn apply(&mut self, op: Op) -> Result<(), Stopped> {
        match op {
            Op::Allocate { slot, size, align_log2 } => {
                let birth = self.births;
                self.births += 1;
                let made = self.make(layout(size, 1 << align_log2), self.thread, birth)?;
                self.slots[slot as usize] = Some(self.fill(made)?);
            }
            Op::Resize { slot, size } => {
                let old = self.take(slot);
                let made = self.make(layout(size, old.layout::<B>().align()), self.thread, old.birth())?;
                self.slots[slot as usize] = Some(self.copy(&old, made)?);
                if self.is_crossing() { self.hand_over(old)? } else { self.free(old)? }
            }
            Op::Free { slot } => {
                let living = self.take(slot);
                self.part_with(living)?;
            }
        }
        Ok(())
    }

    /// The survivors' pass: everything still alive, before any of it is freed.
    fn verify_survivors(&self) -> Result<(), Stopped> {
        self.slots.iter().flatten().try_for_each(|living| self.verify(living))
    }

    fn free_survivors(&mut self) -> Result<(), Stopped> {
        for slot in 0..self.slots.len() {
            if let Some(living) = self.slots[slot].take() {
                self.part_with(living)?;
            }
        }
        self.end_round()
    }

    fn take(&mut self, slot: u32) -> Living<B::Block> {
        self.slots[slot as usize].take().expect("the trace was checked: the slot is alive")
    }

    fn is_crossing(&self) -> bool {
        !self.shared.mailboxes.is_empty()
    }

    fn counters(&self) -> &'a Counters {
        &self.shared.counters[self.thread as usize]
    }
}

/// What is done to one block.
impl<B: Backend> Worker<'_, B> {
    fn make(&self, layout: Layout, thread: u32, birth: u32) -> Result<Made<B::Block>, Stopped> {
        let made = Made::new(self.shared.backend, layout, thread, birth).map_err(|failure| self.stop(failure))?;
        self.counters().allocated(layout.size() as u64);
        Ok(made)
    }

    fn fill(&self, made: Made<B::Block>) -> Result<Living<B::Block>, Stopped> {
        made.fill(self.shared.backend).map_err(|failure| self.stop(failure))
    }

    fn copy(&self, old: &Living<B::Block>, made: Made<B::Block>) -> Result<Living<B::Block>, Stopped> {
        let copied = old.copy_into(self.shared.backend, made).map_err(|failure| self.stop(failure))?;
        self.counters().verified();
        Ok(copied)
    }

    fn verify(&self, living: &Living<B::Block>) -> Result<(), Stopped> {
        living.verify(self.shared.backend).map_err(|failure| self.stop(failure))?;
        self.counters().verified();
        Ok(())
    }

    fn free(&self, living: Living<B::Block>) -> Result<(), Stopped> {
        let size = living.layout::<B>().size() as u64;
        living.free(self.shared.backend).map_err(|failure| self.stop(failure))?;
        self.counters().freed(size);
        Ok(())
    }

    #[cold]
    fn stop(&self, failure: Failure) -> Stopped {
        // Only the first failure is told.
        let _ = self.shared.failure.set(failure);
        Stopped
    }
}

/// Freeing, here or on the next thread of the ring.
impl<B: Backend> Worker<'_, B> {
    /// The end of a block that was not checked just now.
    fn part_with(&mut self, living: Living<B::Block>) -> Result<(), Stopped> {
        if self.is_crossing() {
            return self.hand_over(living);
        }
        self.verify(&living)?;
        self.free(living)
    }

    fn hand_over(&mut self, living: Living<B::Block>) -> Result<(), Stopped> {
        self.outbox.push(living);
        if self.outbox.len() == BATCH { self.post() } else { Ok(()) }
    }

    /// Delivers the outbox. While the next thread is behind, this one does its own share of freeing.
    fn post(&mut self) -> Result<(), Stopped> {
        let mailboxes = self.shared.mailboxes;
        let next = &mailboxes[(self.thread as usize + 1) % mailboxes.len()];
        let mut patience = Patience::default();
        while !next.deliver(&mut self.outbox) {
            self.collect()?;
            self.check_others()?;
            patience.wait();
        }
        Ok(())
    }

    /// Checks and frees what the thread before this one has handed over.
    fn collect(&mut self) -> Result<(), Stopped> {
        let Some(mailbox) = self.shared.mailboxes.get(self.thread as usize) else { return Ok(()) };
        let mut inbox = std::mem::take(&mut self.inbox);
        mailbox.collect(&mut inbox);
        for living in inbox.drain(..) {
            self.verify(&living)?;
            self.free(living)?;
        }
        self.inbox = inbox;
        Ok(())
    }

    /// Hands over the rest and frees until the thread before has handed over its rest too.
    fn end_round(&mut self) -> Result<(), Stopped> {
        if !self.is_crossing() {
            return Ok(());
        }
        self.post()?;
        let mailboxes = self.shared.mailboxes;
        mailboxes[(self.thread as usize + 1) % mailboxes.len()].close_round();
        self.rounds += 1;
        let mut patience = Patience::default();
        while !mailboxes[self.thread as usize].is_done_with(self.rounds) {
            self.collect()?;
            self.check_others()?;
            patience.wait();
        }
        Ok(())
    }

    fn check_others(&self) -> Result<(), Stopped> {
        if self.shared.failure.get().is_some() { Err(Stopped) } else { Ok(()) }
    }
}

/// Waits for another thread: yields at first, then sleeps, since there may be more threads than cores.
#[derive(Default)]
struct Patience(u32);

impl Patience {
    fn wait(&mut self) {
        self.0 += 1;
        if self.0 < 16 {
            thread::yield_now();
        } else {
            thread::sleep(Duration::from_micros(50));
        }
    }
}

fn layout(size: u64, align: usize) -> Layout {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    Layout::from_size_align(size, align).expect("the trace was checked: size and alignment are in bounds")
}
