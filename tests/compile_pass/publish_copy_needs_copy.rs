//! `publish_copy` takes what is `Copy`.

use memory_shuffler::{Shuffler, Versioned};

fn case(shuffler: &Shuffler, handle: Versioned<[&'static str]>) {
    let _ = shuffler.publish_copy(handle, &["text"]);
}

fn main() {}
