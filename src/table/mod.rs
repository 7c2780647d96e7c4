//! The handle table: entries at fixed addresses, in pages that are numbered process-wide.

mod cache;
mod chain;
pub(crate) mod entry;
pub(crate) mod numbers;
mod reserved;
pub(crate) mod slots;
mod upkeep;
pub(crate) mod word;

pub(crate) use cache::SlotCache;
pub(crate) use entry::{Begun, Closed, Entry, Hold, LARGE_EXTENT, Left, Memory, Refused, Waiting};
pub(crate) use slots::{PageDirectory, Table};
pub(crate) use word::{Location, Word};
