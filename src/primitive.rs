//! The one place where atomics come from.
//!
//! It mirrors the paths of `std`, so that a loom model can put a module of the same shape in its place and run the
//! real protocol files: see `loom_tests/`. Nothing else in this crate imports `std::sync::atomic`.

/// Atomics. No fences, which ThreadSanitizer does not see: an acquire load in the place of one costs no more.
pub(crate) mod sync {
    pub(crate) mod atomic {
        pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
    }
}
