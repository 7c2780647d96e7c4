//! A `Versioned` value leaves by `free`.

use memory_shuffler::{Shuffler, Versioned};

fn case(shuffler: &Shuffler, handle: Versioned<String>) {
    let _ = shuffler.free(handle);
}

fn main() {}
