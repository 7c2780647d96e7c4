//! An option of what is frozen is frozen.

use memory_shuffler::Shuffler;
use std::sync::Mutex;

fn main() {
    let _ = Shuffler::new().create_versioned(Some([(1, Box::new(Mutex::new(1)))]));
}
