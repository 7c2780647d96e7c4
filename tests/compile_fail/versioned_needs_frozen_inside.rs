//! No interior mutability in a part either.

use memory_shuffler::Shuffler;
use std::sync::Mutex;

fn main() {
    let _ = Shuffler::new().create_versioned(Some([(1, Mutex::new(1))]));
}
