//! On a field or on a variant it would do nothing.

use memory_shuffler::Frozen;

#[derive(Frozen)]
struct Point {
    #[frozen(crate = "::memory_shuffler")]
    x: u8,
}

#[derive(Frozen)]
enum Either {
    #[frozen(crate = "::memory_shuffler")]
    One(u8),
}

fn main() {
    let _ = (Point { x: 1 }.x, Either::One(1));
}
