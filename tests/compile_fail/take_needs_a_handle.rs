//! `take` takes a `Handle` only: readers may look at a `Versioned` value.

use memory_shuffler::{Shuffler, Versioned};

fn case(shuffler: &Shuffler, handle: Versioned<String>) {
    let _ = shuffler.take(handle);
}

fn main() {}
