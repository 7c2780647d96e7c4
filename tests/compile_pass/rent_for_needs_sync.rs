//! `rent_mut_for` does not.

use memory_shuffler::{Handle, Shuffler};
use std::cell::Cell;
use std::time::Duration;

fn rent(shuffler: &Shuffler, handle: Handle<Cell<u8>>) {
    let _ = shuffler.rent_mut_for(handle, Duration::ZERO);
}

fn main() {}
