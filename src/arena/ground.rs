//! What an arena may hold, and where the headers of its blocks are.
//!
//! A header lies *inline*, in the 8 bytes before its payload, unless the payload is aligned to [`GRANULE`] or more: a page
//! aligned to a page would take two, the second for the sake of a header. Such blocks have arenas with a *column*:
//!
//! ```text
//! base                  start                                  a granule is 512 bytes, so the column is 1/64 of the arena
//! | column: 8 bytes for | granule | granule | granule | ...
//! | each granule        | payload           | payload | ...    a payload begins at a granule and has whole ones
//! ```
//!
//! The header of a payload is the cell of its first granule. The cells of its other granules, and those of the granules
//! under the column itself, are nobody's and hold anything: a walk goes from header to header and never reads them.

use super::header::{AtomicHeader, HEADER_BYTES, Header};
use std::ptr;

/// Blocks that are aligned to this or more have their headers in a column, which has one cell for so many bytes.
pub(crate) const GRANULE: usize = 512;

/// Where the headers of an arena's blocks are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Headers {
    /// Each before its payload.
    Inline = 0,
    /// Apart, at the arena's base.
    Column = 1,
}

impl Headers {
    /// Of blocks with an alignment.
    #[inline]
    pub(crate) const fn of(align: usize) -> Self {
        Self::select(align >= GRANULE)
    }

    /// By a constant: code that is made twice decides nothing about headers when it runs.
    #[inline]
    pub(crate) const fn select(column: bool) -> Self {
        if column { Self::Column } else { Self::Inline }
    }

    /// Bytes from where a block begins to its payload.
    #[inline]
    pub(crate) const fn lead(self) -> usize {
        match self {
            Self::Inline => HEADER_BYTES,
            Self::Column => 0,
        }
    }

    /// Bytes from where a block of `payload` bytes begins to where it ends.
    #[inline]
    pub(crate) const fn room(self, payload: usize) -> usize {
        match self {
            Self::Inline => HEADER_BYTES + ((payload + 7) & !7),
            // An empty one has a granule, so that its address is its own.
            Self::Column if payload == 0 => GRANULE,
            Self::Column => (payload + GRANULE - 1) & !(GRANULE - 1),
        }
    }

    /// Where the payload lies of a block that is put behind another, which ends at `top`.
    #[inline]
    pub(crate) const fn payload_behind(self, top: usize, align: usize) -> usize {
        let mask = if align > HEADER_BYTES { align - 1 } else { HEADER_BYTES - 1 };
        // Wrapping: a guess may start anywhere. Where there is memory, nothing wraps.
        top.wrapping_add(self.lead() + mask) & !mask
    }

    /// Bytes of the block or filler that a header tells of: the way to the next one.
    #[inline]
    pub(crate) const fn footprint(self, header: Header) -> usize {
        if header.is_filler() { header.filler_bytes() } else { self.block_footprint(header) }
    }

    /// As [`footprint`](Self::footprint), of a block that is no filler.
    #[inline]
    pub(crate) const fn block_footprint(self, header: Header) -> usize {
        match self {
            Self::Inline => header.inline_footprint(),
            Self::Column => self.room(header.payload()),
        }
    }

    /// Bytes of an arena that lie before the first block.
    #[inline]
    pub(crate) const fn column_bytes(self, arena_bytes: usize) -> usize {
        match self {
            Self::Inline => 0,
            Self::Column => arena_bytes / GRANULE * HEADER_BYTES,
        }
    }

    /// Bytes of an arena that blocks can fill.
    #[inline]
    pub(crate) const fn capacity(self, arena_bytes: usize) -> usize {
        // An empty payload after its header must lie inside the arena too.
        arena_bytes - self.column_bytes(arena_bytes) - self.lead()
    }

    /// Where the header of the payload at `address` is, in an arena that begins at `base`: the one place that knows.
    #[inline]
    pub(crate) fn at(self, base: usize, address: usize) -> *const AtomicHeader {
        ptr::with_exposed_provenance(match self {
            Self::Inline => address - HEADER_BYTES,
            Self::Column => base + (address - base) / GRANULE * HEADER_BYTES,
        })
    }
}

/// What an arena may hold, fixed from its opening to its retirement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ground {
    /// Blocks reached by `Versioned`: recycled when the readers have gone on. Others: the moment it is empty.
    pub(crate) versioned: bool,
    pub(crate) headers: Headers,
}

impl Ground {
    /// How many there are.
    pub(crate) const COUNT: usize = 4;
    /// All of them, in the order of [`index`](Self::index).
    pub(crate) const ALL: [Self; Self::COUNT] =
        [Self::from_index(0), Self::from_index(1), Self::from_index(2), Self::from_index(3)];

    /// That of blocks with an alignment.
    #[inline]
    pub(crate) const fn of(versioned: bool, align: usize) -> Self {
        Self { versioned, headers: Headers::of(align) }
    }

    /// Below [`COUNT`](Self::COUNT).
    #[inline]
    pub(crate) const fn index(self) -> usize {
        self.versioned as usize | (self.headers as usize) << 1
    }

    /// The one with an index.
    #[inline]
    pub(crate) const fn from_index(index: usize) -> Self {
        let headers = if index & 2 == 0 { Headers::Inline } else { Headers::Column };
        Self { versioned: index & 1 != 0, headers }
    }
}

const _: () = {
    assert!(Headers::Inline.room(0) == 8 && Headers::Inline.room(9) == 24);
    assert!(Headers::Column.room(0) == 512 && Headers::Column.room(512) == 512 && Headers::Column.room(513) == 1024);
    assert!(Headers::Column.column_bytes(1 << 20) == 16 << 10 && Headers::Column.capacity(1 << 16) == 63 << 10);
    let mut index = 0;
    while index < Ground::COUNT {
        assert!(Ground::ALL[index].index() == index);
        index += 1;
    }
};
