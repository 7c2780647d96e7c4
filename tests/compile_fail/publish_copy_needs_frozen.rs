//! `publish_copy` needs `T: Frozen`.

use memory_shuffler::{Shuffler, Versioned};

#[derive(Clone, Copy)]
struct Point(i32, i32);

fn case(shuffler: &Shuffler, handle: Versioned<[Point]>) {
    let _ = shuffler.publish_copy(handle, &[Point(1, 2)]);
}

fn main() {}
