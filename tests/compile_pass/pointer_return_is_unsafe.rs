//! Renting one is not.

use memory_shuffler::{RawHandle, Shuffler};

fn case(shuffler: &Shuffler, handle: RawHandle) {
    let _ = shuffler.rent_pointer::<u8>(handle);
}

fn main() {}
