//! Arenas: where blocks lie, who owns them, and how they are emptied and recycled whole.

pub(crate) mod account;
pub(crate) mod descriptor;
pub(crate) mod ground;
pub(crate) mod header;
pub(crate) mod large;
mod life;
pub(crate) mod map;
pub(crate) mod pool;
mod ranges;
pub(crate) mod shard;
pub(crate) mod source;
pub(crate) mod supply;
pub(crate) mod wipe;

pub(crate) use account::Outcome;
pub(crate) use descriptor::{ArenaRef, Use};
pub(crate) use ground::{Ground, Headers};
pub(crate) use header::{AtomicHeader, HEADER_BYTES, Header, State};
pub(crate) use pool::{Extent, Pool};
pub(crate) use shard::{Shard, Shards};
pub(crate) use supply::Supply;
