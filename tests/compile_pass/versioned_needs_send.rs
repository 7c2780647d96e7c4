//! `create_versioned` takes what is `Send` and `Sync`.

use memory_shuffler::Shuffler;
use std::sync::Mutex;

fn case(guard: Box<Mutex<u8>>, shuffler: &Shuffler) {
    let _ = shuffler.create_versioned(guard);
}

fn main() {}
