//! The attribute stands on the type.

use memory_shuffler::Frozen;

#[derive(Frozen)]
#[frozen(crate = "::memory_shuffler")]
struct Point {
    x: u8,
}

#[derive(Frozen)]
#[frozen(crate = "::memory_shuffler")]
enum Either {
    One(u8),
}

fn main() {
    let _ = (Point { x: 1 }.x, Either::One(1));
}
