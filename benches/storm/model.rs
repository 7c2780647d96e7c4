//! What every block must look like, and who may be using it: exact at every moment, without a lock.
//!
//! A block's bytes follow from its model's seed, which changes only inside an exclusive rent; so whoever holds the block
//! knows each byte. Marks are set after a hold was taken and cleared before it is given back, so they only ever overlap if
//! the holds did.

use memory_shuffler::{AccessError, Frozen, Handle, Shuffler};
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// A small generator: SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What all threads of a storm add to.
#[derive(Default)]
pub struct Ledger {
    pub made: AtomicU64,
    pub dropped: AtomicU64,
    pub checked_bytes: AtomicU64,
    pub stop: AtomicBool,
    /// Whether allocations may meet a memory limit.
    pub limited: AtomicBool,
    failures: Mutex<Vec<String>>,
}

impl Ledger {
    /// Notes a failure and ends the storm. It does not panic: this is called in destructors too.
    #[cold]
    pub fn fail(&self, failure: impl Display) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure.to_string());
        self.stop.store(true, Ordering::SeqCst);
    }

    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Everything that is true of one block.
pub struct Model {
    pub id: u64,
    /// Payload bytes.
    pub bytes: usize,
    /// Whether `Directory<u64>` has it under its id.
    pub listed: bool,
    generation: AtomicU64,
    /// Shared holds; −1: an exclusive one.
    holders: AtomicI64,
    /// Calls that may end the block, begun or successful.
    ending: AtomicI64,
    ended: AtomicBool,
    dropped: AtomicBool,
    ledger: Arc<Ledger>,
}

impl Model {
    pub fn new(ledger: &Arc<Ledger>, id: u64, bytes: usize, listed: bool) -> Arc<Self> {
        Arc::new(Self {
            id,
            bytes,
            listed,
            generation: AtomicU64::new(0),
            holders: AtomicI64::new(0),
            ending: AtomicI64::new(0),
            ended: AtomicBool::new(false),
            dropped: AtomicBool::new(false),
            ledger: ledger.clone(),
        })
    }

    #[cold]
    pub fn fail(&self, failure: impl Display) {
        self.ledger.fail(format!("block {} of {} bytes: {failure}", self.id, self.bytes));
    }

    /// What the bytes follow from at this moment.
    pub fn seed(&self) -> u64 {
        mix(self.id ^ self.generation.load(Ordering::Acquire).rotate_left(40))
    }

    pub fn enter_shared(&self) {
        if self.holders.fetch_add(1, Ordering::AcqRel) < 0 {
            self.fail("rented to read while it is rented to write");
        }
    }

    pub fn leave_shared(&self) {
        self.holders.fetch_sub(1, Ordering::AcqRel);
    }

    pub fn enter_exclusive(&self) {
        if let Err(holders) = self.holders.compare_exchange(0, -1, Ordering::AcqRel, Ordering::Acquire) {
            self.fail(format_args!("rented to write while it has {holders} holders"));
        }
    }

    pub fn leave_exclusive(&self) {
        self.holders.store(0, Ordering::Release);
    }

    /// The next bytes; only inside the exclusive hold.
    pub fn advance(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.seed()
    }

    pub fn begin_end(&self) {
        self.ending.fetch_add(1, Ordering::AcqRel);
    }

    pub fn fail_to_end(&self) {
        self.ending.fetch_sub(1, Ordering::AcqRel);
    }

    /// The number of an edition that was put in place.
    pub fn published(&self, number: u64) {
        self.generation.fetch_max(number, Ordering::AcqRel);
    }

    /// The greatest number of an edition that is known to have been put in place.
    pub fn edition(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A call ended the block: the only one that did, and `alone` if it said that nobody holds it.
    pub fn end(&self, alone: bool) {
        if self.ended.swap(true, Ordering::AcqRel) {
            self.fail("ended twice");
        }
        let holders = self.holders.load(Ordering::Acquire);
        if alone && holders != 0 {
            self.fail(format_args!("freed at once, with {holders} holders"));
        }
    }

    /// Whether the storm is over.
    pub fn is_over(&self) -> bool {
        self.ledger.stopped()
    }

    /// Whether somebody is about to end it, or has.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire) > 0
    }

    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether the value's destructor has run. Only values with one say so.
    pub fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }

    /// Judges an access that was granted; `was_ended` was asked before the access began.
    pub fn granted(&self, was_ended: bool, what: &str) {
        if was_ended {
            self.fail(format_args!("{what} was granted after its end"));
        }
    }

    /// Judges a refusal.
    pub fn refused(&self, error: AccessError, what: &str) {
        match error {
            AccessError::Busy | AccessError::TimedOut => {}
            // A rent that has to finish a move needs memory for it.
            AccessError::OutOfMemory if self.ledger.limited.load(Ordering::Relaxed) => {}
            // Invalid, if its page of the table has been given back since.
            AccessError::Stale | AccessError::Invalid if self.is_ending() => {}
            _ => self.fail(format_args!("{what}: {error:?}")),
        }
    }

    fn drop_value(&self, words: &[u64]) {
        if self.dropped.swap(true, Ordering::AcqRel) {
            self.fail("dropped twice");
        }
        let holders = self.holders.load(Ordering::Acquire);
        if holders != 0 {
            self.fail(format_args!("dropped with {holders} holders"));
        }
        words.check(self, "destructor");
        self.ledger.dropped.fetch_add(1, Ordering::AcqRel);
    }
}

/// Values whose bytes a model foretells.
pub trait Pattern {
    /// Fails the model if anything is not as it should be.
    fn check(&self, model: &Model, what: &str);
    /// Writes the bytes of the model's seed; only inside an exclusive hold.
    fn paint(&mut self, seed: u64);
}

fn word(seed: u64, i: usize) -> u64 {
    seed.wrapping_add((i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn report(model: &Model, what: &str, at: usize, found: u64, expected: u64) {
    model.fail(format_args!("{what}: element {at} is {found:#x}, not {expected:#x}"));
}

fn check_place<T>(values: &[T], model: &Model, what: &str) {
    let address = values.as_ptr().addr();
    if !address.is_multiple_of(align_of::<T>()) {
        model.fail(format_args!("{what}: {address:#x} is not aligned"));
    }
    model.ledger.checked_bytes.fetch_add(size_of_val(values) as u64, Ordering::Relaxed);
}

impl Pattern for [u64] {
    fn check(&self, model: &Model, what: &str) {
        check_place(self, model, what);
        let seed = model.seed();
        if let Some(i) = (0..self.len()).find(|&i| self[i] != word(seed, i)) {
            report(model, what, i, self[i], word(seed, i));
        }
    }

    fn paint(&mut self, seed: u64) {
        for (i, value) in self.iter_mut().enumerate() {
            *value = word(seed, i);
        }
    }
}

impl Pattern for [u8] {
    fn check(&self, model: &Model, what: &str) {
        check_place(self, model, what);
        if self.len() != model.bytes {
            model.fail(format_args!("{what}: it has {} bytes", self.len()));
        }
        let seed = model.seed();
        for (i, chunk) in self.chunks(8).enumerate() {
            let expected = &word(seed, i).to_le_bytes()[..chunk.len()];
            if chunk != expected {
                model.fail(format_args!("{what}: the bytes at {} are {chunk:x?}, not {expected:x?}", i * 8));
                return;
            }
        }
    }

    fn paint(&mut self, seed: u64) {
        for (i, chunk) in self.chunks_mut(8).enumerate() {
            chunk.copy_from_slice(&word(seed, i).to_le_bytes()[..chunk.len()]);
        }
    }
}

/// The text of a model: its bytes, as letters.
pub fn text(seed: u64, bytes: usize) -> String {
    (0..bytes).map(|i| char::from(b'a' + (word(seed, i / 8) >> (i % 8 * 8)) as u8 % 26)).collect()
}

impl Pattern for str {
    fn check(&self, model: &Model, what: &str) {
        check_place(self.as_bytes(), model, what);
        if self != text(model.seed(), model.bytes) {
            model.fail(format_args!("{what}: the text is {self:?}"));
        }
    }

    fn paint(&mut self, _: u64) {
        self.make_ascii_lowercase();
    }
}

/// How a destructor reaches the shuffler that runs it. It is empty before the shuffler goes, since a value that kept its
/// own shuffler would be a cycle.
pub type Phone = RwLock<Option<Shuffler>>;

/// A block that its parent's destructor frees.
pub struct Child {
    pub handle: Handle<Tracked<2>>,
    pub model: Arc<Model>,
    pub phone: Arc<Phone>,
}

/// A value whose destructor is counted, checks what it destroys, and may use the shuffler.
pub struct Tracked<const N: usize> {
    words: [u64; N],
    model: Arc<Model>,
    child: Option<Box<Child>>,
}

impl<const N: usize> Tracked<N> {
    pub fn new(model: &Arc<Model>, child: Option<Box<Child>>) -> Self {
        model.ledger.made.fetch_add(1, Ordering::AcqRel);
        let mut words = [0; N];
        words.paint(model.seed());
        Self { words, model: model.clone(), child }
    }
}

impl<const N: usize> Pattern for Tracked<N> {
    fn check(&self, model: &Model, what: &str) {
        if !std::ptr::eq(&*self.model, model) {
            model.fail(format_args!("{what}: it is block {}", self.model.id));
        }
        self.words.check(model, what);
        if self.model.is_dropped() {
            model.fail(format_args!("{what}: it has been dropped"));
        }
    }

    fn paint(&mut self, seed: u64) {
        self.words.paint(seed);
    }
}

impl<const N: usize> Drop for Tracked<N> {
    fn drop(&mut self) {
        self.model.drop_value(&self.words);
        let Some(child) = self.child.take() else { return };
        let shuffler = child.phone.read().unwrap_or_else(PoisonError::into_inner).clone();
        // Without one the shuffler is going, and drops the child itself.
        if let Some(shuffler) = shuffler {
            child.model.begin_end();
            match shuffler.free(child.handle) {
                Ok(_) => child.model.end(false),
                Err(error) => child.model.fail(format_args!("its parent could not free it: {error:?}")),
            }
        }
    }
}

// SAFETY: nothing in it changes through a shared reference: numbers and pointers.
unsafe impl<const N: usize> Frozen for Tracked<N> {}

/// What stands on a board: a `Versioned` block whose value is replaced while others read it. Each edition has a model of
/// its own; the block's model knows the greatest number that was put in place.
pub struct Edition {
    pub number: u64,
    value: Tracked<6>,
    board: Arc<Model>,
}

impl Edition {
    pub fn new(board: &Arc<Model>, number: u64) -> Self {
        let model = Model::new(&board.ledger, board.id ^ number << 40, 0, false);
        Self { number, value: Tracked::new(&model, None), board: board.clone() }
    }

    pub fn check(&self, board: &Model, what: &str) {
        if !std::ptr::eq(&*self.board, board) {
            board.fail(format_args!("{what}: it is an edition of block {}", self.board.id));
        }
        self.value.check(&self.value.model, what);
    }
}

// SAFETY: nothing in it changes through a shared reference: numbers and pointers.
unsafe impl Frozen for Edition {}

/// What stands on a page: a `Versioned` slice that is replaced by others of any length while others read it. It tells whose it
/// is, how long it is, and what its words follow from.
pub fn page(model: &Model, seed: u64, words: usize) -> Vec<u64> {
    let mut page = vec![0; words.max(3)];
    page.paint(seed);
    page[..3].copy_from_slice(&[model.id, words.max(3) as u64, seed]);
    page
}

/// Fails the model if a page is not whole.
pub fn check_page(found: &[u64], model: &Model, what: &str) {
    check_place(found, model, what);
    if found.len() < 3 || found != page(model, found[2], found.len()) {
        let length = found.len();
        model.fail(format_args!("{what}: {length} words that begin with {:x?}", &found[..length.min(3)]));
    }
}
