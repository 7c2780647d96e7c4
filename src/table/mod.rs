//! The handle table: entries at fixed addresses, in pages that are numbered process-wide.

pub(crate) mod entry;
pub(crate) mod numbers;
pub(crate) mod slots;
pub(crate) mod word;

pub(crate) use entry::{Begun, Closed, Entry, Hold, Left, Memory, Refused, Waiting};
pub(crate) use slots::{SlotCache, Table};
pub(crate) use word::Word;
