//! `publish_copy` needs `T: Copy`.

use memory_shuffler::{Shuffler, Versioned};

fn case(shuffler: &Shuffler, handle: Versioned<[String]>) {
    let _ = shuffler.publish_copy(handle, &[String::from("text")]);
}

fn main() {}
