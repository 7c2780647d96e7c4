//! `rent_many` takes what is `Send` and `Sync`.

use memory_shuffler::{Handle, Shuffler};
use std::sync::Mutex;

fn rent(shuffler: &Shuffler, handle: Handle<Mutex<u8>>) {
    let _ = shuffler.rent_many([handle]);
}

fn main() {}
