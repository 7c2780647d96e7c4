//! `publish_copy` takes what is `Send` and `Sync`.

use memory_shuffler::{Frozen, Shuffler, Versioned};

#[derive(Clone, Copy)]
struct Place(*const u8);

// SAFETY: a plain address.
unsafe impl Frozen for Place {}
// SAFETY: it is never dereferenced.
unsafe impl Send for Place {}
// SAFETY: a shared reference to it shows the address only.
unsafe impl Sync for Place {}

fn case(shuffler: &Shuffler, handle: Versioned<[Place]>, place: Place) {
    let _ = shuffler.publish_copy(handle, &[place]);
}

fn main() {}
