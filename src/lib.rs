#![doc = include_str!("../README.md")]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("entries pack addresses of 48 bits: only 64-bit targets are supported");

mod arena;
mod builder;
mod compact;
mod deferred;
mod directory;
mod engine;
mod error;
mod frozen;
mod handle;
#[cfg(feature = "test-hooks")]
pub mod hooks;
mod owned;
mod panics;
mod primitive;
mod reader;
mod ready;
mod rent;
mod seats;
mod shuffler;
mod stats;
mod table;
#[cfg(test)]
mod tests;
mod types;

/// Chapters on the library as a whole.
pub mod docs {
    #[doc = include_str!("../docs/guarantees.md")]
    pub mod guarantees {}
    #[doc = include_str!("../docs/internals.md")]
    pub mod internals {}
    #[doc = include_str!("../docs/limitations.md")]
    pub mod limitations {}
    #[doc = include_str!("../docs/original.md")]
    pub mod original {}
    #[doc = include_str!("../docs/performance.md")]
    pub mod performance {}
}

#[cfg(unix)]
pub use arena::source::OsSource;
pub use arena::source::{ArenaSource, BumpSource, DefaultSource, RegionSource};
pub use builder::{Budget, Builder, Placement, Trigger};
pub use bytemuck::Zeroable;
#[cfg(feature = "simulation")]
pub use compact::policy;
pub use compact::{CompactorState, Explanation, OldestRent, Progress, Reason, ShuffleReport};
pub use directory::{Directory, OpaqueHandle, Rights};
pub use engine::access::Freed;
pub use error::{AccessError, AllocError, ConfigError, Error, Rejected, ResizeError};
pub use frozen::Frozen;
pub use handle::{Handle, RawHandle, Versioned};
#[cfg(feature = "derive")]
pub use memory_shuffler_derive::Frozen;
pub use owned::Owned;
pub use reader::Reader;
pub use rent::{OwnedRent, Rent, RentMut};
pub use seats::OldestReader;
pub use shuffler::{Paused, Shuffler};
pub use stats::{ArenaInfo, ArenaState, BlockInfo, Stats};
pub use types::Stored;
