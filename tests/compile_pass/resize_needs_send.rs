//! `resize` takes what is `Send`, `Sync` or not.

use memory_shuffler::{Handle, Shuffler};
use std::cell::Cell;

fn case(shuffler: &Shuffler, handle: Handle<[Cell<u8>]>) {
    let _ = shuffler.resize(handle, 3);
}

fn main() {}
