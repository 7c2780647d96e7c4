//! `rent_many_mut` takes what is `Send`, `Sync` or not.

use memory_shuffler::{Handle, Shuffler};
use std::cell::Cell;

fn case(shuffler: &Shuffler, handle: Handle<Cell<u8>>) {
    let _ = shuffler.rent_many_mut([handle]);
}

fn main() {}
