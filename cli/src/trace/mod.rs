//! Allocation traces, parsed: compact operations over recycled slots.

mod builder;
mod file;
mod parse;

pub use builder::Builder;
pub use file::load;

/// One operation of a trace.
///
/// A slot stands for an id while that id is live, and is used again after its free: so the map from slots to blocks is
/// as small as the most blocks ever alive, and the harness hardly disturbs the caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// A new block of `size` bytes at a multiple of 2^`align_log2`.
    Allocate { slot: u32, size: u64, align_log2: u8 },
    /// The block gets another size and keeps the bytes that fit.
    Resize { slot: u32, size: u64 },
    /// The block's end.
    Free { slot: u32 },
}

/// A whole trace.
#[derive(Debug)]
pub struct Trace {
    /// What to call it: the file as it was given.
    pub name: String,
    /// The operations in order.
    pub ops: Vec<Op>,
    /// How many slots they use.
    pub slots: u32,
    /// The index of the operation after which the bytes alive are at their highest.
    pub peak_at: usize,
    /// The id of each allocation, in order. Slots hide the ids; failures are reported with them.
    births: Vec<u64>,
}

impl Trace {
    /// The id that allocation number `birth` was for, and how many blocks had that id before.
    pub fn id_of(&self, birth: u32) -> (u64, usize) {
        let birth = birth as usize;
        let id = self.births[birth];
        (id, self.births[..birth].iter().filter(|&&earlier| earlier == id).count())
    }
}
