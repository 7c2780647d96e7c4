//! A small memory under the real entry: cells that report every race, arenas with the real account, and the few lines
//! that callers put around the transitions.
//!
//! A block is one cell, its header (slot, life and length) and its payload together; the address of cell `c` of arena `a` is a
//! multiple of 8. Arena 0 is sealed and holds the block at [`HOME`]; every thread copies into an active arena of its own.
//! An emptied arena is poisoned through `with_mut`, so whoever still looks at it races or reads poison.

#[path = "../../src/arena/account.rs"]
#[allow(dead_code, reason = "the models use the library's file as it is, not all of it")]
mod account;
#[path = "../../src/table/entry.rs"]
#[allow(dead_code, reason = "as above")]
pub(crate) mod entry;
#[path = "../../src/arena/header.rs"]
#[allow(dead_code, reason = "as above")]
mod header;
#[path = "../../src/table/word.rs"]
#[allow(dead_code, reason = "as above")]
pub(crate) mod word;

use crate::model::Paths;
use account::{Account, Outcome};
use entry::{Begun, Closed, Entry, Hold, LARGE_EXTENT, Left, Memory, Refused, Waiting};
use header::{AtomicHeader, HEADER_BYTES, Header, State};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::sync::{Condvar, Mutex};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use word::Word;

/// The block's place in arena 0.
pub(crate) const HOME: usize = 8;
/// The slot whose entry the model has.
pub(crate) const SLOT: u32 = 7;
/// Bytes that a block counts in its arena's account.
const BYTES: usize = 16;
const CELLS: usize = 2;
/// Payload bytes of a [`long`](World::long) block, and what a shortening leaves of them.
const LONG: usize = 16;
const SHORT: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Block {
    slot: u32,
    life: u32,
    payload: u64,
    /// Payload bytes; of the block at [`HOME`] its atomic header tells.
    bytes: usize,
}

const POISON: Block = Block { slot: 0xDEAD, life: 0xDEAD, payload: 0xDEAD, bytes: 0xDEAD };

/// What the extent of a life is, so that a query can tell whose it read.
pub(crate) fn extent_of(life: u32) -> u32 {
    life * 100
}

struct Arena {
    account: Account,
    cells: [UnsafeCell<Block>; CELLS],
}

/// What happened, kept outside loom's sight, so that it orders nothing.
#[derive(Default)]
struct Log {
    /// Lives that a free or a take ended.
    ended: Vec<u32>,
    /// Lives that were settled.
    settled: Vec<u32>,
    /// Settlements that fell to a mistaken hold: the ready list.
    strayed: Vec<usize>,
    /// Settlements that wait for the claims of movers.
    waiting: Vec<usize>,
    /// What each life's payload must be now; changed only by who holds the block exclusively.
    payloads: BTreeMap<u32, u64>,
    /// Payload bytes of the block in a [`long`](World::long) world; changed as the payloads are.
    bytes: usize,
    /// How often each arena was emptied.
    emptied: [usize; 5],
    /// Lives of arena 0.
    opened: usize,
}

/// How a free fared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Freed {
    /// Another call had ended the life.
    Refused,
    /// Settled by this call: the slot is the caller's.
    Now,
    /// A holder or the ready list settles.
    Later,
}

pub(crate) struct World {
    pub(crate) entry: Entry,
    arenas: Vec<Arena>,
    /// The header of the block at [`HOME`], as walkers read it: how long it is and whether its bytes are dead.
    header: AtomicHeader,
    /// What lies where a shortened block at [`HOME`] ends: a part of its payload, until a filler is there.
    tail: AtomicHeader,
    /// Whether lengths matter: looked at only then, so that other models are not larger for it.
    long: bool,
    /// Sources of moves are wiped. If not they are dead at once, and stand as they are until they are punched.
    scrubs: bool,
    /// Set by whoever emptied arena 0: it may be used again.
    idle: AtomicBool,
    /// The source of a move that was not wiped, or 0: the ready list.
    sources: AtomicUsize,
    parking: Mutex<()>,
    bell: Condvar,
    log: std::sync::Mutex<Log>,
    pub(crate) paths: Paths,
}

// SAFETY: the cells are loom's, which report any access that the protocol does not order; the rest is `Sync`.
unsafe impl Sync for World {}
// SAFETY: as above.
unsafe impl Send for World {}

impl World {
    /// A world with room for the copies of `threads` threads, and an entry in no life.
    pub(crate) fn new(paths: &Paths, threads: usize) -> Arc<Self> {
        Self::with_home(paths, threads, BYTES - HEADER_BYTES, true)
    }

    fn with_home(paths: &Paths, threads: usize, bytes: usize, scrubs: bool) -> Arc<Self> {
        let arena = || Arena { account: Account::new(), cells: std::array::from_fn(|_| UnsafeCell::new(POISON)) };
        Arc::new(Self {
            entry: Entry::vacant(0),
            arenas: (0..=threads).map(|_| arena()).collect(),
            header: AtomicHeader::new(Header::new(SLOT, bytes, 1, State::Live)),
            tail: AtomicHeader::new(Header::new(0xDEAD, 0xDEAD, 9, State::Live)),
            long: bytes == LONG,
            scrubs,
            idle: AtomicBool::new(false),
            sources: AtomicUsize::new(0),
            parking: Mutex::new(()),
            bell: Condvar::new(),
            log: std::sync::Mutex::new(Log { bytes, ..Log::default() }),
            paths: paths.clone(),
        })
    }

    /// A world whose block at [`HOME`] is in its first life, with payload 1.
    pub(crate) fn alive(paths: &Paths, threads: usize) -> (Arc<Self>, u32) {
        let world = Self::new(paths, threads);
        let version = world.start(1, 1);
        (world, version)
    }

    /// As [`alive`](Self::alive), with a block that can become shorter.
    pub(crate) fn long(paths: &Paths, threads: usize) -> (Arc<Self>, u32) {
        let world = Self::with_home(paths, threads, LONG, true);
        let version = world.start(1, 1);
        (world, version)
    }

    /// As [`alive`](Self::alive), and a mover has begun to move the block and stopped for ever, its claim given back.
    pub(crate) fn moving(paths: &Paths, threads: usize) -> (Arc<Self>, u32) {
        let (world, version) = Self::alive(paths, threads);
        let claim = world.claim(HOME).unwrap();
        assert!(matches!(world.entry.begin_move(HOME), Begun::Moving(_)));
        drop(claim);
        (world, version)
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        // Never held across an operation of loom's.
        self.log.lock().unwrap()
    }

    fn arena(&self, address: usize) -> &Arena {
        &self.arenas[(address / 8 - 1) / CELLS]
    }

    fn number(&self, address: usize) -> usize {
        (address / 8 - 1) / CELLS
    }

    fn cell(&self, address: usize) -> &UnsafeCell<Block> {
        assert!(address.is_multiple_of(8));
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

    /// Opens arena 0, sealed, with one block of this slot at [`HOME`], and begins its life.
    pub(crate) fn start(&self, life: u32, payload: u64) -> u32 {
        self.open_home(Block { slot: SLOT, life, payload, bytes: SHORT });
        self.log().payloads.insert(life, payload);
        let version = self.entry.begin_life(HOME, extent_of(life));
        assert_eq!(version, life, "the slot's next life is not the one after its last");
        version
    }

    /// Opens arena 0, sealed, with a block of another slot at [`HOME`].
    pub(crate) fn start_stranger(&self) {
        self.open_home(Block { slot: 8, life: 1, payload: 8, bytes: SHORT });
    }

    /// As [`alive`](Self::alive), with a second block in arena 0, so that the death of the first does not empty it; what moves is
    /// not wiped.
    pub(crate) fn crowded(paths: &Paths, threads: usize) -> (Arc<Self>, u32) {
        let world = Self::with_home(paths, threads, BYTES - HEADER_BYTES, false);
        let version = world.start(1, 1);
        world.arena(HOME).account.open_sealed(2 * BYTES);
        (world, version)
    }

    fn open_home(&self, block: Block) {
        self.put(HOME, block);
        let header = self.header.load().with_state(State::Live);
        self.header.store(header);
        self.arena(HOME).account.open_sealed(header.inline_footprint());
        self.log().opened += 1;
    }

    /// Begins a life of the entry at a place in the caller's own arena.
    pub(crate) fn start_at(&self, address: usize, life: u32, payload: u64) -> u32 {
        self.put(address, Block { slot: SLOT, life, payload, bytes: SHORT });
        self.log().payloads.insert(life, payload);
        let version = self.entry.begin_life(address, extent_of(life));
        assert_eq!(version, life, "the slot's next life is not the one after its last");
        version
    }

    /// Whether arena 0 was emptied, so that the caller may use it again.
    pub(crate) fn is_idle(&self) -> bool {
        // Acquire: the shared list that recycled arenas come from.
        self.idle.load(Ordering::Acquire)
    }

    /// Payload bytes of a block, in a world in which they matter.
    fn bytes_at(&self, address: usize) -> usize {
        match (self.long, address) {
            (false, _) => SHORT,
            (true, HOME) => self.header.load().payload(),
            _ => self.look(address).bytes,
        }
    }

    /// Says to walkers that the bytes are dead, and tells how many.
    fn die(&self, address: usize) -> usize {
        if address != HOME {
            return BYTES;
        }
        let header = self.header.load();
        self.header.store(header.with_state(State::Dead));
        header.inline_footprint()
    }

    fn subtract(&self, address: usize, bytes: usize) {
        let (outcome, _) = self.arena(address).account.subtract(bytes);
        self.after(outcome, address);
    }

    fn after(&self, outcome: Outcome, address: usize) {
        if outcome == Outcome::Emptied {
            let number = self.number(address);
            {
                let mut log = self.log();
                log.emptied[number] += 1;
                assert!(number != 0 || log.emptied[0] <= log.opened, "an arena was emptied twice");
            }
            for cell in &self.arenas[number].cells {
                // SAFETY: as in `put`.
                cell.with_mut(|place| unsafe { *place = POISON });
            }
            if number == 0 {
                self.paths.reached("emptied");
                self.idle.store(true, Ordering::Release);
            }
        }
    }

    fn ring(&self) {
        self.paths.reached("woke");
        drop(self.parking.lock().unwrap());
        self.bell.notify_all();
    }

    /// The destructor and the accounting; the slot is vacant afterwards.
    fn settle(&self, address: usize) {
        let block = self.look(address);
        assert_eq!(block.slot, SLOT, "settled what is not a block of this slot");
        self.put(address, POISON);
        self.log().settled.push(block.life);
        let bytes = self.die(address);
        self.subtract(address, bytes);
    }

    /// Settles a block that was freed while movers could be copying it: at once if the caller is the only one with a claim.
    fn settle_moving(&self, address: usize) -> bool {
        let claim = self.claim(address).expect("the block's bytes are counted, so its arena can be claimed");
        let alone = self.arena(address).account.balance().claims == 1;
        if alone {
            self.paths.reached("freed while moving, settled");
            self.settle(address);
        } else {
            self.paths.reached("freed while moving, put off");
            self.log().waiting.push(address);
        }
        drop(claim);
        alone
    }

    /// Whether this call settled the block, so that the slot is the caller's.
    pub(crate) fn carry(&self, left: Left) -> bool {
        if left.wake {
            self.ring();
        }
        if let Some(address) = left.settle {
            self.paths.reached("settled by the last return");
            self.settle(address);
        }
        left.settle.is_some()
    }

    /// Returns; whether that settled the block.
    pub(crate) fn leave(&self, hold: Hold) -> bool {
        self.carry(self.entry.give_back(hold))
    }

    /// Frees the block.
    pub(crate) fn free(&self, version: u32) -> Freed {
        let Some(closed) = self.entry.free(version) else {
            self.paths.reached("a free was refused");
            return Freed::Refused;
        };
        self.log().ended.push(version);
        if self.closed(closed) { Freed::Now } else { Freed::Later }
    }

    fn closed(&self, closed: Closed) -> bool {
        assert!(!(closed.held && closed.moving), "MOVING beside a hold");
        if closed.wake {
            self.ring();
        }
        if closed.held {
            self.paths.reached("freed while held");
            false
        } else if closed.moving {
            self.settle_moving(closed.address)
        } else {
            self.paths.reached("freed while not held");
            self.settle(closed.address);
            true
        }
    }

    /// Checks, on the main thread after all others are joined, what must hold at the end of every execution.
    pub(crate) fn finish(self: &Arc<Self>) {
        let (strayed, waiting) = {
            let mut log = self.log();
            (std::mem::take(&mut log.strayed), std::mem::take(&mut log.waiting))
        };
        for address in strayed {
            self.paths.reached("settled by the ready list");
            self.settle(address);
        }
        for address in waiting {
            assert_eq!(self.arena(address).account.balance().claims, 0);
            self.settle(address);
        }
        Mine::new(self, 0).wipe_left();
        let word = self.entry.word();
        assert!(!word.is_held() && !word.is_waited(), "left behind: {word:?}");
        let log = &mut *self.log();
        log.ended.sort_unstable();
        log.settled.sort_unstable();
        assert_eq!(log.ended, log.settled, "every life that was ended is settled exactly once");
        let home = self.arenas[0].account.balance();
        assert_eq!(home.claims, 0, "a claim was lost");
        assert!(log.emptied[0] + usize::from(home.live > 0) == log.opened, "arena 0 was not emptied once a life");
    }

    /// At the end of a model: the block of that life is whole, whatever it went through.
    pub(crate) fn assert_alive(&self, version: u32) {
        let word = self.entry.word();
        assert!(word.is_open() && self.entry.version() == version, "the life {version} is over");
        let (payload, bytes) = (self.log().payloads[&version], self.bytes_at(word.address()));
        assert_eq!(Block { bytes, ..self.look(word.address()) }, Block { slot: SLOT, life: version, payload, bytes });
        assert!(!self.long || bytes == self.log().bytes, "a length was lost");
    }

    /// At the end of a model: the last life was `version`, and it is over.
    pub(crate) fn assert_ended(self: &Arc<Self>, version: u32) {
        assert_eq!(self.entry.version(), version + 1);
        assert_eq!(self.log().ended.last(), Some(&version));
        assert!(!self.entry.word().is_open());
        for hold in [Hold::Shared, Hold::Exclusive] {
            assert_eq!(self.entry.hold(version, hold, &Mine::new(self, 0)), Err(Refused::Stale));
        }
        for other in [version, version + 2, u32::MAX] {
            assert!(!self.entry.end_life(other));
        }
        assert_eq!(self.entry.announce_wait(version), Waiting::Stale);
    }
}

pub(crate) struct Claim<'a> {
    world: &'a World,
    address: usize,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let outcome = self.world.arena(self.address).account.unclaim();
        self.world.after(outcome, self.address);
    }
}

impl World {
    fn claim(&self, address: usize) -> Option<Claim<'_>> {
        if self.arena(address).account.claim() {
            return Some(Claim { world: self, address });
        }
        self.paths.reached("a claim was refused");
        // The helper tries again, and loom would let it read the old word for ever.
        loom::thread::yield_now();
        None
    }
}

/// A copy that nobody else knows; it is either won or lost.
pub(crate) struct Copied(usize);

/// One thread's view: the world and the arena that it copies to.
pub(crate) struct Mine {
    world: Arc<World>,
    arena: usize,
    used: Cell<usize>,
}

impl Mine {
    /// `arena` is of this thread alone, from 1.
    pub(crate) fn new(world: &Arc<World>, arena: usize) -> Self {
        Self { world: world.clone(), arena, used: Cell::new(0) }
    }

    /// How many blocks the thread has made in its own arena.
    pub(crate) fn used(&self) -> usize {
        self.used.get()
    }

    pub(crate) fn reached(&self, path: &'static str) {
        self.world.paths.reached(path);
    }

    /// A place for one block in the thread's own arena.
    pub(crate) fn place(&self) -> usize {
        let used = self.used.replace(self.used.get() + 1);
        assert!(used < CELLS, "the model needs more cells");
        8 * (self.arena * CELLS + used + 1)
    }

    /// Takes a hold, checks that it is on the right life, and tells the address.
    pub(crate) fn hold(&self, version: u32, hold: Hold) -> Result<usize, Refused> {
        let address = self.world.entry.hold(version, hold, self)?;
        let block = self.world.look(address);
        assert_eq!((block.slot, block.life), (SLOT, version), "held another block than the handle's");
        assert_eq!(block.payload, self.world.log().payloads[&version], "a write was lost");
        if self.world.long {
            let bytes = self.world.bytes_at(address);
            assert_eq!(bytes, self.world.log().bytes, "a length was lost");
        }
        Ok(address)
    }

    /// Rents, reads, and returns.
    pub(crate) fn read(&self, version: u32) -> Result<u64, Refused> {
        let address = self.hold(version, Hold::Shared)?;
        let payload = self.world.look(address).payload;
        self.reached("read");
        self.world.leave(Hold::Shared);
        Ok(payload)
    }

    /// Rents to write, adds to the payload, and returns.
    pub(crate) fn add(&self, version: u32, more: u64) -> Result<(), Refused> {
        let address = self.hold(version, Hold::Exclusive)?;
        let block = self.world.look(address);
        self.world.put(address, Block { payload: block.payload + more, ..block });
        *self.world.log().payloads.get_mut(&version).unwrap() += more;
        self.reached("wrote");
        self.world.leave(Hold::Exclusive);
        Ok(())
    }

    /// `take`: ends the life with the block held, and moves the value out.
    pub(crate) fn take(&self, version: u32) -> Result<u64, Refused> {
        let address = self.hold(version, Hold::Exclusive)?;
        if !self.world.entry.end_life(version) {
            self.reached("a take lost");
            self.world.leave(Hold::Exclusive);
            return Err(Refused::Stale);
        }
        self.reached("took");
        self.world.log().ended.push(version);
        let payload = self.world.look(address).payload;
        let closed = self.world.entry.close();
        assert!(closed.held && !closed.moving && closed.address == address);
        if closed.wake {
            self.world.ring();
        }
        let left = self.world.entry.give_back(Hold::Exclusive);
        assert_eq!(left, Left { settle: Some(address), wake: false }, "the taker settles what it took");
        self.world.settle(address);
        Ok(payload)
    }

    /// `publish`: a new block in the place of the old. `false`: freed meanwhile, or stale.
    pub(crate) fn publish(&self, version: u32, payload: u64) -> Result<bool, Refused> {
        let fresh = self.place();
        self.world.put(fresh, Block { slot: SLOT, life: version, payload, bytes: SHORT });
        let old = match self.hold(version, Hold::Exclusive) {
            Ok(old) => old,
            Err(refused) => {
                self.world.put(fresh, POISON);
                return Err(refused);
            }
        };
        self.world.log().payloads.insert(version, payload);
        match self.world.entry.replace(fresh) {
            Ok(wake) => {
                self.reached("published");
                if wake {
                    self.world.ring();
                }
                // The old block is not the life's any more: retired without settling the life.
                self.bury(old);
                Ok(true)
            }
            Err(left) => {
                self.reached("freed before it was published");
                assert_eq!(left.settle, Some(old));
                self.world.put(fresh, POISON);
                self.world.carry(left);
                Ok(false)
            }
        }
    }

    /// The block at `address` is not the life's any more: retired without settling the life.
    fn bury(&self, address: usize) {
        self.world.put(address, POISON);
        let bytes = self.world.die(address);
        self.world.subtract(address, bytes);
    }

    /// A resize that needs another block: links it under the hold. `false`: freed meanwhile.
    pub(crate) fn resize(&self, version: u32, payload: u64) -> Result<bool, Refused> {
        let old = self.hold(version, Hold::Exclusive)?;
        let fresh = self.place();
        self.world.put(fresh, Block { payload, ..self.world.look(old) });
        let linked = self.world.entry.relink(fresh, extent_of(version));
        if linked {
            self.reached("resized");
            self.world.log().payloads.insert(version, payload);
            self.bury(old);
        } else {
            self.reached("freed before it was resized");
            self.world.put(fresh, POISON);
        }
        let settled = self.world.leave(Hold::Exclusive);
        assert!(linked || settled, "what a free left was not settled");
        Ok(linked)
    }

    /// `publish_copy`: a block of another length, and of another kind than the entry's extent tells, in the place of the old.
    /// `None`: freed meanwhile. Otherwise whether this settled the new one, so that the slot is the caller's.
    pub(crate) fn publish_copy(&self, version: u32, bytes: usize) -> Result<Option<bool>, Refused> {
        let fresh = self.place();
        self.world.put(fresh, Block { slot: SLOT, life: version, payload: 5, bytes });
        let old = match self.hold(version, Hold::Exclusive) {
            Ok(old) => old,
            Err(refused) => {
                self.world.put(fresh, POISON);
                return Err(refused);
            }
        };
        let before = self.world.entry.extent();
        let linked = self.world.entry.relink(fresh, before ^ LARGE_EXTENT);
        if linked {
            self.reached("published");
            let log = &mut *self.world.log();
            log.payloads.insert(version, 5);
            log.bytes = bytes;
        } else {
            self.reached("freed before it was published");
            assert_eq!(self.world.entry.extent(), before, "the extent of a block that was not linked");
            self.world.put(fresh, POISON);
        }
        let settled = self.world.leave(Hold::Exclusive);
        if linked {
            self.bury(old);
        }
        Ok(linked.then_some(settled))
    }

    /// Makes the block large, and then small again, each time in another place.
    pub(crate) fn grow_and_shrink(&self, version: u32) -> [usize; 2] {
        let entry = &self.world.entry;
        self.hold(version, Hold::Exclusive).unwrap();
        let [large, small] = [self.place(), self.place()];
        assert!(entry.relink(large, extent_of(version) | LARGE_EXTENT));
        self.world.leave(Hold::Exclusive);
        entry.hold(version, Hold::Exclusive, self).unwrap();
        assert!(entry.relink(small, extent_of(version)));
        self.world.leave(Hold::Exclusive);
        [large, small]
    }

    /// What a query reads while a resize goes on: where the extent says large, the word leads to the large block, unless
    /// another look tells better.
    pub(crate) fn query_length(&self, version: u32, large: usize) {
        let entry = &self.world.entry;
        if entry.extent() == extent_of(version) {
            return self.reached("saw a small block");
        }
        let address = entry.word().address();
        if address == large {
            self.reached("saw a large block");
        } else {
            self.reached("looked again");
            assert_eq!(entry.extent(), extent_of(version), "large, and not there");
        }
    }

    /// Makes the block shorter where it is.
    pub(crate) fn shorten(&self, version: u32) -> Result<(), Refused> {
        let address = self.hold(version, Hold::Exclusive)?;
        if address == HOME {
            self.reached("shortened at home");
            let header = &self.world.header;
            let rest = header.load().inline_footprint() - (HEADER_BYTES + SHORT);
            header.resize(SHORT, rest, || &self.world.tail);
            let (outcome, _) = self.world.arena(HOME).account.subtract(rest);
            assert_eq!(outcome, Outcome::Remains);
        } else {
            self.reached("shortened elsewhere");
            self.world.put(address, Block { bytes: SHORT, ..self.world.look(address) });
        }
        self.world.log().bytes = SHORT;
        self.world.entry.set_extent(extent_of(version));
        self.world.leave(Hold::Exclusive);
        Ok(())
    }

    /// Walks arena 0, in which there was one long block at first.
    pub(crate) fn walk(&self) {
        let Some(_claim) = self.world.claim(HOME) else { return };
        let mut walked = self.world.header.load().inline_footprint();
        if walked < HEADER_BYTES + LONG {
            self.reached("walked over a filler");
            let tail = self.world.tail.load();
            assert!(tail.is_filler() && tail.state() == State::Dead, "walked into a payload");
            walked += tail.filler_bytes();
        } else {
            self.reached("walked over the whole block");
        }
        assert_eq!(walked, HEADER_BYTES + LONG, "walked past the end");
    }

    /// As [`shuffle`](Self::shuffle), with room by the header that the walk came by.
    pub(crate) fn walk_and_move(&self) {
        let Some(claim) = self.world.claim(HOME) else { return };
        let seen = self.world.header.load();
        let mut room = seen.inline_footprint();
        let moving = match self.world.entry.begin_move(HOME) {
            Begun::Moving(moving) => moving,
            Begun::Held => return self.reached("skipped as held"),
            Begun::Gone => return self.reached("gone"),
        };
        let header = self.world.header.load();
        if header.inline_footprint() < room {
            self.reached("shorter than its room");
            room = header.inline_footprint();
        }
        let copy = Copied(self.place());
        self.world.put(copy.0, Block { bytes: header.payload(), ..self.world.look(HOME) });
        // The next block of the survivors' arena begins where the room ends.
        assert_eq!(room, HEADER_BYTES + self.world.look(copy.0).bytes, "the survivors' arena cannot be walked");
        if self.world.entry.commit(moving, Word::open_at(copy.0)) {
            self.reached("moved by a mover");
            self.retire(claim, HOME);
        } else {
            self.reached("a mover lost");
            self.dispose(claim, copy);
        }
    }

    /// Moves the block at `address`, as the compactor does.
    pub(crate) fn shuffle(&self, address: usize) {
        let Some(claim) = self.world.claim(address) else { return };
        let seen = match self.world.entry.begin_move(address) {
            Begun::Moving(seen) => seen,
            Begun::Held => return self.reached("skipped as held"),
            Begun::Gone => return self.reached("gone"),
        };
        let copy = self.copy(&claim, address).unwrap();
        if self.world.entry.commit(seen, Word::open_at(copy.0)) {
            self.reached("moved by a mover");
            self.retire(claim, address);
        } else {
            self.reached("a mover lost");
            self.dispose(claim, copy);
        }
    }

    /// Walks arena 0, as the compactor does, and punches the block at [`HOME`] if it is dead and nobody else has a claim.
    pub(crate) fn punch(&self) {
        let Some(claim) = self.world.claim(HOME) else { return };
        // In this order: whoever made the block dead had a claim, and a later claimer finds the word changed.
        if self.world.header.load().state() == State::Dead && self.world.arena(HOME).account.balance().claims == 1 {
            self.reached("punched");
            self.world.put(HOME, POISON);
        }
        drop(claim);
    }

    /// Reads the block at [`HOME`] as a helper does that finds no memory for its copy.
    pub(crate) fn look_and_give_up(&self) {
        if let Some(_claim) = self.world.claim(HOME) {
            let word = self.world.entry.word();
            if word.is_moving() && word.address() == HOME {
                self.reached("looked and gave up");
                assert_eq!(self.world.look(HOME).slot, SLOT);
            }
        }
    }

    /// Begins to move the block at `address` and stops, as a compactor that was killed does.
    pub(crate) fn begin_and_stop(&self, address: usize) {
        if let Some(_claim) = self.world.claim(address)
            && let Begun::Moving(_) = self.world.entry.begin_move(address)
        {
            self.reached("stopped in the middle of a move");
        }
    }

    /// The winner's share: it alone retires the source. Who scrubs wipes it if nobody else can be copying it; otherwise it waits,
    /// its bytes counted.
    fn retire(&self, claim: Claim<'_>, source: usize) {
        if !self.world.scrubs {
            let bytes = self.world.die(source);
            self.world.subtract(source, bytes);
            return drop(claim);
        }
        // Asked by a read-modify-write: whoever claims later comes after the commit, and so finds the word changed.
        if self.world.arena(source).account.is_sole_claim() {
            self.reached("wiped the source");
            self.bury(source);
        } else {
            self.reached("left the source");
            // Release: the ready list.
            let before = self.world.sources.swap(source, Ordering::Release);
            assert_eq!(before, 0, "the model has room for one");
        }
        drop(claim);
    }

    /// Wipes the source that a winner left, as a step does, if nobody else can be copying it.
    pub(crate) fn wipe_left(&self) {
        // Acquire: the ready list.
        let source = self.world.sources.swap(0, Ordering::Acquire);
        if source == 0 {
            return;
        }
        let claim = self.world.claim(source).expect("the source's bytes are counted, so its arena can be claimed");
        if self.world.arena(source).account.balance().claims == 1 {
            self.reached("wiped what was left");
            self.bury(source);
        } else {
            self.reached("left the source again");
            self.world.sources.store(source, Ordering::Release);
        }
        drop(claim);
    }

    fn dispose(&self, claim: Claim<'_>, copy: Copied) {
        self.world.put(copy.0, POISON);
        drop(claim);
    }

    /// What a query without a hold reads: extent and address, of the life that was asked for or not at all.
    pub(crate) fn query(&self, version: u32) -> Option<usize> {
        let entry = &self.world.entry;
        if entry.version() != version {
            return None;
        }
        let (extent, word) = (entry.extent(), entry.word());
        if !word.is_open() || entry.version() != version {
            return None;
        }
        assert_eq!(extent, extent_of(version), "the extent of another life");
        self.reached("queried");
        Some(word.address())
    }

    /// Sleeps until it has had the hold. `false`: the life was over.
    pub(crate) fn wait_and(&self, version: u32, hold: Hold) -> bool {
        loop {
            let result = match hold {
                Hold::Shared => self.read(version).map(drop),
                Hold::Exclusive => self.add(version, 1),
            };
            match result {
                Ok(()) => return true,
                Err(Refused::Stale) => return false,
                Err(refused) => assert_eq!(refused, Refused::Busy),
            }
            match self.world.entry.announce_wait(version) {
                Waiting::Announced => {
                    let lock = self.world.parking.lock().unwrap();
                    if self.world.entry.is_waited(version) {
                        self.reached("slept");
                        drop(self.world.bell.wait(lock).unwrap());
                    } else {
                        self.reached("announced and did not sleep");
                    }
                }
                Waiting::NotHeld => {
                    self.reached("free in the meantime");
                    loom::thread::yield_now();
                }
                Waiting::Stale => return false,
            }
        }
    }
}

impl Memory for Mine {
    type Claim<'a> = Claim<'a>;
    type Copy = Copied;

    fn claim(&self, address: usize) -> Option<Claim<'_>> {
        self.world.claim(address)
    }

    fn copy(&self, _claim: &Claim<'_>, address: usize) -> Option<Copied> {
        let block = self.world.look(address);
        assert_eq!(block.slot, SLOT, "copied what is not a block of this slot");
        let copy = self.place();
        self.world.put(copy, Block { bytes: self.world.bytes_at(address), ..block });
        Some(Copied(copy))
    }

    fn address(&self, copy: &Copied) -> usize {
        copy.0
    }

    fn won(&self, claim: Claim<'_>, source: usize, _copy: Copied) {
        self.reached("moved by a helper");
        self.retire(claim, source);
    }

    fn lost(&self, claim: Claim<'_>, copy: Copied) {
        self.reached("a helper lost");
        self.dispose(claim, copy);
    }

    fn strayed(&self, entry: &Entry, left: Left) {
        assert!(std::ptr::eq(entry, &self.world.entry));
        self.reached("strayed");
        if left.wake {
            self.world.ring();
        }
        if let Some(address) = left.settle {
            self.world.log().strayed.push(address);
        }
    }
}
