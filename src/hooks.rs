//! Hooks that stop or spoil a move, for tests of what happens then. Only with the feature `test-hooks`.

use crate::primitive::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

const NEVER: u32 = 0;
const PARK: u32 = 1;
const PANIC: u32 = 2;

/// A place at which the next thread that comes by waits, if it is told to.
#[derive(Debug)]
pub struct Gate(AtomicU32);

const OPEN: u32 = 0;
const CLOSED: u32 = 1;
const OCCUPIED: u32 = 2;

impl Gate {
    /// The next thread that comes by waits.
    pub fn close(&self) {
        self.0.store(CLOSED, Ordering::Relaxed);
    }

    /// Whether a thread waits.
    pub fn is_occupied(&self) -> bool {
        // Acquire: pairs with the release in `pass`, for tests that look at memory behind the library's back then, and with that
        // in `open`, for the thread that goes on and writes to it.
        self.0.load(Ordering::Acquire) == OCCUPIED
    }

    /// Lets the thread that waits go on, and others pass.
    pub fn open(&self) {
        // Release: pairs with the acquire in `is_occupied`.
        self.0.store(OPEN, Ordering::Release);
    }

    pub(crate) fn pass(&self) {
        // Release: pairs with the acquire in `is_occupied`.
        if self.0.compare_exchange(CLOSED, OCCUPIED, Ordering::Release, Ordering::Relaxed).is_ok() {
            while self.is_occupied() {
                thread::yield_now();
            }
        }
    }
}

/// Where a mover on a background compactor's thread has copied a block, and not committed.
pub static MOVER: Gate = Gate(AtomicU32::new(OPEN));

/// Where a thread that helps to finish a move has copied the block, and not committed.
pub static HELPER: Gate = Gate(AtomicU32::new(OPEN));

static MID_MOVE: AtomicU32 = AtomicU32::new(NEVER);
static PARKED: AtomicUsize = AtomicUsize::new(0);
/// The number of the mover that may go on.
static RELEASED: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());
static CORRUPT: AtomicUsize = AtomicUsize::new(0);

/// The next mover on a background compactor's thread parks in the middle of its first move, until it is released.
pub fn park_mid_move() {
    MID_MOVE.store(PARK, Ordering::Relaxed);
}

/// The next mover on a background compactor's thread panics in the middle of its first move.
pub fn panic_mid_move() {
    MID_MOVE.store(PANIC, Ordering::Relaxed);
}

/// How many movers have parked in the middle of a move.
pub fn parked() -> usize {
    PARKED.load(Ordering::Relaxed)
}

/// Lets the mover go on that parked last.
pub fn release_last() {
    let (number, changed) = &RELEASED;
    *number.lock().unwrap_or_else(PoisonError::into_inner) = parked();
    changed.notify_all();
}

/// Flips one byte in the next copy of at least 16 bytes that a move makes.
pub fn corrupt_next_copy() {
    CORRUPT.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn mid_move() {
    if thread::current().name() != Some("shuffler") {
        return;
    }
    MOVER.pass();
    match MID_MOVE.swap(NEVER, Ordering::Relaxed) {
        PARK => {
            let (number, changed) = &RELEASED;
            let released = number.lock().unwrap_or_else(PoisonError::into_inner);
            let own = PARKED.fetch_add(1, Ordering::Relaxed) + 1;
            drop(changed.wait_while(released, |released| *released != own));
        }
        PANIC => panic!("a test hook stopped this move"),
        _ => {}
    }
}

/// # Safety
///
/// `bytes` bytes at `copy` are the caller's own.
pub(crate) unsafe fn copied(copy: *mut u8, bytes: usize) {
    let take = |left: usize| left.checked_sub(1);
    if bytes >= 16 && CORRUPT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
        // SAFETY: byte 11 is one of at least 16.
        unsafe { *copy.add(11) ^= 0x40 };
    }
}
