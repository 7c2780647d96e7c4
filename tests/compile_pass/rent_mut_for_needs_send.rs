//! `rent_mut_for` takes what is `Send`.

use memory_shuffler::{Handle, Shuffler};
use std::cell::Cell;
use std::time::Duration;

fn case(shuffler: &Shuffler, handle: Handle<Cell<u8>>) {
    let _ = shuffler.rent_mut_for(handle, Duration::ZERO);
}

fn main() {}
