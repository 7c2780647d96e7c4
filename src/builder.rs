//! Configuration: checked once, when the shuffler is built.

use crate::Shuffler;
use crate::arena::source::{ArenaSource, DefaultSource};
use crate::error::ConfigError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Who does the compactor's work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Trigger {
    /// A thread of the shuffler's own, started when there is first something to do. The default.
    #[default]
    Background,
    /// A small step on every rent and return, and no thread at all. The behaviour of the original library.
    Inline,
    /// Only calls of `shuffle` and `shuffle_step`.
    Manual,
}

/// Where blocks are put when they are moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Placement {
    /// Close together, and moved only if that gains memory. The default.
    #[default]
    Packed,
    /// A moving target: in a random order, each block to a random one of several arenas; and everything is moved now and then, not
    /// only what gains memory. So where a block lies tells nothing of where others lie, and nothing for long.
    ///
    /// `shuffle` moves every block once, but those that are held, that are larger than 64 KiB, or that lie in the arena that
    /// another thread filled last, for as long as that thread lives, even if it allocates nothing any more. The background thread, and rents and returns with [`Trigger::Inline`], do the same as often as
    /// once a second, as long as there are blocks, within the background thread's budget and its share of a core: 5 % unless there
    /// is much to gain. New blocks lie side by side until they are moved for the first time.
    Random,
}

/// How much one step may do; whichever bound is met first ends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Payload bytes moved.
    pub bytes: usize,
    /// Time from the step's start. The clock is read after every move, so a step is late by one move at the most.
    pub time: Duration,
}

impl Default for Budget {
    /// 1 MiB and 1 ms.
    fn default() -> Self {
        Self { bytes: 1 << 20, time: Duration::from_millis(1) }
    }
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) arena_bytes: usize,
    pub(crate) memory_limit: usize,
    pub(crate) reader_limit: usize,
    pub(crate) trigger: Trigger,
    pub(crate) inline: bool,
    pub(crate) budget: Budget,
    pub(crate) placement: Placement,
    pub(crate) seed: Option<u64>,
    /// The live share below which a sealed arena is a candidate.
    pub(crate) target_utilization: f64,
    pub(crate) retain_bytes: usize,
    pub(crate) scrub: bool,
    pub(crate) on_pressure: Option<OnPressure>,
    /// Bytes below the memory limit that are kept for what is moved.
    pub(crate) survivor_reserve: usize,
}

/// What to call at the memory limit.
#[derive(Clone)]
pub(crate) struct OnPressure(pub(crate) Arc<dyn Fn(usize) + Send + Sync>);

impl fmt::Debug for OnPressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnPressure")
    }
}

/// Builds a [`Shuffler`] of other than the default configuration.
///
/// ```
/// use memory_shuffler::{Shuffler, Trigger};
///
/// let shuffler = Shuffler::builder().trigger(Trigger::Manual).memory_limit(64 << 20).build()?;
/// assert!(shuffler.create(7_u32).is_ok());
/// # Ok::<(), memory_shuffler::ConfigError>(())
/// ```
#[must_use = "a builder does nothing until `build` is called"]
pub struct Builder {
    arena_bytes: usize,
    memory_limit: usize,
    reader_limit: usize,
    trigger: Trigger,
    budget: Budget,
    placement: Placement,
    seed: Option<u64>,
    target_utilization: f64,
    retain_bytes: usize,
    scrub: bool,
    on_pressure: Option<OnPressure>,
    source: Option<Box<dyn ArenaSource>>,
}

const MIN_ARENA: usize = 64 << 10;
const MAX_ARENA: usize = 64 << 20;

impl Default for Builder {
    fn default() -> Self {
        Self {
            arena_bytes: 1 << 20,
            memory_limit: usize::MAX,
            reader_limit: usize::MAX,
            trigger: Trigger::default(),
            budget: Budget::default(),
            placement: Placement::default(),
            seed: None,
            target_utilization: 0.95,
            retain_bytes: 4 << 20,
            scrub: false,
            on_pressure: None,
            source: None,
        }
    }
}

impl Builder {
    /// Bytes of an arena: a power of two from 64 KiB to 64 MiB. Default 1 MiB. Blocks that do not fit a quarter of it (at most
    /// 64 KiB) with their header and alignment get memory of their own. Those aligned to 512 bytes or more only need to fit
    /// it themselves, and to be aligned to at most half of it.
    pub fn arena_bytes(mut self, bytes: usize) -> Self {
        self.arena_bytes = bytes;
        self
    }

    /// The most bytes to hold from the source, tables and empty arenas included. Default: no limit.
    pub fn memory_limit(mut self, bytes: usize) -> Self {
        self.memory_limit = bytes;
        self
    }

    /// The most bytes that readers may hold back: of `Versioned` blocks that were freed or replaced while a reader could see
    /// them. Past it no further `Versioned` block is made: `create_versioned`, `alloc_versioned`, `alloc_versioned_str`,
    /// `publish` and its variants help the readers' epoch forward once, and then fail with `ReadersBehind`, which says whose reader
    /// is the oldest. Freeing never fails for it, and other blocks are not affected. Default: no limit, so that the memory limit
    /// alone bounds what a reader that is kept for ever holds back.
    pub fn reader_limit(mut self, bytes: usize) -> Self {
        self.reader_limit = bytes;
        self
    }

    /// Who does the compactor's work. Default: [`Trigger::Background`].
    pub fn trigger(mut self, trigger: Trigger) -> Self {
        self.trigger = trigger;
        self
    }

    /// How much one step of the background thread may do. Default: 1 MiB and 1 ms.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Where blocks are put when they are moved. Default: [`Placement::Packed`].
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// What random placement draws from, so that a test can have the same placement again: with the same seed, the same calls
    /// on one thread and [`Trigger::Manual`], blocks lie in the same order (in arenas whose addresses are the source's). Who
    /// knows the seed knows the order; so by default it comes from the operating system. Opaque handles never depend on it, and
    /// packed placement draws nothing.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The share of an arena that should be live: one with less is moved out of as soon as that gains a whole arena. From
    /// 0.5 to 0.99. Default 0.95.
    pub fn target_utilization(mut self, share: f64) -> Self {
        self.target_utilization = share;
        self
    }

    /// Bytes of empty arenas that are kept for the next allocations instead of going back to the source. Default 4 MiB. When
    /// the background thread has had nothing to do for half a second, they go back as well.
    pub fn retain_bytes(mut self, bytes: usize) -> Self {
        self.retain_bytes = bytes;
        self
    }

    /// Whether the bytes of a block are overwritten with zeros wherever nothing needs them any more. Default: no. Then they stay
    /// until they are used again; no safe call shows them, but a core dump or a stray pointer does.
    ///
    /// What is wiped, and when:
    /// - a block that is freed, taken, replaced or resized to another place: when it ends, after its destructor, and so after
    ///   its last return; a `Versioned` one after its readers. The tail of a slice that becomes shorter: in `resize`;
    /// - the place that a block was moved away from: at once, or, if another thread was finishing the same move, in the next step
    ///   in which none is. The same goes for a block that is freed while it is moved. In arenas of `Versioned` blocks: when all
    ///   blocks have left the arena, and the readers have gone on;
    /// - copies that came to nothing, and what `create_with` had written before it panicked: at once;
    /// - what is left when the last clone of the shuffler is gone, even of rents that were forgotten: before the source has the
    ///   memory back. (An `OwnedRent` keeps its block until it is dropped.)
    ///
    /// A large block is wiped by giving its pages back where the source takes pages, since then they read as zero.
    ///
    /// What is not wiped, since it is not the shuffler's: registers and stacks, on which values come and go (`create`, `take`,
    /// `update`); what the program copied elsewhere; what a value owns on the heap; keys of a [`Directory`](crate::Directory);
    /// pages that the system wrote to a swap file. Headers and table entries, which tell lengths and types, stay as well.
    ///
    /// ```
    /// use memory_shuffler::Shuffler;
    ///
    /// let shuffler = Shuffler::builder().scrub(true).build()?;
    /// let key = shuffler.alloc_copy(&[7_u8; 32])?;
    /// shuffler.free(key)?;
    /// # Ok::<(), memory_shuffler::Error>(())
    /// ```
    #[doc(alias = "zeroize")]
    pub fn scrub(mut self, wipe: bool) -> Self {
        self.scrub = wipe;
        self
    }

    /// What to call when an allocation would fail at the memory limit, so that a cache can evict something first. It gets the
    /// bytes that the allocation needs from the source, and runs on the thread that allocates; it is called again, up to 16
    /// times, as long as that frees something and is not enough (an arena's worth of blocks, at least, must go). It may
    /// use this shuffler: no lock of it is held, and an allocation inside the call fails without calling again. (One that owns
    /// a clone of the shuffler would keep it alive for ever.)
    ///
    /// ```
    /// use memory_shuffler::{Handle, Shuffler};
    /// use std::sync::{Arc, Mutex, OnceLock};
    ///
    /// let shuffler = Arc::new(OnceLock::<Shuffler>::new());
    /// let cache = Arc::new(Mutex::new(Vec::<Handle<[u8]>>::new()));
    /// let (weak, evicted) = (Arc::downgrade(&shuffler), cache.clone());
    /// let evict = move |_bytes| {
    ///     let Some(shuffler) = weak.upgrade() else { return };
    ///     for handle in evicted.lock().unwrap().drain(..1000) {
    ///         let _ = shuffler.wait().free(handle);
    ///     }
    /// };
    /// let built = Shuffler::builder().memory_limit(16 << 20).on_pressure(evict).build()?;
    /// let shuffler = shuffler.get_or_init(|| built);
    /// for _ in 0..30_000 {
    ///     let entry = shuffler.alloc::<u8>(1000)?;
    ///     cache.lock().unwrap().push(entry);
    /// }
    /// # Ok::<(), memory_shuffler::Error>(())
    /// ```
    pub fn on_pressure(mut self, evict: impl Fn(usize) + Send + Sync + 'static) -> Self {
        self.on_pressure = Some(OnPressure(Arc::new(evict)));
        self
    }

    /// Where the memory comes from. Default: the operating system.
    #[doc(alias = "parent_allocator")]
    pub fn source(mut self, source: impl ArenaSource) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// Checks the configuration and makes the shuffler. No memory is mapped yet.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first setting that makes no sense.
    pub fn build(self) -> Result<Shuffler, ConfigError> {
        let config = self.check()?;
        let source = self.source.unwrap_or_else(|| Box::new(DefaultSource::new()));
        Ok(Shuffler::with_config(config, source))
    }

    pub(crate) fn check(&self) -> Result<Config, ConfigError> {
        if !self.arena_bytes.is_power_of_two() || !(MIN_ARENA..=MAX_ARENA).contains(&self.arena_bytes) {
            let why = "it must be a power of two from 64 KiB to 64 MiB";
            return Err(ConfigError::new("arena_bytes", self.arena_bytes, why));
        }
        if self.memory_limit / 8 < self.arena_bytes {
            let why = "it must have room for at least eight arenas";
            return Err(ConfigError::new("memory_limit", self.memory_limit, why));
        }
        if !(0.5..=0.99).contains(&self.target_utilization) {
            let why = "it must be from 0.5 to 0.99";
            return Err(ConfigError::new("target_utilization", self.target_utilization, why));
        }
        if self.budget.bytes == 0 || self.budget.time.is_zero() {
            let why = "a step of no bytes or no time would do nothing, so both must be more than zero";
            return Err(ConfigError::new("budget", format!("{:?}", self.budget), why));
        }
        // One for a step of an allocation at the limit, one for the background thread beside it.
        let movers = if self.trigger == Trigger::Background { 2 } else { 1 };
        Ok(Config {
            survivor_reserve: movers * self.arena_bytes,
            arena_bytes: self.arena_bytes,
            memory_limit: self.memory_limit,
            reader_limit: self.reader_limit,
            trigger: self.trigger,
            inline: self.trigger == Trigger::Inline,
            budget: self.budget,
            placement: self.placement,
            seed: self.seed,
            target_utilization: self.target_utilization,
            retain_bytes: self.retain_bytes,
            scrub: self.scrub,
            on_pressure: self.on_pressure.clone(),
        })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("arena_bytes", &self.arena_bytes)
            .field("memory_limit", &self.memory_limit)
            .field("reader_limit", &self.reader_limit)
            .field("trigger", &self.trigger)
            .field("budget", &self.budget)
            .field("placement", &self.placement)
            .field("target_utilization", &self.target_utilization)
            .field("retain_bytes", &self.retain_bytes)
            .field("scrub", &self.scrub)
            .field("source", &self.source.as_ref().map_or("default", |_| "custom"))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_named() {
        let cases: [(Builder, &str); 8] = [
            (Builder::default().arena_bytes(0), "arena_bytes"),
            (Builder::default().arena_bytes(3 << 20), "arena_bytes"),
            (Builder::default().arena_bytes(128 << 20), "arena_bytes"),
            (Builder::default().memory_limit(1 << 20), "memory_limit"),
            (Builder::default().target_utilization(f64::NAN), "target_utilization"),
            (Builder::default().target_utilization(1.0), "target_utilization"),
            (Builder::default().budget(Budget { bytes: 0, time: Duration::from_secs(1) }), "budget"),
            (Builder::default().budget(Budget { bytes: 1, time: Duration::ZERO }), "budget"),
        ];
        for (builder, field) in cases {
            let error = builder.build().err().unwrap();
            assert_eq!(error.field, field);
            assert!(error.to_string().contains(error.why), "{error}");
        }
    }
}
