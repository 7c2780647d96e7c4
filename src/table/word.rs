//! The packed word of an entry: where the block is, what is happening to it, and how many hold it.
//!
//! ```text
//! 63                19 18      15 14       0
//! |   location : 45   | state : 4 | rents:15 |     location = payload address >> 3
//! ```
//!
//! Everything that decides whether a block may be used or moved sits in these 64 bits, so that one compare-exchange
//! both takes a hold and learns the address, and a move commits with one compare-exchange that fails if anything
//! happened meanwhile.

use std::fmt;

const RENTS_BITS: u32 = 15;
const STATE_BITS: u32 = 4;
const LOCATION_SHIFT: u32 = RENTS_BITS + STATE_BITS;
const RENTS_MASK: u64 = (1 << RENTS_BITS) - 1;

/// The decoded form is what this type's methods say; an all-zero word refuses everything.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

/// Where a payload is, as the word has it. Reads hand this on, not the address: the last step to that is part of the load behind
/// it then, on processors that scale an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Location(u64);

impl Location {
    /// The payload address.
    #[inline]
    pub(crate) const fn address(self) -> usize {
        (self.0 << 3) as usize
    }
}

impl Word {
    /// The most holds that one block can have at a time.
    pub(crate) const MAX_RENTS: u64 = RENTS_MASK;

    /// What one shared hold adds.
    pub(crate) const ONE_RENT: u64 = 1;

    /// Set by the allocator; clear means freed or vacant. Forbids every new hold while clear.
    const OPEN: u64 = 1 << RENTS_BITS;
    /// Set by a mover that holds a claim on the arena, with no hold on the block; whoever wants a hold helps first.
    const MOVING: u64 = 2 << RENTS_BITS;
    /// Set by a writer; forbids every other hold.
    const EXCLUSIVE: u64 = 4 << RENTS_BITS;
    /// Set by a thread that sleeps until the holds are gone; the last holder clears it and wakes all.
    const WAITED: u64 = 8 << RENTS_BITS;

    /// The word of a block at `address` that is open and that nobody holds.
    #[inline]
    pub(crate) const fn open_at(address: usize) -> Self {
        debug_assert!(address & 7 == 0 && address >> 48 == 0);
        Self(((address as u64) >> 3) << LOCATION_SHIFT | Self::OPEN)
    }

    #[inline]
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    #[inline]
    pub(crate) const fn to_bits(self) -> u64 {
        self.0
    }

    /// Where the payload is.
    #[inline]
    pub(crate) const fn location(self) -> Location {
        Location(self.0 >> LOCATION_SHIFT)
    }

    /// The payload address.
    #[inline]
    pub(crate) const fn address(self) -> usize {
        self.location().address()
    }

    #[inline]
    pub(crate) const fn rents(self) -> u64 {
        self.0 & RENTS_MASK
    }

    #[inline]
    pub(crate) const fn is_open(self) -> bool {
        self.0 & Self::OPEN != 0
    }

    #[inline]
    pub(crate) const fn is_moving(self) -> bool {
        self.0 & Self::MOVING != 0
    }

    #[inline]
    pub(crate) const fn is_exclusive(self) -> bool {
        self.0 & Self::EXCLUSIVE != 0
    }

    #[inline]
    pub(crate) const fn is_waited(self) -> bool {
        self.0 & Self::WAITED != 0
    }

    /// Whether anybody holds the block, shared or exclusive.
    #[inline]
    pub(crate) const fn is_held(self) -> bool {
        self.0 & (RENTS_MASK | Self::EXCLUSIVE) != 0
    }

    /// Open, not moving, not exclusive: a shared hold may be taken if there is room for one more.
    #[inline]
    pub(crate) const fn is_rentable(self) -> bool {
        self.0 & (Self::OPEN | Self::MOVING | Self::EXCLUSIVE) == Self::OPEN && self.rents() < Self::MAX_RENTS
    }

    /// Open, not moving, held by nobody: an exclusive hold may be taken. (WAITED may stand for the instant in which the last
    /// holder has gone and not cleared it yet.)
    #[inline]
    pub(crate) const fn is_free_to_write(self) -> bool {
        self.0 & (Self::OPEN | Self::MOVING | Self::EXCLUSIVE | RENTS_MASK) == Self::OPEN
    }

    /// Open and nothing else: a move may begin.
    #[inline]
    pub(crate) const fn is_free_to_move(self) -> bool {
        self.0 & ((0b1111 << RENTS_BITS) | RENTS_MASK) == Self::OPEN
    }

    #[inline]
    pub(crate) const fn with_rent(self) -> Self {
        debug_assert!(self.rents() < Self::MAX_RENTS);
        Self(self.0 + 1)
    }

    #[inline]
    pub(crate) const fn without_rent(self) -> Self {
        debug_assert!(self.rents() > 0);
        Self(self.0 - 1)
    }

    #[inline]
    pub(crate) const fn with_exclusive(self) -> Self {
        Self(self.0 | Self::EXCLUSIVE)
    }

    #[inline]
    pub(crate) const fn without_exclusive(self) -> Self {
        Self(self.0 & !Self::EXCLUSIVE)
    }

    #[inline]
    pub(crate) const fn with_moving(self) -> Self {
        Self(self.0 | Self::MOVING)
    }

    #[inline]
    pub(crate) const fn with_waited(self) -> Self {
        Self(self.0 | Self::WAITED)
    }

    #[inline]
    pub(crate) const fn without_waited(self) -> Self {
        Self(self.0 & !Self::WAITED)
    }

    /// The same holds and flags on an open word, and another address.
    #[inline]
    pub(crate) const fn moved_to(self, address: usize) -> Self {
        debug_assert!(self.is_open());
        Self(self.0 & ((1 << LOCATION_SHIFT) - 1) | Self::open_at(address).0)
    }

    /// What a free leaves: the holds and the location, and no way in.
    #[inline]
    pub(crate) const fn closed(self) -> Self {
        Self(self.0 & !(Self::OPEN | Self::MOVING | Self::WAITED))
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.address())?;
        for (set, name) in [
            (self.is_open(), "open"),
            (self.is_moving(), "moving"),
            (self.is_exclusive(), "exclusive"),
            (self.is_waited(), "waited"),
        ] {
            if set {
                write!(f, " {name}")?;
            }
        }
        write!(f, " rents={}", self.rents())
    }
}

const _: () = {
    assert!(LOCATION_SHIFT == 19 && 64 - LOCATION_SHIFT == 45);
    let word = Word::open_at(0xFFFF_FFFF_FFF8);
    assert!(word.address() == 0xFFFF_FFFF_FFF8 && word.is_open() && !word.is_held() && word.is_free_to_move());
    let held = word.with_exclusive().with_waited().moved_to(8);
    assert!(held.address() == 8 && held.is_open() && held.is_exclusive() && held.is_waited() && !held.is_moving());
    assert!(!Word::from_bits(0).is_rentable() && !Word::from_bits(0).is_free_to_move());
};
