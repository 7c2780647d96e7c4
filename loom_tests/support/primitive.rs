//! The crate's `primitive` module as the models see it: loom's atomics under std's paths.

pub(crate) mod sync {
    pub(crate) mod atomic {
        #[allow(unused_imports, reason = "each target includes other files of the library")]
        pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
    }
}
