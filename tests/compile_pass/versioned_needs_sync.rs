//! `create_versioned` takes what is `Send` and `Sync`.

use memory_shuffler::Shuffler;
use std::sync::Mutex;

fn main() {
    let _ = Shuffler::new().create_versioned(Box::new(Mutex::new(1)));
}
