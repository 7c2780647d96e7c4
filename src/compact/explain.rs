//! Why nothing is being gained, or what is.

use super::worker::CompactorState;
use crate::builder::Trigger;
use crate::engine::Core;
use crate::handle::RawHandle;
use crate::primitive::sync::atomic::Ordering;
use crate::seats::OldestReader;
use std::fmt;
use std::time::Duration;

/// A rent that keeps an arena from being emptied, as the compactor met it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OldestRent {
    /// The block that is held.
    pub handle: RawHandle,
    /// Since the compactor first found it held; it may have been held for longer.
    pub age: Duration,
}

/// One reason why resident memory is what it is.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// `pause` holds the compactor: nothing is moved.
    Paused {
        /// How many `Paused` guards there are.
        guards: usize,
    },
    /// Blocks that somebody holds keep sparse arenas. (Their dead pages go back all the same, if the source takes pages.)
    Held {
        /// How many arenas.
        arenas: usize,
        /// Payload bytes that were found held.
        bytes: u64,
        /// The one that has been so for longest, and its type.
        oldest: Option<(OldestRent, &'static str)>,
    },
    /// Readers may look at `Versioned` blocks that were moved, replaced or freed, so their memory waits.
    Readers {
        /// Destructors and arenas that wait.
        records: u64,
        /// Bytes that they hold back.
        bytes: u64,
        /// The oldest reader and the name of its thread, if they are known.
        oldest: Option<(OldestReader, Option<String>)>,
    },
    /// There is something to gain and the background thread is at it, within its budget and its share of a core.
    Working {
        /// Bytes of whole arenas to gain.
        gain: u64,
        /// The share of a core that it takes now.
        share_of_core: f64,
    },
    /// There is something to gain, and no thread of the shuffler's own to do it: the trigger is another, the thread panicked, or
    /// the operating system refused one. `shuffle` does it.
    Unattended {
        /// Bytes of whole arenas to gain.
        gain: u64,
        /// What has become of the thread.
        compactor: CompactorState,
    },
    /// The last cycle ended because no memory could be had for what was to be moved.
    NoMemory {
        /// Bytes held from the source.
        held: u64,
    },
    /// What is dead does not add up to a whole arena that could be gained.
    NothingSparse {
        /// Dead bytes in sealed arenas.
        dead: u64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused { guards: 1 } => write!(f, "paused: a guard returned by pause() is alive; drop it to resume"),
            Self::Paused { guards } => {
                write!(f, "paused: {guards} guards returned by pause() are alive; drop them to resume")
            }
            Self::Held { arenas, bytes, oldest } => {
                let s = if *arenas == 1 { "" } else { "s" };
                write!(f, "held: {bytes} rented bytes keep {arenas} arena{s} from being emptied; return the rents")?;
                match oldest {
                    Some((rent, name)) => write!(
                        f,
                        ", starting with that of block {:?} ({name}), held for at least {:?}",
                        rent.handle, rent.age
                    ),
                    None => Ok(()),
                }
            }
            Self::Readers { records, bytes, oldest } => {
                write!(
                    f,
                    "waiting for readers: {bytes} bytes (destructors and arenas that are put off: {records}); \
                     drop or repin long-lived readers"
                )?;
                let Some((reader, name)) = oldest else { return Ok(()) };
                write!(f, ", starting with that of ")?;
                match (name, reader.thread) {
                    (Some(name), _) => write!(f, "thread {name}")?,
                    (None, Some(thread)) => write!(f, "{thread:?}")?,
                    (None, None) => write!(f, "a thread that is ending")?,
                }
                write!(f, ", taken at least {:?} ago", reader.age)
            }
            Self::Working { gain, share_of_core } => write!(
                f,
                "working: {gain} bytes to gain, using {:.0} % of a core; raise the budget, or call shuffle() to gain them now",
                share_of_core * 100.0
            ),
            Self::Unattended { gain, compactor } => {
                write!(
                    f,
                    "unattended: {gain} bytes to gain, but no thread to do the work ({compactor:?}); call shuffle()"
                )
            }
            Self::NoMemory { held } => write!(
                f,
                "no memory: the last cycle found no room to move blocks to, with {held} bytes held; free something or raise the limit"
            ),
            Self::NothingSparse { dead } => {
                write!(f, "nothing sparse: {dead} dead bytes do not add up to an arena that could be gained")
            }
        }
    }
}

/// Why nothing is being gained, or what is. Made by [`Shuffler::explain`](crate::Shuffler::explain).
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Explanation {
    /// At least one, the weightiest first.
    pub reasons: Vec<Reason>,
}

impl fmt::Display for Explanation {
    /// One reason a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, reason) in self.reasons.iter().enumerate() {
            write!(f, "{}{reason}", if index > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl Core {
    /// The rent that has kept an arena from being emptied for longest.
    pub(crate) fn oldest_rent(&self) -> Option<OldestRent> {
        let (handle, since) = self.look().oldest?;
        Some(OldestRent { handle, age: Duration::from_millis(self.now().saturating_sub(since)) })
    }

    pub(crate) fn explain(&self) -> Explanation {
        let mut reasons = Vec::new();
        let guards = self.compactor.paused.load(Ordering::Relaxed);
        if guards > 0 {
            reasons.push(Reason::Paused { guards });
        }
        let seen = self.look();
        let gain = (seen.gain + self.pool.empty_bytes().saturating_sub(self.config.retain_bytes)) as u64;
        if gain > 0 {
            let compactor = self.compactor.worker.state();
            let attended = self.config.trigger == Trigger::Background
                && matches!(compactor, CompactorState::Running | CompactorState::Parked);
            reasons.push(if attended {
                Reason::Working { gain, share_of_core: self.compactor.survey.share_of_core(0) }
            } else {
                Reason::Unattended { gain, compactor }
            });
        }
        if seen.pinned > 0 {
            let age = |since| Duration::from_millis(self.now().saturating_sub(since));
            let oldest =
                seen.oldest.map(|(handle, since)| (OldestRent { handle, age: age(since) }, self.type_of(handle)));
            reasons.push(Reason::Held { arenas: seen.pinned, bytes: self.pinned_bytes() as u64, oldest });
        }
        let records = self.deferred.waiting() as u64;
        if records > 0 {
            let name = |reader: OldestReader| (reader, reader.thread.and_then(|thread| self.seats.name(thread)));
            let (bytes, oldest) = (self.deferred.waiting_bytes() as u64, self.seats.look(self.now()).map(name));
            reasons.push(Reason::Readers { records, bytes, oldest });
        }
        if self.compactor.totals.no_memory.load(Ordering::Relaxed) {
            reasons.push(Reason::NoMemory { held: self.supply.held() as u64 });
        }
        if reasons.is_empty() {
            reasons.push(Reason::NothingSparse { dead: self.compactor.survey.dead() as u64 });
        }
        Explanation { reasons }
    }

    fn type_of(&self, handle: RawHandle) -> &'static str {
        self.glimpse(handle).map_or("freed meanwhile", |glimpse| glimpse.info.name())
    }
}
