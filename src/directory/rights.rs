//! What a grant allows, and names that tell nothing.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign};

/// What a grant allows: a set of rights.
///
/// ```
/// use memory_shuffler::Rights;
///
/// const CLIENT: Rights = Rights::READ.union(Rights::WRITE);
/// assert_eq!(CLIENT, Rights::READ | Rights::WRITE);
/// assert!(CLIENT.contains(Rights::READ) && !CLIENT.contains(Rights::FREE));
/// assert_eq!(CLIENT.to_string(), "read|write");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rights(u8);

impl Rights {
    /// None at all.
    pub const NONE: Self = Self(0);
    /// To rent and read.
    pub const READ: Self = Self(1);
    /// To rent and write, or to replace a `Versioned` value.
    pub const WRITE: Self = Self(2);
    /// To free.
    pub const FREE: Self = Self(4);
    /// All of them.
    pub const ALL: Self = Self(7);

    /// Whether all of `others` are among these.
    #[must_use]
    pub const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// These and `others`: `|`, for constants.
    #[must_use]
    pub const fn union(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Those that are in both: `&`, for constants.
    #[must_use]
    pub const fn intersection(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        let names = [(Self::READ, "read"), (Self::WRITE, "write"), (Self::FREE, "free")];
        names.into_iter().filter(move |(right, _)| self.contains(*right)).map(|(_, name)| name)
    }
}

impl BitOr for Rights {
    type Output = Self;

    fn bitor(self, others: Self) -> Self {
        self.union(others)
    }
}

impl BitOrAssign for Rights {
    fn bitor_assign(&mut self, others: Self) {
        *self = self.union(others);
    }
}

impl BitAnd for Rights {
    type Output = Self;

    fn bitand(self, others: Self) -> Self {
        self.intersection(others)
    }
}

impl fmt::Debug for Rights {
    /// As `Rights(read|write)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rights({self})")
    }
}

impl fmt::Display for Rights {
    /// As `read|write`, or `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.pad("none");
        }
        f.pad(&self.names().collect::<Vec<_>>().join("|"))
    }
}

/// A random 64-bit name for a block, for those whom the program does not trust: it says nothing about the block, and one
/// guess hits one of N names with a probability of N · 2⁻⁶⁴. Made by [`Directory::grant`](crate::Directory::grant).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[doc(alias = "rng")]
pub struct OpaqueHandle(u64);

impl OpaqueHandle {
    /// The bits, to be sent elsewhere.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// What came from elsewhere; whether it names anything shows when it is used.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}
