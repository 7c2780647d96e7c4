//! `create_versioned` needs `T: Frozen`: the block is copied while others read it.

use memory_shuffler::Shuffler;
use std::sync::Mutex;

fn main() {
    let _ = Shuffler::new().create_versioned(Mutex::new(1));
}
