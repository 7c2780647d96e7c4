//! `alloc_versioned` needs `T: Frozen`.

use memory_shuffler::Shuffler;

#[derive(Clone, Copy)]
struct Point(i32, i32);

fn main() {
    let _ = Shuffler::new().alloc_versioned(&[Point(1, 2)]);
}
