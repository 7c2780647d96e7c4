//! It may be another length of the same type, where that has one.

use memory_shuffler::{Shuffler, Versioned};

fn case(shuffler: &Shuffler, handle: Versioned<String>) {
    let _ = shuffler.publish(handle, String::from("longer"));
}

fn main() {}
