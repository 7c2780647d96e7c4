//! An atomic as the argument of a generic type: that one is not frozen.

use memory_shuffler::{Frozen, Shuffler};
use std::sync::atomic::AtomicU32;

#[derive(Frozen)]
struct Pair<T, const N: usize>(T, [T; N]);

fn main() {
    let _ = Shuffler::new().create_versioned(Pair(AtomicU32::new(1), [AtomicU32::new(2)]));
}
