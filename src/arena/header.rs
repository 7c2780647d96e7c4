//! The 8 bytes of bookkeeping of every block: whose it is, how long, of what type, and how far its life has gone. Where they
//! are is the business of [`super::ground`].
//!
//! ```text
//! 63        32 31       19 18    16 15       2 1      0
//! |  slot:32  | units : 13 | slack:3 | type : 14 | state:2 |
//! ```
//!
//! The length is in units of 8 bytes, less `slack` bytes. Type 0 is a filler, memory that is nobody's; its length in units
//! stands in the slot field, so that one filler can cover any run.

use crate::primitive::sync::atomic::{AtomicU64, Ordering};
use std::fmt;

/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 8;
/// The largest payload that a header can describe, and so that a shuffle may move, bytes.
pub(crate) const MAX_PAYLOAD: usize = ((1 << UNITS_BITS) - 1) * 8;
/// How many type tags there are, the filler's included.
pub(crate) const TAGS: usize = 1 << TAG_BITS;
/// The tag of fillers.
pub(crate) const FILLER: u32 = 0;

const UNITS_BITS: u32 = 13;
const TAG_BITS: u32 = 14;
const STATE_BITS: u32 = 2;
const SLACK_SHIFT: u32 = STATE_BITS + TAG_BITS;
const UNITS_SHIFT: u32 = SLACK_SHIFT + 3;
const SLOT_SHIFT: u32 = 32;

/// How far a block's life has gone; it only goes forward.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum State {
    /// Its length is known, its contents are being made.
    Building = 0,
    /// Whole; the entry of its slot says whether it is the current block.
    Live = 1,
    /// Unlinked, but a reader, a mover or a destructor may still use its bytes.
    Dying = 2,
    /// Nobody can use its bytes any more.
    Dead = 3,
}

/// A decoded header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header(u64);

impl Header {
    /// The header of a block of `payload` bytes.
    #[inline]
    pub(crate) const fn new(slot: u32, payload: usize, tag: u32, state: State) -> Self {
        debug_assert!(payload <= MAX_PAYLOAD && (tag as usize) < TAGS);
        let units = payload.div_ceil(8) as u64;
        let slack = units * 8 - payload as u64;
        Self(
            (slot as u64) << SLOT_SHIFT
                | units << UNITS_SHIFT
                | slack << SLACK_SHIFT
                | (tag as u64) << STATE_BITS
                | state as u64,
        )
    }

    /// The header of `bytes` bytes that are nobody's, from where it begins as a block to the next one.
    #[inline]
    pub(crate) const fn filler(bytes: usize, state: State) -> Self {
        debug_assert!(bytes >= HEADER_BYTES && bytes.is_multiple_of(8));
        Self(((bytes / 8 - 1) as u64) << SLOT_SHIFT | state as u64)
    }

    #[inline]
    pub(crate) const fn slot(self) -> u32 {
        (self.0 >> SLOT_SHIFT) as u32
    }

    #[inline]
    pub(crate) const fn tag(self) -> u32 {
        (self.0 >> STATE_BITS) as u32 & (TAGS as u32 - 1)
    }

    #[inline]
    pub(crate) const fn is_filler(self) -> bool {
        self.tag() == FILLER
    }

    /// Bytes that the user asked for.
    #[inline]
    pub(crate) const fn payload(self) -> usize {
        self.units() * 8 - self.slack()
    }

    /// Bytes that a filler covers.
    #[inline]
    pub(crate) const fn filler_bytes(self) -> usize {
        HEADER_BYTES + self.slot() as usize * 8
    }

    /// Bytes in the arena of a block that has its header before it.
    #[inline]
    pub(crate) const fn inline_footprint(self) -> usize {
        HEADER_BYTES + self.units() * 8
    }

    #[inline]
    pub(crate) const fn state(self) -> State {
        match self.0 & 3 {
            0 => State::Building,
            1 => State::Live,
            2 => State::Dying,
            _ => State::Dead,
        }
    }

    #[inline]
    pub(crate) const fn with_state(self, state: State) -> Self {
        Self(self.0 & !3 | state as u64)
    }

    /// The header of the same block with another payload.
    #[inline]
    pub(crate) const fn with_payload(self, payload: usize) -> Self {
        Self::new(self.slot(), payload, self.tag(), self.state())
    }

    /// Units, slack and type as one number of 30 bits: what an entry's extent mirrors.
    #[inline]
    pub(crate) const fn extent(self) -> u32 {
        (self.0 as u32) >> STATE_BITS
    }

    /// The payload bytes that an extent tells of.
    #[inline]
    pub(crate) const fn extent_payload(extent: u32) -> usize {
        Self((extent as u64) << STATE_BITS).payload()
    }

    /// The type that an extent tells of.
    #[inline]
    pub(crate) const fn extent_tag(extent: u32) -> u32 {
        Self((extent as u64) << STATE_BITS).tag()
    }

    const fn units(self) -> usize {
        (self.0 >> UNITS_SHIFT) as usize & ((1 << UNITS_BITS) - 1)
    }

    const fn slack(self) -> usize {
        (self.0 >> SLACK_SHIFT) as usize & 7
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_filler() {
            return write!(f, "filler of {} bytes, {:?}", self.filler_bytes(), self.state());
        }
        write!(f, "slot {}, {} bytes of type {}, {:?}", self.slot(), self.payload(), self.tag(), self.state())
    }
}

/// A header in place.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct AtomicHeader(AtomicU64);

impl AtomicHeader {
    /// A header that is not in an arena: that of a large block, in its descriptor.
    pub(crate) fn new(header: Header) -> Self {
        Self(AtomicU64::new(header.0))
    }

    #[inline]
    pub(crate) fn load(&self) -> Header {
        // Acquire: pairs with the release in `store`; a walker that sees LIVE sees the slot's page and the bytes.
        Header(self.0.load(Ordering::Acquire))
    }

    #[inline]
    pub(crate) fn store(&self, header: Header) {
        // Release: pairs with the acquire in `load`; who sees DEAD comes after the last use of the bytes.
        self.0.store(header.0, Ordering::Release);
    }

    /// Gives the block another payload, which leaves `rest` bytes of its footprint: a filler at the header that `tail` finds
    /// there. The caller holds the block exclusively.
    ///
    /// A walker sees the old length, or the new one with the filler behind it. A mover that read the old length has more
    /// room for its copy than it needs, never less.
    pub(crate) fn resize<'a>(&self, payload: usize, rest: usize, tail: impl FnOnce() -> &'a Self) {
        if rest > 0 {
            // Before the new length: its release is what makes the filler visible to who goes on to it.
            tail().store(Header::filler(rest, State::Dead));
        }
        self.store(self.load().with_payload(payload));
    }
}

const _: () = {
    assert!(MAX_PAYLOAD == 65_528 && TAGS == 16_384 && UNITS_SHIFT + UNITS_BITS == SLOT_SHIFT);
    let header = Header::new(7, 65_521, 16_383, State::Dying);
    assert!(header.slot() == 7 && header.payload() == 65_521 && header.tag() == 16_383);
    assert!(header.inline_footprint() == 65_536);
    assert!(Header::extent_payload(header.extent()) == 65_521 && Header::extent_tag(header.extent()) == 16_383);
    assert!(matches!(header.state(), State::Dying) && matches!(header.with_state(State::Dead).state(), State::Dead));
    let filler = Header::filler(1 << 20, State::Dead);
    assert!(filler.is_filler() && filler.filler_bytes() == 1 << 20);
};
