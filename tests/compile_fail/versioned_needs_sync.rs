//! `create_versioned` needs `T: Sync`.

use memory_shuffler::Shuffler;
use std::cell::Cell;

fn main() {
    let _ = Shuffler::new().create_versioned(Box::new(Cell::new(1)));
}
