//! `rent_many` needs `T: Sync`.

use memory_shuffler::{Handle, Shuffler};
use std::cell::Cell;

fn rent(shuffler: &Shuffler, handle: Handle<Cell<u8>>) {
    let _ = shuffler.rent_many([handle]);
}

fn main() {}
