//! `create_versioned` needs `T: Send`.

use memory_shuffler::Shuffler;
use std::sync::{Mutex, MutexGuard};

fn case(guard: Box<MutexGuard<'static, u8>>, shuffler: &Shuffler, _: Mutex<u8>) {
    let _ = shuffler.create_versioned(guard);
}

fn main() {}
