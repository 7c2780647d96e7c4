//! Turns operations on ids into operations on slots, and refuses those that no program can have made.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use super::{Op, Trace};

/// The largest block a trace may ask for. Beyond it a number is a slip or a damaged file rather than a program's wish.
pub const MAX_SIZE: u64 = 64 << 30;
/// The largest alignment a trace may ask for.
pub const MAX_ALIGN: u64 = 2 << 20;
/// The alignment of blocks that ask for none: that of a pointer.
pub const DEFAULT_ALIGN: u64 = 8;

/// Why an operation cannot stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Above [`MAX_SIZE`].
    TooLarge(u64),
    /// Not a power of two.
    NotAPowerOfTwo(u64),
    /// Above [`MAX_ALIGN`].
    AlignmentTooLarge(u64),
    /// Allocate of an id that is alive.
    AlreadyAlive(u64),
    /// Resize or free of an id that is not.
    NotAlive(u64),
    /// More than 2³² blocks.
    TooMany,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(size) => write!(f, "size {size} is above {MAX_SIZE}"),
            Self::NotAPowerOfTwo(align) => write!(f, "alignment {align} is not a power of two"),
            Self::AlignmentTooLarge(align) => write!(f, "alignment {align} is above {MAX_ALIGN}"),
            Self::AlreadyAlive(id) => write!(f, "id {id} is allocated already"),
            Self::NotAlive(id) => write!(f, "id {id} is not allocated"),
            Self::TooMany => f.write_str("too many blocks"),
        }
    }
}

struct Alive {
    slot: u32,
    size: u64,
}

/// Collects a trace, one operation at a time.
#[derive(Default)]
pub struct Builder {
    ops: Vec<Op>,
    births: Vec<u64>,
    alive: HashMap<u64, Alive>,
    free_slots: Vec<u32>,
    slots: u32,
    live_bytes: u64,
    peak_bytes: u64,
    peak_at: usize,
}

impl Builder {
    /// How many operations there are so far.
    pub fn operations(&self) -> usize {
        self.ops.len()
    }

    /// A new block named `id`.
    pub fn allocate(&mut self, id: u64, size: u64, align: u64) -> Result<(), Refusal> {
        check_size(size)?;
        let align_log2 = check_align(align)?;
        if self.births.len() >= u32::MAX as usize {
            return Err(Refusal::TooMany);
        }
        let Entry::Vacant(vacant) = self.alive.entry(id) else { return Err(Refusal::AlreadyAlive(id)) };
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.slots += 1;
            self.slots - 1
        });
        vacant.insert(Alive { slot, size });
        self.births.push(id);
        self.push(Op::Allocate { slot, size, align_log2 }, 0, size);
        Ok(())
    }

    /// Another size for the block named `id`.
    pub fn resize(&mut self, id: u64, size: u64) -> Result<(), Refusal> {
        check_size(size)?;
        let alive = self.alive.get_mut(&id).ok_or(Refusal::NotAlive(id))?;
        let old = std::mem::replace(&mut alive.size, size);
        let slot = alive.slot;
        self.push(Op::Resize { slot, size }, old, size);
        Ok(())
    }

    /// The end of the block named `id`.
    pub fn free(&mut self, id: u64) -> Result<(), Refusal> {
        let Alive { slot, size } = self.alive.remove(&id).ok_or(Refusal::NotAlive(id))?;
        self.free_slots.push(slot);
        self.push(Op::Free { slot }, size, 0);
        Ok(())
    }

    /// The trace.
    pub fn finish(self, name: String) -> Trace {
        let Self { mut ops, births, slots, peak_at, .. } = self;
        ops.shrink_to_fit();
        Trace { name, ops, slots, peak_at, births }
    }

    fn push(&mut self, op: Op, old: u64, new: u64) {
        // 2³² blocks of `MAX_SIZE` would not fit; then the peak is anywhere.
        self.live_bytes = (self.live_bytes - old).saturating_add(new);
        if self.live_bytes > self.peak_bytes {
            self.peak_bytes = self.live_bytes;
            self.peak_at = self.ops.len();
        }
        self.ops.push(op);
    }
}

fn check_size(size: u64) -> Result<(), Refusal> {
    if size > MAX_SIZE { Err(Refusal::TooLarge(size)) } else { Ok(()) }
}

fn check_align(align: u64) -> Result<u8, Refusal> {
    if !align.is_power_of_two() {
        Err(Refusal::NotAPowerOfTwo(align))
    } else if align > MAX_ALIGN {
        Err(Refusal::AlignmentTooLarge(align))
    } else {
        Ok(align.trailing_zeros() as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_again_and_ids_are_remembered() {
        let mut builder = Builder::default();
        builder.allocate(7, 100, 8).unwrap();
        builder.free(7).unwrap();
        builder.allocate(9, 10, 16).unwrap();
        builder.allocate(7, 300, 8).unwrap();
        builder.resize(9, 20).unwrap();
        builder.free(7).unwrap();
        let trace = builder.finish("t".into());

        assert_eq!(trace.slots, 2);
        assert_eq!(trace.ops[2], Op::Allocate { slot: 0, size: 10, align_log2: 4 });
        assert_eq!(trace.ops[3], Op::Allocate { slot: 1, size: 300, align_log2: 3 });
        assert_eq!(trace.ops[4], Op::Resize { slot: 0, size: 20 });
        assert_eq!(trace.peak_at, 4);
        assert_eq!((trace.id_of(0), trace.id_of(1), trace.id_of(2)), ((7, 0), (9, 0), (7, 1)));
    }

    #[test]
    fn impossible_operations_are_refused() {
        let mut builder = Builder::default();
        builder.allocate(1, 8, 8).unwrap();
        assert_eq!(builder.allocate(1, 8, 8), Err(Refusal::AlreadyAlive(1)));
        assert_eq!(builder.resize(2, 8), Err(Refusal::NotAlive(2)));
        assert_eq!(builder.free(2), Err(Refusal::NotAlive(2)));
        assert_eq!(builder.allocate(2, MAX_SIZE + 1, 8), Err(Refusal::TooLarge(MAX_SIZE + 1)));
        assert_eq!(builder.resize(1, u64::MAX), Err(Refusal::TooLarge(u64::MAX)));
        assert_eq!(builder.allocate(2, 8, 0), Err(Refusal::NotAPowerOfTwo(0)));
        assert_eq!(builder.allocate(2, 8, 24), Err(Refusal::NotAPowerOfTwo(24)));
        assert_eq!(builder.allocate(2, 8, MAX_ALIGN * 2), Err(Refusal::AlignmentTooLarge(MAX_ALIGN * 2)));
        builder.allocate(2, 0, 1).unwrap();
        assert_eq!(builder.operations(), 2);
    }
}
