//! Hooks that stop or spoil a move, for tests of what happens then. Only with the feature `test-hooks`.

use crate::primitive::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;

const NEVER: u32 = 0;
const PARK: u32 = 1;
const PANIC: u32 = 2;
const WAIT: u32 = 3;

static MID_MOVE: AtomicU32 = AtomicU32::new(NEVER);
static WAITING: AtomicU32 = AtomicU32::new(0);
static PARKED: AtomicUsize = AtomicUsize::new(0);
static CORRUPT: AtomicUsize = AtomicUsize::new(0);

/// The next mover on a background compactor's thread parks for ever in the middle of its first move.
pub fn park_mid_move() {
    MID_MOVE.store(PARK, Ordering::Relaxed);
}

/// The next mover on a background compactor's thread panics in the middle of its first move.
pub fn panic_mid_move() {
    MID_MOVE.store(PANIC, Ordering::Relaxed);
}

/// The next mover on a background compactor's thread waits in the middle of its first move, until [`go_on`] is called.
pub fn wait_mid_move() {
    MID_MOVE.store(WAIT, Ordering::Relaxed);
}

/// Whether a mover waits in the middle of a move.
pub fn is_waiting() -> bool {
    WAITING.load(Ordering::Relaxed) != 0
}

/// Lets the mover go on that waits in the middle of a move.
pub fn go_on() {
    WAITING.store(0, Ordering::Relaxed);
}

/// How many movers are parked in the middle of a move.
pub fn parked() -> usize {
    PARKED.load(Ordering::Relaxed)
}

/// Flips one byte in the next copy of at least 16 bytes that a move makes.
pub fn corrupt_next_copy() {
    CORRUPT.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn mid_move() {
    if thread::current().name() != Some("shuffler") {
        return;
    }
    match MID_MOVE.swap(NEVER, Ordering::Relaxed) {
        PARK => {
            PARKED.fetch_add(1, Ordering::Relaxed);
            loop {
                thread::park();
            }
        }
        WAIT => {
            WAITING.store(1, Ordering::Relaxed);
            while is_waiting() {
                thread::yield_now();
            }
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
