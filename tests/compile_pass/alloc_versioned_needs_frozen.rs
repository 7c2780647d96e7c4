//! `alloc_versioned` takes what is `Copy` and `Frozen`.

use memory_shuffler::{Frozen, Shuffler};

#[derive(Clone, Copy)]
struct Point(i32, i32);

// SAFETY: two numbers.
unsafe impl Frozen for Point {}

fn main() {
    let _ = Shuffler::new().alloc_versioned(&[Point(1, 2)]);
}
