//! `rent_many_mut` does not: it is alone.

use memory_shuffler::{Handle, Shuffler};
use std::cell::Cell;

fn rent(shuffler: &Shuffler, handle: Handle<Cell<u8>>) {
    let _ = shuffler.rent_many_mut([handle]);
}

fn main() {}
