//! Why a replay failed: what a child tells its parent.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::trace::Trace;

/// The first thing that went wrong in a replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// Something about one block.
    Block {
        /// The thread that made it.
        thread: u32,
        /// Its number among that thread's allocations, from 0.
        birth: u32,
        /// What happened.
        trouble: Trouble,
    },
    /// The library counts live blocks after the last one was freed.
    LeftAlive {
        /// How many.
        blocks: u64,
    },
}

/// What happened to a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trouble {
    /// A byte is not what was written.
    Content {
        /// Where in the block.
        offset: u64,
        /// How long the block is.
        size: u64,
        /// What was written.
        expected: u8,
        /// What was read.
        found: u8,
    },
    /// The block does not lie at a multiple of its alignment.
    Misaligned {
        /// Where it lies.
        address: u64,
        /// What was asked for.
        alignment: u64,
    },
    /// The allocator refused.
    Refused {
        /// In its own words.
        reason: String,
    },
}

impl Failure {
    /// The failure in one line, with the names that `trace` uses.
    pub fn describe(&self, trace: &Trace) -> String {
        match self {
            Self::Block { thread, birth, trouble } => {
                let (id, earlier) = trace.id_of(*birth);
                let life = if earlier > 0 { format!(" (life {})", earlier + 1) } else { String::new() };
                format!("thread {thread}, id {id}{life}: {trouble}")
            }
            Self::LeftAlive { .. } => self.to_string(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block { thread, birth, trouble } => write!(f, "thread {thread}, allocation {birth}: {trouble}"),
            Self::LeftAlive { blocks } => write!(f, "{blocks} live blocks after the last free"),
        }
    }
}

impl From<String> for Trouble {
    fn from(reason: String) -> Self {
        Self::Refused { reason }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content { offset, size, expected, found } => {
                write!(f, "offset {offset} of {size} bytes holds {found:#04x} instead of {expected:#04x}")
            }
            Self::Misaligned { address, alignment } => {
                write!(f, "address {address:#x} is not a multiple of {alignment}")
            }
            Self::Refused { reason } => f.write_str(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Builder;

    #[test]
    fn a_failure_names_the_block_as_the_trace_does() {
        let mut builder = Builder::default();
        builder.allocate(70, 8, 8).unwrap();
        builder.free(70).unwrap();
        builder.allocate(70, 8, 8).unwrap();
        let trace = builder.finish("t".into());
        let trouble = Trouble::Content { offset: 3, size: 8, expected: 0xAB, found: 0 };
        let describe = |birth| Failure::Block { thread: 2, birth, trouble: trouble.clone() }.describe(&trace);
        assert_eq!(describe(0), "thread 2, id 70: offset 3 of 8 bytes holds 0x00 instead of 0xab");
        assert!(describe(1).starts_with("thread 2, id 70 (life 2): "));
    }
}
