//! What an arena still owes: one word that decides, once, who empties it.
//!
//! ```text
//!   63    62      48 47         0
//! |SEALED| claims:15 | live : 48  |      live is biased by 2^46 while the arena is active
//! ```
//!
//! While an arena is *active* its owner bumps a pointer and counts the bytes that it frees itself privately; others
//! subtract theirs here, from the bias. *Sealing* adds what was used, less the private dead bytes and the bias, and sets
//! SEALED, in one read-modify-write. From then on everyone subtracts here, and movers, helpers and walkers take counted
//! *claims*. Whoever reaches SEALED with no claim and no live byte retires the arena, at once and alone, and nobody
//! touches it after giving back a last share.

use crate::primitive::sync::atomic::{AtomicU64, Ordering};

const SEALED: u64 = 1 << 63;
const CLAIM: u64 = 1 << 48;
const CLAIMS_MASK: u64 = 0x7FFF << 48;
const LIVE_MASK: u64 = CLAIM - 1;
const BIAS: u64 = 1 << 46;

/// Whether the caller has to retire the arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Outcome {
    /// Others still have a share in it.
    Remains,
    /// The caller gave back the last share: it alone retires the arena.
    Emptied,
}

impl Outcome {
    #[inline]
    fn of(word: u64) -> Self {
        if word == SEALED { Self::Emptied } else { Self::Remains }
    }
}

/// A snapshot of an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Balance {
    /// No more allocations; the walk ends where the pointer was.
    pub(crate) sealed: bool,
    /// Claims given out.
    pub(crate) claims: u64,
    /// Live bytes; only of a sealed arena.
    pub(crate) live: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Account(AtomicU64);

impl Account {
    /// The account of memory that nobody uses: not sealed, so not to be claimed.
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(BIAS))
    }

    /// Starts an active life. Only the thread that has the arena to itself may.
    pub(crate) fn open(&self) {
        // Release: pairs with the acquire of whoever subtracts; it comes by an address that was published later still.
        self.0.store(BIAS, Ordering::Release);
    }

    /// Starts a life that is sealed from the first, with `live` bytes in use.
    pub(crate) fn open_sealed(&self, live: usize) {
        debug_assert!(live > 0);
        // Release: pairs with the acquire in `claim`.
        self.0.store(SEALED | live as u64, Ordering::Release);
    }

    /// Ends the active life, and tells how much is alive: `live` is the bytes used less those that the owner knows to be dead.
    pub(crate) fn seal(&self, live: usize) -> (Outcome, Balance) {
        let delta = SEALED.wrapping_add(live as u64).wrapping_sub(BIAS);
        // Release: pairs with the acquire in `claim`; a walker sees every header. Acquire: if all is dead already, the
        // caller retires the arena, and comes after everyone's last use.
        let word = self.0.fetch_add(delta, Ordering::AcqRel).wrapping_add(delta);
        (Outcome::of(word), Balance::of(word))
    }

    /// Takes dead bytes off, and tells what was there before.
    #[inline]
    pub(crate) fn subtract(&self, bytes: usize) -> (Outcome, Balance) {
        debug_assert!(bytes > 0);
        // Release: pairs with the acquire of whoever empties; it comes after this block's last use. Acquire: as that one.
        let before = self.0.fetch_sub(bytes as u64, Ordering::AcqRel);
        (Outcome::of(before - bytes as u64), Balance::of(before))
    }

    /// Counts more bytes as live, in an account in which the caller has a share.
    pub(crate) fn add(&self, bytes: usize) {
        // Relaxed: the caller's own share is given back later, by a `subtract` that orders what has to be.
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Takes a claim, while there is something to claim.
    pub(crate) fn claim(&self) -> bool {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            if seen & SEALED == 0 || seen == SEALED || seen & CLAIMS_MASK == CLAIMS_MASK {
                return false;
            }
            // Acquire: pairs with the release in `seal`; the headers are visible. Release: pairs with the acquire of later
            // claims; who unlinked a block before it claimed, and finds no other claim, is seen by every later claimer.
            match self.0.compare_exchange(seen, seen + CLAIM, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(found) => seen = found,
            }
        }
    }

    /// Gives a claim back.
    pub(crate) fn unclaim(&self) -> Outcome {
        // Release and acquire: as in `subtract`.
        Outcome::of(self.0.fetch_sub(CLAIM, Ordering::AcqRel) - CLAIM)
    }

    /// Bytes that others subtracted from an active arena.
    #[inline]
    pub(crate) fn debt(&self) -> usize {
        let word = self.0.load(Ordering::Relaxed);
        if word & SEALED != 0 { 0 } else { (BIAS - word) as usize }
    }

    /// Whether the caller, who has a claim, is alone in that; who claims after this sees what the caller saw before.
    pub(crate) fn is_sole_claim(&self) -> bool {
        // A read-modify-write that changes nothing. Acquire: as in `balance`. Release: pairs with the acquire in `claim`; a
        // helper that claims later finds the word of what is dead already changed, though nothing else tells it so.
        Balance::of(self.0.fetch_add(0, Ordering::AcqRel)).claims == 1
    }

    /// What stands in the account now.
    pub(crate) fn balance(&self) -> Balance {
        // Acquire: pairs with the release in `unclaim`; who sees no claim comes after what was done under them.
        Balance::of(self.0.load(Ordering::Acquire))
    }
}

impl Balance {
    #[inline]
    fn of(word: u64) -> Self {
        let sealed = word & SEALED != 0;
        Self { sealed, claims: (word & CLAIMS_MASK) >> 48, live: if sealed { (word & LIVE_MASK) as usize } else { 0 } }
    }
}
