//! It is read.

use memory_shuffler::{Shuffler, Versioned};

fn case(shuffler: &Shuffler, handle: Versioned<String>) {
    let _ = shuffler.reader().get(handle);
}

fn main() {}
