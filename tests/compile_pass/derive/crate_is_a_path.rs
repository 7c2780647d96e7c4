//! A path is what `use` takes.

use memory_shuffler::Frozen;

#[derive(Frozen)]
#[frozen(crate = "memory_shuffler")]
struct Point(u8);

fn main() {
    let _ = Point(1);
}
