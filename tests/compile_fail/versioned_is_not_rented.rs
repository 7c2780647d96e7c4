//! A `Versioned` block is not rented: its readers take no hold.

use memory_shuffler::{Shuffler, Versioned};

fn case(shuffler: &Shuffler, handle: Versioned<String>) {
    let _ = shuffler.rent_mut(handle);
}

fn main() {}
