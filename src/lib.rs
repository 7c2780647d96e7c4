//! A concurrent, handle-based, compacting allocator (under construction).

mod arena;
mod builder;
mod compact;
mod directory;
mod engine;
mod error;
mod handle;
#[cfg(feature = "test-hooks")]
pub mod hooks;
mod owned;
mod primitive;
mod reader;
mod ready;
mod rent;
mod shuffler;
mod stats;
mod table;
#[cfg(test)]
mod tests;
mod types;

#[cfg(unix)]
pub use arena::source::OsSource;
pub use arena::source::{ArenaSource, BumpSource, DefaultSource, RegionSource};
pub use builder::{Budget, Builder, Trigger};
pub use bytemuck::Zeroable;
pub use compact::{CompactorState, Progress, ShuffleReport};
pub use directory::{Directory, OpaqueHandle, Rights};
pub use engine::access::Freed;
pub use error::{AccessError, AllocError, ConfigError, Error, Rejected};
pub use handle::{Handle, RawHandle, Versioned};
pub use owned::Owned;
pub use reader::{Frozen, Reader};
pub use rent::{OwnedRent, Rent, RentMut};
pub use shuffler::{Paused, Shuffler};
pub use stats::{ArenaInfo, ArenaState, BlockInfo, Stats};
pub use types::Stored;
