//! One thread of a workload: carries out the script, fills and checks every block.

use std::alloc::Layout;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use memory_shuffler::RawHandle;

use super::defrag::Census;
use super::ledger::Ledger;
use super::script::{Amount, Insert, Step, most_blocks};
use super::shelf::Shelf;
use crate::backend::{Backend, told};
use crate::counters::Counters;
use crate::failure::{Failure, Trouble};
use crate::living::{Living, Made};
use crate::random::Random;
use crate::stage::Stage;

const SEED: u64 = 0x5EED_0F5A_17A7_1E55;
/// One operation in so many is followed by a random read that checks what it reads.
const READ_ONE_IN: u64 = 100;
/// Paced threads look at the clock once for so many inserts.
const PACE_STRIDE: u64 = 100;

/// What all threads of a workload share.
pub struct Shared<'a, B: Backend> {
    /// What is tested.
    pub backend: &'a B,
    /// What each thread does.
    pub script: &'a [Step],
    /// Inserts a second, or as many as can be.
    pub pace: Option<u32>,
    /// A set for each thread.
    pub counters: &'a [Counters],
    /// For [`Step::Meet`].
    pub meeting: &'a Barrier,
    /// Where the live blocks lie when the load ends, if somebody wants to know.
    pub census: Option<&'a Mutex<Census>>,
    /// Blocks rented for ever, so far.
    pub pinned: &'a AtomicU64,
    /// The first failure.
    pub failure: &'a OnceLock<Failure>,
}

/// One thread's part.
pub struct Hand<'a, B: Backend> {
    shared: &'a Shared<'a, B>,
    thread: u32,
    shelf: Shelf<Living<B::Block>>,
    random: Random,
    births: u32,
    ledger: Ledger,
    /// With their births.
    pinned: Vec<(RawHandle, u32)>,
    inserts: u64,
}

/// What a thread had.
pub struct Had {
    /// Blocks alive when the load ended.
    pub blocks: u64,
    /// The most blocks alive at a time.
    pub slots: u64,
}

impl<'a, B: Backend> Hand<'a, B> {
    /// A thread's part with all its bookkeeping allocated and touched.
    pub fn new(shared: &'a Shared<'a, B>, thread: u32) -> Self {
        Self {
            shared,
            thread,
            shelf: Shelf::with_room_for(most_blocks(shared.script)),
            random: Random::new(SEED ^ (u64::from(thread) << 48)),
            births: 0,
            ledger: Ledger::default(),
            pinned: Vec::new(),
            inserts: 0,
        }
    }

    /// The whole life of the thread.
    pub fn run(mut self, stage: &Stage) -> Had {
        stage.ready();
        let start = Instant::now();
        for step in self.shared.script {
            if self.is_stopped() && !matches!(step, Step::Meet) {
                // The others still wait at each meeting.
                continue;
            }
            if let Err(failure) = self.carry_out(*step, start) {
                self.stop(failure);
            }
        }
        self.counters().set_load_ns(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        self.count_for_the_census();
        let had = Had { blocks: self.ledger.blocks(), slots: self.ledger.slots() };
        stage.loaded();
        if !self.is_stopped()
            && let Err(failure) = self.verify_all().and_then(|()| self.free_all())
        {
            self.stop(failure);
        }
        had
    }

    fn carry_out(&mut self, step: Step, start: Instant) -> Result<(), Failure> {
        match step {
            Step::Insert(insert) => self.insert_all(insert, start),
            Step::EvictTo(bytes) => self.evict_to(bytes),
            Step::Thin { first, keep } => self.thin(first, keep),
            Step::Pin { every, one_in } => self.pin(every, one_in),
            Step::Replace { count } => self.replace(count),
            Step::Meet => {
                self.shared.meeting.wait();
                Ok(())
            }
        }
    }

    fn insert_all(&mut self, insert: Insert, start: Instant) -> Result<(), Failure> {
        let (mut left, mut bytes_left) = match insert.amount {
            Amount::Blocks(count) => (count, u64::MAX),
            Amount::Bytes(bytes) => (u64::MAX, bytes),
        };
        let (least, most) = insert.sizes;
        while left > 0 {
            let size = u64::from(least) + self.random.below(u64::from(most - least) + 1);
            let Some(rest) = bytes_left.checked_sub(size) else { break };
            (left, bytes_left) = (left - 1, rest);
            let living = self.make(layout(size, insert.align))?;
            self.shelf.push(living);
            if let Some(limit) = insert.limit {
                self.evict_to(limit)?;
            }
            self.read_now_and_then()?;
            self.keep_pace(start);
        }
        Ok(())
    }

    fn evict_to(&mut self, bytes: u64) -> Result<(), Failure> {
        while self.ledger.live() > bytes {
            let place = self.random_place();
            let living = self.shelf.swap_remove(place).expect("bytes are alive, and their places have no gaps");
            self.free(living)?;
        }
        Ok(())
    }

    fn thin(&mut self, first: usize, keep: fn(usize) -> bool) -> Result<(), Failure> {
        let mut end = first;
        for place in first..self.shelf.used() {
            let living = self.shelf.take(place).expect("places have no gaps between steps");
            if keep(place - first) {
                self.shelf.put(end, living);
                end += 1;
            } else {
                self.free(living)?;
                self.read_now_and_then()?;
            }
        }
        self.shelf.truncate(end);
        Ok(())
    }

    fn replace(&mut self, count: u64) -> Result<(), Failure> {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.shelf.used());
        for place in 0..count {
            let chosen = place + self.random.below((self.shelf.used() - place) as u64) as usize;
            self.shelf.swap(place, chosen);
            let old = self.shelf.take(place).expect("places have no gaps between steps");
            let layout = old.layout::<B>();
            self.free(old)?;
            let living = self.make(layout)?;
            self.shelf.put(place, living);
            self.read_now_and_then()?;
        }
        Ok(())
    }

    fn pin(&mut self, every: usize, one_in: u64) -> Result<(), Failure> {
        for place in (0..self.shelf.used()).step_by(every) {
            if self.random.below(one_in) > 0 {
                continue;
            }
            let living = self.shelf.get(place).expect("places have no gaps between steps");
            let backend = self.shared.backend;
            if let (Some(shuffler), Some(handle)) = (backend.shuffler(), backend.handle(living.block())) {
                shuffler
                    .rent_pointer::<()>(handle)
                    .map_err(|error| self.refused(living.birth(), told("rent", error)))?;
                self.pinned.push((handle, living.birth()));
            }
            // Relaxed: a figure; the end of the load orders it.
            self.shared.pinned.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn count_for_the_census(&self) {
        let Some(census) = self.shared.census else { return };
        let Some(shuffler) = self.shared.backend.shuffler() else { return };
        let mut census = census.lock().unwrap_or_else(PoisonError::into_inner);
        for living in self.shelf.iter() {
            let block = self.shared.backend.handle(living.block()).and_then(|handle| shuffler.inspect(handle).ok());
            if let Some(block) = block {
                census.count(block.arena, living.layout::<B>().size() as u64);
            }
        }
    }

    fn verify_all(&self) -> Result<(), Failure> {
        self.shelf.iter().try_for_each(|living| self.verify(living))
    }

    fn free_all(&mut self) -> Result<(), Failure> {
        self.give_back_pinned()?;
        for place in 0..self.shelf.used() {
            if let Some(living) = self.shelf.take(place) {
                self.free(living)?;
            }
        }
        Ok(())
    }

    fn give_back_pinned(&mut self) -> Result<(), Failure> {
        let Some(shuffler) = self.shared.backend.shuffler() else { return Ok(()) };
        for (handle, birth) in std::mem::take(&mut self.pinned) {
            // SAFETY: `pin` rented it once and wrote it down once, and made nothing of the pointer.
            unsafe { shuffler.return_pointer(handle) }.map_err(|error| self.refused(birth, told("return", error)))?;
        }
        Ok(())
    }

    fn refused(&self, birth: u32, reason: String) -> Failure {
        Failure::Block { thread: self.thread, birth, trouble: Trouble::Refused { reason } }
    }
}

/// What is done to one block.
impl<B: Backend> Hand<'_, B> {
    fn make(&mut self, layout: Layout) -> Result<Living<B::Block>, Failure> {
        let birth = self.births;
        self.births += 1;
        let made = Made::new(self.shared.backend, layout, self.thread, birth)?;
        let size = layout.size() as u64;
        self.counters().allocated(size);
        self.ledger.add(size);
        self.counters().set_floor(self.ledger.floor());
        made.fill(self.shared.backend)
    }

    fn free(&mut self, living: Living<B::Block>) -> Result<(), Failure> {
        let size = living.layout::<B>().size() as u64;
        living.free(self.shared.backend)?;
        self.counters().freed(size);
        self.ledger.remove(size);
        self.counters().set_floor(self.ledger.floor());
        Ok(())
    }

    fn verify(&self, living: &Living<B::Block>) -> Result<(), Failure> {
        living.verify(self.shared.backend)?;
        self.counters().verified();
        Ok(())
    }

    fn read_now_and_then(&mut self) -> Result<(), Failure> {
        if self.random.below(READ_ONE_IN) > 0 || self.shelf.used() == 0 {
            return Ok(());
        }
        let place = self.random_place();
        // A step that frees may have left a gap there.
        self.shelf.get(place).map_or(Ok(()), |living| self.verify(living))
    }

    fn random_place(&mut self) -> usize {
        self.random.below(self.shelf.used() as u64) as usize
    }

    /// Sleeps until the next insert is due. What was missed is made up for.
    fn keep_pace(&mut self, start: Instant) {
        self.inserts += 1;
        let Some(pace) = self.shared.pace else { return };
        if self.inserts.is_multiple_of(PACE_STRIDE) {
            let due = Duration::from_secs_f64(self.inserts as f64 / f64::from(pace));
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }

    fn counters(&self) -> &Counters {
        &self.shared.counters[self.thread as usize]
    }

    fn is_stopped(&self) -> bool {
        self.shared.failure.get().is_some()
    }

    fn stop(&self, failure: Failure) {
        // Only the first failure is told.
        let _ = self.shared.failure.set(failure);
    }
}

fn layout(size: u64, align: usize) -> Layout {
    let size = usize::try_from(size).expect("scripts ask for small blocks");
    Layout::from_size_align(size, align).expect("scripts ask for powers of two")
}
