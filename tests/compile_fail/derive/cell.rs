//! A field that changes through a shared reference.

use memory_shuffler::Frozen;
use std::cell::Cell;

#[derive(Frozen)]
struct Hits {
    name: String,
    count: Cell<u32>,
}

fn main() {
    let _ = Hits { name: String::new(), count: Cell::new(0) };
}
