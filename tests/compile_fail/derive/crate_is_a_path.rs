//! Something else than a path.

use memory_shuffler::Frozen;

#[derive(Frozen)]
#[frozen(crate = "memory-shuffler")]
struct Point(u8);

#[derive(Frozen)]
#[frozen(crate = memory_shuffler)]
struct Bare(u8);

fn main() {
    let _ = (Point(1), Bare(1));
}
