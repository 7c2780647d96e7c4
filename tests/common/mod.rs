//! Shared by the test targets: configurations, a source that refuses on demand, values that count their drops, patterns.

#![allow(dead_code, reason = "each test target uses its own part of this")]
#![allow(clippy::disallowed_types, reason = "tests count with the standard atomics; no model runs them")]

pub mod fenced;

use fenced::Fenced;
use memory_shuffler::{
    ArenaSource, Builder, BumpSource, CompactorState, Handle, OsSource, Placement, RegionSource, Shuffler, Stats,
    Trigger,
};
use std::alloc::Layout;
use std::collections::HashMap;
use std::process::Command;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A bound for what must happen at all; it is only reached when the test fails.
pub const AT_LAST: Duration = Duration::from_secs(60);

/// Waits, yielding, until a condition holds.
///
/// # Panics
///
/// If it does not hold within [`AT_LAST`].
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + AT_LAST;
    while !condition() {
        assert!(Instant::now() < deadline, "never came about: {what}");
        std::thread::yield_now();
    }
}

/// A source over [`OsSource`] that can be told to refuse, notes every chunk, checks that each comes back as it went, and
/// hands out chunks full of rubbish where zeros were not asked for.
#[derive(Debug, Default)]
pub struct Checked {
    inner: OsSource,
    chunks: Mutex<HashMap<usize, Layout>>,
    /// Acquisitions that are still refused only later; `usize::MAX`: none is refused.
    refuse_after: Mutex<Option<usize>>,
    refused: AtomicUsize,
}

impl Checked {
    /// One that refuses nothing yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// From now on this many acquisitions are granted, and no more.
    pub fn refuse_after(&self, grants: usize) {
        *self.refuse_after.lock().unwrap() = Some(grants);
    }

    /// Refuses nothing any more.
    pub fn relent(&self) {
        *self.refuse_after.lock().unwrap() = None;
    }

    /// How often it refused.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Chunks that were not given back.
    pub fn chunks(&self) -> usize {
        self.chunks.lock().unwrap().len()
    }

    /// Bytes of chunks that were not given back.
    pub fn bytes(&self) -> usize {
        self.chunks.lock().unwrap().values().map(Layout::size).sum()
    }

    fn granted(&self) -> bool {
        let mut left = self.refuse_after.lock().unwrap();
        match *left {
            None => true,
            Some(0) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                false
            }
            Some(grants) => {
                *left = Some(grants - 1);
                true
            }
        }
    }

    fn note(&self, chunk: NonNull<u8>, layout: Layout) -> NonNull<u8> {
        let before = self.chunks.lock().unwrap().insert(chunk.addr().get(), layout);
        assert_eq!(before, None, "the source below handed one address out twice");
        chunk
    }
}

// SAFETY: chunks are those of the source inside.
unsafe impl ArenaSource for Checked {
    fn acquire(&self, layout: Layout) -> Option<NonNull<u8>> {
        let chunk = self.granted().then(|| self.inner.acquire(layout))??;
        // SAFETY: the chunk is new, and that long. (What is longer is left untouched, to save time.)
        unsafe { chunk.write_bytes(0xA5, layout.size().min(1 << 20)) };
        Some(self.note(chunk, layout))
    }

    fn acquire_zeroed(&self, layout: Layout) -> Option<NonNull<u8>> {
        let chunk = self.granted().then(|| self.inner.acquire_zeroed(layout))??;
        Some(self.note(chunk, layout))
    }

    unsafe fn release(&self, chunk: NonNull<u8>, layout: Layout) {
        let noted = self.chunks.lock().unwrap().remove(&chunk.addr().get());
        if noted != Some(layout) {
            // This runs in drops, where a panic could be lost.
            eprintln!("released {chunk:?} with {layout:?}, acquired with {noted:?}");
            std::process::abort();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.release(chunk, layout) }
    }

    unsafe fn discard(&self, start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.discard(start, bytes) }
    }

    fn page_bytes(&self) -> usize {
        self.inner.page_bytes()
    }
}

/// Who gives the memory of a [`World`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parent {
    /// The operating system.
    Os,
    /// The global allocator.
    Bump,
    /// 64 MiB that never go back.
    Region,
    /// [`Checked`].
    Checked,
    /// [`Fenced`].
    Fenced,
}

/// A source that the test can still ask after the shuffler has it.
pub enum Held {
    /// Says nothing.
    Unknown,
    /// Counts.
    Bump(Arc<BumpSource>),
    /// Counts.
    Region(Arc<RegionSource>, usize),
    /// Counts.
    Checked(Arc<Checked>),
}

impl Held {
    /// Bytes held from the source.
    pub fn bytes(&self) -> Option<usize> {
        match self {
            Self::Unknown => None,
            Self::Bump(source) => Some(source.held_bytes()),
            Self::Region(source, all) => Some(all - source.free_bytes()),
            Self::Checked(source) => Some(source.bytes()),
        }
    }

    /// Whether parts of chunks can be given back.
    pub fn gives_pages(&self) -> bool {
        matches!(self, Self::Unknown | Self::Checked(_))
    }
}

/// One configuration under test.
pub struct World {
    /// The shuffler; taken by tests that drop it.
    pub shuffler: Shuffler,
    /// Its source.
    pub held: Held,
    /// Bytes of an arena.
    pub arena_bytes: usize,
    /// Who shuffles.
    pub trigger: Trigger,
    /// The worst case: smallest arenas, nothing kept.
    pub tiny: bool,
    /// Where what moves is put.
    pub placement: Placement,
}

impl World {
    /// Builds one.
    ///
    /// # Panics
    ///
    /// If the configuration is refused.
    pub fn new(parent: Parent, tiny: bool, trigger: Trigger) -> Self {
        Self::with_placement(parent, tiny, trigger, Placement::Packed)
    }

    fn with_placement(parent: Parent, tiny: bool, trigger: Trigger, placement: Placement) -> Self {
        let mut builder = Shuffler::builder().trigger(trigger).placement(placement);
        let mut arena_bytes = 1 << 20;
        if tiny {
            arena_bytes = 64 << 10;
            builder = builder.arena_bytes(arena_bytes).retain_bytes(0).target_utilization(0.99);
        }
        let (builder, held) = with_source(builder, parent);
        Self { shuffler: builder.build().unwrap(), held, arena_bytes, trigger, tiny, placement }
    }

    /// Whether nothing moves but when the test says so.
    pub fn is_manual(&self) -> bool {
        self.trigger == Trigger::Manual
    }
}

fn with_source(builder: Builder, parent: Parent) -> (Builder, Held) {
    match parent {
        Parent::Os => (builder, Held::Unknown),
        Parent::Bump => {
            let source = Arc::new(BumpSource::new());
            (builder.source(source.clone()), Held::Bump(source))
        }
        Parent::Region => {
            let source = Arc::new(RegionSource::from_slice(Box::leak(Box::new_uninit_slice(64 << 20))));
            let all = source.free_bytes();
            (builder.source(source.clone()), Held::Region(source, all))
        }
        Parent::Checked => {
            let source = Checked::new();
            (builder.source(source.clone()), Held::Checked(source))
        }
        Parent::Fenced => (builder.source(Fenced::new()), Held::Unknown),
    }
}

/// Says which configuration a test failed in.
struct Scene(String);

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the configuration was: {}", self.0);
        }
    }
}

/// Runs a test in every configuration.
pub fn everywhere(mut test: impl FnMut(World)) {
    let grounds = [
        (Parent::Os, false, Placement::Packed),
        (Parent::Bump, false, Placement::Packed),
        (Parent::Region, false, Placement::Packed),
        (Parent::Fenced, true, Placement::Packed),
        (Parent::Checked, true, Placement::Packed),
        (Parent::Fenced, true, Placement::Random),
    ];
    for (parent, tiny, placement) in grounds {
        for trigger in [Trigger::Background, Trigger::Inline, Trigger::Manual] {
            let scene = Scene(format!("{parent:?}{} {trigger:?} {placement:?}", if tiny { " tiny" } else { "" }));
            test(World::with_placement(parent, tiny, trigger, placement));
            drop(scene);
        }
    }
}

/// A small shuffler that does nothing unasked, over a [`Checked`] source.
pub fn checked() -> (Shuffler, Arc<Checked>) {
    let source = Checked::new();
    let builder = Shuffler::builder().trigger(Trigger::Manual).arena_bytes(64 << 10).retain_bytes(0);
    (builder.source(source.clone()).build().unwrap(), source)
}

/// A shuffler that does nothing unasked.
pub fn manual() -> Shuffler {
    Shuffler::builder().trigger(Trigger::Manual).build().unwrap()
}

/// Fills bytes so that a piece of one block is not a piece of another.
pub fn fill(bytes: &mut [u8], seed: u64) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for chunk in bytes.chunks_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
}

/// What [`fill`] writes.
pub fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut contents = vec![0; bytes];
    fill(&mut contents, seed);
    contents
}

/// A slice block with a pattern.
///
/// # Panics
///
/// If there is no memory.
pub fn patterned(shuffler: &Shuffler, seed: u64, bytes: usize) -> Handle<[u8]> {
    shuffler.alloc_copy(&pattern(seed, bytes)).unwrap()
}

/// Whether a block has its pattern still.
///
/// # Panics
///
/// If it has not.
#[track_caller]
pub fn check(shuffler: &Shuffler, handle: Handle<[u8]>, seed: u64, bytes: usize) {
    let rent = shuffler.rent(handle).unwrap();
    assert_eq!(rent.len(), bytes, "block {handle:?} changed its length");
    assert!(*rent == *pattern(seed, bytes), "block {handle:?} of {bytes} bytes lost its contents");
}

/// Makes blocks of which every `keep_one_in`-th is kept, over at least so many arenas, so that shuffling pays.
///
/// # Panics
///
/// If there is no memory.
pub fn fragmented(shuffler: &Shuffler, arena_bytes: usize, arenas: usize, keep_one_in: usize) -> Vec<Handle<[u8]>> {
    let block = arena_bytes / 64;
    let mut kept = Vec::new();
    let mut dropped = Vec::new();
    for index in 0..arenas * 64 {
        let handle = patterned(shuffler, index as u64, block);
        if index % keep_one_in == 0 { kept.push(handle) } else { dropped.push(handle) }
    }
    for handle in dropped {
        let _ = shuffler.free(handle).unwrap();
    }
    kept
}

/// Checks what [`fragmented`] made.
///
/// # Panics
///
/// If anything is wrong with it.
#[track_caller]
pub fn check_fragmented(shuffler: &Shuffler, kept: &[Handle<[u8]>], arena_bytes: usize, keep_one_in: usize) {
    for (index, handle) in kept.iter().enumerate() {
        check(shuffler, *handle, (index * keep_one_in) as u64, arena_bytes / 64);
    }
}

/// Counts the drops of its tokens, one by one.
#[derive(Clone)]
pub struct Ledger(Arc<[AtomicU32]>, Arc<AtomicUsize>);

impl Ledger {
    /// Room for so many tokens.
    pub fn new(tokens: usize) -> Self {
        Self((0..tokens).map(|_| AtomicU32::new(0)).collect(), Arc::default())
    }

    /// The next token.
    ///
    /// # Panics
    ///
    /// If there is no room.
    pub fn token(&self) -> Token {
        let id = self.1.fetch_add(1, Ordering::Relaxed);
        assert!(id < self.0.len(), "the ledger is full");
        Token { ledger: self.clone(), id, mark: id as u64 ^ MARK }
    }

    /// How many tokens were made.
    pub fn made(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }

    /// How many drops there were.
    pub fn drops(&self) -> usize {
        self.0.iter().map(|count| count.load(Ordering::SeqCst) as usize).sum()
    }

    /// Asserts that every token made was dropped exactly once.
    ///
    /// # Panics
    ///
    /// If not.
    #[track_caller]
    pub fn settled(&self) {
        for (id, count) in self.0.iter().enumerate().take(self.made()) {
            assert_eq!(count.load(Ordering::SeqCst), 1, "drops of token {id}");
        }
    }
}

const MARK: u64 = 0x5EED_F00D_CAFE_BEEF;

/// A value whose drops are counted.
pub struct Token {
    ledger: Ledger,
    id: usize,
    mark: u64,
}

impl Token {
    /// Whether its bytes are whole.
    pub fn is_whole(&self) -> bool {
        self.mark == self.id as u64 ^ MARK
    }

    /// Which one it is.
    pub fn id(&self) -> usize {
        self.id
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if !self.is_whole() {
            eprintln!("token {} was dropped in pieces", self.id);
            std::process::abort();
        }
        self.ledger.0[self.id].fetch_add(1, Ordering::SeqCst);
    }
}

/// Times that compactors' threads of this process went to sleep by themselves. `None` where the system does not tell.
pub fn sleeps() -> Option<u64> {
    let mut total = 0;
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        let path = task.ok()?.path();
        // A thread may end between the two looks.
        let Ok(name) = std::fs::read_to_string(path.join("comm")) else { continue };
        if name.trim() == "shuffler" {
            let status = std::fs::read_to_string(path.join("status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            total += line.trim().parse::<u64>().ok()?;
        }
    }
    Some(total)
}

/// Asserts that the compactor's thread, parked now, does not wake up for so long. No other test of the process may have one.
///
/// # Panics
///
/// If it does.
#[track_caller]
pub fn assert_stays_asleep(shuffler: &Shuffler, length: Duration) {
    assert_eq!(shuffler.stats().compactor, CompactorState::Parked);
    let before = sleeps();
    // It is the time in which nothing happens that is looked at.
    std::thread::sleep(length);
    assert_eq!(sleeps(), before, "it woke up");
    assert_ne!(before, Some(0), "there is no thread to look at");
}

/// Runs one test of this executable again, in a process of its own, in which the variable is set; returns what it printed.
///
/// # Panics
///
/// If it fails.
pub fn in_a_child(test: &str, variable: &str, value: &str) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args([test, "--exact", "--nocapture"]).env(variable, value).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_success = output.status.success() && text.contains("1 passed");
    assert!(is_success, "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Bytes of this process that are resident, or `None` where the system does not tell.
pub fn resident() -> Option<usize> {
    let pages: usize = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// Figures once the background thread, if there is one, has nothing more to do, and every record that is ready is carried
/// out.
pub fn quiet(shuffler: &Shuffler) -> Stats {
    eventually("no record waits for a reader", || {
        shuffler.shuffle();
        shuffler.stats().waiting == 0
    });
    // One that became ready in another thread meanwhile.
    shuffler.shuffle();
    // (Not in the loop: with random placement each call moves everything, which rings for the thread.)
    eventually("the compactor comes to rest", || shuffler.stats().compactor != CompactorState::Running);
    shuffler.stats()
}
