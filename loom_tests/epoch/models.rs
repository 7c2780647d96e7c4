//! Models of readers: the library's own files over the real `crossbeam-epoch`, compiled with loom's atomics.
//!
//! A block is a loom cell. Nothing is freed: what is reclaimed is poisoned by a write to its cell, so that a reader which still
//! looks at it races or reads poison. Models with a reader assert that something was reclaimed while others ran.

#![cfg(loom)]

#[path = "../../src/arena/account.rs"]
#[allow(dead_code, reason = "the models use the library's file as it is, not all of it")]
mod account;
#[path = "../../src/deferred.rs"]
#[allow(dead_code, reason = "as above")]
mod deferred;
#[path = "../../src/table/entry.rs"]
#[allow(dead_code, reason = "as above")]
mod entry;
#[path = "../support/model.rs"]
mod model;
#[path = "../support/primitive.rs"]
mod primitive;
#[path = "../../src/ready.rs"]
mod ready;
#[path = "../../src/seats.rs"]
#[allow(dead_code, reason = "as above")]
mod seats;
#[path = "../../src/table/word.rs"]
#[allow(dead_code, reason = "as above")]
mod word;

use account::{Account, Outcome};
use crossbeam_epoch::{Collector, Guard};
use deferred::Deferred;
use entry::{Begun, Entry, Hold, Left, Memory, Refused};
use loom::cell::UnsafeCell;
use loom::thread;
use model::{Paths, check};
use seats::{Registration, Seat, Seats};
use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use word::{Location, Word};

/// Bytes of a block of the common size, and of another.
const BYTES: usize = 16;
const OTHER: usize = 48;
/// Blocks of an arena.
const CELLS: usize = 2;
/// The place of the block in arena 0, which is sealed.
const HOME: usize = 8;
/// The only life of the entry.
const LIFE: u32 = 1;
/// Flushes, after the one that puts a record off, until it has to be ready if nobody reads.
const FLUSHES: usize = 2;

/// A block: of this entry, so many bytes, in its first, second or third version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Block {
    bytes: usize,
    value: u64,
}

const POISON: Block = Block { bytes: 0xDEAD, value: 0xDEAD };

#[derive(Debug)]
enum Record {
    Settle(usize),
    Recycle(usize),
}

struct Arena {
    account: Account,
    cells: [UnsafeCell<Block>; CELLS],
}

/// What happened, outside loom's sight.
#[derive(Default)]
struct Log {
    /// Addresses of blocks that were unlinked, moved away, and settled.
    unlinked: Vec<usize>,
    settled: Vec<usize>,
    recycled: Vec<usize>,
}

struct World {
    entry: Entry,
    arenas: Vec<Arena>,
    collector: Collector,
    seats: Seats,
    deferred: Arc<Deferred<Record>>,
    log: std::sync::Mutex<Log>,
    paths: Paths,
}

// SAFETY: the cells are loom's, which report any access that is not ordered; the rest is `Sync`.
unsafe impl Sync for World {}
// SAFETY: as above.
unsafe impl Send for World {}

impl World {
    /// One block at [`HOME`] in a sealed arena, `others` bytes of other blocks beside it; an active arena for each of four
    /// threads, the main one among them.
    fn new(paths: &Paths, others: usize) -> Arc<Self> {
        let arena = || Arena { account: Account::new(), cells: std::array::from_fn(|_| UnsafeCell::new(POISON)) };
        let world = Self {
            entry: Entry::vacant(0),
            arenas: (0..=4).map(|_| arena()).collect(),
            collector: Collector::new(),
            seats: Seats::default(),
            deferred: Deferred::new(),
            log: std::sync::Mutex::default(),
            paths: paths.clone(),
        };
        world.put(HOME, Block { bytes: BYTES, value: 1 });
        world.arenas[0].account.open_sealed(BYTES + others);
        assert_eq!(world.entry.begin_life(HOME, 0), LIFE);
        Arc::new(world)
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        // Never held across an operation of loom's.
        self.log.lock().unwrap()
    }

    fn number(address: usize) -> usize {
        (address / 8 - 1) / CELLS
    }

    fn arena(&self, address: usize) -> &Arena {
        &self.arenas[Self::number(address)]
    }

    fn cell(&self, address: usize) -> &UnsafeCell<Block> {
        &self.arena(address).cells[(address / 8 - 1) % CELLS]
    }

    fn look(&self, address: usize) -> Block {
        // SAFETY: loom checks that nobody writes the cell meanwhile, and that its last write happened before.
        self.cell(address).with(|block| unsafe { *block })
    }

    fn put(&self, address: usize, block: Block) {
        // SAFETY: loom checks that nobody else uses the cell meanwhile, and that every earlier use happened before.
        self.cell(address).with_mut(|place| unsafe { *place = block });
    }

    /// Where the block is.
    fn read(&self) -> Option<usize> {
        self.entry.read(LIFE).map(Location::address)
    }

    /// As a reader gets a value.
    fn look_twice(&self, _guard: &Guard) {
        let Some(address) = self.read() else {
            return self.paths.reached("stale");
        };
        let first = self.look(address);
        self.paths.reached(if address == HOME { "read the old" } else { "read the new" });
        assert!((1..=3).contains(&first.value), "read what is no value of this block: {first:?}");
        assert_eq!(self.look(address), first, "changed under a reader");
    }

    /// As a reader is dropped.
    fn leave(&self, guard: Guard, seat: &Seat) {
        drop(guard);
        if seat.leave() {
            self.seats.give_back(seat);
        }
    }
}

struct Claim<'a> {
    mine: &'a Mine,
    number: usize,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let outcome = self.mine.world.arenas[self.number].account.unclaim();
        self.mine.after(outcome, self.number);
    }
}

/// One thread's view: the world, the arena that it fills, its registration.
struct Mine {
    world: Arc<World>,
    arena: usize,
    used: Cell<usize>,
    /// Made when it is first needed: who only retires has none.
    registration: OnceCell<Registration>,
}

impl Mine {
    fn new(world: &Arc<World>, arena: usize) -> Self {
        Self { world: world.clone(), arena, used: Cell::new(0), registration: OnceCell::new() }
    }

    fn registration(&self) -> &Registration {
        let new = || Registration::new(&self.world.collector, self.world.seats.take(None));
        self.registration.get_or_init(new)
    }

    fn reached(&self, path: &'static str) {
        self.world.paths.reached(path);
    }

    /// A place for one block in the thread's own arena.
    fn place(&self) -> usize {
        let used = self.used.replace(self.used.get() + 1);
        assert!(used < CELLS, "the model needs more cells");
        8 * (self.arena * CELLS + used + 1)
    }

    fn claim(&self, number: usize) -> Option<Claim<'_>> {
        if self.world.arenas[number].account.claim() {
            return Some(Claim { mine: self, number });
        }
        // A helper tries again, and loom would let it read the old word for ever.
        thread::yield_now();
        None
    }

    fn after(&self, outcome: Outcome, number: usize) {
        if outcome == Outcome::Emptied {
            self.defer(Record::Recycle(number), 0);
        }
    }

    fn subtract(&self, address: usize, bytes: usize) {
        let (outcome, _) = self.world.arena(address).account.subtract(bytes);
        self.after(outcome, World::number(address));
    }

    /// As the engine puts a record off.
    fn defer(&self, record: Record, bytes: usize) {
        if let Record::Settle(address) = record {
            self.world.log().unlinked.push(address);
        }
        if self.world.deferred.retire(record, bytes) {
            self.reached("told a step");
        }
    }

    /// Hands what was put off to the epochs.
    fn submit(&self) {
        assert!(self.world.deferred.submit(|| self.registration().pin()), "there is room for a batch");
    }

    /// Submits what was put off, helps the epoch forward and carries out what is ready, as a step does.
    fn step(&self) {
        self.submit();
        self.flush_and_carry_out(FLUSHES);
    }

    fn flush_and_carry_out(&self, flushes: usize) {
        for _ in 0..flushes {
            self.registration().pin().flush();
        }
        if self.carry_out() > 0 {
            self.reached("reclaimed while others ran");
        }
    }

    fn carry_out(&self) -> usize {
        let mut count = 0;
        while let Some(pending) = self.world.deferred.next() {
            count += 1;
            match pending.record {
                Record::Settle(address) => {
                    let block = self.world.look(address);
                    assert_ne!(block, POISON, "settled twice, or after its arena");
                    self.world.put(address, POISON);
                    self.world.log().settled.push(address);
                    self.subtract(address, block.bytes);
                }
                Record::Recycle(number) => {
                    self.world.log().recycled.push(number);
                    for cell in &self.world.arenas[number].cells {
                        // SAFETY: as in `put`.
                        cell.with_mut(|place| unsafe { *place = POISON });
                    }
                }
            }
        }
        count
    }

    /// Looks at the value of the block twice under one reader.
    fn get(&self) {
        let (guard, seat) = self.registration().enter();
        let seat = seat.clone();
        self.world.look_twice(&guard);
        self.world.leave(guard, &seat);
    }

    /// Replaces the value, as `publish` does. Whether it did.
    fn publish(&self, block: Block) -> bool {
        let new = self.place();
        let old = match self.world.entry.hold(LIFE, Hold::Exclusive, self) {
            Ok(old) => old,
            Err(refused) => {
                assert!(matches!(refused, Refused::Busy | Refused::Stale));
                self.reached("refused");
                return false;
            }
        };
        self.world.put(new, block);
        match self.world.entry.replace(new) {
            Ok(_) => {
                self.reached("published");
                let bytes = self.world.look(old).bytes;
                self.defer(Record::Settle(old), bytes);
                true
            }
            Err(left) => {
                self.reached("freed meanwhile");
                self.world.put(new, POISON);
                self.settle(left);
                false
            }
        }
    }

    /// Replaces the value by one of another size, as `publish_copy` does. Whether it did.
    fn publish_copy(&self, block: Block) -> bool {
        let new = self.place();
        self.world.put(new, block);
        let old = match self.world.entry.hold(LIFE, Hold::Exclusive, self) {
            Ok(old) => old,
            Err(refused) => {
                assert!(matches!(refused, Refused::Busy | Refused::Stale));
                self.reached("refused");
                self.world.put(new, POISON);
                return false;
            }
        };
        let is_linked = self.world.entry.relink(new, block.bytes as u32);
        self.reached(if is_linked { "published" } else { "freed meanwhile" });
        if !is_linked {
            self.world.put(new, POISON);
        }
        self.settle(self.world.entry.give_back(Hold::Exclusive));
        if is_linked {
            let bytes = self.world.look(old).bytes;
            self.defer(Record::Settle(old), bytes);
        }
        is_linked
    }

    fn settle(&self, left: Left) {
        if let Some(address) = left.settle {
            let bytes = self.world.look(address).bytes;
            self.defer(Record::Settle(address), bytes);
        }
    }

    /// Ends the block, as `free` does.
    fn free(&self) {
        let closed = self.world.entry.free(LIFE).expect("nobody else frees");
        assert!(!closed.moving);
        self.reached(if closed.held { "freed while held" } else { "freed" });
        self.settle(Left { settle: (!closed.held).then_some(closed.address), wake: false });
    }

    /// Moves the block at [`HOME`], as the compactor does.
    fn shuffle(&self) {
        let Some(claim) = self.claim(0) else { return };
        match self.world.entry.begin_move(HOME) {
            Begun::Moving(moving) => {
                let copy = self.copy(&claim, HOME).unwrap();
                if self.world.entry.commit(moving, Word::open_at(copy.0)) {
                    self.reached("moved");
                    self.won(claim, HOME, copy);
                } else {
                    self.reached("a mover lost");
                    self.lost(claim, copy);
                }
            }
            Begun::Held => self.reached("skipped as held"),
            Begun::Gone => self.reached("gone"),
        }
    }
}

impl Memory for Mine {
    type Claim<'a> = Claim<'a>;
    type Copy = (usize, Block);

    fn claim(&self, address: usize) -> Option<Claim<'_>> {
        self.claim(World::number(address))
    }

    fn copy(&self, _claim: &Claim<'_>, address: usize) -> Option<(usize, Block)> {
        let (copy, block) = (self.place(), self.world.look(address));
        self.world.put(copy, block);
        Some((copy, block))
    }

    fn address(&self, copy: &(usize, Block)) -> usize {
        copy.0
    }

    /// The source keeps its bytes for the readers until its arena is recycled.
    fn won(&self, claim: Claim<'_>, source: usize, (_, block): (usize, Block)) {
        let (outcome, _) = self.world.arena(source).account.subtract(block.bytes);
        assert_eq!(outcome, Outcome::Remains, "emptied under a claim");
        drop(claim);
    }

    fn lost(&self, claim: Claim<'_>, (copy, _): (usize, Block)) {
        self.world.put(copy, POISON);
        drop(claim);
    }

    fn strayed(&self, _entry: &Entry, left: Left) {
        self.settle(left);
    }
}

type Body = Box<dyn FnOnce(&Mine) + Send>;

fn body(body: impl FnOnce(&Mine) + Send + 'static) -> Body {
    Box::new(body)
}

fn reader() -> Body {
    body(Mine::get)
}

/// A reader without a seat.
fn pinned_reader() -> Body {
    body(|mine| {
        let guard = mine.registration().pin();
        mine.world.look_twice(&guard);
    })
}

fn publisher(value: u64, step: bool) -> Body {
    body(move |mine| {
        if mine.publish(Block { bytes: BYTES, value }) && step {
            mine.step();
        }
    })
}

/// Runs the bodies as one thread each, joins, and reclaims what is left.
fn race<const N: usize>(world: &Arc<World>, bodies: [Body; N]) {
    model::race(bodies.into_iter().enumerate().map(|(i, body)| {
        let world = world.clone();
        move || body(&Mine::new(&world, i + 1))
    }));
    finish(world);
}

/// What must hold at the end of every execution: all that was unlinked is settled once.
fn finish(world: &Arc<World>) {
    let mine = Mine::new(world, 4);
    // Once more for the arena that is emptied by what is carried out.
    for _ in 0..2 {
        mine.submit();
        for _ in 0..FLUSHES {
            mine.registration().pin().flush();
        }
        mine.carry_out();
    }
    let deferred = &world.deferred;
    assert_eq!((deferred.waiting(), deferred.waiting_bytes()), (0, 0), "something waits for nobody");
    assert_eq!(deferred.backlog(), (0, 0), "something is due for nobody");
    let log = &mut *world.log();
    log.unlinked.sort_unstable();
    log.settled.sort_unstable();
    assert_eq!(log.unlinked, log.settled, "what was unlinked is settled once");
    let home = world.arenas[0].account.balance();
    assert_eq!(home.claims, 0, "a claim was lost");
    assert_eq!(log.recycled.len(), usize::from(home.live == 0), "an arena is recycled once, when it is empty");
}

#[test]
fn a_get_and_a_publish() {
    let paths = ["read the old", "read the new", "published", "reclaimed while others ran"];
    check("a get and a publish", 2, &paths, |paths| {
        let world = World::new(paths, BYTES);
        race(&world, [reader(), publisher(2, true)]);
        assert_eq!(world.log().settled, [HOME]);
    });
}

/// The publisher only retires the old block; a step of a third thread submits it, knowing of it by the list alone. As few
/// operations as can be, for there are three threads: a reader without a seat, and one flush after the submission.
#[test]
fn a_get_a_publish_and_a_step() {
    let paths = ["read the old", "read the new", "published", "told a step", "reclaimed while others ran"];
    check("a get, a publish and a step", 2, &paths, |paths| {
        let world = World::new(paths, BYTES);
        let stepper = body(|mine| {
            mine.submit();
            mine.flush_and_carry_out(1);
        });
        race(&world, [pinned_reader(), publisher(2, false), stepper]);
        assert_eq!(world.log().settled, [HOME]);
    });
}

/// A batch is what was retired before it was submitted: its closure may come before later readers.
#[test]
fn a_get_and_a_publish_after_a_submission() {
    let paths = ["read the old", "read the new", "published", "reclaimed while others ran"];
    check("a get and a publish after a submission", 2, &paths, |paths| {
        let world = World::new(paths, BYTES);
        let publisher = body(|mine| {
            mine.publish(Block { bytes: BYTES, value: 2 });
            mine.submit();
            mine.publish(Block { bytes: BYTES, value: 3 });
            mine.flush_and_carry_out(FLUSHES);
            assert!(mine.world.log().settled.len() < 2, "what was retired later waits for another batch");
        });
        race(&world, [pinned_reader(), publisher]);
        assert_eq!(world.log().settled.len(), 2);
    });
}

#[test]
fn two_publishes() {
    check("two publishes", 2, &["published", "refused"], |paths| {
        let world = World::new(paths, BYTES);
        race(&world, [publisher(2, false), publisher(3, false)]);
        let value = world.look(world.read().unwrap()).value;
        assert!(value == 2 || value == 3, "both were lost");
    });
}

#[test]
fn a_get_and_a_move() {
    check("a get and a move", 2, &["read the old", "read the new", "moved"], |paths| {
        let world = World::new(paths, BYTES);
        race(&world, [reader(), body(Mine::shuffle)]);
        assert_ne!(world.read(), Some(HOME));
    });
}

#[test]
fn a_publish_and_a_move() {
    let paths = ["published", "moved", "a mover lost", "gone", "skipped as held"];
    check("a publish and a move", 2, &paths, |paths| {
        let world = World::new(paths, BYTES);
        race(&world, [publisher(2, false), body(Mine::shuffle)]);
        assert_eq!(world.look(world.read().unwrap()).value, 2);
    });
}

#[test]
fn a_get_and_a_free() {
    check("a get and a free", 2, &["read the old", "stale", "freed", "reclaimed while others ran"], |paths| {
        let world = World::new(paths, BYTES);
        let freer = body(|mine| {
            mine.free();
            mine.step();
        });
        race(&world, [reader(), freer]);
        assert_eq!(world.log().settled, [HOME]);
    });
}

#[test]
fn a_get_and_an_arena_that_is_retired() {
    let paths = ["read the old", "read the new", "moved", "reclaimed while others ran"];
    check("a get and an arena that is retired", 2, &paths, |paths| {
        let world = World::new(paths, 0);
        let mover = body(|mine| {
            mine.shuffle();
            mine.step();
        });
        race(&world, [reader(), mover]);
        assert_eq!(world.log().recycled, [0]);
    });
}

/// A reader takes the size from the block that it reads, whatever the entry's extent says.
#[test]
fn a_get_and_a_publish_of_another_size() {
    let paths = ["read the old", "read the new", "published", "reclaimed while others ran"];
    check("a get and a publish of another size", 2, &paths, |paths| {
        let world = World::new(paths, BYTES);
        let publisher = body(|mine| {
            assert!(mine.publish_copy(Block { bytes: OTHER, value: 2 }));
            mine.step();
        });
        race(&world, [pinned_reader(), publisher]);
        assert_eq!(world.log().settled, [HOME]);
        assert_eq!(world.entry.extent(), OTHER as u32);
    });
}

#[test]
fn a_publish_of_another_size_and_a_move() {
    let paths = ["published", "moved", "a mover lost", "gone", "skipped as held"];
    check("a publish of another size and a move", 2, &paths, |paths| {
        let world = World::new(paths, BYTES);
        let publisher = body(|mine| assert!(mine.publish_copy(Block { bytes: OTHER, value: 2 })));
        race(&world, [publisher, body(Mine::shuffle)]);
        assert_eq!(world.look(world.read().unwrap()), Block { bytes: OTHER, value: 2 });
        // The first size is off the account that it stood in, by whoever buried the block there.
        assert_eq!(world.arenas[0].account.balance().live, BYTES);
    });
}

#[test]
fn a_publish_of_another_size_and_a_free() {
    let paths = ["published", "freed meanwhile", "refused", "freed", "freed while held"];
    check("a publish of another size and a free", 2, &paths, |paths| {
        let world = World::new(paths, BYTES);
        let publisher = body(|mine| {
            mine.publish_copy(Block { bytes: OTHER, value: 2 });
        });
        race(&world, [publisher, body(Mine::free)]);
        // Whoever settles takes off what the block counted: the other one's bytes stay.
        assert_eq!(world.arenas[0].account.balance().live, BYTES);
        let published = world.log().settled.len() == 2;
        assert_eq!(world.arenas[1].account.debt(), if published { OTHER } else { 0 });
    });
}

/// What passes from lease to lease.
struct Shard(Option<Registration>);

// SAFETY: the lock around it hands it from user to user, and a registration that has readers stays behind.
unsafe impl Send for Shard {}

#[test]
fn a_reader_outlives_its_lease() {
    let paths = ["read the old", "read the new", "reclaimed while others ran"];
    check("a reader outlives its lease", 2, &paths, |paths| {
        let world = World::new(paths, BYTES);
        // Not loom's, which would add schedules: nobody waits for it.
        let shard = Arc::new(std::sync::Mutex::new(Shard(None)));
        let early = thread::spawn({
            let (world, shard) = (world.clone(), shard.clone());
            move || {
                let registration = Registration::new(&world.collector, world.seats.take(None));
                let (guard, seat) = registration.enter();
                let seat = seat.clone();
                shard.lock().unwrap().0 = registration.end_lease();
                world.look_twice(&guard);
                world.leave(guard, &seat);
            }
        });
        let late = thread::spawn({
            let world = world.clone();
            move || {
                assert!(shard.lock().unwrap().0.is_none(), "a registration with a reader was handed on");
                let mine = Mine::new(&world, 1);
                mine.publish(Block { bytes: BYTES, value: 2 });
                mine.step();
            }
        });
        early.join().unwrap();
        late.join().unwrap();
        finish(&world);
        // The reader's seat was another's afterwards.
        let seats = format!("{:?}", world.seats).matches("Place {").count();
        assert_eq!(seats, 2, "the reader's seat did not come back");
    });
}
