//! `rent_owned` takes what is `Send` and `Sync`.

use memory_shuffler::{Handle, Shuffler};

fn rent(shuffler: &Shuffler, handle: Handle<str>) {
    let _ = shuffler.rent_owned(handle);
}

fn main() {}
