//! The checks of the library that this one descends from, as its users would write them here: by raw handle and pointer,
//! beside a map of what every block must hold. After every action everything that must hold is looked at. Each check runs
//! as the original did, with a small shuffle on every rent and return and no thread, and in the default way.

mod common;

use common::{eventually, pattern};
use memory_shuffler::{AccessError, CompactorState, Freed, RawHandle, Shuffler, Trigger};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::alloc::Layout;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ptr::NonNull;
use std::thread;

const ARENA: usize = 64 << 10;

/// How a block was made, and so which pointers it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// `create` of a `u64`.
    Number,
    /// `alloc` of `u8`.
    Bytes,
    /// `alloc` of `u128`.
    Wide,
    /// `alloc_layout` with this alignment.
    Layout(usize),
}

impl Kind {
    fn align(self) -> usize {
        match self {
            Self::Number => 8,
            Self::Bytes => 1,
            Self::Wide => align_of::<u128>(),
            Self::Layout(align) => align,
        }
    }

    fn rent(self, shuffler: &Shuffler, handle: RawHandle, to_write: bool) -> Result<NonNull<u8>, AccessError> {
        fn pointer<T: 'static>(
            shuffler: &Shuffler,
            handle: RawHandle,
            write: bool,
        ) -> Result<NonNull<u8>, AccessError> {
            let rented =
                if write { shuffler.rent_pointer_mut::<T>(handle) } else { shuffler.rent_pointer::<T>(handle) };
            rented.map(NonNull::cast)
        }
        match self {
            Self::Number => pointer::<u64>(shuffler, handle, to_write),
            Self::Wide => pointer::<u128>(shuffler, handle, to_write),
            Self::Bytes | Self::Layout(_) => pointer::<u8>(shuffler, handle, to_write),
        }
    }
}

/// What must be found in a block.
#[derive(Debug)]
struct Expected {
    kind: Kind,
    contents: Vec<u8>,
    /// The pointers that are rented; all the same, since a held block does not move.
    rented: Vec<NonNull<u8>>,
}

impl Expected {
    /// Whether the contents lie there, at the alignment asked for.
    #[track_caller]
    fn verify(&self, handle: RawHandle, pointer: NonNull<u8>) {
        assert_eq!(pointer.addr().get() % self.kind.align(), 0, "{handle:?}, {:?}", self.kind);
        // SAFETY: the caller has the block rented, and it is that long.
        let found = unsafe { std::slice::from_raw_parts(pointer.as_ptr(), self.contents.len()) };
        assert!(*found == *self.contents, "{handle:?}, {:?}, lost its contents", self.kind);
    }
}

/// One thread's blocks, and what must be true of them.
struct Model {
    shuffler: Shuffler,
    trigger: Trigger,
    /// Whether this thread alone uses the shuffler.
    alone: bool,
    live: HashMap<RawHandle, Expected>,
    /// Freed while they were rented.
    ending: HashMap<RawHandle, Expected>,
    /// Freed; the last few of them.
    dead: VecDeque<RawHandle>,
    random: StdRng,
}

impl Model {
    fn new(trigger: Trigger) -> Self {
        let builder = Shuffler::builder().trigger(trigger).arena_bytes(ARENA).retain_bytes(0);
        Self::over(builder.build().unwrap(), trigger, true, 1)
    }

    fn over(shuffler: Shuffler, trigger: Trigger, alone: bool, seed: u64) -> Self {
        let (live, ending, dead) = (HashMap::new(), HashMap::new(), VecDeque::new());
        Self { shuffler, trigger, alone, live, ending, dead, random: StdRng::seed_from_u64(seed) }
    }

    /// Makes a block and fills it.
    fn make(&mut self, kind: Kind, size: usize) -> RawHandle {
        let shuffler = &self.shuffler;
        let handle = match kind {
            Kind::Number => shuffler.create(0_u64).unwrap().raw(),
            Kind::Bytes => shuffler.alloc::<u8>(size).unwrap().raw(),
            Kind::Wide => shuffler.alloc::<u128>(size.div_ceil(16)).unwrap().raw(),
            Kind::Layout(align) => shuffler.alloc_layout(Layout::from_size_align(size, align).unwrap()).unwrap(),
        };
        let contents = vec![0; shuffler.get_size(handle).unwrap()];
        assert!(contents.len() >= if kind == Kind::Number { 8 } else { size });
        let before = self.live.insert(handle, Expected { kind, contents, rented: Vec::new() });
        assert!(before.is_none() && !self.dead.contains(&handle), "{handle:?} was handed out twice");
        self.check();
        self.write(handle);
        handle
    }

    /// Writes something else into a block that is not rented.
    fn write(&mut self, handle: RawHandle) {
        let seed = self.random.random();
        let block = self.live.get_mut(&handle).unwrap();
        let pointer = block.kind.rent(&self.shuffler, handle, true).unwrap();
        block.verify(handle, pointer);
        assert_eq!(block.kind.rent(&self.shuffler, handle, false), Err(AccessError::Busy));
        block.contents = pattern(seed, block.contents.len());
        // SAFETY: the block is rented to write, and that long.
        unsafe { pointer.copy_from_nonoverlapping(NonNull::from(&*block.contents).cast(), block.contents.len()) };
        // SAFETY: rented above, and the pointer is used no more.
        unsafe { self.shuffler.return_pointer(handle) }.unwrap();
        self.check();
    }

    fn rent(&mut self, handle: RawHandle) -> NonNull<u8> {
        let block = self.live.get_mut(&handle).unwrap();
        let pointer = block.kind.rent(&self.shuffler, handle, false).unwrap();
        block.rented.push(pointer);
        self.check();
        pointer
    }

    /// Returns one rent of a block, which may have been freed since.
    fn give_back(&mut self, handle: RawHandle) {
        let block = self.live.get_mut(&handle).or_else(|| self.ending.get_mut(&handle)).unwrap();
        block.rented.pop().unwrap();
        // SAFETY: it was rented as often as `rented` has pointers, and the one that was taken out is used no more.
        unsafe { self.shuffler.return_pointer(handle) }.unwrap();
        if self.ending.get(&handle).is_some_and(|block| block.rented.is_empty()) {
            self.ending.remove(&handle);
            self.bury(handle);
        }
        self.check();
    }

    fn free(&mut self, handle: RawHandle) {
        let block = self.live.remove(&handle).unwrap();
        let outcome = self.shuffler.free(handle);
        if block.rented.is_empty() {
            assert_eq!(outcome, Ok(Freed::Now));
            self.bury(handle);
        } else {
            assert_eq!(outcome, Ok(Freed::WhenReturned));
            self.ending.insert(handle, block);
        }
        self.check();
    }

    fn bury(&mut self, handle: RawHandle) {
        self.dead.push_back(handle);
        if self.dead.len() > 16 {
            self.dead.pop_front();
        }
    }

    fn shuffle(&self) {
        self.shuffler.shuffle();
        self.check();
    }

    /// What must hold at any time.
    #[track_caller]
    fn check(&self) {
        let shuffler = &self.shuffler;
        // All are rented at once, so none is anywhere else than it was seen to be.
        let mut places = Vec::new();
        for (&handle, block) in &self.live {
            assert!(shuffler.valid_handle(handle));
            assert_eq!(shuffler.get_size(handle), Ok(block.contents.len()));
            let pointer = block.kind.rent(shuffler, handle, false).unwrap();
            block.verify(handle, pointer);
            assert!(block.rented.iter().all(|rented| *rented == pointer), "{handle:?} moved while it was rented");
            let info = shuffler.inspect(handle).unwrap();
            assert_eq!((info.address, info.size), (pointer.addr().get(), block.contents.len()));
            assert_eq!((info.rents, info.exclusive, info.pending_free), (block.rented.len() + 1, false, false));
            places.push((info.address, info.size));
        }
        for (&handle, block) in &self.ending {
            assert!(!shuffler.valid_handle(handle));
            assert_eq!(block.kind.rent(shuffler, handle, false), Err(AccessError::Stale));
            block.rented.iter().for_each(|pointer| block.verify(handle, *pointer));
            let info = shuffler.inspect(handle).unwrap();
            assert!(info.pending_free && info.rents == block.rented.len(), "{info:?}");
            places.push((info.address, info.size));
        }
        places.sort_unstable();
        assert!(places.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "two blocks overlap");
        for &handle in self.live.keys() {
            // SAFETY: rented in the loop above, and that pointer is used no more.
            unsafe { shuffler.return_pointer(handle) }.unwrap();
        }
        for &handle in &self.dead {
            assert!(!shuffler.valid_handle(handle), "{handle:?} came alive again");
            // Invalid: when the page of its slot is given back.
            assert!(matches!(shuffler.free(handle), Err(AccessError::Stale | AccessError::Invalid)));
        }
        let stats = shuffler.stats();
        if self.trigger == Trigger::Inline {
            assert_eq!(stats.compactor, CompactorState::None, "no thread");
        }
        let blocks = self.live.values().chain(self.ending.values());
        let expected = blocks.fold((0, 0), |(count, bytes), block| (count + 1, bytes + block.contents.len() as u64));
        if self.alone && self.trigger == Trigger::Inline {
            assert_eq!((stats.live_blocks, stats.live_bytes), expected);
        } else {
            // What is freed at the moment of its move is counted until the move is over.
            assert!(stats.live_blocks >= expected.0 && stats.live_bytes >= expected.1, "{stats:?}");
        }
    }

    /// Makes so many blocks, and frees all but every eighth; those are returned.
    fn churn(&mut self, kind: Kind, size: usize, count: usize) -> Vec<RawHandle> {
        let made: Vec<_> = (0..count).map(|_| self.make(kind, size)).collect();
        let (kept, dropped): (Vec<_>, Vec<_>) = (0..).zip(made).partition(|(index, _)| index % 8 == 0);
        dropped.into_iter().for_each(|(_, handle)| self.free(handle));
        kept.into_iter().map(|(_, handle)| handle).collect()
    }

    fn address(&self, handle: RawHandle) -> usize {
        self.shuffler.inspect(handle).unwrap().address
    }

    /// One of the blocks, the same in each run.
    fn pick(&mut self, wanted: impl Fn(&Expected) -> bool) -> Option<RawHandle> {
        let all = self.live.iter().chain(&self.ending);
        let mut all: Vec<_> = all.filter(|(_, block)| wanted(block)).map(|(handle, _)| *handle).collect();
        all.sort_unstable();
        (!all.is_empty()).then(|| all[self.random.random_range(0..all.len())])
    }

    fn act_at_random(&mut self) {
        let is_live = |model: &Self, handle: &RawHandle| model.live.contains_key(handle);
        match self.random.random_range(0..100) {
            0..=34 if self.live.len() < 60 => {
                let kind = match self.random.random_range(0..4) {
                    0 => Kind::Number,
                    1 => Kind::Bytes,
                    2 => Kind::Wide,
                    _ => Kind::Layout(1 << self.random.random_range(0..11)),
                };
                let size = self.random.random_range(1..5000);
                self.make(kind, size);
            }
            0..=54 => {
                let picked = self.pick(|_| true).filter(|handle| is_live(self, handle));
                picked.into_iter().for_each(|handle| self.free(handle));
            }
            55..=69 => {
                let picked = self.pick(|block| block.rented.is_empty());
                picked.into_iter().for_each(|handle| self.write(handle));
            }
            70..=79 => {
                let picked = self.pick(|block| block.rented.len() < 3).filter(|handle| is_live(self, handle));
                if let Some(handle) = picked {
                    self.rent(handle);
                }
            }
            80..=94 => {
                let picked = self.pick(|block| !block.rented.is_empty());
                picked.into_iter().for_each(|handle| self.give_back(handle));
            }
            _ => self.shuffle(),
        }
    }

    fn end(mut self) {
        while let Some(handle) = self.pick(|block| !block.rented.is_empty()) {
            self.give_back(handle);
        }
        while let Some(handle) = self.pick(|_| true) {
            self.free(handle);
        }
        self.shuffle();
        let stats = self.shuffler.stats();
        assert!(stats.moves > 0);
        assert_eq!(stats.compactor == CompactorState::None, self.trigger == Trigger::Inline, "{stats:?}");
        if self.alone {
            let stats = common::quiet(&self.shuffler);
            assert_eq!((stats.live_blocks, stats.live_bytes), (0, 0));
        }
    }
}

fn both(check: impl Fn(Model)) {
    check(Model::new(Trigger::Inline));
    check(Model::new(Trigger::default()));
}

#[test]
fn a_thousand_random_actions() {
    both(|mut model| {
        for _ in 0..1000 {
            model.act_at_random();
        }
        model.end();
    });
}

#[test]
fn a_value_survives_fifty_rounds_of_churn() {
    both(|mut model| {
        let (number, bytes) = (model.make(Kind::Number, 8), model.make(Kind::Bytes, 777));
        let mut places = HashSet::new();
        for _ in 0..50 {
            let kept = model.churn(Kind::Bytes, ARENA / 30, 48);
            model.shuffle();
            places.insert(model.address(number));
            assert!(model.live.contains_key(&bytes));
            kept.into_iter().for_each(|handle| model.free(handle));
        }
        assert!(places.len() > 1, "in 50 rounds it was never moved");
        model.end();
    });
}

#[test]
fn moves_keep_the_alignment() {
    both(|mut model| {
        for power in 0..=12 {
            // As many as fill arenas, so that some are sealed.
            let (align, size) = (1 << power, (1 << power) / 3 + 1500);
            let before = model.shuffler.stats().moves;
            let kept = model.churn(Kind::Layout(align), size, 3 * ARENA / (size + align));
            model.shuffle();
            // There are no other blocks. (Small steps, or the thread, may have moved them before this shuffle did.)
            assert!(model.shuffler.stats().moves > before, "aligned to {align}");
            kept.into_iter().for_each(|handle| model.free(handle));
        }
        model.end();
    });
}

#[test]
fn a_rented_pointer_stays_through_fifty_shuffles() {
    both(|mut model| {
        let kept = model.churn(Kind::Bytes, ARENA / 40, 128);
        let pointer = model.rent(kept[2]);
        let before = model.shuffler.stats().moves;
        for _ in 0..50 {
            let more = model.churn(Kind::Wide, ARENA / 40, 48);
            model.shuffle();
            assert_eq!(model.address(kept[2]), pointer.addr().get());
            more.into_iter().for_each(|handle| model.free(handle));
        }
        assert!(model.shuffler.stats().moves >= before + 50, "others were moved in the meantime");
        model.end();
    });
}

#[test]
fn returned_blocks_move_without_being_told_to() {
    both(|mut model| {
        let made: Vec<_> = (0..160).map(|_| model.make(Kind::Bytes, ARENA / 40)).collect();
        // Four arenas of which one block each is held, and all else is freed.
        let held: Vec<_> = made.iter().copied().skip(10).step_by(40).collect();
        let places: Vec<_> = held.iter().map(|handle| model.rent(*handle).addr().get()).collect();
        made.into_iter().filter(|handle| !held.contains(handle)).for_each(|handle| model.free(handle));
        let other = model.make(Kind::Number, 8);
        let addresses = |model: &Model| held.iter().map(|handle| model.address(*handle)).collect::<Vec<_>>();
        for _ in 0..200 {
            model.write(other);
            assert_eq!(addresses(&model), places);
        }
        held.iter().for_each(|handle| model.give_back(*handle));
        // Rents and returns do it, or the thread; nobody calls `shuffle`.
        eventually("one of the blocks moves", || {
            model.write(other);
            addresses(&model) != places
        });
        model.end();
    });
}

#[test]
fn four_threads_of_random_actions() {
    both(|model| {
        let (shuffler, trigger) = (model.shuffler.clone(), model.trigger);
        thread::scope(|scope| {
            for seed in 0..4 {
                let shuffler = shuffler.clone();
                scope.spawn(move || {
                    let mut model = Model::over(shuffler, trigger, false, 100 + seed);
                    for _ in 0..400 {
                        model.act_at_random();
                    }
                    model.end();
                });
            }
        });
        let stats = common::quiet(&shuffler);
        assert_eq!((stats.live_blocks, stats.live_bytes), (0, 0));
    });
}
