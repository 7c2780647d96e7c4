//! `publish` needs a value of the block's type.

use memory_shuffler::{Shuffler, Versioned};

fn case(shuffler: &Shuffler, handle: Versioned<String>) {
    let _ = shuffler.publish(handle, 5_u8);
}

fn main() {}
