//! `publish_copy` takes what is `Copy` and `Frozen`.

use memory_shuffler::{Frozen, Shuffler, Versioned};

#[derive(Clone, Copy)]
struct Point(i32, i32);

// SAFETY: two numbers.
unsafe impl Frozen for Point {}

fn case(shuffler: &Shuffler, handle: Versioned<[Point]>) {
    let _ = shuffler.publish_copy(handle, &[Point(1, 2)]);
}

fn main() {}
